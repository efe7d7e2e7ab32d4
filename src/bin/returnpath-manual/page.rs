//! A manual page of a command: what its definition says, and what `pages.md` says besides.

use crate::markdown::{inline, render, sentence};
use clap::{Arg, ArgAction, ArgGroup, Command};
use returnpath::usage::{BOOT_OPTIONS, ENVIRONMENT, Exit};
use roff::{Inline, Roff, bold, italic, roman};

/// The manual's section of both programs: they are an administrator's.
const SECTION: &str = "8";

/// What is written by hand.
const PAGES: &str = include_str!("pages.md");

/// What readers of any page may want next.
const RELATED: &[(&str, &str)] = &[
    ("returnpath", SECTION),
    ("returnpath-board", SECTION),
    ("returnpath-policy", "5"),
    ("ip-route", "8"),
    ("ip-rule", "8"),
    ("nft", "8"),
];

/// A page with its title and its name.
pub fn begin(name: &str, section: &str, about: &str) -> Roff {
    let mut page = Roff::new();
    let source = concat!("returnpath ", env!("CARGO_PKG_VERSION"));
    // Without a date: the same source makes the same page.
    page.control("TH", [&name.to_uppercase(), section, "\"\"", source, "\"\""]);
    let about = about.replace('`', "");
    let about = [about[..1].to_lowercase().as_str(), about[1..].trim_end_matches('.')].concat();
    page.control("SH", ["NAME"]).text([roman(format!("{name} - {about}"))]);
    page
}

/// The page's chapter of `pages.md`: its description, and the sections that come after those of the definition.
pub fn chapter(name: &str) -> Result<(&'static str, &'static str), String> {
    let chapters = PAGES.split("\n# ").map(|chapter| chapter.split_once('\n').unwrap_or((chapter, "")));
    let (_, text) = chapters
        .into_iter()
        .find(|(title, _)| *title == name)
        .ok_or_else(|| format!("pages.md: no chapter `# {name}`; write one"))?;
    Ok(text.split_at(text.find("\n## ").unwrap_or(text.len())))
}

/// The page's end.
pub fn see_also(page: &mut Roff, name: &str) -> String {
    page.control("SH", ["SEE ALSO"]);
    let others = RELATED.iter().filter(|(other, _)| *other != name).collect::<Vec<_>>();
    for (at, (other, section)) in others.iter().enumerate() {
        let comma = if at + 1 == others.len() { "" } else { "," };
        page.text([bold(*other), roman(format!("({section}){comma}"))]);
    }
    page.render()
}

/// The page of `command`, which belongs to a program that ends with `exits`.
pub fn of_command(command: &Command, exits: &[Exit]) -> Result<String, String> {
    let name = full_name(command);
    let (description, more) = chapter(name)?;
    let subcommands = subcommands(command);
    let is_program = !subcommands.is_empty();

    let mut page = begin(name, SECTION, &about(command));
    page.control("SH", ["SYNOPSIS"]);
    let called = if is_program { subcommands.as_slice() } else { &[command] };
    for (at, command) in called.iter().enumerate() {
        if at > 0 {
            page.control("br", []);
        }
        page.text(synopsis(command));
    }
    page.control("SH", ["DESCRIPTION"]);
    render(&mut page, description);
    let reference = |command| vec![bold(full_name(command)), roman(format!("({SECTION})"))];
    entries(&mut page, "COMMANDS", subcommands.iter().map(|command| (reference(command), about(command))));
    let options = command.get_arguments().map(|argument| (typed(argument, true), help(argument)));
    entries(&mut page, "OPTIONS", options);
    entries(&mut page, "EXIT STATUS", ends(command, exits));
    if name == "returnpath" {
        let variables = ENVIRONMENT.iter();
        let variables = variables.map(|word| (vec![bold(word.name)], word.about.to_owned()));
        entries(&mut page, "ENVIRONMENT", variables);
    }
    if name == "returnpath-init" {
        let options = BOOT_OPTIONS.iter().map(|option| {
            let body = format!("{} Default: `{}`.", option.about, option.default);
            (vec![bold(option.name), italic(option.value)], body)
        });
        entries(&mut page, "KERNEL COMMAND LINE", options);
    }
    render(&mut page, more);
    Ok(see_also(&mut page, name))
}

/// How it ends: a program with what any of its commands ends with, a command with its own.
fn ends<'a>(
    command: &'a Command,
    exits: &'a [Exit],
) -> impl Iterator<Item = (Vec<Inline>, String)> + use<'a> {
    let is_program = command.has_subcommands();
    let here = move |exit: &&Exit| {
        is_program || exit.commands.is_empty() || exit.commands.contains(&command.get_name())
    };
    exits.iter().filter(here).map(move |exit| {
        let about = match exit.commands {
            [only] if is_program => format!("`{only}`: {}", exit.about),
            _ => exit.about.to_owned(),
        };
        (vec![bold(exit.code.to_string())], about)
    })
}

/// Its commands, without clap's own.
pub fn subcommands(command: &Command) -> Vec<&Command> {
    command.get_subcommands().filter(|command| command.get_name() != "help").collect()
}

/// A section of words with their meanings; none if there are none.
fn entries(page: &mut Roff, title: &str, entries: impl Iterator<Item = (Vec<Inline>, String)>) {
    for (at, (word, meaning)) in entries.enumerate() {
        if at == 0 {
            page.control("SH", [title]);
        }
        page.control("TP", []).text(word).text(inline(&sentence(&meaning)));
    }
}

/// With its program's: `returnpath-apply`. This is what its page is called.
pub fn full_name(command: &Command) -> &str {
    command.get_display_name().unwrap_or_else(|| command.get_name())
}

fn about(command: &Command) -> String {
    command.get_about().map(ToString::to_string).unwrap_or_default()
}

fn help(argument: &Arg) -> String {
    argument.get_long_help().or(argument.get_help()).map(ToString::to_string).unwrap_or_default()
}

/// How it is called: `returnpath apply [--policy FILE | --board DEVICE]`.
fn synopsis(command: &Command) -> Vec<Inline> {
    let mut line = vec![bold(command.get_bin_name().unwrap_or_else(|| command.get_name()))];
    let mut seen = Vec::new();
    for argument in command.get_arguments() {
        let id = argument.get_id();
        if seen.contains(&id) || matches!(argument.get_action(), ArgAction::Help | ArgAction::Version) {
            continue;
        }
        let is_choice = |group: &&ArgGroup| !ArgGroup::clone(group).is_multiple();
        let mut groups = command.get_groups().filter(is_choice);
        let group = groups.find(|group| group.get_args().any(|member| member == id));
        let members = group.map_or(vec![id], |group| group.get_args().collect::<Vec<_>>());
        let alternatives = command.get_arguments().filter(|other| members.contains(&other.get_id()));
        let is_optional = !argument.is_required_set();
        line.push(roman(if is_optional { " [" } else { " " }));
        for (at, alternative) in alternatives.enumerate() {
            if at > 0 {
                line.push(roman(" | "));
            }
            line.extend(typed(alternative, false));
        }
        line.push(roman(if is_optional { "]" } else { "" }));
        seen.extend(members);
    }
    line
}

/// An argument as it is typed: `--output POLICY.bin`; in the list of options with its short form.
fn typed(argument: &Arg, is_list: bool) -> Vec<Inline> {
    let mut words = Vec::new();
    if let (Some(short), true) = (argument.get_short(), is_list) {
        words.extend([bold(format!("-{short}")), roman(", ")]);
    }
    if let Some(long) = argument.get_long() {
        words.push(bold(format!("--{long}")));
    }
    if argument.get_action().takes_values() {
        let names = argument.get_value_names().unwrap_or_default();
        let value = names.first().map_or(argument.get_id().as_str(), |name| name.as_str());
        words.push(roman(if words.is_empty() { "" } else { " " }));
        words.push(italic(value));
    }
    words
}

//! The firmware: arguments, logger, exit code; nothing else.

use returnpath::exit::{self, Failure};
use returnpath::explain::{Question, explain};
use returnpath::guard;
use returnpath::init;
use returnpath::kernel;
use returnpath::kernel::commit::{self, Outcome};
use returnpath::kernel::partition::Board;
use returnpath::lines::{self, complain, print};
use returnpath::policy::Policy;
use returnpath::source::{Source, policy};
use returnpath::waiting::Waiting;
use returnpath::{check, status, trial, usage, watch};
use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os();
    let program = arguments.next().unwrap_or_default();
    let arguments: Vec<OsString> = arguments.collect();
    ExitCode::from(match stage(&program, &arguments) {
        Some([word, ..]) if std::process::id() != 1 => {
            complain(&format!(
                "init: `{}`: arguments are for PID 1 to pass on; give none",
                word.to_string_lossy()
            ));
            exit::USAGE
        }
        Some(arguments) => init::stage(arguments),
        None => command(&arguments),
    })
}

/// What belongs to the next init, where this is the early-boot stage.
fn stage<'a>(program: &OsString, arguments: &'a [OsString]) -> Option<&'a [OsString]> {
    let named_init =
        Path::new(program).file_name().is_some_and(|name| name.as_encoded_bytes().ends_with(b"init"));
    match arguments {
        _ if named_init => Some(arguments),
        // In a container a command is PID 1 as well, and no kernel has such words for an init.
        [first, ..] if first.to_str().is_some_and(is_command) => None,
        [first, second, ..]
            if std::process::id() != 1
                && [first, second].map(|word| word.to_str()) == init::WORK.map(Some) =>
        {
            None
        }
        [first, rest @ ..] if first == "init" => Some(rest),
        _ => (std::process::id() == 1 && !is_in_container()).then_some(arguments),
    }
}

/// Whether this PID 1 is one of a namespace of its own: the machine's has a number that never changes (`PROC_PID_INIT_INO`,
/// linux/proc_ns.h). Before `/proc` is there it is the machine's.
fn is_in_container() -> bool {
    fs::read_link("/proc/self/ns/pid").is_ok_and(|namespace| namespace != Path::new("pid:[4026531836]"))
}

fn is_command(word: &str) -> bool {
    matches!(word, "apply" | "confirm" | "check" | "status" | "watch" | "explain" | "guard" | "remove")
}

fn command(arguments: &[OsString]) -> u8 {
    let arguments: Vec<_> = arguments.iter().map(|a| a.to_string_lossy()).collect();
    let words: Vec<&str> = arguments.iter().map(|word| &**word).collect();
    if let ["init", "--work", milliseconds] = words[..] {
        // The log, too, is its own affair.
        let limit = Duration::from_millis(milliseconds.parse().unwrap_or(0));
        return init::work::run(limit).map_or_else(|failure| failure.code, |()| 0);
    }
    lines::log_there();
    run(&words).unwrap_or_else(|failure| {
        complain(&failure.line);
        failure.code
    })
}

fn run(words: &[&str]) -> Result<u8, Failure> {
    let mut policy = policy();
    match words {
        ["apply", trial::WORK, seconds, rest @ ..] => {
            trial::work(seconds, &source("apply", rest)?, &mut policy)
        }
        [_, rest @ ..] if rest.iter().any(|word| matches!(*word, "--help" | "-h")) => {
            print(usage::HELP);
            Ok(0)
        }
        ["apply", rest @ ..] if rest.contains(&"--confirm") => {
            let (seconds, rest) = take("--confirm", rest)?;
            if let Some(other) = rest.iter().find(|word| matches!(**word, "--wait" | "--strict")) {
                let line = format!(
                    "apply: --confirm and {other} exclude one another; run `returnpath check --strict` first"
                );
                return Err(Failure::new(exit::USAGE, line));
            }
            source("apply", &rest)?;
            trial::apply(seconds, &rest)
        }
        ["confirm"] => {
            kernel::trial::confirm()?;
            log::info!("confirmed");
            Ok(0)
        }
        ["apply", rest @ ..] => {
            let (wait, rest) = switch("--wait", rest);
            let (is_strict, rest) = switch("--strict", &rest);
            if wait && is_strict {
                let line =
                    "apply: --strict and --wait exclude one another; run `returnpath check --strict` first";
                return Err(Failure::new(exit::USAGE, line));
            }
            let source = source("apply", &rest)?;
            if wait {
                let install = |name: &str, policy: &Policy| Waiting::install(name, policy, |_| ());
                source.first(&mut policy, install)?.stay(&policy)?;
                return Ok(0);
            }
            let name = source.load(&mut policy)?;
            if is_strict {
                commit::insist(&policy)?;
            }
            let outcome = commit::apply(&policy)?;
            log::info!("{name}: {}; {}", policy.count(), said(outcome, "in force", "in force already"));
            Ok(0)
        }
        [command @ ("check" | "status" | "watch"), rest @ ..] => {
            let (is_strict, rest) = match *command {
                "check" => switch("--strict", rest),
                _ => (false, rest.to_vec()),
            };
            let (json, rest) = switch("--json", &rest);
            let name = source(command, &rest)?.load(&mut policy)?;
            match *command {
                "check" => Ok(check::run(&name, &policy, is_strict, json)),
                "status" => status::run(&name, &policy, json),
                _ => watch::run(&name, &policy, json),
            }
        }
        ["guard", rest @ ..] => {
            guard::run(&source("guard", rest)?)?;
            Ok(0)
        }
        ["explain", rest @ ..] => {
            let (json, rest) = switch("--json", rest);
            let (question, rest) = Question::parse(&rest)?;
            source("explain", &rest)?.load(&mut policy)?;
            let report = explain(&policy, &question)?;
            print(&if json { report.json() } else { report.to_string() });
            Ok(if report.agrees() { 0 } else { exit::DIFFERS })
        }
        ["remove"] => {
            let outcome = commit::remove()?;
            log::info!("{}", said(outcome, "removed", "there was nothing to remove"));
            Ok(0)
        }
        ["--version"] => {
            print(concat!("returnpath ", env!("CARGO_PKG_VERSION")));
            Ok(0)
        }
        ["--help" | "-h"] => {
            print(usage::HELP);
            Ok(0)
        }
        [] => Err(Failure::new(exit::USAGE, "no command; see `returnpath --help`")),
        _ => Err(Failure::new(
            exit::USAGE,
            format!("`{}` is not a command; see `returnpath --help`", words.join(" ")),
        )),
    }
}

/// An option's value, and the other words.
fn take<'a>(option: &str, words: &[&'a str]) -> Result<(&'a str, Vec<&'a str>), Failure> {
    let at = words.iter().position(|word| *word == option).unwrap_or(words.len());
    match words.get(at + 1) {
        Some(value) => Ok((value, [&words[..at], &words[at + 2..]].concat())),
        None => {
            Err(Failure::new(exit::USAGE, format!("{option}: it takes a value; see `returnpath --help`")))
        }
    }
}

/// Whether a switch is given, and the other words: a second one is among them.
fn switch<'a>(switch: &str, words: &[&'a str]) -> (bool, Vec<&'a str>) {
    let mut rest = words.to_vec();
    let at = rest.iter().position(|word| *word == switch);
    if let Some(at) = at {
        rest.remove(at);
    }
    (at.is_some(), rest)
}

/// What is wrong with the words that shall say where the policy is.
fn wrong(words: &[&str]) -> String {
    match words {
        [source @ ("--policy" | "--board")] => {
            format!("{source}: its value is missing, which is the next word")
        }
        [a @ ("--policy" | "--board"), _, b @ ("--policy" | "--board"), ..] => {
            format!("{a} and {b}: it takes one of the two, once")
        }
        ["--policy" | "--board", _, word, ..] | [word, ..] => {
            format!("`{word}`: it takes no such word, or not twice")
        }
        [] => String::new(), // not reachable: then there is nothing wrong
    }
}

/// Where a command shall take the policy from.
fn source(command: &str, options: &[&str]) -> Result<Source, Failure> {
    match options {
        [] => {
            let (options, aside) = init::options::Options::of_this_boot();
            aside.iter().for_each(|line| log::warn!("{line}"));
            Ok(Source::Board(options.board))
        }
        ["--policy", "-"] => Ok(Source::Input),
        ["--board", "-"] => Ok(Source::BoardInput),
        ["--policy", file] => Ok(Source::File(file.into())),
        ["--board", device] => Ok(Source::Board(Board::parse(device))),
        _ => {
            Err(Failure::new(exit::USAGE, format!("{command}: {}; see `returnpath --help`", wrong(options))))
        }
    }
}

fn said(outcome: Outcome, changed: &'static str, unchanged: &'static str) -> &'static str {
    match outcome {
        Outcome::Changed => changed,
        Outcome::Unchanged => unchanged,
    }
}

//! Writes the manual pages of both programs, and their completions for bash, zsh and fish, below a folder that is laid
//! out as /usr/share is.

#[path = "../returnpath-board/arguments.rs"]
mod arguments;
mod firmware;
mod markdown;
mod page;

use clap::{Command, CommandFactory};
use clap_complete::Shell;
use returnpath::exit;
use returnpath::usage::{self, Exit};
use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

/// The policy's keys are told in one place.
const README: &str = include_str!("../../../README.md");

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let (Some(folder), None) = (arguments.next(), arguments.next()) else {
        return complain(
            exit::USAGE,
            "it takes one argument; name the folder to write below, such as /usr/share",
        );
    };
    match write(Path::new(&folder)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(line) => complain(exit::BROKEN, &line),
    }
}

fn complain(code: u8, line: &str) -> ExitCode {
    // Where nobody can be told, the exit code has to do.
    let _ = writeln!(io::stderr(), "returnpath-manual: {line}");
    ExitCode::from(code)
}

fn write(folder: &Path) -> Result<(), String> {
    program(folder, firmware::command(), usage::EXITS)?;
    program(folder, arguments::Arguments::command(), arguments::EXITS)?;
    put(&folder.join("man/man5/returnpath-policy.5"), &policy()?)
}

/// A program's pages and completions.
fn program(folder: &Path, mut command: Command, exits: &[Exit]) -> Result<(), String> {
    command.build();
    let name = command.get_name().to_owned();
    for (shell, file) in [
        (Shell::Bash, format!("bash-completion/completions/{name}")),
        (Shell::Zsh, format!("zsh/site-functions/_{name}")),
        (Shell::Fish, format!("fish/vendor_completions.d/{name}.fish")),
    ] {
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut command, &name, &mut script);
        let script = mended(&String::from_utf8_lossy(&script), &name);
        put(&folder.join(file), &script)?;
    }
    for command in page::subcommands(&command).into_iter().chain([&command]) {
        let file = format!("man/man8/{}.8", page::full_name(command));
        put(&folder.join(file), &page::of_command(command, exits)?)?;
    }
    Ok(())
}

/// What clap_complete writes, less two mistakes. For bash it spells a name with a hyphen in two ways, so that nothing is
/// offered behind a command. For zsh it offers `--policy=FILE`, and the firmware takes values as words of their own.
fn mended(script: &str, name: &str) -> String {
    let spelt = |hyphen| format!("{}__subcmd__", name.replace('-', hyphen));
    script.replace(&spelt("__subcmd__"), &spelt("__")).replace("=[", "[")
}

/// The page of the policy: README.md's chapter with the names of the keys in full.
fn policy() -> Result<String, String> {
    let name = "returnpath-policy";
    let chapter = README.split("\n## ").find_map(|chapter| chapter.strip_prefix("The policy\n"));
    let chapter = chapter.ok_or("README.md: no chapter `The policy`; put it back")?;
    let (description, more) = page::chapter(name)?;
    let mut page = page::begin(name, "5", "policies of returnpath, as people write them");
    page.control("SH", ["DESCRIPTION"]);
    let chapter = chapter.replace("`….", "`paths.NAME.");
    markdown::render(&mut page, &[description, &chapter, more].concat());
    Ok(page::see_also(&mut page, name))
}

/// Writes a file and the folders that it is in.
fn put(file: &Path, text: &str) -> Result<(), String> {
    let folder = file.parent().unwrap_or(file);
    fs::create_dir_all(folder).and_then(|()| fs::write(file, text)).map_err(|error| {
        format!(
            "{}: not written: {error}; choose a folder that can be written to and has room",
            file.display()
        )
    })
}

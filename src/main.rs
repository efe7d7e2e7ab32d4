//! The firmware: arguments, logger, exit code; nothing else.

use returnpath::exit::{self, Failure};
use returnpath::init;
use returnpath::kernel::commit::{self, Outcome};
use returnpath::kernel::partition::Board;
use returnpath::source::{Source, policy};
use std::ffi::OsString;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

const USAGE: &str = "\
returnpath: connections that came in through a declared router go back out through that router

usage: returnpath apply  [--policy FILE | --board DEVICE]   install the policy: everything or nothing
       returnpath status [--policy FILE | --board DEVICE]   compare the kernel with the policy
       returnpath remove                  take out everything that returnpath ever installed
       returnpath init [ARGUMENTS]        the early-boot stage; as PID 1 it then executes the next init
       returnpath --version | --help

DEVICE: PARTLABEL=<label>, or a file; without one, what returnpath.board= on the kernel command line says,
        or else PARTLABEL=returnpath
exit code: 0 done, or in the state asked for   2 wrong usage      3 no usable policy
           4 the kernel refused, and everything is as it was before
           5 status: the kernel differs from the policy
           6 board device not found or not readable
           1 init: its own work crashed, or took longer than returnpath.timeout=
environment: RETURNPATH_LOG=error|warn|info (default info)";

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
        [first, second, ..]
            if std::process::id() != 1
                && [first, second].map(|word| word.to_str()) == init::WORK.map(Some) =>
        {
            None
        }
        [first, rest @ ..] if first == "init" => Some(rest),
        _ => (std::process::id() == 1).then_some(arguments),
    }
}

fn command(arguments: &[OsString]) -> u8 {
    let arguments: Vec<_> = arguments.iter().map(|a| a.to_string_lossy()).collect();
    let words: Vec<&str> = arguments.iter().map(|word| &**word).collect();
    if let ["init", "--work", milliseconds] = words[..] {
        // The log, too, is its own affair.
        let limit = Duration::from_millis(milliseconds.parse().unwrap_or(0));
        return init::work::run(limit).map_or_else(|failure| failure.code, |()| 0);
    }
    env_logger::Builder::new()
        .filter_level(log::LevelFilter::Info)
        .parse_env("RETURNPATH_LOG")
        .format(|to, record| writeln!(to, "returnpath: {}", record.args()))
        .init();
    run(&words).unwrap_or_else(|failure| {
        complain(&failure.line);
        failure.code
    })
}

/// One line, whatever is quoted in it. Where nobody can be told, the exit code has to do.
fn complain(line: &str) {
    let _ = writeln!(std::io::stderr(), "returnpath: {}", line.replace(char::is_control, " "));
}

fn run(words: &[&str]) -> Result<u8, Failure> {
    let mut policy = policy();
    match words {
        ["apply", rest @ ..] => {
            let source = source("apply", rest)?;
            let name = source.load(&mut policy)?;
            let outcome = commit::apply(&policy).map_err(refused)?;
            log::info!("{name}: {}; {}", policy.count(), said(outcome, "in force", "in force already"));
            Ok(0)
        }
        ["status", rest @ ..] => {
            let source = source("status", rest)?;
            let name = source.load(&mut policy)?;
            let differences = commit::differences(&policy).map_err(refused)?;
            differences.iter().for_each(|line| print(line));
            if differences.is_empty() {
                print(&format!("the kernel is as {name} has it: {}", policy.count()));
            }
            Ok(if differences.is_empty() { 0 } else { exit::DIFFERS })
        }
        ["remove"] => {
            let outcome = commit::remove().map_err(refused)?;
            log::info!("{}", said(outcome, "removed", "there was nothing to remove"));
            Ok(0)
        }
        ["--version"] => {
            print(concat!("returnpath ", env!("CARGO_PKG_VERSION")));
            Ok(0)
        }
        ["--help" | "-h"] => {
            print(USAGE);
            Ok(0)
        }
        [] => Err(Failure::new(exit::USAGE, "no command; see `returnpath --help`")),
        _ => Err(Failure::new(
            exit::USAGE,
            format!("`{}` is not a command; see `returnpath --help`", words.join(" ")),
        )),
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
        ["--policy", file] => Ok(Source::File(file.into())),
        ["--board", device] => Ok(Source::Board(Board::parse(device))),
        _ => Err(Failure::new(
            exit::USAGE,
            format!(
                "{command}: it takes `--policy FILE` or `--board DEVICE`, as two words; see `returnpath --help`"
            ),
        )),
    }
}

/// A line for standard output. A reader that has gone, as `head` does, is no failure.
fn print(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

fn said(outcome: Outcome, changed: &'static str, unchanged: &'static str) -> &'static str {
    match outcome {
        Outcome::Changed => changed,
        Outcome::Unchanged => unchanged,
    }
}

fn refused(error: returnpath::kernel::Error) -> Failure {
    Failure::new(exit::REFUSED, error.to_string())
}

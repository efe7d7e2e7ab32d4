//! The firmware: arguments, logger, exit code; nothing else.

use returnpath::kernel::commit::{self, Outcome};
use returnpath::policy::{Policy, wire};
use std::fs::File;
use std::io::Write;
use std::process::ExitCode;

const USAGE: &str = "\
returnpath: connections that came in through a declared router go back out through that router

usage: returnpath apply  --policy FILE   install the policy: everything or nothing
       returnpath status --policy FILE   compare the kernel with the policy
       returnpath remove                 take out everything that returnpath ever installed
       returnpath --version | --help

exit code: 0 done, or in the state asked for   2 wrong usage      3 no usable policy
           4 the kernel refused, and everything is as it was before
           5 status: the kernel differs from the policy
environment: RETURNPATH_LOG=error|warn|info (default info)";

/// Why a run ends early: its exit code, and one line for standard error.
struct Failure(u8, String);

fn main() -> ExitCode {
    env_logger::Builder::new()
        .filter_level(log::LevelFilter::Info)
        .parse_env("RETURNPATH_LOG")
        .format(|to, record| writeln!(to, "returnpath: {}", record.args()))
        .init();
    let arguments: Vec<String> =
        std::env::args_os().skip(1).map(|a| a.to_string_lossy().into_owned()).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match run(&words) {
        Ok(code) => ExitCode::from(code),
        Err(Failure(code, line)) => {
            // One line, whatever is quoted in it. Where nobody can be told, the exit code has to do.
            let _ = writeln!(std::io::stderr(), "returnpath: {}", line.replace(char::is_control, " "));
            ExitCode::from(code)
        }
    }
}

fn run(words: &[&str]) -> Result<u8, Failure> {
    let mut policy = Policy::new();
    match words {
        ["apply", "--policy", file] => {
            load(file, &mut policy)?;
            let outcome = commit::apply(&policy).map_err(refused)?;
            log::info!("{file}: {}; {}", paths(&policy), said(outcome, "in force", "in force already"));
            Ok(0)
        }
        ["status", "--policy", file] => {
            load(file, &mut policy)?;
            let differences = commit::differences(&policy).map_err(refused)?;
            differences.iter().for_each(|line| print(line));
            if differences.is_empty() {
                print(&format!("the kernel is as {file} has it: {}", paths(&policy)));
            }
            Ok(if differences.is_empty() { 0 } else { 5 })
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
        [] => Err(Failure(2, "no command; see `returnpath --help`".into())),
        [command @ ("apply" | "status"), ..] => Err(Failure(
            2,
            format!("{command}: it takes `--policy FILE`, as two words; see `returnpath --help`"),
        )),
        _ => Err(Failure(2, format!("`{}` is not a command; see `returnpath --help`", words.join(" ")))),
    }
}

/// A line for standard output. A reader that has gone, as `head` does, is no failure.
fn print(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

fn paths(policy: &Policy) -> String {
    match policy.paths.len() {
        1 => "1 path".into(),
        n => format!("{n} paths"),
    }
}

fn said(outcome: Outcome, changed: &'static str, unchanged: &'static str) -> &'static str {
    match outcome {
        Outcome::Changed => changed,
        Outcome::Unchanged => unchanged,
    }
}

fn refused(error: returnpath::kernel::Error) -> Failure {
    Failure(4, error.to_string())
}

/// Reads and checks a compiled policy.
fn load(path: &str, policy: &mut Policy) -> Result<(), Failure> {
    let no_policy = |reason: &dyn core::fmt::Display| Failure(3, format!("{path}: {reason}"));
    let file = File::open(path)
        .map_err(|e| no_policy(&format_args!("{e}; name a file made by `returnpath-board compile`")))?;
    let mut image = vec![0; wire::MAX_ENCODED];
    let length = wire::read(Reader(file), &mut image)
        .map_err(|e| no_policy(&format_args!("{e}; name a file made by `returnpath-board compile`")))?;
    wire::decode(&image[..length], policy).map_err(|e| no_policy(&e))
}

/// A file, to readers that know no operating system.
struct Reader(File);

impl embedded_io::ErrorType for Reader {
    type Error = std::io::Error;
}

impl embedded_io::Read for Reader {
    fn read(&mut self, buf: &mut [u8]) -> Result<usize, std::io::Error> {
        std::io::Read::read(&mut self.0, buf)
    }
}

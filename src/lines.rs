//! Lines on standard error: what is logged, and why a run failed.

use env_logger::Builder;
use log::{Level, LevelFilter};
use std::env::var;
use std::fs::File;
use std::io::{Write, stderr};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;

/// Sends what is logged from now on to standard error; `RETURNPATH_LOG` names the least severe level.
pub fn log_there() {
    Builder::new()
        .filter_level(LevelFilter::Info)
        .parse_env("RETURNPATH_LOG")
        .format(|to, record| {
            let line = one_line(&record.args().to_string());
            writeln!(to, "{}returnpath: {line}", prefix(record.level()))
        })
        .init();
}

/// One line of an error. Where nobody can be told, the exit code has to do.
pub fn complain(line: &str) {
    let _ = writeln!(stderr(), "{}returnpath: {}", prefix(Level::Error), one_line(line));
}

/// Text without what would make two lines of it, whatever is quoted in it.
pub fn one_line(text: &str) -> String {
    text.replace(char::is_control, " ")
}

/// What tells the journal of systemd how severe a line is (`man 3 sd-daemon`); nothing where somebody else reads it.
fn prefix(level: Level) -> String {
    match is_journal() {
        true => format!("<{}>", severity(level)),
        false => String::new(),
    }
}

/// Whether standard error is the journal's (`JOURNAL_STREAM`, `man 5 systemd.exec`).
fn is_journal() -> bool {
    let identity = |file: File| file.metadata().map(|data| format!("{}:{}", data.dev(), data.ino()));
    let ours = stderr().as_fd().try_clone_to_owned().and_then(|copy| identity(copy.into()));
    var("JOURNAL_STREAM").is_ok_and(|stream| ours.is_ok_and(|ours| ours == stream))
}

/// How severe a line is, to whoever sorts logs by it (`man 3 syslog`).
pub fn severity(level: Level) -> u8 {
    match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    }
}

/// As much of a line as is no longer than so many bytes.
pub fn cut(line: &str, longest: usize) -> &str {
    let end = (0..=longest.min(line.len())).rev().find(|end| line.is_char_boundary(*end));
    &line[..end.unwrap_or(0)]
}

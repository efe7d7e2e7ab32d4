//! Lines for whoever runs us: on standard error what is logged, why a run failed, and what a process that stays says of
//! itself; on standard output what was asked for.

use crate::kernel::notify::{mention, notify};
use env_logger::Builder;
use log::{Level, LevelFilter};
use rustix::fs::fstat;
use std::env::var;
use std::io::{Write, stderr, stdout};

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

/// What was asked for, on standard output. A reader that has gone, as `head` does, is no failure.
pub fn print(text: &str) {
    let _ = writeln!(stdout(), "{text}");
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
    let ours = || fstat(stderr()).map(|data| format!("{}:{}", data.st_dev, data.st_ino));
    var("JOURNAL_STREAM").is_ok_and(|stream| ours().is_ok_and(|ours| ours == stream))
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

/// Longest status, in bytes: the service manager takes no message over 4096 (`NOTIFY_BUFFER_MAX`, systemd).
const LONGEST: usize = 4000;

/// How a process that stays is getting on: a line in the log, which the service manager is told, too.
#[derive(Default)]
pub struct Progress {
    said: String,
    is_ready: bool,
}

impl Progress {
    /// One line in the log, unless it is the last one again.
    pub fn say(&mut self, level: Level, line: &str) {
        let line = one_line(line);
        if line != self.said {
            log::log!(level, "{line}");
            self.said = line;
            if self.is_ready {
                mention(&self.status());
            }
        }
    }

    /// Tells the service manager that the policy is in force.
    pub fn ready(&mut self) {
        notify(&format!("READY=1\n{}", self.status()));
        self.is_ready = true;
    }

    fn status(&self) -> String {
        format!("STATUS={}", cut(&self.said, LONGEST))
    }
}

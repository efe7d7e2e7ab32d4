//! `apply --confirm`: the policy is taken back by itself unless `returnpath confirm` follows in time. For people who change
//! the router that they are logged in through.
//!
//! The work is done by a process in a session of its own, so that it goes on when the terminal dies with the connection
//! that the new policy broke.

use crate::exit::{self, Failure};
use crate::kernel::descriptors::{close_inherited, let_go};
use crate::kernel::trial::{Trial, Verdict};
use crate::kmsg;
use crate::policy::Policy;
use crate::source::Source;
use log::Level;
use rustix::process::setsid;
use rustix::thread::set_name;
use std::io::{Read, Write, stdout};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::Duration;

/// How the process that does the work is told to.
pub const WORK: &str = "--on-trial";

/// What it tells: the policy is in force, and it stays behind.
const WAITING: u8 = b'w';
/// Seconds that a trial can last.
const PERIODS: std::ops::RangeInclusive<u64> = 1..=86_400;

/// Has the policy installed for so many seconds. `words` say where it is; returns an exit code.
///
/// # Errors
/// [`exit::USAGE`]; [`exit::REFUSED`], where no process can be started.
pub fn apply(seconds: &str, words: &[&str]) -> Result<u8, Failure> {
    let period = period(seconds)?;
    let broken = |reason: &dyn core::fmt::Display| {
        let line = format!(
            "apply: the process that would take the policy back {reason}; look whether it is in force"
        );
        Failure::new(exit::REFUSED, line)
    };
    let mut child = Command::new("/proc/self/exe")
        .arg0("returnpath")
        .args(["apply", WORK, seconds])
        .args(words)
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| broken(&format_args!("cannot be started: {error}")))?;
    let mut word = [0];
    match child.stdout.take().map(|mut pipe| pipe.read(&mut word)) {
        Some(Ok(1)) if word[0] == WAITING => {
            log::info!("it is taken back in {} s; keep it with `returnpath confirm`", period.as_secs());
            Ok(0)
        }
        Some(Ok(1)) => Ok(word[0]),
        _ => Err(broken(&"has ended without a word")),
    }
}

/// The process that does the work.
///
/// # Errors
/// [`exit::USAGE`], and the installation's.
pub fn work(seconds: &str, source: &Source, policy: &mut Policy) -> Result<u8, Failure> {
    let period = period(seconds)?;
    close_inherited();
    let _ = set_name(c"returnpath"); // it was started as /proc/self/exe
    let _ = setsid(); // it fails only for whoever leads a session already
    let result = source.load(policy).and_then(|name| Ok((Trial::begin(policy, period)?, name)));
    let (trial, name) = result.inspect_err(|failure| tell(failure.code))?;
    let Some(trial) = trial else {
        log::info!("{name}: {}; in force already, and not on trial", policy.count());
        tell(0);
        return Ok(0);
    };
    log::info!("{name}: {}; in force, on trial", policy.count());
    tell(WAITING);
    let_go();
    match trial.end() {
        Ok(Verdict::Stays) => {}
        Ok(Verdict::TakenBack) => kmsg::say(
            Level::Warn,
            &format!(
                "{name}: not confirmed within {} s, and taken back; the source still has it",
                period.as_secs()
            ),
        ),
        Err(error) => kmsg::say(
            Level::Error,
            &format!(
                "{name}: not confirmed, and it could not be taken back as a whole: {error}; apply the policy of before"
            ),
        ),
    }
    Ok(0)
}

fn period(seconds: &str) -> Result<Duration, Failure> {
    let number = seconds.parse().ok().filter(|number| PERIODS.contains(number));
    let line = || {
        format!(
            "--confirm {seconds}: not a number of seconds from {} to {}; give one",
            PERIODS.start(),
            PERIODS.end()
        )
    };
    number.map(Duration::from_secs).ok_or_else(|| Failure::new(exit::USAGE, line()))
}

/// Tells whoever waits one byte.
fn tell(word: u8) {
    let _ = stdout().write_all(&[word]).and_then(|()| stdout().flush()); // nobody there, nobody to tell
}

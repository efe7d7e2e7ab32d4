//! The early-boot stage: the policy is in force before anything else opens the network.
//!
//! As PID 1 it may not fail. So it does next to nothing itself: a child does the work (`work`), PID 1 waits for it for a
//! bounded time, and then executes the next init, whatever has become of the child. Neither a crash nor a hang of ours
//! takes the machine down with it.

pub mod options;
pub mod work;

use crate::exit::BROKEN;
use crate::kernel::mounts::Mounts;
use crate::kmsg;
use options::Options;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// This program, whatever it was called by.
const OURSELVES: &str = "/proc/self/exe";
/// What makes it the child that does the work; a number of milliseconds follows.
pub const WORK: [&str; 2] = ["init", "--work"];

/// Does the stage's work in a child. PID 1 then executes the next init with these arguments and the environment as it
/// is, and returns only if it can not; started by another init, it returns the exit code.
pub fn stage(arguments: &[OsString]) -> u8 {
    let (mounts, unmounted) = Mounts::make();
    let (options, aside) = Options::of_this_boot();
    let is_first = std::process::id() == 1;
    kmsg::log_there(options.log, !is_first);
    unmounted.iter().for_each(|error| log::error!("{error}"));
    aside.iter().for_each(|line| log::warn!("{line}"));

    let code = supervise(options.timeout);
    let is_itself = is_this_program(&options.next);
    mounts.unmake();
    if !is_first {
        return code;
    }
    if code != 0 {
        log::error!("the boot goes on without a policy in force");
    }
    let reason = match is_itself {
        true => "it is returnpath itself".into(),
        false => Command::new(&options.next).args(arguments).exec().to_string(),
    };
    log::error!(
        "next init {}: {reason}; name another one with returnpath.next= on the kernel command line",
        options.next
    );
    BROKEN
}

/// Has the work done by a child, and waits until the policy is in force, or is not, or the time is up. Returns the exit
/// code; the reason is in the log.
fn supervise(limit: Duration) -> u8 {
    let broken = |line: String| {
        log::error!("{line}");
        BROKEN
    };
    let deadline = Instant::now() + limit;
    let mut child = match work(limit) {
        Ok(child) => child,
        Err(error) => {
            return broken(format!(
                "{OURSELVES}: cannot be started: {error}; it takes /proc, and room for a process"
            ));
        }
    };
    let word = child.stdout.take().map_or(Word::None, |pipe| hear(pipe, deadline));
    match word {
        Word::Byte(work::WAITING) => return 0,
        Word::Late => {
            let _ = child.kill(); // if it has ended by now, so much the better
        }
        _ => {}
    }
    // It has ended, or is about to; what can not be ended is left alone.
    let status = reap(&mut child, Instant::now() + Duration::from_millis(100));
    if status.is_none() {
        let _ = child.kill();
    }
    match word {
        Word::Byte(code) => code,
        Word::Late => broken(format!(
            "stopped after {} s, the time that returnpath.timeout= gives it; what it waited for is in the lines above; \
             `returnpath apply` makes good what is half done",
            limit.as_secs()
        )),
        Word::None => {
            let how = match status.and_then(|status| status.signal()) {
                Some(signal) => format!("by signal {signal}"),
                None => "without a word".into(),
            };
            broken(format!(
                "our own work has ended {how}; this is a defect of returnpath, report it with the policy; \
                 `returnpath apply` makes good what is half done"
            ))
        }
    }
}

/// The child: this program under a name that does not end in `init`.
fn work(limit: Duration) -> std::io::Result<Child> {
    Command::new(OURSELVES)
        .arg0("returnpath")
        .args(WORK)
        .arg(limit.as_millis().to_string())
        .stdout(Stdio::piped())
        .spawn()
}

/// What the child has told through its standard output.
enum Word {
    /// [`work::WAITING`], or its exit code.
    Byte(u8),
    /// It has ended without a word.
    None,
    /// Nothing in time.
    Late,
}

fn hear(mut pipe: ChildStdout, deadline: Instant) -> Word {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
        match poll(&mut [PollFd::new(&pipe, PollFlags::IN)], Some(&timeout)) {
            Ok(0) => return Word::Late,
            Ok(_) => {
                let mut byte = [0];
                return if matches!(pipe.read(&mut byte), Ok(1)) { Word::Byte(byte[0]) } else { Word::None };
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return Word::None,
        }
    }
}

/// How a child has ended, if it does in time.
fn reap(child: &mut Child, deadline: Instant) -> Option<ExitStatus> {
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Some(status),
            Ok(None) if Instant::now() < deadline => sleep(Duration::from_millis(1)),
            _ => return None,
        }
    }
}

/// Whether a file is the program that runs here: executing it again would never end. Without `/proc` the name that it was
/// called by has to do.
fn is_this_program(file: &str) -> bool {
    let identity = |file: &OsStr| fs::metadata(file).map(|data| (data.dev(), data.ino())).ok();
    let ours =
        identity(OURSELVES.as_ref()).or_else(|| std::env::args_os().next().and_then(|name| identity(&name)));
    ours.is_some() && identity(file.as_ref()) == ours
}

//! The only room that touches the kernel: netlink sockets, `/proc/sys`, and every `unsafe` that there is.

pub mod answer;
mod attributes;
pub mod commit;
pub mod conntrack;
pub mod counters;
pub mod descriptors;
pub mod device;
pub mod differences;
mod encode;
pub mod events;
mod expressions;
pub mod files;
mod journal;
pub mod lock;
mod lookup;
mod macs;
pub mod modules;
pub mod mounts;
mod names;
pub mod neighbours;
mod netlink;
pub mod news;
pub mod notify;
pub mod partition;
pub mod ports;
pub mod preflight;
mod ruleset;
pub mod signals;
mod sysctl;
mod table;
pub mod trial;
mod update;
pub mod ways;

use core::fmt::{self, Display, Formatter};

/// Why the kernel does not hold the policy: one line with the thing, the reason and the remedy.
#[derive(Debug)]
pub struct Error {
    line: String,
    /// What was asked for may have been done all the same: the kernel's answer was lost.
    is_lost: bool,
    /// It was refused since something else still holds it.
    is_busy: bool,
    /// It was refused since a port or an address is not there yet: it may come.
    is_early: bool,
}

impl Error {
    fn new(line: String) -> Error {
        Error { line, is_lost: false, is_busy: false, is_early: false }
    }

    /// `/proc` is missing, and has not been mounted for a while.
    pub fn no_proc() -> Error {
        Error::new("/proc/sys/net: not there; mount /proc, and run `returnpath apply`".into())
    }
}

impl Display for Error {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(&self.line)
    }
}

impl core::error::Error for Error {}

/// The line for a refusal, with its remedy.
fn refused(what: fmt::Arguments<'_>, refusal: &netlink::Refusal, remedy: &str) -> Error {
    let remedy = match refusal.errno {
        libc::EPERM | libc::EACCES => "run it with CAP_NET_ADMIN",
        libc::EAGAIN => "the kernel did not answer within 10 seconds; try again",
        _ => remedy,
    };
    let is_busy = refusal.errno == libc::EBUSY && !refusal.is_lost;
    Error { line: format!("{what}: {refusal}; {remedy}"), is_lost: refusal.is_lost, is_busy, is_early: false }
}

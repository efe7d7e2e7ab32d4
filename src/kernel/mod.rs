//! The only room that touches the kernel: netlink sockets, `/proc/sys`, and every `unsafe` that there is.

pub mod commit;
mod encode;
mod expressions;
mod names;
mod netlink;
mod sysctl;
mod table;
mod ways;

use core::fmt::{self, Display, Formatter};

/// Why the kernel does not hold the policy: one line with the thing, the reason and the remedy.
#[derive(Debug)]
pub struct Error(String);

impl Error {
    fn new(line: String) -> Error {
        Error(line)
    }
}

impl Display for Error {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl core::error::Error for Error {}

/// The line for a refusal that has no remedy of its own.
fn failed(what: fmt::Arguments<'_>, refusal: &netlink::Refusal) -> Error {
    let remedy = match refusal.errno {
        libc::EPERM | libc::EACCES => "run it with CAP_NET_ADMIN",
        libc::EAGAIN => "the kernel did not answer within 10 seconds; try again",
        _ => "see the kernel log",
    };
    Error::new(format!("{what}: {refusal}; {remedy}"))
}

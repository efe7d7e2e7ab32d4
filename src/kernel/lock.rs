//! One returnpath at a time in a network namespace.

use super::Error;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use std::fs::{File, OpenOptions};
use std::thread::sleep;
use std::time::Duration;

/// Held while it lives; the kernel lets go of it when the process ends, however that is. `None` inside: there is
/// nothing to lock, and no reason to leave the gateway without a policy.
pub struct Lock {
    _file: Option<File>,
}

/// Each network namespace has its own, only who may change its network can open it, and it needs no disk.
const FILE: &str = "/proc/sys/net/ipv4/route/flush";

impl Lock {
    /// Waits for up to 10 seconds.
    pub fn take() -> Result<Lock, Error> {
        let file = match OpenOptions::new().write(true).open(FILE) {
            Ok(file) => file,
            Err(_) => return Ok(Lock { _file: None }), // what needs it will say so
        };
        for _ in 0..1000 {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Lock { _file: Some(file) }),
                Err(Errno::WOULDBLOCK) => sleep(Duration::from_millis(10)),
                Err(error) => return Err(Error::new(format!("lock: {FILE}: {error}"))),
            }
        }
        Err(Error::new(format!(
            "another returnpath is at work for 10 seconds already; see `fuser -v {FILE}`"
        )))
    }
}

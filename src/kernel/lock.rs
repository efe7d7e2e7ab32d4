//! One returnpath at a time in a network namespace.

use super::Error;
use std::fs::{File, OpenOptions, TryLockError};
use std::thread::sleep;
use std::time::Duration;

/// Held while it lives; the kernel lets go of it when the process ends, however that is. `None` inside: there is
/// nothing to lock, and no reason to leave the gateway without a policy.
pub struct Lock {
    _file: Option<File>,
}

/// Each network namespace has its own, only root can open it, and it needs no disk.
const FILE: &str = "/proc/sys/net/ipv4/route/flush";

impl Lock {
    /// Waits for up to 10 seconds.
    pub fn take() -> Result<Lock, Error> {
        let file = match OpenOptions::new().write(true).open(FILE) {
            Ok(file) => file,
            Err(_) => return Ok(Lock { _file: None }), // what needs it will say so
        };
        for _ in 0..1000 {
            match file.try_lock() {
                Ok(()) => return Ok(Lock { _file: Some(file) }),
                Err(TryLockError::WouldBlock) => sleep(Duration::from_millis(10)),
                Err(TryLockError::Error(error)) => return Err(Error::new(format!("lock: {FILE}: {error}"))),
            }
        }
        Err(Error::new(format!(
            "another returnpath is at work for 10 seconds already; see `fuser -v {FILE}`"
        )))
    }
}

//! One returnpath at a time in a network namespace, and one guard.

use super::Error;
use rustix::fs::{FlockOperation, Mode, OFlags, flock, open as open_file};
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::thread::sleep;
use std::time::Duration;

/// Each network namespace has its own, only who may change its network can open it, and it needs no disk.
const FILE: &str = "/proc/sys/net/ipv4/route/flush";

fn open() -> Option<File> {
    open_file(FILE, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty()).ok().map(File::from)
}

/// Held while it lives; the kernel lets go of it when the process ends, however that is. `None` inside: there is
/// nothing to lock, and no reason to leave the gateway without a policy.
pub struct Lock {
    _file: Option<File>,
}

impl Lock {
    /// Waits for up to 10 seconds.
    pub fn take() -> Result<Lock, Error> {
        let Some(file) = open() else { return Ok(Lock { _file: None }) }; // what needs it will say so
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

/// That this process guards the network namespace. Another kind of lock on the same file (`F_OFD_SETLK`, `man 2 fcntl`),
/// which does not get into the way of [`Lock`].
pub struct Presence {
    _file: Option<File>,
}

impl Presence {
    /// # Errors
    /// There is a guard already.
    pub fn take() -> Result<Presence, Error> {
        let Some(file) = open() else { return Ok(Presence { _file: None }) };
        match record_lock(&file, libc::F_OFD_SETLK) {
            Ok(_) => Ok(Presence { _file: Some(file) }),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(Error::new(
                "another `returnpath guard` is at work in this network namespace; stop one of the two".into(),
            )),
            Err(error) => Err(Error::new(format!("lock: {FILE}: {error}"))),
        }
    }
}

/// Whether a guard is at work in this network namespace. False where that can not be known.
pub fn is_guarded() -> bool {
    open().is_some_and(|file| {
        record_lock(&file, libc::F_OFD_GETLK).is_ok_and(|there| there != libc::F_UNLCK as libc::c_short)
    })
}

/// Asks for a lock for writing on the whole file, or about it; returns the kind that the kernel has answered.
fn record_lock(file: &File, command: libc::c_int) -> io::Result<libc::c_short> {
    // SAFETY: all zeroes is a value of this struct.
    let mut lock = unsafe { core::mem::zeroed::<libc::flock>() };
    lock.l_type = libc::F_WRLCK as libc::c_short;
    // SAFETY: the descriptor is open, and the struct lives during the call.
    match unsafe { libc::fcntl(file.as_raw_fd(), command, &raw mut lock) } {
        0 => Ok(lock.l_type),
        _ => Err(io::Error::last_os_error()),
    }
}

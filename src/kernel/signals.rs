//! Signals as something to wait for (`man 2 signalfd`), so that there is one place where a resident process sleeps.

use rustix::fd::{FromRawFd, OwnedFd};
use rustix::io::read;
use std::io;

/// What a resident process is asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// Read the policy again (`SIGHUP`).
    Reload,
    /// End (`SIGTERM`, `SIGINT`).
    End,
}

/// Signals that come in.
pub struct Signals(OwnedFd);

impl Signals {
    /// From now on they wait here and do nothing else. Meant for a process of one thread.
    pub fn catch() -> io::Result<Signals> {
        // SAFETY: the set is made by sigemptyset before anything reads it, and all pointers are to it; the descriptor
        // is new and nobody else's.
        unsafe {
            let mut set = core::mem::zeroed::<libc::sigset_t>();
            libc::sigemptyset(&raw mut set);
            for signal in [libc::SIGHUP, libc::SIGTERM, libc::SIGINT] {
                libc::sigaddset(&raw mut set, signal);
            }
            libc::sigprocmask(libc::SIG_BLOCK, &raw const set, core::ptr::null_mut());
            match libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) {
                -1 => Err(io::Error::last_os_error()),
                descriptor => Ok(Signals(OwnedFd::from_raw_fd(descriptor))),
            }
        }
    }

    /// The next one; `None`: there is none now.
    pub fn next(&self) -> Option<Signal> {
        // struct signalfd_siginfo is 128 bytes, the number first (linux/signalfd.h).
        let mut information = [0; 128];
        read(&self.0, &mut information).ok()?;
        let number = u32::from_ne_bytes(*information.first_chunk()?);
        Some(if number == libc::SIGHUP as u32 { Signal::Reload } else { Signal::End })
    }
}

impl rustix::fd::AsFd for Signals {
    fn as_fd(&self) -> rustix::fd::BorrowedFd<'_> {
        self.0.as_fd()
    }
}

//! Descriptors that this process starts with.
//!
//! Where the kernel finds no `/dev/console` it starts PID 1 without them. Rust's runtime then opens `/dev/null` in their
//! place and aborts if there is none, before `main`: the kernel would panic. So they are filled first, with what is
//! always there. (`sanitize_standard_fds`, library/std/src/sys/pal/unix/mod.rs)

use rustix::fs::{Mode, OFlags, open};
use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout};
use std::env::set_current_dir;
use std::fs::File;
use std::mem::forget;

/// Run by the C library before `main`, as constructors are.
#[used]
// SAFETY: .init_array holds functions of this kind; it is what the section is for (System V gABI, chapter 5).
#[unsafe(link_section = ".init_array")]
static FILL: extern "C" fn() = fill;

extern "C" fn fill() {
    // The lowest free number is given out first. Above 2 everything is there.
    while let Ok(file) = open("/", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()) {
        use std::os::fd::AsRawFd;
        if file.as_raw_fd() > 2 {
            return;
        }
        forget(file);
    }
}

/// Closes what was inherited beside standard input, output and error: a process that stays behind would hold it for ever,
/// such as a lock of whoever started the stage.
pub fn close_inherited() {
    // SAFETY: called before this process has opened anything, so nothing above 2 is owned by a value of ours.
    unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, 0) };
}

/// Lets go of what the stage was started with: the terminal or pipes, whose end somebody may wait for, and the folder.
pub fn let_go() {
    let _ = set_current_dir("/");
    let_go_of_input();
    if let Ok(nothing) = File::open("/dev/null") {
        // Each fails only for want of a descriptor, and then stays as it is.
        let _ = dup2_stdout(&nothing);
        let _ = dup2_stderr(&nothing);
    }
}

/// Lets go of standard input: a disk that is open can not be given new partitions.
pub fn let_go_of_input() {
    if let Ok(nothing) = File::open("/dev/null") {
        let _ = dup2_stdin(&nothing); // as above
    }
}

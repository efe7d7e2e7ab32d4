//! Small files, read and written with as few system calls as that takes.

use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags, open};
use rustix::io::{Errno, read as read_from, retry_on_intr, write as write_to};
use std::path::Path;

/// Longest that a setting is, and the line of a file that has one.
const LINE: usize = 64;

/// Opens a file to be read.
pub fn to_read(file: impl AsRef<Path>, flags: OFlags) -> Result<OwnedFd, Errno> {
    retry_on_intr(|| open(file.as_ref(), OFlags::RDONLY | OFlags::CLOEXEC | flags, Mode::empty()))
}

/// What is in a file; of one that is a link, with [`OFlags::NOFOLLOW`], an error.
pub fn read(file: impl AsRef<Path>, flags: OFlags) -> Result<String, Errno> {
    let file = to_read(file, flags)?;
    let (mut text, mut part) = (Vec::new(), [0; 1024]);
    loop {
        match retry_on_intr(|| read_from(&file, &mut part))? {
            0 => return String::from_utf8(text).map_err(|_| Errno::ILSEQ),
            length => text.extend(&part[..length]),
        }
    }
}

/// The one line that a file of the kernel's has: such a file is there as a whole.
pub fn read_line(file: impl AsRef<Path>) -> Result<String, Errno> {
    let file = to_read(file, OFlags::empty())?;
    let mut line = [0; LINE];
    let length = retry_on_intr(|| read_from(&file, &mut line))?;
    Ok(String::from_utf8_lossy(&line[..length]).trim().into())
}

/// Writes a file that has to be there already; with `flags` that say so, a new one.
pub fn write(file: impl AsRef<Path>, flags: OFlags, text: &str) -> Result<(), Errno> {
    let mode = Mode::from_raw_mode(0o666);
    let file = retry_on_intr(|| open(file.as_ref(), OFlags::WRONLY | OFlags::CLOEXEC | flags, mode))?;
    let mut rest = text.as_bytes();
    while !rest.is_empty() {
        match retry_on_intr(|| write_to(&file, rest))? {
            0 => return Err(Errno::IO),
            length => rest = &rest[length..],
        }
    }
    Ok(())
}

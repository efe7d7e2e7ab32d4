//! The device under a board partition: a block device, or a plain file that stands for one.

use super::Error;
use embedded_io::{ErrorType, SeekFrom};
use rustix::fs::{Advice, FlockOperation, fadvise, flock};
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, ErrorKind, Read, Seek, Write, stdin};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

/// An open device. Flushing it waits until the medium has what was written.
#[derive(Debug)]
pub struct Device(File);

impl Device {
    /// Opens a device, or a plain file in the place of one.
    ///
    /// A block device is opened for writing only if nobody else has it: not while it is mounted, swapped to, or part of
    /// a RAID, a volume group or a mapping (`O_EXCL`, `man 2 open`). A plain file is locked.
    ///
    /// # Errors
    /// It is not there, not of that kind, held by somebody else, or not for us to open.
    pub fn open(path: &Path, write: bool) -> Result<Device, Error> {
        let failed = |reason: io::Error| {
            let remedy = match reason.raw_os_error() {
                Some(libc::ENOENT | libc::ENXIO | libc::ENODEV) => {
                    "name the partition's device, such as /dev/sda3"
                }
                Some(libc::EBUSY) => "it is mounted or in use; see `lsblk`",
                Some(libc::EACCES | libc::EPERM) => "run it as root",
                Some(libc::EROFS) => "it is write-protected; take the protection off",
                _ => "name a block device or a plain file",
            };
            Error::new(format!("{}: cannot be opened: {reason}; {remedy}", path.display()))
        };
        Device::try_open(path, write).map_err(failed)
    }

    /// The device that is standard input.
    ///
    /// # Errors
    /// It is neither a block device nor a plain file.
    pub fn of_input() -> Result<Device, Error> {
        let open = || {
            let file = input()?;
            is_block(&file.metadata()?).map(|_| Device(file))
        };
        open().map_err(|reason| {
            Error::new(format!("{}: {reason}; redirect it from one, as `< /dev/sda3` does", name_of_input()))
        })
    }

    /// Opens a device for reading and drops what the page cache has of it, so that what is read comes from the medium.
    /// What was written to it has to be flushed: only pages that are not dirty can be dropped.
    ///
    /// # Errors
    /// As [`Device::open`]'s.
    pub fn fresh(path: &Path) -> io::Result<Device> {
        let device = Device::try_open(path, false)?;
        fadvise(&device.0, 0, None, Advice::DontNeed)?;
        Ok(device)
    }

    /// Its size in bytes. The position is at the end afterwards.
    ///
    /// # Errors
    /// The device's own.
    pub fn size(&mut self) -> io::Result<u64> {
        self.0.seek(io::SeekFrom::End(0))
    }

    fn try_open(path: &Path, write: bool) -> io::Result<Device> {
        // Before it is opened: opening a pipe would wait, and opening a terminal can change it.
        let is_block = is_block(&path.metadata()?)?;
        let exclusive = if write && is_block { libc::O_EXCL } else { 0 };
        let file = OpenOptions::new().read(true).write(write).custom_flags(exclusive).open(path)?;
        let lock = FlockOperation::NonBlockingLockExclusive;
        if write && !is_block && flock(&file, lock).is_err() {
            return Err(io::Error::from_raw_os_error(libc::EBUSY)); // as O_EXCL has it
        }
        Ok(Device(file))
    }
}

/// Standard input, for a reader that may close it.
///
/// # Errors
/// There is no room for a further descriptor.
pub fn input() -> io::Result<File> {
    stdin().as_fd().try_clone_to_owned().map(File::from)
}

/// What standard input is, as far as that can be known: a file's name is in `/proc`.
pub fn name_of_input() -> String {
    match fs::read_link("/proc/self/fd/0") {
        Ok(file) if file.is_absolute() => file.display().to_string(),
        _ => "standard input".into(),
    }
}

fn is_block(metadata: &Metadata) -> io::Result<bool> {
    let kind = metadata.file_type();
    match (kind.is_block_device(), kind.is_file()) {
        (false, false) => {
            Err(io::Error::new(ErrorKind::InvalidInput, "neither a block device nor a plain file"))
        }
        (is_block, _) => Ok(is_block),
    }
}

/// Again, if a signal came in between: for `embedded_io` that would be an error like any other.
fn uninterrupted<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}

impl ErrorType for Device {
    type Error = io::Error;
}

impl embedded_io::Read for Device {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        uninterrupted(|| self.0.read(into))
    }
}

impl embedded_io::Seek for Device {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.0.seek(to.into())
    }
}

impl embedded_io::Write for Device {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        match uninterrupted(|| self.0.write(from)) {
            // `embedded_io` takes "nothing written" for a defect of the program, and panics.
            Ok(0) if !from.is_empty() => Err(ErrorKind::WriteZero.into()),
            done => done,
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        uninterrupted(|| self.0.sync_all())
    }
}

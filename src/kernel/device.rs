//! The device under a board partition: a block device, or a plain file that stands for one.

use super::Error;
use embedded_io::{ErrorType, SeekFrom};
use rustix::fs::{Advice, fadvise};
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, ErrorKind, Read, Seek, Write};
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
        if write && !is_block && file.try_lock().is_err() {
            return Err(io::Error::from_raw_os_error(libc::EBUSY)); // as O_EXCL has it
        }
        Ok(Device(file))
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

//! Board partitions: write, read, format.

use super::{encode, print};
use embedded_io::{ErrorType, Read, Seek, SeekFrom, Write};
use indicatif::{ProgressBar, ProgressStyle};
use returnpath::board::{self, Problem, Slot, WriteError};
use returnpath::exit::{self, Failure};
use returnpath::kernel::device::Device;
use returnpath::kernel::partition::Board;
use returnpath::policy::Policy;
use returnpath::source::buffer;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

/// How much is looked at at once, in bytes.
const CHUNK: usize = 1 << 20;

/// Writes a policy to the spare slot.
pub fn write(device: &Board, policy: &Policy) -> Result<(), Failure> {
    let path = find(device)?;
    let image = encode(&path, policy)?;
    let sectors = 2 + image.len().div_ceil(board::SECTOR);
    let bar = progress("writing", (sectors * board::SECTOR) as u64);
    let mut device = Metered { device: open(&path, true)?, bar };
    let (mut buffer, mut scratch) = (buffer(), Box::new(Policy::new()));
    let (slot, header) =
        board::write(&mut device, || Device::fresh(&path), &image, &mut buffer, &mut scratch)
            .map_err(|error| refused(&path, &error))?;
    device.bar.finish_and_clear();
    let (serial, length) = (header.serial, header.length);
    print(&format!(
        "{}: {slot}, serial {serial}, {length} bytes, {}; read back\n",
        path.display(),
        policy.count()
    ))
}

/// Prints one line a slot.
pub fn read(device: &Board) -> Result<(), Failure> {
    let path = find(device)?;
    let mut device = open(&path, false)?;
    let (mut buffer, mut policy) = (buffer(), Box::new(Policy::new()));
    let found = board::scan(&mut device, &mut buffer);
    if let (Err(Problem::Unreadable(_)), Err(problem @ Problem::Unreadable(_))) = (&found.a, &found.b) {
        return Err(failure(&path, problem));
    }
    let mut load = |slot| {
        board::load(&mut device, slot, &mut buffer, &mut policy).map(|header| (header, policy.count()))
    };
    let boots = found.newest_first().find(|slot| load(*slot).is_ok());
    for slot in Slot::BOTH {
        match load(slot) {
            Ok((header, paths)) => {
                let role = if boots == Some(slot) { "boots" } else { "spare" };
                print(&format!(
                    "{slot}: serial {}, {} bytes, {paths}: {role}\n",
                    header.serial, header.length
                ))?;
            }
            Err(problem) => print(&format!("{slot}: {problem}\n"))?,
        }
    }
    boots.map(|_| ()).ok_or_else(|| {
        let what = "no slot holds a usable policy; put one there with `returnpath-board write`";
        Failure::new(exit::NO_POLICY, format!("{}: {what}", path.display()))
    })
}

/// Makes both slots empty. Without `force` the device may hold nothing but zeroes.
pub fn format(device: &Board, force: bool) -> Result<(), Failure> {
    let path = match device {
        Board::File(path) if is_free(path) => {
            File::create_new(path).and_then(|file| file.set_len(board::SIZE)).map_err(|error| {
                failure(
                    path,
                    format_args!("not made: {error}; choose a folder that can be written to and has room"),
                )
            })?;
            path.clone()
        }
        _ => find(device)?,
    };
    let mut device = open(&path, true)?;
    let mut buffer = buffer();
    let size = device.size().map_err(|error| failure(&path, error))?;
    if size < board::SIZE {
        return Err(refused(&path, &WriteError::TooSmall(size)));
    }
    if has_partitions(&mut device).map_err(|error| failure(&path, error))? {
        return Err(occupied(&path, "a disk with partitions, which would be lost; name one of them"));
    }
    if !force {
        if board::scan(&mut device, &mut buffer).is_board() {
            return Err(occupied(
                &path,
                "a board partition already; write a policy to it, or empty it with --force",
            ));
        }
        if let Some(at) = first_used(&mut device, size).map_err(|error| failure(&path, error))? {
            let what = format!("not empty: byte {at} is not zero; if it may be overwritten, give --force");
            return Err(occupied(&path, &what));
        }
    }
    board::format(&mut device, || Device::fresh(&path), &mut buffer)
        .map_err(|error| refused(&path, &error))?;
    print(&format!("{}: formatted; both slots are empty\n", path.display()))
}

/// Whether a plain file may be made there. Not in /dev: that would be a misspelt device.
fn is_free(path: &Path) -> bool {
    !path.exists() && !path.is_symlink() && !path.starts_with("/dev")
}

/// Whether a GPT begins there: in the second sector, of 512 or of 4096 bytes (UEFI specification, 5.3.2).
fn has_partitions(device: &mut Device) -> io::Result<bool> {
    let mut found = false;
    for at in [512, 4096] {
        let mut signature = [0; 8];
        device.seek(SeekFrom::Start(at))?;
        found |= device.read_exact(&mut signature).is_ok() && signature == *b"EFI PART";
    }
    Ok(found)
}

/// The first byte that is not zero.
fn first_used(device: &mut Device, size: u64) -> io::Result<Option<u64>> {
    let bar = progress("looking whether it is empty", size);
    let mut chunk = vec![0; CHUNK];
    let mut at = device.seek(SeekFrom::Start(0))?;
    loop {
        let len = device.read(&mut chunk)?;
        if let Some(offset) = chunk[..len].iter().position(|byte| *byte != 0) {
            return Ok(Some(at + offset as u64));
        }
        if len == 0 {
            return Ok(None);
        }
        at += len as u64;
        bar.set_position(at);
    }
}

fn find(device: &Board) -> Result<PathBuf, Failure> {
    device.find().into_iter().next().ok_or_else(|| {
        let what = "not found; name the partition's device, such as /dev/sda3, or a plain file";
        Failure::new(exit::NO_BOARD, format!("{device}: {what}"))
    })
}

fn open(path: &Path, write: bool) -> Result<Device, Failure> {
    Device::open(path, write).map_err(|error| Failure::new(exit::NO_BOARD, error.to_string()))
}

fn failure(path: &Path, reason: impl std::fmt::Display) -> Failure {
    Failure::new(exit::NO_BOARD, format!("{}: {reason}", path.display()))
}

fn refused(path: &Path, error: &WriteError<io::Error>) -> Failure {
    failure(path, error)
}

fn occupied(path: &Path, what: &str) -> Failure {
    Failure::new(exit::USAGE, format!("{}: {what}", path.display()))
}

/// On standard error, and only if that is a terminal.
fn progress(what: &'static str, bytes: u64) -> ProgressBar {
    const FORM: &str = "{msg} [{bar:40}] {bytes}/{total_bytes} {eta}";
    let style = ProgressStyle::with_template(FORM).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(bytes).with_message(what).with_style(style)
}

/// A device that shows how much was written to it.
struct Metered {
    device: Device,
    bar: ProgressBar,
}

impl ErrorType for Metered {
    type Error = io::Error;
}

impl Seek for Metered {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.device.seek(to)
    }
}

impl Write for Metered {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        self.device.write(from).inspect(|len| self.bar.inc(*len as u64))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.device.flush()
    }
}

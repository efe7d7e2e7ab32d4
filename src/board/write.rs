//! Writing, in an order that leaves the old policy or the new one wherever it is cut off.

use super::read::read_at;
use super::{Buffer, Header, Problem, SECTOR, SIZE, Slot, load, scan, unreadable};
use crate::policy::{Policy, wire};
use core::fmt::{self, Display, Formatter};
use embedded_io::{ErrorType, Read, ReadExactError, Seek, SeekFrom, Write};

/// Why nothing was written, or not all of it. The slot that was in force still is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WriteError<E> {
    /// The image is not a policy.
    Image(wire::Error),
    /// The device is too small; its size in bytes.
    TooSmall(u64),
    /// No slot begins as a board partition's does.
    NotABoard,
    /// A slot can not be read, or not read back.
    Read(Slot, ReadExactError<E>),
    /// A slot can not be written.
    Write(Slot, E),
    /// A slot does not hold what was written to it.
    Differs(Slot),
}

impl<E: Display> Display for WriteError<E> {
    fn fmt(&self, f: &mut Formatter) -> fmt::Result {
        match self {
            Self::Image(error) => error.fmt(f),
            Self::TooSmall(size) => {
                write!(f, "{size} bytes are too few for a board partition; give it {SIZE} bytes")
            }
            Self::NotABoard => {
                write!(
                    f,
                    "not a board partition; name the partition and not the disk, or run `returnpath-board format` first"
                )
            }
            Self::Read(slot, error) => {
                write!(f, "{slot}: ")?;
                unreadable(error, f)
            }
            Self::Write(slot, error) => {
                write!(
                    f,
                    "{slot}: it cannot be written: {error}; {} is as it was; check the device",
                    slot.other()
                )
            }
            Self::Differs(slot) => write!(
                f,
                "{slot}: it does not hold what was written to it; {} is as it was; replace the flash",
                slot.other()
            ),
        }
    }
}

impl<E: core::error::Error> core::error::Error for WriteError<E> {}

/// Writes an image to the spare slot: the one that is not in force. Returns the slot and its header. The same policy
/// again is written like any other.
///
/// `fresh` opens the device again for reading, so that what is read back comes from the medium and not from a cache.
/// `buffer` and `policy` are room to work in.
///
/// # Errors
/// Whatever goes wrong, the slot in force stays in force. The spare one is then empty, unless the device fails at that, too.
pub fn write<D, R>(
    device: &mut D,
    mut fresh: impl FnMut() -> Result<R, D::Error>,
    image: &[u8],
    buffer: &mut Buffer,
    policy: &mut Policy,
) -> Result<(Slot, Header), WriteError<D::Error>>
where
    D: Write + Seek,
    R: Read + Seek + ErrorType<Error = D::Error>,
{
    wire::decode(image, policy).map_err(WriteError::Image)?;
    check_size(device)?;
    let mut reader = fresh().map_err(|error| WriteError::Read(Slot::A, error.into()))?;
    let (slot, serial) = spare(&mut reader, buffer, policy)?;

    let mut sector = [0; SECTOR];

    // The payload is written while no header points to it, so that nobody can take half of it for a policy.
    Header::stamp(0, &[], &mut sector);
    put(device, slot, slot.header(), &[&sector])?;
    let (sectors, rest) = image.as_chunks::<SECTOR>();
    sector.fill(0);
    sector[..rest.len()].copy_from_slice(rest);
    let last = &sector[..rest.len().next_multiple_of(SECTOR)];
    put(device, slot, slot.payload(), &[sectors.as_flattened(), last])?;
    read_back(&mut fresh, slot, slot.payload(), image, buffer)?;

    // The moment of truth: one sector.
    let header = Header::stamp(serial, image, &mut sector);
    let done = put(device, slot, slot.header(), &[&sector])
        .and_then(|()| read_back(&mut fresh, slot, slot.header(), &sector, buffer));
    if done.is_err() {
        // What was not confirmed shall not come into force later. The first error is the one to report.
        Header::stamp(0, &[], &mut sector);
        let _ = put(device, slot, slot.header(), &[&sector]);
    }
    done.map(|()| (slot, header))
}

/// Makes both slots empty. Nothing but their headers is written. A cut leaves each slot as it was, empty or defective.
///
/// # Errors
/// As [`write`](fn@write)'s. Policies that the device held are lost.
pub fn format<D, R>(
    device: &mut D,
    mut fresh: impl FnMut() -> Result<R, D::Error>,
    buffer: &mut Buffer,
) -> Result<(), WriteError<D::Error>>
where
    D: Write + Seek,
    R: Read + Seek + ErrorType<Error = D::Error>,
{
    check_size(device)?;
    let mut sector = [0; SECTOR];
    Header::stamp(0, &[], &mut sector);
    for slot in Slot::BOTH {
        put(device, slot, slot.header(), &[&sector])?;
        read_back(&mut fresh, slot, slot.header(), &sector, buffer)?;
    }
    Ok(())
}

fn check_size<D: Seek>(device: &mut D) -> Result<(), WriteError<D::Error>> {
    match device.seek(SeekFrom::End(0)) {
        Ok(size) if size < SIZE => Err(WriteError::TooSmall(size)),
        Ok(_) => Ok(()),
        Err(error) => Err(WriteError::Read(Slot::A, error.into())),
    }
}

/// The slot to write to, and the serial to give it: the slot that a reader would not take, and one more than the other.
fn spare<R: Read + Seek>(
    reader: &mut R,
    buffer: &mut Buffer,
    policy: &mut Policy,
) -> Result<(Slot, u32), WriteError<R::Error>> {
    let found = scan(reader, buffer);
    for slot in found.newest_first() {
        // An image whose CRC is right may still be none that this program reads: it is not worth keeping.
        if let Ok(header) = load(reader, slot, buffer, policy) {
            return Ok((slot.other(), header.serial.wrapping_add(1).max(1)));
        }
    }
    if found.is_board() {
        return Ok((if matches!(found.a, Err(Problem::Unreadable(_))) { Slot::B } else { Slot::A }, 1));
    }
    Err(match found.a {
        Err(Problem::Unreadable(error)) => WriteError::Read(Slot::A, error),
        _ => WriteError::NotABoard,
    })
}

/// Writes whole sectors from the byte `at`, and waits until they are on the medium.
fn put<D: Write + Seek>(
    device: &mut D,
    slot: Slot,
    at: u64,
    parts: &[&[u8]],
) -> Result<(), WriteError<D::Error>> {
    let mut put = || {
        device.seek(SeekFrom::Start(at))?;
        parts.iter().try_for_each(|sectors| device.write_all(sectors))?;
        device.flush()
    };
    put().map_err(|error| WriteError::Write(slot, error))
}

/// Compares what is on the medium, from the byte `at`, with what was written there.
fn read_back<R: Read + Seek>(
    fresh: &mut impl FnMut() -> Result<R, R::Error>,
    slot: Slot,
    at: u64,
    written: &[u8],
    buffer: &mut Buffer,
) -> Result<(), WriteError<R::Error>> {
    let found = &mut buffer[..written.len()];
    fresh()
        .map_err(ReadExactError::Other)
        .and_then(|mut reader| read_at(&mut reader, at, found))
        .map_err(|error| WriteError::Read(slot, error))?;
    if found != written {
        return Err(WriteError::Differs(slot));
    }
    Ok(())
}

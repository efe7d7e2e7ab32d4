//! The board partition: the policy of a flashed gateway, in two slots, so that one is whole while the other is written.
//!
//! Version 1 is frozen; `board/FORMAT.md` has it byte for byte, and why a cut of the power at any byte leaves the old
//! policy or the new one. Generic over the device, no heap, no clock, and on the stack one sector at most.

mod read;
mod write;

pub use read::{Scan, load, scan};
pub use write::{WriteError, format, write};

use crate::policy::wire;
use core::fmt::{self, Display, Formatter};
use embedded_io::ReadExactError;

/// Bytes of a partition that are used; it may be larger.
pub const SIZE: u64 = 2 * SLOT_SIZE;
/// Bytes of a slot: slot A begins at 0, slot B here.
pub const SLOT_SIZE: u64 = 512 << 10;
/// Every write begins at a multiple of this many bytes and is as long as one: right for devices with sectors of 512
/// bytes and of 4096.
pub const SECTOR: usize = 4096;
/// The first bytes of a slot, whatever its version.
pub const MAGIC: [u8; 4] = *b"RPSL";
/// The version that this program writes and reads.
pub const VERSION: u16 = 1;

/// Where the header's CRC is: at the end of its sector.
const CRC_AT: usize = SECTOR - size_of::<u32>();

const _: () = assert!(SECTOR as u64 + wire::MAX_ENCODED.next_multiple_of(SECTOR) as u64 <= SLOT_SIZE);

/// Room for the largest image. The caller has it, since a boot stage's stack is smaller.
pub type Buffer = [u8; wire::MAX_ENCODED];

/// One of the two places for a policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Slot {
    /// The one at byte 0.
    A,
    /// The one at byte [`SLOT_SIZE`].
    B,
}

impl Slot {
    /// Both of them.
    pub const BOTH: [Slot; 2] = [Slot::A, Slot::B];

    /// The one that this one is not.
    pub const fn other(self) -> Slot {
        match self {
            Slot::A => Slot::B,
            Slot::B => Slot::A,
        }
    }

    /// The byte that its header begins at.
    const fn header(self) -> u64 {
        match self {
            Slot::A => 0,
            Slot::B => SLOT_SIZE,
        }
    }

    /// The byte that its payload begins at.
    const fn payload(self) -> u64 {
        self.header() + SECTOR as u64
    }
}

impl Display for Slot {
    fn fmt(&self, f: &mut Formatter) -> fmt::Result {
        f.write_str(match self {
            Slot::A => "slot A",
            Slot::B => "slot B",
        })
    }
}

/// What the header of a slot says that holds an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Counts the writes to the partition. It wraps, and skips 0.
    pub serial: u32,
    /// Bytes of the image.
    pub length: u32,
    /// CRC-32/ISO-HDLC of the header's sector, less these four bytes, and the image.
    pub crc: u32,
}

impl Header {
    /// Whether this one was written after `other`: serial number arithmetic (RFC 1982). Of two that can not be compared,
    /// 2³¹ apart, neither was.
    pub const fn is_newer_than(&self, other: &Header) -> bool {
        self.serial.wrapping_sub(other.serial).cast_signed() > 0
    }

    /// Fills `sector` with the header of `image`; of no image at all and serial 0, with an empty slot's.
    fn stamp(serial: u32, image: &[u8], sector: &mut [u8; SECTOR]) -> Header {
        let length = image.len() as u32;
        sector.fill(0);
        sector[..4].copy_from_slice(&MAGIC);
        sector[4..6].copy_from_slice(&VERSION.to_le_bytes());
        sector[8..12].copy_from_slice(&serial.to_le_bytes());
        sector[12..16].copy_from_slice(&length.to_le_bytes());
        let mut digest = wire::CRC.digest();
        digest.update(&sector[..CRC_AT]);
        digest.update(image);
        let crc = digest.finalize();
        sector[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
        Header { serial, length, crc }
    }
}

/// What a slot holds, or why it is of no use to a reader. `E` is the device's error.
pub type State<E> = Result<Header, Problem<E>>;

/// Why a slot gives no policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Problem<E> {
    /// Formatted, and not written since; or a write was cut off early.
    Empty,
    /// Its bytes can be read, and are none of ours.
    Defective(Defect),
    /// The device can not read it, or ends before it does.
    Unreadable(ReadExactError<E>),
}

/// What is wrong with the bytes of a slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Defect {
    /// The first bytes are not [`MAGIC`].
    Magic,
    /// Another version of the format; the version found.
    Version(u16),
    /// A length that no image has; the length found.
    Length(u32),
    /// The CRC does not match header and image.
    Crc,
    /// Header and image are as they were written, and the image is not a policy.
    Decode(wire::Error),
}

impl Display for Defect {
    fn fmt(&self, f: &mut Formatter) -> fmt::Result {
        const AGAIN: &str = "write the policy again with `returnpath-board write`";
        match self {
            Self::Magic => write!(
                f,
                "it does not begin as a slot does (this is no board partition, or its flash is failing); \
                 name the partition and not the disk, or {AGAIN}"
            ),
            Self::Version(found) => write!(
                f,
                "it is of format version {found}, and this program reads version {VERSION}; \
                 write the policy again with the returnpath-board of the same release"
            ),
            Self::Length(found) => {
                write!(f, "its length of {found} bytes is none that a policy has; {AGAIN}")
            }
            Self::Crc => {
                write!(f, "its CRC does not match (a write was cut off, or the flash is failing); {AGAIN}")
            }
            Self::Decode(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for Defect {}

impl<E: Display> Display for Problem<E> {
    fn fmt(&self, f: &mut Formatter) -> fmt::Result {
        match self {
            Self::Empty => write!(f, "empty; put a policy there with `returnpath-board write`"),
            Self::Defective(defect) => defect.fmt(f),
            Self::Unreadable(error) => unreadable(error, f),
        }
    }
}

impl<E: core::error::Error> core::error::Error for Problem<E> {}

impl<E> From<Defect> for Problem<E> {
    fn from(defect: Defect) -> Self {
        Problem::Defective(defect)
    }
}

impl<E> From<ReadExactError<E>> for Problem<E> {
    fn from(error: ReadExactError<E>) -> Self {
        Problem::Unreadable(error)
    }
}

fn unreadable<E: Display>(error: &ReadExactError<E>, f: &mut Formatter) -> fmt::Result {
    match error {
        ReadExactError::UnexpectedEof => {
            write!(f, "the device ends within it; a board partition has {SIZE} bytes")
        }
        ReadExactError::Other(error) => write!(f, "it cannot be read: {error}; check the device"),
    }
}

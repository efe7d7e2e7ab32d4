//! The wire form of a policy: what `compile` writes, a board partition holds and the firmware reads.
//!
//! Versions 1 and 2 are frozen. Byte for byte:
//!
//! | bytes | what |
//! |---|---|
//! | 4 | [`MAGIC`] |
//! | 1 | version |
//! | n | [postcard](https://postcard.jamesmunns.com/wire-format) of mark mask, local networks, paths; in version 2 also a list of the paths with `auto` among their source MACs, each by its place (`u16`), counted from 0 |
//! | 4 | CRC-32/ISO-HDLC of everything before, little endian |
//!
//! An image has the lowest version that can say what is in it: what needs no newer firmware runs on the older one, and
//! does not change with a new release.
//!
//! Nothing here needs a heap, and no bytes whatever make it panic.

use super::{
    Invalid, MAX_DESTINATIONS, MAX_LOCAL_NETWORKS, MAX_MACS, MAX_NAME, MAX_PATHS, MAX_PORTS, MAX_SERVICES,
};
use super::{Path, Policy};
use core::fmt::{self, Display, Formatter};
use crc::{CRC_32_ISO_HDLC, Crc, Digest, NoTable};
use embedded_io::{Error as _, ErrorKind, Read};
use heapless::Vec;
use postcard::ser_flavors::Flavor;
use serde::{Deserialize, Serialize, Serializer};

/// The first bytes of every policy image, whatever its version.
pub const MAGIC: [u8; 4] = *b"RPOL";
/// The newest version that this program writes and reads.
pub const VERSION: u8 = 2;

/// Bytes before the body.
const HEAD: usize = MAGIC.len() + 1;
/// Bytes after the body.
const TAIL: usize = size_of::<u32>();
/// Without a table: a policy is read once, and the kilobyte is better spent elsewhere.
pub(crate) const CRC: Crc<u32, NoTable> = Crc::<u32, NoTable>::new(&CRC_32_ISO_HDLC);

/// Bytes of the largest image that a checked policy can have. One of version 2 is shorter: `auto` takes the place of a
/// MAC, which has six bytes, and costs two, beside two for the length of its list.
pub const MAX_ENCODED: usize = {
    // Postcard writes seven bits a byte.
    const U16: usize = 3;
    const U32: usize = 5;
    const NAME: usize = 1 + MAX_NAME;
    const NETWORK: usize = 1 + 16 + 1;
    const PRIORITY: usize = 3; // at most 32765
    const PATH: usize = NAME
        + U32 // mark
        + U32 // table
        + (1 + 4)
        + (1 + 16)
        + (1 + MAX_MACS * 6)
        + (1 + MAX_PORTS * NAME)
        + (1 + MAX_SERVICES * (1 + U16 + U16))
        + (1 + MAX_DESTINATIONS * NETWORK)
        + (1 + NAME) // device
        + 1 // onlink
        + 1 // scope
        + 1 // when_down
        + PRIORITY
        + 1; // log
    HEAD + U32 + (1 + MAX_LOCAL_NETWORKS * NETWORK) + (2 + MAX_PATHS * PATH) + TAIL
};

/// Why bytes are not a policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Error {
    /// Too few bytes to be an image at all; how many there are.
    TooShort(usize),
    /// More bytes than any policy has: over [`MAX_ENCODED`].
    TooLong,
    /// The first bytes are not [`MAGIC`].
    Magic,
    /// Written for another version of this program; the version found.
    Version(u8),
    /// The CRC does not match: the bytes are damaged.
    Crc,
    /// The CRC matches, but this is not the postcard of a policy; the path where reading ended,
    /// counted from 0, `None` before the first.
    Body(Option<usize>),
    /// The same, in the list of the paths with `auto`.
    Auto,
    /// Bytes are left over between the last path and the CRC; how many.
    Trailing(usize),
    /// Well-formed, but breaks a rule of the contract.
    Invalid(Invalid),
}

impl Display for Error {
    fn fmt(&self, f: &mut Formatter) -> fmt::Result {
        const AGAIN: &str = "compile it again from its TOML source";
        match self {
            Self::TooShort(len) => write!(f, "{len} bytes are too few for a policy image; {AGAIN}"),
            Self::TooLong => write!(f, "over {MAX_ENCODED} bytes, more than any policy image has; {AGAIN}"),
            Self::Magic => write!(f, "not a policy image; make one with `returnpath-board compile`"),
            Self::Version(found) => write!(
                f,
                "a policy image of version {found}, and this program reads versions 1-{VERSION}; \
                 compile it again with the returnpath-board of the same release"
            ),
            Self::Crc => write!(f, "the policy image is damaged: its CRC does not match; {AGAIN}"),
            Self::Body(None) => write!(f, "the policy image is malformed before its first path; {AGAIN}"),
            Self::Body(Some(path)) => {
                write!(f, "the policy image is malformed in path number {}; {AGAIN}", path + 1)
            }
            Self::Auto => write!(f, "the policy image is malformed behind its last path; {AGAIN}"),
            Self::Trailing(len) => write!(f, "the policy image has {len} bytes after its last path; {AGAIN}"),
            Self::Invalid(invalid) => invalid.fmt(f),
        }
    }
}

impl core::error::Error for Error {}

/// The buffer is smaller than the image. [`MAX_ENCODED`] bytes are always enough for a checked policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoRoom;

impl Display for NoRoom {
    fn fmt(&self, f: &mut Formatter) -> fmt::Result {
        write!(f, "the policy does not fit the buffer; give one of {MAX_ENCODED} bytes")
    }
}

impl core::error::Error for NoRoom {}

/// Writes the image of `policy`, which the caller has checked, to the start of `out`; returns its length in bytes.
pub fn encode(policy: &Policy, out: &mut [u8]) -> Result<usize, NoRoom> {
    let (head, rest) = out.split_at_mut_checked(HEAD).ok_or(NoRoom)?;
    head[..MAGIC.len()].copy_from_slice(&MAGIC);
    head[MAGIC.len()] = version(policy);
    let end = HEAD + postcard::to_slice(&content(policy), rest).map_err(|_| NoRoom)?.len();
    let crc = CRC.checksum(&out[..end]).to_le_bytes();
    out.get_mut(end..end + TAIL).ok_or(NoRoom)?.copy_from_slice(&crc);
    Ok(end + TAIL)
}

fn version(policy: &Policy) -> u8 {
    if policy.has_auto_macs() { 2 } else { 1 }
}

fn content(policy: &Policy) -> impl Serialize {
    (policy.mark_mask, &policy.local_networks, &policy.paths, Auto(policy))
}

/// The list of version 2; nothing at all in version 1.
struct Auto<'a>(&'a Policy);

impl Serialize for Auto<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let paths = (0..).zip(&self.0.paths).filter(|(_, path)| path.auto_macs);
        let places: Vec<u16, MAX_PATHS> = paths.map(|(place, _)| place).collect();
        if places.is_empty() { serializer.serialize_unit() } else { places.serialize(serializer) }
    }
}

/// The CRC at the end of the image of `policy`, without the image: it tells one policy from another.
pub fn digest(policy: &Policy) -> u32 {
    let mut digest = CRC.digest();
    digest.update(&MAGIC);
    digest.update(&[version(policy)]);
    postcard::serialize_with_flavor(&content(policy), Summed(digest)).unwrap_or_default() // it takes all bytes
}

/// What takes bytes only to sum them up.
struct Summed(Digest<'static, u32, NoTable>);

impl Flavor for Summed {
    type Output = u32;

    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        self.0.update(&[byte]);
        Ok(())
    }

    fn finalize(self) -> postcard::Result<u32> {
        Ok(self.0.finalize())
    }
}

/// Reads an image into `into` and checks it. After an error `into` is empty.
///
/// Path by path: the policy is hundreds of kilobytes, and a boot stage's stack is not.
pub fn decode(image: &[u8], into: &mut Policy) -> Result<(), Error> {
    clear(into);
    fill(image, into).inspect_err(|_| clear(into))
}

/// Makes `policy` as empty as after an error.
pub(crate) fn clear(policy: &mut Policy) {
    policy.mark_mask = 0;
    policy.local_networks.clear();
    policy.paths.clear();
}

fn fill(image: &[u8], into: &mut Policy) -> Result<(), Error> {
    let (version, mut rest) = body(image)?;
    into.mark_mask = take(&mut rest).ok_or(Error::Body(None))?;
    into.local_networks = take(&mut rest).ok_or(Error::Body(None))?;
    let paths: u32 = take(&mut rest).ok_or(Error::Body(None))?;
    for path in 0..paths as usize {
        let decoded: Path = take(&mut rest).ok_or(Error::Body(Some(path)))?;
        into.paths.push(decoded).map_err(|_| Error::Body(Some(path)))?;
    }
    if version > 1 {
        let places: u32 = take(&mut rest).ok_or(Error::Auto)?;
        for _ in 0..places {
            let place: u16 = take(&mut rest).ok_or(Error::Auto)?;
            into.paths.get_mut(usize::from(place)).ok_or(Error::Auto)?.auto_macs = true;
        }
    }
    if !rest.is_empty() {
        return Err(Error::Trailing(rest.len()));
    }
    into.check().map_err(Error::Invalid)
}

/// The version, and what lies between head and tail, once both are right.
fn body(image: &[u8]) -> Result<(u8, &[u8]), Error> {
    if image.len() > MAX_ENCODED {
        return Err(Error::TooLong);
    }
    let rest = image.strip_prefix(&MAGIC).ok_or(match image.len() {
        len if len < MAGIC.len() => Error::TooShort(len),
        _ => Error::Magic,
    })?;
    let (version, rest) = rest.split_first().ok_or(Error::TooShort(image.len()))?;
    // The version comes before the CRC: another version may end in another one.
    if !(1..=VERSION).contains(version) {
        return Err(Error::Version(*version));
    }
    let (body, crc) = rest.split_last_chunk().ok_or(Error::TooShort(image.len()))?;
    if CRC.checksum(&image[..HEAD + body.len()]) != u32::from_le_bytes(*crc) {
        return Err(Error::Crc);
    }
    Ok((*version, body))
}

/// Takes one value off the front of `rest`.
fn take<'a, T: Deserialize<'a>>(rest: &mut &'a [u8]) -> Option<T> {
    let (value, left) = postcard::take_from_bytes(rest).ok()?;
    *rest = left;
    Some(value)
}

/// Why a reader gave no image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadError<E> {
    /// The reader failed.
    Io(E),
    /// The reader had more bytes than the buffer holds.
    TooLong,
}

impl<E: Display> Display for ReadError<E> {
    fn fmt(&self, f: &mut Formatter) -> fmt::Result {
        match self {
            Self::Io(error) => error.fmt(f),
            Self::TooLong => Error::TooLong.fmt(f),
        }
    }
}

impl<E: core::error::Error> core::error::Error for ReadError<E> {}

/// Reads to the end of `reader` and returns how many bytes of `buf` that filled. A `buf` of
/// [`MAX_ENCODED`] bytes holds every image.
pub fn read<R: Read>(mut reader: R, buf: &mut [u8]) -> Result<usize, ReadError<R::Error>> {
    let mut len = 0;
    let mut beyond = [0];
    loop {
        let full = len == buf.len();
        let room = if full { &mut beyond } else { &mut buf[len..] };
        match reader.read(room) {
            Ok(0) => return Ok(len),
            Ok(_) if full => return Err(ReadError::TooLong),
            // A reader that claims more than it was given room for must not make us index past the end.
            Ok(more) => len = buf.len().min(len.saturating_add(more)),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(ReadError::Io(error)),
        }
    }
}

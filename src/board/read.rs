//! Reading: what both slots hold, and the policy of one of them.

use super::{Buffer, CRC_AT, Defect, Header, MAGIC, Problem, SECTOR, Slot, State, VERSION};
use crate::policy::{Policy, wire};
use embedded_io::{Read, ReadExactError, Seek, SeekFrom};

/// What [`scan`] has found in the two slots.
#[derive(Debug)]
pub struct Scan<E> {
    /// State of slot A.
    pub a: State<E>,
    /// State of slot B.
    pub b: State<E>,
}

impl<E> Scan<E> {
    /// The state of one slot.
    pub const fn state(&self, slot: Slot) -> &State<E> {
        match slot {
            Slot::A => &self.a,
            Slot::B => &self.b,
        }
    }

    /// The slots that hold an image, the newest first. Of two with the same serial, or with serials that can not be
    /// compared, slot A comes first: no writer makes such a pair, and every reader shall choose alike.
    pub fn newest_first(&self) -> impl Iterator<Item = Slot> {
        let order = match (&self.a, &self.b) {
            (Ok(a), Ok(b)) if b.is_newer_than(a) => [Slot::B, Slot::A],
            _ => Slot::BOTH,
        };
        order.into_iter().filter(|slot| self.state(*slot).is_ok())
    }

    /// Whether a slot begins as a board partition's does.
    pub fn is_board(&self) -> bool {
        [&self.a, &self.b]
            .iter()
            .any(|state| !matches!(state, Err(Problem::Defective(Defect::Magic) | Problem::Unreadable(_))))
    }
}

/// Looks at both slots, header and CRC. A slot that can not be read does not keep the other one from being used.
pub fn scan<D: Read + Seek>(device: &mut D, buffer: &mut Buffer) -> Scan<D::Error> {
    Scan { a: look(device, Slot::A, buffer), b: look(device, Slot::B, buffer) }
}

/// Reads the policy of one slot into `policy` and checks it; its image stays at the start of `buffer`. After an error
/// `policy` is empty.
///
/// # Errors
/// Why the slot is of no use. The other slot may be.
pub fn load<D: Read + Seek>(
    device: &mut D,
    slot: Slot,
    buffer: &mut Buffer,
    policy: &mut Policy,
) -> State<D::Error> {
    wire::clear(policy);
    let header = look(device, slot, buffer)?;
    wire::decode(&buffer[..header.length as usize], policy).map_err(Defect::Decode)?;
    Ok(header)
}

/// Reads one slot's header and then its image into `buffer`; checks everything but the image itself.
fn look<D: Read + Seek>(device: &mut D, slot: Slot, buffer: &mut Buffer) -> State<D::Error> {
    let sector = &mut buffer[..SECTOR];
    read_at(device, slot.header(), sector)?;
    if sector[..4] != MAGIC {
        return Err(Defect::Magic.into());
    }
    // Before the rest, which another version may have elsewhere.
    let version = u16::from_le_bytes([sector[4], sector[5]]);
    if version != VERSION {
        return Err(Defect::Version(version).into());
    }
    let number = |at| u32::from_le_bytes([sector[at], sector[at + 1], sector[at + 2], sector[at + 3]]);
    let header = Header { serial: number(8), length: number(12), crc: number(CRC_AT) };
    let mut digest = wire::CRC.digest();
    digest.update(&sector[..CRC_AT]);

    let image = buffer.get_mut(..header.length as usize).ok_or(Defect::Length(header.length))?;
    read_at(device, slot.payload(), image)?;
    digest.update(image);
    if digest.finalize() != header.crc {
        return Err(Defect::Crc.into());
    }
    match header {
        Header { length: 0, serial: 0, .. } => Err(Problem::Empty),
        Header { length: 0, .. } => Err(Defect::Length(0).into()),
        _ => Ok(header),
    }
}

/// Fills `into` from the byte `at`.
pub(super) fn read_at<D: Read + Seek>(
    device: &mut D,
    at: u64,
    into: &mut [u8],
) -> Result<(), ReadExactError<D::Error>> {
    device.seek(SeekFrom::Start(at))?;
    device.read_exact(into)
}

//! Attributes of netlink messages, as bytes (`man 7 netlink`). Pure.

/// Flag of an attribute that holds attributes.
pub const NESTED: u16 = 0x8000;
/// Bits of an attribute's type that are not its number (`linux/netlink.h`).
const NLA_FLAGS: u16 = 0xc000;

/// The attributes in a stretch of bytes: number and payload. Ends where the rest makes no sense.
pub fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    flagged_attributes(bytes).map(|(kind, payload)| (kind & !NLA_FLAGS, payload))
}

/// The payload of the first attribute of a number.
pub fn find(mut bytes: &[u8], kind: u16) -> Option<&[u8]> {
    loop {
        let (found, payload, after) = first(bytes)?;
        if found & !NLA_FLAGS == kind {
            return Some(payload);
        }
        bytes = after;
    }
}

/// The same as [`attributes`], with the flags that are in the number: [`NESTED`] and byte order.
pub fn flagged_attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    core::iter::from_fn(move || {
        let (kind, payload, after) = first(bytes)?;
        bytes = after;
        Some((kind, payload))
    })
}

/// The first attribute, and what follows it. (Most of an apply's own time passes here.)
fn first(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let [a, b, c, d] = *bytes.first_chunk()?;
    let length = usize::from(u16::from_ne_bytes([a, b]));
    let payload = bytes.get(4..length)?;
    Some((u16::from_ne_bytes([c, d]), payload, bytes.get((length + 3) & !3..).unwrap_or(&[])))
}

/// A number in host byte order.
pub fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

/// A number in host byte order.
pub fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// A string, which ends at its NUL if it has one.
pub fn text(bytes: &[u8]) -> &str {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    core::str::from_utf8(bytes.get(..end).unwrap_or_default()).unwrap_or_default()
}

/// Appends an attribute.
pub fn put(payload: &mut Vec<u8>, kind: u16, value: &[u8]) {
    payload.extend_from_slice(&head(4 + value.len(), kind));
    payload.extend_from_slice(value);
    pad(payload);
}

/// Appends an attribute whose content `fill` appends: a list of attributes is written where it belongs, and not copied.
pub fn nest(payload: &mut Vec<u8>, kind: u16, fill: &mut dyn FnMut(&mut Vec<u8>)) {
    let at = payload.len();
    payload.extend_from_slice(&[0; 4]);
    fill(payload);
    let length = payload.len() - at;
    if let Some(place) = payload.get_mut(at..at + 4) {
        place.copy_from_slice(&head(length, kind));
    }
    pad(payload);
}

/// Appends an attribute that is a string, with its NUL.
pub fn put_text(payload: &mut Vec<u8>, kind: u16, value: &str) {
    nest(payload, kind, &mut |payload| {
        payload.extend_from_slice(value.as_bytes());
        payload.push(0);
    });
}

fn head(length: usize, kind: u16) -> [u8; 4] {
    let ([a, b], [c, d]) = ((length as u16).to_ne_bytes(), kind.to_ne_bytes());
    [a, b, c, d]
}

fn pad(payload: &mut Vec<u8>) {
    payload.resize(payload.len().next_multiple_of(4), 0);
}

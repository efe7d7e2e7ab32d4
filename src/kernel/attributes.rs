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
pub fn find(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find(|(found, _)| *found == kind).map(|(_, value)| value)
}

/// The same, with the flags that are in the number: [`NESTED`] and byte order.
pub fn flagged_attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    core::iter::from_fn(move || {
        let length = u16_at(bytes, 0)? as usize;
        let kind = u16_at(bytes, 2)?;
        let payload = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        Some((kind, payload))
    })
}

/// A number in host byte order.
pub fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

/// A number in host byte order.
pub fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// A NUL-terminated string.
pub fn text(bytes: &[u8]) -> &str {
    core::str::from_utf8(bytes).unwrap_or_default().trim_end_matches('\0')
}

/// Appends an attribute.
pub fn put(payload: &mut Vec<u8>, kind: u16, value: &[u8]) {
    payload.extend((4 + value.len() as u16).to_ne_bytes());
    payload.extend(kind.to_ne_bytes());
    payload.extend(value);
    payload.resize(payload.len().next_multiple_of(4), 0);
}

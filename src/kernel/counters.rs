//! What the named counters of our table have counted: `new_PATH`, `in_PATH`, `back_PATH`, `astray_PATH`.

use super::Error;
use super::expressions::OBJECT_COUNTER;
use super::netlink::{self, Message};
use super::ruleset::{OBJECT_DATA, OBJECT_TYPE, find, name};
use super::table::Nftables;

/// A named counter. An `apply` leaves it as it is; it begins at 0 with its path, or with the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counter {
    /// What it counts, and of which path: `in_router2`.
    pub name: String,
    /// Packets as connection tracking sees them: defragmented, and several segments of TCP may be one.
    pub packets: u64,
    /// Their bytes, from the IP header on.
    pub bytes: u64,
}

/// All counters of our table, as the kernel lists them; none where there is no table.
///
/// # Errors
/// The kernel can not be asked.
pub fn counters() -> Result<Vec<Counter>, Error> {
    Ok(Nftables::open()?.objects()?.iter().filter_map(counter).collect())
}

// linux/netfilter/nf_tables.h, enum nft_counter_attributes.
const COUNTER_BYTES: u16 = 1;
const COUNTER_PACKETS: u16 = 2;

fn counter(message: &Message) -> Option<Counter> {
    if find(message, OBJECT_TYPE)? != OBJECT_COUNTER.to_be_bytes() {
        return None;
    }
    let data = find(message, OBJECT_DATA)?;
    let number = |kind| Some(u64::from_be_bytes(netlink::find(data, kind)?.try_into().ok()?));
    Some(Counter {
        name: name(message).into(),
        packets: number(COUNTER_PACKETS)?,
        bytes: number(COUNTER_BYTES)?,
    })
}

#[cfg(test)]
mod tests {
    use super::super::netlink::{NESTED, put};
    use super::super::ruleset::{NEWOBJ, OBJECT_OWNER, OBJECT_TABLE, naming};
    use super::*;

    #[test]
    fn a_counter_is_read() {
        let message = |kind: u32, numbers: &[(u16, &[u8])]| {
            let mut payload = naming(&[(OBJECT_TABLE, "returnpath"), (OBJECT_OWNER, "in_router2")]);
            let mut data = Vec::new();
            numbers.iter().for_each(|(kind, value)| put(&mut data, *kind, value));
            put(&mut payload, OBJECT_TYPE, &kind.to_be_bytes());
            put(&mut payload, OBJECT_DATA | NESTED, &data);
            Message { kind: NEWOBJ, flags: 0, payload }
        };
        let (packets, bytes) = ((2, &7_u64.to_be_bytes()[..]), (1, &(1_u64 << 40).to_be_bytes()[..]));
        let wanted = Counter { name: "in_router2".into(), packets: 7, bytes: 1 << 40 };
        assert_eq!(counter(&message(1, &[bytes, packets])), Some(wanted));
        assert_eq!(counter(&message(2, &[bytes, packets])), None); // a quota
        assert_eq!(counter(&message(1, &[bytes])), None);
        assert_eq!(counter(&message(1, &[(2, &[7]), bytes])), None);
    }
}

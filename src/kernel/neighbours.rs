//! The neighbour table: which link-layer address an IP address has (`man 7 rtnetlink`; `linux/neighbour.h`).

use super::netlink::{Message, find, put, u16_at, u32_at};
use super::ways::{NLM_F_CREATE, Routing, SEE_LOG, address, number};
use super::{Error, refused};
use crate::plan::ways::Family;
use crate::policy::Mac;
use core::fmt::{self, Display, Formatter};
use core::net::IpAddr;

pub(super) const RTM_NEWNEIGH: u16 = 28;
const RTM_GETNEIGH: u16 = 30;
pub(super) const NDA_DST: u16 = 1;
pub(super) const NDA_LLADDR: u16 = 2;
/// As if a packet were to be sent there.
const NTF_USE: u8 = 1;
/// Size of the header before the attributes (`struct ndmsg`).
const NDMSG: usize = 12;

/// An entry of the neighbour table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Neighbour {
    /// Its link-layer address; `None` where it is not known, or no EUI-48.
    pub mac: Option<Mac>,
    /// What the kernel thinks of it.
    pub state: NeighbourState,
}

/// A neighbour whose MAC is known, and where it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known {
    /// Its address.
    pub address: IpAddr,
    /// The number of its port.
    pub port: u32,
    /// Its MAC.
    pub mac: Mac,
}

/// The state of an entry (`NUD_*`, `linux/neighbour.h`), displayed as `ip neigh` says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NeighbourState {
    /// Nothing has been asked yet.
    None,
    /// It has been asked for, and has not answered yet.
    Incomplete,
    /// It has answered a short while ago.
    Reachable,
    /// It did once; the next packet asks again.
    Stale,
    /// A packet has been sent there; it is about to be asked.
    Delay,
    /// It is being asked again.
    Probe,
    /// It has not answered.
    Failed,
    /// Its port has no use for link-layer addresses.
    NoArp,
    /// An administrator has set it.
    Permanent,
}

impl Neighbour {
    /// Whether packets to it are sent, and none waits for an answer (`NUD_VALID`).
    pub fn is_resolved(&self) -> bool {
        !matches!(self.state, NeighbourState::None | NeighbourState::Incomplete | NeighbourState::Failed)
    }
}

impl NeighbourState {
    fn of(bits: u16) -> NeighbourState {
        use NeighbourState::*;
        match bits {
            0x01 => Incomplete,
            0x02 => Reachable,
            0x04 => Stale,
            0x08 => Delay,
            0x10 => Probe,
            0x20 => Failed,
            0x40 => NoArp,
            0x80 => Permanent,
            _ => None,
        }
    }
}

impl Display for NeighbourState {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            NeighbourState::None => "NONE",
            NeighbourState::Incomplete => "INCOMPLETE",
            NeighbourState::Reachable => "REACHABLE",
            NeighbourState::Stale => "STALE",
            NeighbourState::Delay => "DELAY",
            NeighbourState::Probe => "PROBE",
            NeighbourState::Failed => "FAILED",
            NeighbourState::NoArp => "NOARP",
            NeighbourState::Permanent => "PERMANENT",
        })
    }
}

impl Routing {
    /// The neighbour entry of an address on a port; `None` where there is none, or no such port.
    ///
    /// # Errors
    /// The kernel does not say.
    pub fn neighbour(&mut self, address: IpAddr, port: &str) -> Result<Option<Neighbour>, Error> {
        let Some(link) = self.link(port)? else { return Ok(None) };
        let message = Message { kind: RTM_GETNEIGH, flags: 0, payload: entry(address, link.index, 0) };
        match self.socket.ask(&message) {
            Ok(answer) => Ok(answer.filter(|m| m.kind == RTM_NEWNEIGH).and_then(|m| parse(&m.payload))),
            Err(refusal) if matches!(refusal.errno, libc::ENOENT | libc::ENODEV) => Ok(None),
            Err(refusal) => Err(refused(
                format_args!("neighbour {address} dev {port}: cannot ask for it"),
                &refusal,
                SEE_LOG,
            )),
        }
    }

    /// The known neighbours that count. Nobody is asked who is not known already.
    ///
    /// # Errors
    /// The kernel does not list them.
    pub fn neighbours(&mut self, counts: impl Fn(&Known) -> bool) -> Result<Vec<Known>, Error> {
        let all = Message { kind: RTM_GETNEIGH, flags: 0, payload: vec![0; NDMSG] };
        let mut found = Vec::new();
        self.socket
            .stream(&all, |message| found.extend(known(message).filter(&counts)))
            .map_err(|refusal| refused(format_args!("neighbours: cannot list them"), &refusal, SEE_LOG))?;
        Ok(found)
    }

    /// Has the kernel resolve an address, as a packet to it would. An entry that has a link-layer address is left
    /// alone: this takes away what an administrator or a routing daemon has set (`neigh_add`, `net/core/neighbour.c`).
    ///
    /// # Errors
    /// The kernel refuses it.
    pub fn solicit(&mut self, address: IpAddr, port: &str) -> Result<(), Error> {
        let Some(link) = self.link(port)? else { return Ok(()) };
        if self.neighbour(address, port)?.is_some_and(|neighbour| neighbour.is_resolved()) {
            return Ok(());
        }
        let payload = entry(address, link.index, NTF_USE);
        match self.socket.change(&Message { kind: RTM_NEWNEIGH, flags: NLM_F_CREATE, payload }) {
            Ok(()) => Ok(()),
            Err(refusal) if refusal.errno == libc::ENODEV => Ok(()),
            Err(refusal) => Err(refused(
                format_args!("neighbour {address} dev {port}: cannot resolve it"),
                &refusal,
                SEE_LOG,
            )),
        }
    }
}

/// Names an entry: `struct ndmsg` and its address.
fn entry(address: IpAddr, index: u32, flags: u8) -> Vec<u8> {
    let mut payload = vec![0; NDMSG];
    payload[4..8].copy_from_slice(&index.to_ne_bytes());
    payload[10] = flags;
    match address {
        IpAddr::V4(address) => {
            payload[0] = number(Family::V4);
            put(&mut payload, NDA_DST, &address.octets());
        }
        IpAddr::V6(address) => {
            payload[0] = number(Family::V6);
            put(&mut payload, NDA_DST, &address.octets());
        }
    }
    payload
}

fn parse(message: &[u8]) -> Option<Neighbour> {
    let address = find(message.get(NDMSG..)?, NDA_LLADDR);
    Some(Neighbour {
        mac: address.and_then(|bytes| bytes.try_into().ok()).map(Mac),
        state: NeighbourState::of(u16_at(message, 8)?),
    })
}

fn known(message: &[u8]) -> Option<Known> {
    let neighbour = parse(message).filter(Neighbour::is_resolved)?;
    Some(Known {
        address: find(message.get(NDMSG..)?, NDA_DST).and_then(address)?,
        port: u32_at(message, 4)?,
        mac: neighbour.mac?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_entry_is_read() {
        let mut message = entry(IpAddr::from([10, 0, 0, 2]), 7, 0);
        message[8] = 0x04;
        assert_eq!(parse(&message), Some(Neighbour { mac: None, state: NeighbourState::Stale }));
        put(&mut message, NDA_LLADDR, &[2, 0, 0, 0, 0, 1]);
        let neighbour = parse(&message).unwrap();
        assert_eq!(neighbour.mac, Some(Mac([2, 0, 0, 0, 0, 1])));
        assert_eq!(neighbour.state.to_string(), "STALE");
        let (address, mac) = (IpAddr::from([10, 0, 0, 2]), Mac([2, 0, 0, 0, 0, 1]));
        assert_eq!(known(&message), Some(Known { address, port: 7, mac }));
        message[8] = 0x20;
        assert_eq!(known(&message), None); // it has failed
    }

    #[test]
    fn a_longer_address_is_no_mac() {
        let mut message = entry(IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, 2]), 7, 0);
        message[8] = 0x02;
        put(&mut message, NDA_LLADDR, &[0; 20]); // InfiniBand
        assert_eq!(parse(&message), Some(Neighbour { mac: None, state: NeighbourState::Reachable }));
    }

    proptest! {
        #[test]
        fn no_bytes_break_the_reader(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = (parse(&bytes), known(&bytes));
        }
    }
}

//! What the administrator declared: routers, how their frames are known, and which services count.
//!
//! Pure: no sockets, no clock, no heap. The same model is read from TOML (on the host) and from the
//! wire form (on the appliance), and one [`Policy::check`] holds for both.

mod check;
mod invalid;
mod text;
#[cfg(feature = "host")]
pub mod toml;
pub mod wire;

pub use invalid::{Invalid, Key, Reason};
pub use text::Malformed;

use core::fmt::{self, Display, Formatter};
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use core::ops::RangeInclusive;
use heapless::{String, Vec};
use serde::{Deserialize, Serialize};

/// Most paths in one policy.
pub const MAX_PATHS: usize = 256;
/// Most source MACs of one path.
pub const MAX_MACS: usize = 16;
/// Most ingress ports of one path.
pub const MAX_PORTS: usize = 16;
/// Most services of one path.
pub const MAX_SERVICES: usize = 64;
/// Most destinations of one path.
pub const MAX_DESTINATIONS: usize = 16;
/// Most local networks of one policy.
pub const MAX_LOCAL_NETWORKS: usize = 64;
/// Longest name of a path or port, in bytes (`IFNAMSIZ` less its NUL, `linux/if.h`).
pub const MAX_NAME: usize = 15;

/// The word for [`Path::auto_macs`], among the source MACs.
pub const AUTO: &str = "auto";

/// The mark mask where the source gives none.
pub const DEFAULT_MARK_MASK: u32 = 0xff;
/// The ip rule's priority where the source gives none.
pub const DEFAULT_PRIORITY: u32 = 1000;
/// Priorities between the kernel's own rules: 0 is the local table's, 32766 is main's (`net/ipv4/fib_rules.c`).
pub const PRIORITIES: RangeInclusive<u32> = 1..=32765;

/// The name of a path (`[a-z0-9_-]`, 1-15 characters) or of a network device.
pub type Name = String<MAX_NAME>;

/// A whole policy.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Policy {
    /// Our bits of the packet mark and the connection mark; no other bit is ever changed.
    pub mark_mask: u32,
    /// Sources that are never marked: they are answered directly.
    pub local_networks: Vec<Network, MAX_LOCAL_NETWORKS>,
    /// The declared routers.
    pub paths: Vec<Path, MAX_PATHS>,
}

impl Policy {
    /// A policy to be filled in. It is all zeroes, so that a `static` one lies in `.bss`: not one of
    /// its hundreds of kilobytes is in the binary, and a page that no path reaches is never touched.
    /// [`Policy::check`] refuses its mask of 0.
    pub const fn new() -> Self {
        Self { mark_mask: 0, local_networks: Vec::new(), paths: Vec::new() }
    }

    /// Whether some path takes the MACs of its gateways from the neighbour table.
    pub fn has_auto_macs(&self) -> bool {
        self.paths.iter().any(|path| path.auto_macs)
    }

    /// How many paths it has, in words: `1 path`, `2 paths`.
    pub fn count(&self) -> Count {
        Count(self.paths.len())
    }
}

/// A number of paths, in words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Count(usize);

impl Display for Count {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{} path{}", self.0, if self.0 == 1 { "" } else { "s" })
    }
}

/// One router, how its frames are known, and what comes back through it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Path {
    /// The path's name, and its table's name in `/etc/iproute2`: none of that program's own, and no number.
    pub name: Name,
    /// The fwmark: non-zero, within [`Policy::mark_mask`], unique.
    pub mark: u32,
    /// The routing table: unique, not 0 and not 253-255.
    pub table: u32,
    /// The IPv4 next hop.
    pub gateway4: Option<Ipv4Addr>,
    /// The IPv6 next hop; a link-local one needs [`Path::device`].
    pub gateway6: Option<Ipv6Addr>,
    /// Link-layer source addresses of the router. Empty, and no [`Path::auto_macs`]: [`Path::ingress`] alone decides.
    pub source_macs: Vec<Mac, MAX_MACS>,
    /// Ports that the router's frames come in by. Empty: any; given with MACs, both must match.
    pub ingress: Vec<Name, MAX_PORTS>,
    /// Services as they arrive, before this host's own DNAT. Empty: every service.
    pub services: Vec<Service, MAX_SERVICES>,
    /// Destinations as they arrive, before this host's own DNAT. Empty: any.
    pub destinations: Vec<Network, MAX_DESTINATIONS>,
    /// Where the gateway is. Without one the kernel looks it up.
    pub device: Option<Name>,
    /// The gateway is reachable on [`Path::device`] although no address of that port covers it.
    pub onlink: bool,
    /// Who answers.
    pub scope: Scope,
    /// What marked replies do while the gateway's route is gone.
    pub when_down: WhenDown,
    /// Priority of the ip rule.
    pub priority: u32,
    /// Log connections that take this path, at most 10 a minute.
    pub log: bool,
    /// `auto` among the source MACs, and one of their [`MAX_MACS`]: those that the neighbour table has for the gateways.
    /// Not in version 1 of the wire form, so it is no part of a path there ([`wire`]).
    #[serde(skip)]
    pub auto_macs: bool,
}

impl Path {
    /// A path with every default of the contract. It lacks a way to know its frames and a way out,
    /// which [`Policy::check`] asks for.
    pub const fn new(name: Name, mark: u32, table: u32) -> Self {
        Self {
            name,
            mark,
            table,
            gateway4: None,
            gateway6: None,
            source_macs: Vec::new(),
            ingress: Vec::new(),
            services: Vec::new(),
            destinations: Vec::new(),
            device: None,
            onlink: false,
            scope: Scope::Both,
            when_down: WhenDown::Unreachable,
            priority: DEFAULT_PRIORITY,
            log: false,
            auto_macs: false,
        }
    }

    /// What is in the list of source MACs, [`AUTO`] first.
    pub fn listed_macs(&self) -> impl Iterator<Item = &dyn Display> {
        let auto = self.auto_macs.then_some(&AUTO as &dyn Display);
        auto.into_iter().chain(self.source_macs.iter().map(|mac| mac as &dyn Display))
    }

    /// Whether the router's frames are known by their source MAC.
    pub fn has_macs(&self) -> bool {
        self.auto_macs || !self.source_macs.is_empty()
    }

    /// Whether this path answers IPv4. A path without gateways is a point-to-point port, which carries both families.
    pub fn has_v4(&self) -> bool {
        self.gateway4.is_some() || self.gateway6.is_none()
    }

    /// Whether this path answers IPv6.
    pub fn has_v6(&self) -> bool {
        self.gateway6.is_some() || self.gateway4.is_none()
    }
}

/// A link-layer (EUI-48) address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// Whether frames can come from it: it is not all zeroes, and no group's.
    pub fn sends(self) -> bool {
        // The lowest bit of the first byte marks a group; it covers broadcast (IEEE 802, 8.2.2).
        self.0[0] & 1 == 0 && self.0 != [0; 6]
    }
}

/// A network in CIDR form; host bits are zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Network {
    /// The network's first address.
    pub address: IpAddr,
    /// Prefix length, 0-32 or 0-128.
    pub prefix: u8,
}

impl Network {
    /// Bits of an address of this network's family: 32 or 128.
    pub const fn width(&self) -> u8 {
        match self.address {
            IpAddr::V4(_) => 32,
            IpAddr::V6(_) => 128,
        }
    }

    /// The same network with its host bits zero.
    pub const fn trimmed(&self) -> Self {
        let host = self.width().saturating_sub(self.prefix) as u32;
        let address = match self.address {
            IpAddr::V4(address) => {
                let mask = match u32::MAX.checked_shl(host) {
                    Some(mask) => mask,
                    None => 0,
                };
                IpAddr::V4(Ipv4Addr::from_bits(address.to_bits() & mask))
            }
            IpAddr::V6(address) => {
                let mask = match u128::MAX.checked_shl(host) {
                    Some(mask) => mask,
                    None => 0,
                };
                IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & mask))
            }
        };
        Self { address, prefix: self.prefix }
    }

    /// Whether some address is in both. Networks of different families never overlap.
    pub fn overlaps(&self, other: &Self) -> bool {
        let prefix = self.prefix.min(other.prefix);
        let wide = |network: &Self| Self { prefix, ..*network }.trimmed();
        wide(self) == wide(other)
    }

    /// Whether `address` is in this network.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.overlaps(&Self { address, prefix: u8::MAX })
    }
}

/// A service as it arrives. The order of the variants is frozen: it is the wire form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Service {
    /// TCP to these ports.
    Tcp(PortRange),
    /// UDP to these ports.
    Udp(PortRange),
    /// ICMP and ICMPv6 requests (echo).
    Icmp,
    /// SCTP to these ports.
    Sctp(PortRange),
}

/// Transport ports, first to last, both included; `0-65535` stands for all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PortRange {
    /// The lowest port.
    pub first: u16,
    /// The highest port.
    pub last: u16,
}

impl Service {
    /// Whether some connection is of both.
    pub const fn overlaps(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Tcp(ports), Self::Tcp(others))
            | (Self::Udp(ports), Self::Udp(others))
            | (Self::Sctp(ports), Self::Sctp(others)) => ports.overlaps(others),
            (Self::Icmp, Self::Icmp) => true,
            _ => false,
        }
    }
}

impl PortRange {
    /// Every port.
    pub const ALL: Self = Self { first: 0, last: u16::MAX };

    /// Whether some port is in both.
    pub const fn overlaps(&self, other: &Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }

    /// Whether `port` is among these.
    pub const fn contains(&self, port: u16) -> bool {
        self.first <= port && port <= self.last
    }
}

/// Who answers a connection. The order of the variants is frozen: it is the wire form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Scope {
    /// This host.
    Local,
    /// Hosts behind this one.
    Forward,
    /// Either.
    #[default]
    Both,
}

/// What marked replies do while the gateway's route is gone. The order of the variants is frozen: it is the wire form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum WhenDown {
    /// They are dropped, and the sender is told.
    #[default]
    Unreachable,
    /// They take the main table, as if nothing had been declared.
    Main,
}

//! What can be wrong with a policy, and how it is said: one line, the thing, the reason and the remedy.

use super::{DEFAULT_MARK_MASK, MAX_MACS, MAX_NAME, Mac, Name, Network, PRIORITIES, Service};
use core::fmt::{self, Display, Formatter};
use core::net::IpAddr;

/// A rule of the contract that a policy breaks. Displays as one line: the thing, the reason, the remedy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invalid {
    /// The path, counted from 0; `None` for the policy's own keys.
    pub path: Option<usize>,
    /// That path's name, empty without a path.
    pub name: Name,
    /// The key whose value is wrong.
    pub key: Key,
    /// The entry of the key's list, counted from 0.
    pub item: Option<usize>,
    /// What is wrong with it.
    pub reason: Reason,
}

impl Display for Invalid {
    fn fmt(&self, f: &mut Formatter) -> fmt::Result {
        // From the wire a name can be anything, and a message is one line.
        match self.path {
            Some(at) if self.name.is_empty() => write!(f, "path number {}: ", at + 1)?,
            Some(_) => write!(f, "path {}: ", self.name.escape_default())?,
            None => {}
        }
        write!(f, "{}: {}", self.key, self.reason)
    }
}

impl core::error::Error for Invalid {}

/// A key of the contract; displays as it is written there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs, reason = "each is the key of the same name, which the model documents")]
pub enum Key {
    MarkMask,
    LocalNetworks,
    Paths,
    /// The path's name, which TOML writes in the table's header.
    Name,
    Mark,
    Table,
    /// The IPv4 entry of `gateways`.
    Gateway4,
    /// The IPv6 entry of `gateways`.
    Gateway6,
    SourceMacs,
    Ingress,
    Services,
    Destinations,
    Device,
    Onlink,
    Scope,
    WhenDown,
    Priority,
    Log,
}

impl Key {
    /// The key as it is written in TOML.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::MarkMask => "mark_mask",
            Self::LocalNetworks => "local_networks",
            Self::Paths => "paths",
            Self::Name => "name",
            Self::Mark => "mark",
            Self::Table => "table",
            Self::Gateway4 | Self::Gateway6 => "gateways",
            Self::SourceMacs => "source_macs",
            Self::Ingress => "ingress",
            Self::Services => "services",
            Self::Destinations => "destinations",
            Self::Device => "device",
            Self::Onlink => "onlink",
            Self::Scope => "scope",
            Self::WhenDown => "when_down",
            Self::Priority => "priority",
            Self::Log => "log",
        }
    }
}

impl Display for Key {
    fn fmt(&self, f: &mut Formatter) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What is wrong with a value. Displays as the reason and the remedy.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields are the values that the message names")]
pub enum Reason {
    /// A mask of 0 leaves no bit for marks.
    EmptyMask,
    /// A path's name is empty or has a character outside `[a-z0-9_-]`.
    PathName(Name),
    /// A path's name means something else to ip(8): one of its own tables, a word of its grammar, or a number.
    ReservedName(Name),
    /// Mark 0 is what unmarked packets have.
    ZeroMark { mask: u32 },
    /// The mark has bits that are not ours.
    MarkOutside { mark: u32, mask: u32 },
    /// The kernel's own routing tables: 0 and 253-255.
    ReservedTable(u32),
    /// Another path has the same name.
    SharedName(Name),
    /// Another path has the same mark.
    SharedMark { mark: u32, other: Name },
    /// Another path has the same table.
    SharedTable { table: u32, other: Name },
    /// No router has such an address.
    Gateway { address: IpAddr, kind: &'static str },
    /// A link-local gateway is on every port, and no port is named.
    LinkLocal(IpAddr),
    /// Neither a gateway nor a port: no way out.
    NoWayOut,
    /// `onlink` says that a gateway is on a port, and one of the two is missing.
    Onlink,
    /// Neither MACs nor ports: nothing tells the router's frames.
    NoFrames,
    /// Not a name that a port can have.
    Device(Name),
    /// All zeroes, or a group's address: no frame comes from it.
    Mac(Mac),
    /// Frames from this MAC belong to another path already.
    SharedMac { mac: Mac, other: Name },
    /// Both paths take the MAC of this gateway.
    SharedGateway { gateway: IpAddr, other: Name },
    /// `auto`, and no gateway whose MAC could be taken.
    AutoWithoutGateway,
    /// `auto` beside [`MAX_MACS`] addresses.
    TooManyMacs,
    /// Frames from this port belong to another path already.
    SharedPort { port: Name, other: Name },
    /// Twice in one list.
    TwiceMac(Mac),
    /// Twice in one list.
    TwicePort(Name),
    /// Port 0, which only stands in the range of all ports, or a range that ends before it begins.
    Ports(Service),
    /// Some port is in both.
    ServiceOverlap { service: Service, other: Service },
    /// Longer than the family's addresses.
    PrefixLength(Network),
    /// Not the network's first address.
    HostBits(Network),
    /// Some address is in both, which an nftables interval set refuses.
    NetworkOverlap { network: Network, other: Network },
    /// The path has no gateway of this network's family, so nothing from there comes back through it.
    Family(Network),
    /// Outside [`PRIORITIES`].
    Priority(u32),
}

impl Display for Reason {
    fn fmt(&self, f: &mut Formatter) -> fmt::Result {
        match self {
            Self::EmptyMask => write!(
                f,
                "0 leaves no bit for marks; give the bits that nobody else uses, such as {DEFAULT_MARK_MASK:#x}"
            ),
            Self::PathName(name) => write!(
                f,
                "'{}' is not a path's name; use 1-{MAX_NAME} of a-z, 0-9, _ and -",
                name.escape_default()
            ),
            Self::ReservedName(name) => {
                write!(f, "{name} already means something as a table of ip(8); choose another name")
            }
            Self::ZeroMark { mask } => {
                write!(f, "0 is the mark of every other packet; choose a mark within the mask {mask:#x}")
            }
            Self::MarkOutside { mark, mask } => {
                write!(f, "{mark:#x} is outside mark_mask {mask:#x}; choose a mark within the mask")
            }
            Self::ReservedTable(table) => {
                write!(f, "{table} is one of the kernel's own tables, 0 and 253-255; choose another number")
            }
            Self::SharedName(name) => write!(f, "two paths are named {name}; rename one"),
            Self::SharedMark { mark, other } => {
                write!(f, "{mark:#x} is the mark of path {other} too; choose another")
            }
            Self::SharedTable { table, other } => {
                write!(f, "{table} is the table of path {other} too; choose another")
            }
            Self::Gateway { address, kind } => {
                write!(f, "{address} is {kind}; give the router's own address")
            }
            Self::LinkLocal(address) => {
                write!(f, "{address} is link-local and could be on any port; add device")
            }
            Self::NoWayOut => write!(
                f,
                "missing, and without gateways a path needs one; add gateways, or the point-to-point port as device"
            ),
            Self::Onlink => write!(
                f,
                "it says that a gateway is on a port, and not both are given; add gateways and device, or remove onlink"
            ),
            Self::NoFrames => {
                write!(f, "missing, and so is ingress: nothing tells the router's frames; add one of the two")
            }
            Self::Device(name) => write!(
                f,
                "'{}' is not a port's name; use 1-{MAX_NAME} of A-Z, a-z, 0-9, _, ., @ and -",
                name.escape_default()
            ),
            Self::Mac(mac) => write!(f, "{mac} sends no frames; give the address of the router's own port"),
            Self::SharedMac { mac, other } => write!(
                f,
                "frames from {mac} belong to path {other} already; tell them apart by ingress, or join the paths"
            ),
            Self::SharedGateway { gateway, other } => write!(
                f,
                "auto takes the MAC of {gateway}, and so does path {other}; tell them apart by ingress, or join the paths"
            ),
            Self::AutoWithoutGateway => {
                write!(
                    f,
                    "auto takes the MAC of a gateway, and there is none; add gateways, or give the MACs"
                )
            }
            Self::TooManyMacs => write!(f, "more than {MAX_MACS} entries with auto; shorten the list"),
            Self::SharedPort { port, other } => write!(
                f,
                "frames from {port} belong to path {other} already; tell them apart by source_macs, or join the paths"
            ),
            Self::TwiceMac(mac) => write!(f, "{mac} is listed twice; remove one"),
            Self::TwicePort(port) => write!(f, "{port} is listed twice; remove one"),
            Self::Ports(service) => {
                write!(f, "{service} is not a range of ports; write ports 1-65535, the lower one first")
            }
            Self::ServiceOverlap { service, other } => {
                write!(f, "{service} overlaps {other}; list each port once")
            }
            Self::PrefixLength(network) => {
                write!(f, "{network} has a prefix longer than {}; shorten it", network.width())
            }
            Self::HostBits(network) => {
                write!(f, "{network} is an address within a network; write {}", network.trimmed())
            }
            Self::NetworkOverlap { network, other } => {
                write!(f, "{network} overlaps {other}; remove the one within the other")
            }
            Self::Family(network) => write!(
                f,
                "{network} is of a family that no gateway of the path has; add such a gateway, or remove it"
            ),
            Self::Priority(priority) => write!(
                f,
                "{priority} is not between the kernel's own rules; choose {}-{}",
                PRIORITIES.start(),
                PRIORITIES.end()
            ),
        }
    }
}

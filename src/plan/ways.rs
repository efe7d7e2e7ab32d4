//! Routes and rules: the ways that marked packets take.

use crate::policy::Name;
use core::net::IpAddr;

/// The routing protocol number of every route and rule of ours (`rtm_protocol`, `FRA_PROTOCOL`). Not taken in
/// `/etc/iproute2/rt_protos` or `linux/rtnetlink.h`; what is ours is told from what is not by it alone.
pub const PROTOCOL: u8 = 82;

/// Metric of the unreachable route: the last one that the kernel looks at.
pub const LAST_METRIC: u32 = u32::MAX;

/// An address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both, in the order in which they are installed.
    pub const BOTH: [Family; 2] = [Family::V4, Family::V6];

    /// `4` or `6`, as in `ip -4`.
    pub fn digit(self) -> char {
        match self {
            Family::V4 => '4',
            Family::V6 => '6',
        }
    }
}

/// All routes and rules of ours, in the order of installing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ways {
    /// Default routes, one table a path.
    pub routes: Vec<Route>,
    /// fwmark rules, one a path and family.
    pub rules: Vec<Rule>,
}

impl Ways {
    /// The ports that the routes lead through, as far as they are known.
    pub fn ports(&self) -> Vec<Name> {
        let port = |route: &Route| match &route.next {
            Next::Gateway { device, .. } => device.clone(),
            Next::Device(name) => Some(name.clone()),
            Next::Unreachable => None,
        };
        self.routes.iter().filter_map(port).collect()
    }

    /// The port by which a table's route reaches a next hop.
    pub fn port_of(&self, family: Family, table: u32, next_hop: IpAddr) -> Option<Name> {
        self.routes.iter().filter(|route| (route.family, route.table) == (family, table)).find_map(|route| {
            match &route.next {
                Next::Gateway { address, device, .. } if *address == next_hop => device.clone(),
                _ => None,
            }
        })
    }
}

/// A default route in a path's table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Its family.
    pub family: Family,
    /// Its table.
    pub table: u32,
    /// Where it leads.
    pub next: Next,
}

/// Where a default route leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// To a next hop.
    Gateway {
        /// The next hop's address.
        address: IpAddr,
        /// Its port; looked up by the kernel where the policy names none.
        device: Option<Name>,
        /// Reachable on that port although no address of the port covers it.
        onlink: bool,
    },
    /// Out of a point-to-point port.
    Device(Name),
    /// Nowhere, and the sender is told: what holds while the other one is gone.
    Unreachable,
}

impl Route {
    /// What makes two routes the same entry for the kernel: one can replace the other.
    pub fn slot(&self) -> (Family, u32, bool) {
        (self.family, self.table, self.next == Next::Unreachable)
    }
}

/// A rule that sends packets with a mark to a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// Its family.
    pub family: Family,
    /// Its priority: lower ones are asked first.
    pub priority: u32,
    /// The fwmark.
    pub mark: u32,
    /// Which bits of the packet's mark count.
    pub mask: u32,
    /// The table that is looked up.
    pub table: u32,
}

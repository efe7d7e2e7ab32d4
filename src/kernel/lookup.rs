//! Where the kernel finds an address: a route lookup (`man 7 rtnetlink`).

use super::Error;
use super::netlink::{Message, Refusal, find, put, u32_at};
use super::ways::{
    Link, RTA_GATEWAY, RTA_OIF, RTM_GETROUTE, RTM_NEWROUTE, RTN_UNICAST, Routing, address, number,
};
use crate::plan::ways::Family;
use crate::policy::Name;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub(super) const RTA_DST: u16 = 1;
/// In a lookup's flags: answer with the route that matched (`linux/rtnetlink.h`, since 4.13).
const RTM_F_FIB_MATCH: u32 = 0x2000;
/// Who makes the route to a port's own network: the kernel with the address, a router advertisement, a DHCP client
/// (`RTPROT_KERNEL`, `_RA`, `_DHCP`, `linux/rtnetlink.h`).
pub(super) const CONNECTED: [u8; 3] = [2, 9, 16];
pub(super) const RTN_LOCAL: u8 = 2;
/// Scope of an IPv4 route to what is on the link itself (`RT_SCOPE_LINK`). IPv6 has no scopes.
const SCOPE_LINK: u8 = 253;

/// The route that matched an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Way {
    /// What it does with packets (`RTN_*`).
    kind: u8,
    /// Who made it (`RTPROT_*`).
    protocol: u8,
    /// Whether it says that all of its destination is on the link of its port.
    is_on_link: bool,
    /// Bits of the address that it asks for: 0 where it is a default route,
    prefix: u8,
    /// and all of them where it is for this address alone.
    pub is_host: bool,
    /// The router that it goes by.
    pub gateway: Option<IpAddr>,
    /// The number of its port; 0 where it has none, or several.
    pub port: u32,
}

impl Way {
    /// Whether it leads to this host itself.
    pub fn is_local(&self) -> bool {
        self.kind == RTN_LOCAL
    }
}

/// Whether a route (`struct rtmsg` and attributes) says that all of its destination is on the link of its port.
pub(super) fn is_on_link(route: &[u8]) -> bool {
    let (Some(&[family, _, _, _, _, _, scope, kind]), Some(rest)) = (route.first_chunk(), route.get(12..))
    else {
        return false;
    };
    let is_link = scope == SCOPE_LINK || family == number(Family::V6) && find(rest, RTA_GATEWAY).is_none();
    is_link && kind == RTN_UNICAST
}

impl Routing {
    /// The port on whose link the kernel finds an address, without any mark. `None` where there is none, or another
    /// router is between: adding a route through it will be refused, with the kernel's own reason.
    pub fn port_towards(&mut self, gateway: IpAddr) -> Result<Option<Name>, Error> {
        let Some(way) = self.way_to(gateway, None) else { return Ok(None) };
        if way.is_local() {
            return Err(Error::new(format!(
                "gateway {gateway}: it is an address of this host; name the router's"
            )));
        }
        // A default route by a tunnel matches every address.
        if way.prefix == 0 || way.gateway.is_some() || way.port == 0 {
            return Ok(None);
        }
        let is_connected = way.is_host || CONNECTED.contains(&way.protocol);
        let is_sure = |link: &Link| is_connected || way.is_on_link && !link.is_point_to_point;
        let link = self.link_at(way.port)?.filter(|link| !self.only_connected || is_sure(link));
        Ok(link.map(|link| link.name))
    }

    /// The route that packets without a mark take to an address; by a certain port, if one is given. `None` where there
    /// is none. It is asked for once: our own routes are none of these.
    pub fn way_to(&mut self, destination: IpAddr, port: Option<u32>) -> Option<Way> {
        let question = (destination, port);
        if let Some((_, way)) = self.looked_up.iter().find(|(asked, _)| *asked == question) {
            return way.clone();
        }
        match self.look_up(destination, port) {
            Err(refusal) if refusal.is_lost => None,
            found => {
                let way = found.ok().flatten();
                self.looked_up.push((question, way.clone()));
                way
            }
        }
    }

    fn look_up(&mut self, destination: IpAddr, port: Option<u32>) -> Result<Option<Way>, Refusal> {
        let mut payload = vec![0; 12]; // struct rtmsg
        let (family, bytes) = match destination {
            IpAddr::V4(address) => (Family::V4, address.octets().to_vec()),
            IpAddr::V6(address) => (Family::V6, address.octets().to_vec()),
        };
        let length = 8 * bytes.len() as u8;
        (payload[0], payload[1]) = (number(family), length);
        payload[8..12].copy_from_slice(&RTM_F_FIB_MATCH.to_ne_bytes());
        put(&mut payload, RTA_DST, &bytes);
        if let Some(port) = port {
            put(&mut payload, RTA_OIF, &port.to_ne_bytes());
        }
        let answer = self.socket.ask(&Message { kind: RTM_GETROUTE, flags: 0, payload })?;
        let route = answer.filter(|message| message.kind == RTM_NEWROUTE).map(|message| message.payload);
        let read = |route: Vec<u8>| {
            let &[_, prefix, _, _, _, protocol, _, kind] = route.first_chunk()?;
            let attributes = route.get(12..)?;
            Some(Way {
                kind,
                protocol,
                is_on_link: is_on_link(&route),
                prefix,
                is_host: prefix == length,
                gateway: find(attributes, RTA_GATEWAY).and_then(address),
                port: find(attributes, RTA_OIF).and_then(|port| u32_at(port, 0)).unwrap_or(0),
            })
        };
        Ok(route.and_then(read))
    }

    /// The route that everything takes for which there is no other: that to an address which nobody has (RFC 5737, 3849).
    pub fn default_way(&mut self, family: Family) -> Option<Way> {
        let nobody = match family {
            Family::V4 => Ipv4Addr::new(192, 0, 2, 1).into(),
            Family::V6 => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into(),
        };
        self.way_to(nobody, None).filter(|way| way.kind == RTN_UNICAST)
    }
}

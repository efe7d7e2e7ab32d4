//! Where the kernel finds an address: a route lookup (`man 7 rtnetlink`).

use super::Error;
use super::netlink::{Message, u32_at};
use super::ways::{RTA_GATEWAY, RTA_OIF, RTM_GETROUTE, RTM_NEWROUTE, Routing, emitted, find};
use crate::policy::Name;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use rtnetlink::RouteMessageBuilder;

/// In a lookup's flags: answer with the route that matched (`linux/rtnetlink.h`, since 4.13).
const RTM_F_FIB_MATCH: u32 = 0x2000;
/// Who makes the route to a port's own network: the kernel with the address, a router advertisement, a DHCP client
/// (`RTPROT_KERNEL`, `_RA`, `_DHCP`, `linux/rtnetlink.h`).
pub(super) const CONNECTED: [u8; 3] = [2, 9, 16];
const RTN_LOCAL: u8 = 2;

impl Routing {
    /// The port on whose link the kernel finds an address, without any mark. `None` where there is none, or another
    /// router is between: adding a route through it will be refused, with the kernel's own reason.
    pub fn port_towards(&mut self, gateway: IpAddr) -> Result<Option<Name>, Error> {
        let mut payload = match gateway {
            IpAddr::V4(a) => {
                emitted(&RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(a, 32).build())
            }
            IpAddr::V6(a) => {
                emitted(&RouteMessageBuilder::<Ipv6Addr>::new().destination_prefix(a, 128).build())
            }
        };
        payload[4..8].fill(0); // struct rtmsg: a lookup takes no table, protocol, scope or type
        payload[8..12].copy_from_slice(&RTM_F_FIB_MATCH.to_ne_bytes());
        let Ok(answer) = self.socket.ask(&Message { kind: RTM_GETROUTE, flags: 0, payload }) else {
            return Ok(None);
        };
        let route = answer.iter().find(|m| m.kind == RTM_NEWROUTE);
        if route.is_some_and(|m| m.payload.get(7) == Some(&RTN_LOCAL)) {
            return Err(Error::new(format!(
                "gateway {gateway}: it is an address of this host; name the router's"
            )));
        }
        let length = if gateway.is_ipv4() { 32 } else { 128 };
        let is_link = |message: &[u8]| {
            let (prefix, protocol) =
                (message.get(1).copied().unwrap_or(0), message.get(5).copied().unwrap_or(0));
            // A default route by a tunnel matches every address.
            prefix > 0 && (!self.only_connected || prefix == length || CONNECTED.contains(&protocol))
        };
        let route = route.filter(|m| is_link(&m.payload)).and_then(|m| m.payload.get(12..));
        let on_link = route.filter(|attributes| find(attributes, RTA_GATEWAY).is_none());
        match on_link.and_then(|attributes| find(attributes, RTA_OIF)).and_then(|oif| u32_at(oif, 0)) {
            Some(index) => Ok(self.link_at(index)?.map(|link| link.name)),
            None => Ok(None),
        }
    }
}

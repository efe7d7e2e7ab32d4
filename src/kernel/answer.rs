//! The kernel's own word on where a packet goes: `ip route get` (`man 7 rtnetlink`).

use super::lookup::{RTA_DST, RTN_LOCAL};
use super::netlink::{Message, find, put, u32_at};
use super::ways::{
    RTA_GATEWAY, RTA_OIF, RTA_TABLE, RTM_GETROUTE, RTM_NEWROUTE, RTN_UNICAST, Routing, SEE_LOG, address,
};
use super::{Error, refused};
use crate::policy::Name;
use core::fmt::{self, Display, Formatter};
use core::net::IpAddr;
use std::io;

const RTA_SRC: u16 = 2;
const RTA_IIF: u16 = 3;
const RTA_MARK: u16 = 16;
const RTA_IP_PROTO: u16 = 27;
const RTA_SPORT: u16 = 28;
const RTA_DPORT: u16 = 29;
/// In a lookup's flags: name the table that the route is in. IPv6 always does, and refuses the flag.
const RTM_F_LOOKUP_TABLE: u32 = 0x1000;
/// The protocols whose ports a lookup takes (`rtm_getroute_parse_ip_proto`, `net/ipv4/netlink.c`).
const WITH_PORTS: [u8; 2] = [6, 17];

/// A packet whose way is asked for. Displayed as the command of `ip` that asks the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    /// Where it goes.
    pub destination: IpAddr,
    /// Where it comes from: of the same family, and an address of this host where this host sends it.
    pub source: Option<IpAddr>,
    /// The port that it comes in by; `None`: this host sends it.
    pub port: Option<Name>,
    /// Its mark.
    pub mark: u32,
    /// Its IP protocol's number.
    pub protocol: u8,
    /// Its transport ports, so far as they are known. They count for TCP and UDP, to rules of other programs.
    pub ports: (Option<u16>, Option<u16>),
}

/// What the kernel does with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// It is for this host.
    Here,
    /// It is sent on.
    On {
        /// The next hop; `None`: the destination is on the link.
        gateway: Option<IpAddr>,
        /// The port that it leaves by.
        port: Option<Name>,
        /// The table that its route is in.
        table: u32,
    },
    /// It goes nowhere: why.
    Nowhere(String),
}

impl Routing {
    /// The kernel's answer for a packet.
    ///
    /// # Errors
    /// It can not be asked: the port is missing, or the kernel does not answer.
    pub fn way_of(&mut self, query: &Query) -> Result<Answer, Error> {
        let index = match &query.port {
            Some(port) => {
                let missing = || Error::new(format!("port {port}: there is none; `ip link` lists them"));
                Some(self.link(port)?.ok_or_else(missing)?.index)
            }
            None => None,
        };
        let message = Message { kind: RTM_GETROUTE, flags: 0, payload: payload(query, index) };
        let found = match self.socket.ask(&message) {
            Ok(found) => found,
            Err(refusal) if refusal.is_lost || refusal.errno == libc::EPERM => {
                return Err(refused(format_args!("{query}"), &refusal, SEE_LOG));
            }
            Err(refusal) => return Ok(Answer::Nowhere(why(refusal.errno, query))),
        };
        let route = found.as_ref().filter(|message| message.kind == RTM_NEWROUTE);
        let route = route.and_then(|message| Some((*message.payload.get(7)?, message.payload.get(12..)?)));
        let Some((kind, attributes)) = route else { return Ok(Answer::Nowhere("no answer".into())) };
        let number = |kind| find(attributes, kind).and_then(|value| u32_at(value, 0));
        let table = number(RTA_TABLE).unwrap_or(0);
        Ok(match kind {
            RTN_LOCAL => Answer::Here,
            RTN_UNICAST => {
                let port = match number(RTA_OIF) {
                    Some(index) => self.link_at(index)?.map(|link| link.name),
                    None => None,
                };
                Answer::On { gateway: find(attributes, RTA_GATEWAY).and_then(address), port, table }
            }
            kind => Answer::Nowhere(format!("a route of type {}, table {table}", word(kind))),
        })
    }
}

/// The kernel's reasons (`ip_route_input_slow`, `net/ipv4/route.c`; `__fib_validate_source`,
/// `net/ipv4/fib_frontend.c`).
fn why(errno: i32, query: &Query) -> String {
    match errno {
        libc::EXDEV => "the reverse-path filter drops it".into(),
        libc::EINVAL if query.port.is_some() => "no packet comes from there, or goes there (martian)".into(),
        libc::ENETUNREACH => "there is no route".into(),
        libc::EHOSTUNREACH => "unreachable".into(),
        _ => io::Error::from_raw_os_error(errno).to_string(),
    }
}

fn payload(query: &Query, index: Option<u32>) -> Vec<u8> {
    let Query { destination, source, mark, protocol, ports, .. } = query;
    let (family, length, flags) = match destination {
        IpAddr::V4(_) => (libc::AF_INET, 32, RTM_F_LOOKUP_TABLE),
        IpAddr::V6(_) => (libc::AF_INET6, 128, 0),
    };
    let source_length = if source.is_some() { length } else { 0 };
    let mut payload = vec![family as u8, length, source_length, 0, 0, 0, 0, 0]; // struct rtmsg
    payload.extend(flags.to_ne_bytes());
    let mut put_address = |kind, address: &IpAddr| match address {
        IpAddr::V4(address) => put(&mut payload, kind, &address.octets()),
        IpAddr::V6(address) => put(&mut payload, kind, &address.octets()),
    };
    put_address(RTA_DST, destination);
    source.iter().for_each(|address| put_address(RTA_SRC, address));
    index.iter().for_each(|index| put(&mut payload, RTA_IIF, &index.to_ne_bytes()));
    put(&mut payload, RTA_MARK, &mark.to_ne_bytes());
    if WITH_PORTS.contains(protocol) {
        put(&mut payload, RTA_IP_PROTO, &[*protocol]);
        ports.0.iter().for_each(|port| put(&mut payload, RTA_SPORT, &port.to_be_bytes()));
        ports.1.iter().for_each(|port| put(&mut payload, RTA_DPORT, &port.to_be_bytes()));
    }
    payload
}

/// A route's type, as `ip route` says it (`rtm_type`, `man 7 rtnetlink`).
fn word(kind: u8) -> &'static str {
    match kind {
        3 => "broadcast",
        4 => "anycast",
        5 => "multicast",
        6 => "blackhole",
        7 => "unreachable",
        8 => "prohibit",
        9 => "throw",
        _ => "unknown",
    }
}

impl Display for Query {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Query { destination, source, port, mark, protocol, ports } = self;
        write!(f, "ip route get {destination}")?;
        source.map_or(Ok(()), |source| write!(f, " from {source}"))?;
        port.as_ref().map_or(Ok(()), |port| write!(f, " iif {port}"))?;
        if *mark != 0 {
            write!(f, " mark {mark:#x}")?;
        }
        if !WITH_PORTS.contains(protocol) {
            return Ok(());
        }
        write!(f, " ipproto {}", if *protocol == 6 { "tcp" } else { "udp" })?;
        ports.0.map_or(Ok(()), |port| write!(f, " sport {port}"))?;
        ports.1.map_or(Ok(()), |port| write!(f, " dport {port}"))
    }
}

/// A routing table, as `ip` names it.
pub struct TableName(pub u32);

impl Display for TableName {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.0 {
            254 => f.write_str("table main"),
            table => write!(f, "table {table}"),
        }
    }
}

impl Display for Answer {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Answer::Here => f.write_str("for this host"),
            Answer::On { gateway, port, table } => {
                gateway.map_or(Ok(()), |gateway| write!(f, "via {gateway} "))?;
                port.as_ref().map_or(Ok(()), |port| write!(f, "dev {port} "))?;
                TableName(*table).fmt(f)
            }
            Answer::Nowhere(why) => f.write_str(why),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_asks_what_it_says() {
        let mut query = Query {
            destination: [192, 0, 2, 1].into(),
            source: Some([10, 0, 0, 10].into()),
            port: Some("eth1".try_into().unwrap()),
            mark: 2,
            protocol: 6,
            ports: (Some(80), None),
        };
        assert_eq!(
            query.to_string(),
            "ip route get 192.0.2.1 from 10.0.0.10 iif eth1 mark 0x2 ipproto tcp sport 80"
        );
        let bytes = payload(&query, Some(7));
        assert_eq!((bytes.len(), &bytes[..4]), (12 + 6 * 8, &[2, 32, 32, 0][..]));
        (query.protocol, query.mark, query.port, query.source) = (1, 0, None, None);
        assert_eq!(query.to_string(), "ip route get 192.0.2.1");
        assert_eq!(payload(&query, None).len(), 12 + 2 * 8);
    }
}

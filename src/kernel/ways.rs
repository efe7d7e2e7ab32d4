//! Routes, rules and ports, over rtnetlink (`man 7 rtnetlink`; `linux/fib_rules.h`).

use super::lookup::Way;
use super::netlink::{Message, Refusal, Socket, attributes, find, put, text, u32_at};
use super::{Error, refused};
use crate::plan::transition::Step;
use crate::plan::ways::{Family, LAST_METRIC, Next, PROTOCOL, Route, Rule};
use crate::policy::{Mac, Name};
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use netlink_packet_core::Emitable;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::route::{RouteProtocol, RouteScope, RouteType};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use rtnetlink::RouteMessageBuilder;
use std::collections::BTreeSet;

/// A link has changed, or shall (`linux/rtnetlink.h`).
pub const RTM_NEWLINK: u16 = 16;
pub(super) const RTM_GETLINK: u16 = 18;
pub(super) const RTM_NEWROUTE: u16 = 24;
pub(super) const RTM_DELROUTE: u16 = 25;
pub(super) const RTM_GETROUTE: u16 = 26;
pub(super) const RTM_NEWRULE: u16 = 32;
pub(super) const RTM_DELRULE: u16 = 33;
const RTM_GETRULE: u16 = 34;
const NLM_F_REPLACE: u16 = 0x100;
const NLM_F_EXCL: u16 = 0x200;
pub(super) const NLM_F_CREATE: u16 = 0x400;

pub(super) const SEE_LOG: &str = "see the kernel log";

const IFLA_ADDRESS: u16 = 1;
/// A link's name (`linux/if_link.h`).
pub const IFLA_IFNAME: u16 = 3;
pub(super) const RTA_OIF: u16 = 4;
pub(super) const RTA_GATEWAY: u16 = 5;
const RTA_PRIORITY: u16 = 6;
const RTA_METRICS: u16 = 8;
pub(super) const RTA_TABLE: u16 = 15;
/// The metric of an IPv6 route that is given none (`linux/ipv6_route.h`).
const IP6_RT_PRIO_USER: u32 = 1024;
const RTNH_F_ONLINK: u8 = 4;
pub(super) const RTN_UNICAST: u8 = 1;
const RTN_UNREACHABLE: u8 = 7;
pub(super) const FIB_RULE_INVERT: u32 = 2;
pub(super) const FRA_PRIORITY: u16 = 6;
pub(super) const FRA_FWMARK: u16 = 10;
pub(super) const FRA_SUPPRESS_PREFIXLEN: u16 = 14;
pub(super) const FRA_TABLE: u16 = 15;
pub(super) const FRA_FWMASK: u16 = 16;
pub(super) const FRA_PROTOCOL: u16 = 21;
pub(super) const FR_ACT_TO_TBL: u8 = 1;

/// A port, as the kernel knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Its index.
    pub index: u32,
    /// Its name.
    pub name: Name,
    /// Whether it is up, as an administrator sees it (`IFF_UP`).
    pub is_up: bool,
    /// Whether it has one far end and no link-layer addresses (`IFF_POINTOPOINT`, `linux/if.h`).
    pub is_point_to_point: bool,
    /// Its own link-layer address; `None` where that is no EUI-48.
    pub mac: Option<Mac>,
}

/// An address that was looked up, by which port, and the route that was found.
pub(super) type LookedUp = ((IpAddr, Option<u32>), Option<Way>);

/// Reads and changes routes and rules.
pub struct Routing {
    pub(super) socket: Socket,
    links: Vec<Link>,                    // those asked for so far
    pub(super) looked_up: Vec<LookedUp>, // likewise
    /// While addresses are awaited, a wider route that happens to be there, as by a tunnel, is not taken for the gateway's
    /// link.
    pub only_connected: bool,
}

/// A rule of somebody else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForeignRule {
    /// Its family.
    pub family: Family,
    /// Its priority.
    pub priority: u32,
    /// Its mark and mask; 0/0 without any.
    pub mark: (u32, u32),
    /// The table that it looks up; 0 without any.
    pub table: u32,
    /// All of it, as the kernel says it (`struct fib_rule_hdr` and attributes).
    pub message: Vec<u8>,
}

impl Routing {
    /// Opens the socket.
    pub fn open() -> Result<Routing, Error> {
        let socket = Socket::open(mnl::Bus::Route)
            .map_err(|e| Error::new(format!("routing socket: {e}; is CONFIG_NET there?")))?;
        Ok(Routing { socket, links: Vec::new(), looked_up: Vec::new(), only_connected: false })
    }

    /// The port of a name; `None` where there is none.
    pub fn link(&mut self, name: &str) -> Result<Option<Link>, Error> {
        if let Some(link) = self.links.iter().find(|link| link.name == name) {
            return Ok(Some(link.clone()));
        }
        let mut payload = vec![0; 16]; // struct ifinfomsg
        put(&mut payload, IFLA_IFNAME, &[name.as_bytes(), &[0]].concat());
        self.get_link(payload, name)
    }

    /// The indexes of ports, as far as they are there.
    pub fn indexes_of<'a>(&mut self, names: impl Iterator<Item = &'a str>) -> Result<Vec<u32>, Error> {
        let mut indexes = Vec::new();
        for name in names {
            indexes.extend(self.link(name)?.map(|link| link.index));
        }
        Ok(indexes)
    }

    pub(super) fn link_at(&mut self, index: u32) -> Result<Option<Link>, Error> {
        if let Some(link) = self.links.iter().find(|link| link.index == index) {
            return Ok(Some(link.clone()));
        }
        let mut payload = vec![0; 16];
        payload[4..8].copy_from_slice(&index.to_ne_bytes());
        self.get_link(payload, &format!("number {index}"))
    }

    fn get_link(&mut self, payload: Vec<u8>, what: &str) -> Result<Option<Link>, Error> {
        match self.socket.ask(&Message { kind: RTM_GETLINK, flags: 0, payload }) {
            Ok(answer) => {
                let link = answer.filter(|m| m.kind == RTM_NEWLINK).and_then(|m| parse_link(&m.payload));
                self.links.extend(link.clone());
                Ok(link)
            }
            Err(refusal) if refusal.errno == libc::ENODEV => Ok(None),
            Err(refusal) => Err(refused(format_args!("port {what}: cannot ask for it"), &refusal, SEE_LOG)),
        }
    }

    /// Our rules and those of others.
    pub fn rules(&mut self) -> Result<(Vec<Rule>, Vec<ForeignRule>), Error> {
        let (mut ours, mut others) = (Vec::new(), Vec::new());
        let payload = vec![0; 12]; // struct fib_rule_hdr; of every family
        let dump = self
            .socket
            .dump(&Message { kind: RTM_GETRULE, flags: 0, payload })
            .map_err(|refusal| refused(format_args!("rules: cannot list them"), &refusal, SEE_LOG))?;
        for message in dump.iter().filter(|m| m.kind == RTM_NEWRULE) {
            match family_of(&message.payload).and_then(|family| parse_rule(family, &message.payload)) {
                Some(Found::Ours(rule)) => ours.push(rule),
                Some(Found::Foreign(rule)) => others.push(rule),
                None => {}
            }
        }
        Ok((ours, others))
    }

    /// Our routes, wherever they are.
    pub fn routes(&mut self) -> Result<Vec<Route>, Error> {
        let mut routes = Vec::new();
        let mut payload = vec![0; 12]; // struct rtmsg; of every family
        payload[5] = PROTOCOL; // the kernel filters by it (NETLINK_GET_STRICT_CHK), so that a full BGP table costs nothing
        for (family, message) in self.dump_routes(payload)? {
            if message.get(5) == Some(&PROTOCOL) {
                routes.extend(self.parse_route(family, &message)?);
            }
        }
        Ok(routes)
    }

    /// The families of which a table has routes that are not exactly what we make.
    pub fn foreign_routes(&mut self, table: u32) -> Result<BTreeSet<Family>, Error> {
        let mut payload = vec![0; 12];
        put(&mut payload, RTA_TABLE, &table.to_ne_bytes());
        let mut families = BTreeSet::new();
        for (family, message) in self.dump_routes(payload)? {
            let is_in_it =
                find(message.get(12..).unwrap_or(&[]), RTA_TABLE).and_then(|t| u32_at(t, 0)) == Some(table);
            if is_in_it && self.parse_route(family, &message)?.is_none() {
                families.insert(family);
            }
        }
        Ok(families)
    }

    fn dump_routes(&mut self, payload: Vec<u8>) -> Result<Vec<(Family, Vec<u8>)>, Error> {
        let of_a_family = |kind, payload: &[u8]| {
            family_of(payload).filter(|_| kind == RTM_NEWROUTE).map(|family| (family, payload.to_vec()))
        };
        match self.socket.dump_as(&Message { kind: RTM_GETROUTE, flags: 0, payload }, &of_a_family) {
            Ok(found) => Ok(found),
            Err(refusal) if refusal.errno == libc::ENOENT => Ok(Vec::new()), // a table that does not exist yet
            Err(refusal) => Err(refused(format_args!("routes: cannot list them"), &refusal, SEE_LOG)),
        }
    }

    /// Takes one step.
    pub fn take(&mut self, step: &Step) -> Result<(), Error> {
        self.take_all(core::slice::from_ref(step)).pop().unwrap_or(Ok(()))
    }

    /// Takes steps of which none waits for another; where one fails the others are taken all the same.
    pub fn take_all(&mut self, steps: &[Step]) -> Vec<Result<(), Error>> {
        // What can not even be asked is not sent.
        let messages: Result<Vec<_>, _> =
            steps.iter().map(|step| self.message_of(step, NLM_F_EXCL)).collect();
        let results: Vec<Result<(), Cause>> = match messages {
            Ok(messages) => {
                self.socket.change_all(&messages).into_iter().map(|one| one.map_err(Cause::Kernel)).collect()
            }
            Err(_) => steps.iter().map(|step| self.send(step, NLM_F_EXCL)).collect(),
        };
        let results = results.into_iter().zip(steps);
        results
            .map(|(result, step)| match result {
                // Gone by itself, as a route is when its port goes down: what was asked for.
                Err(Cause::Kernel(refusal))
                    if is_delete(step) && matches!(refusal.errno, libc::ESRCH | libc::ENOENT) =>
                {
                    Ok(())
                }
                other => other.map_err(|cause| cause.of(step)),
            })
            .collect()
    }

    /// Undoes a step, whether it has been taken or its answer was lost.
    pub fn take_back(&mut self, step: &Step) -> Result<(), Error> {
        let step = step.inverse();
        match self.send(&step, NLM_F_EXCL) {
            Err(Cause::Kernel(refusal)) if !is_delete(&step) && refusal.errno == libc::EEXIST => Ok(()),
            Err(Cause::Kernel(refusal))
                if is_delete(&step) && matches!(refusal.errno, libc::ESRCH | libc::ENOENT) =>
            {
                Ok(())
            }
            other => other.map_err(|cause| cause.of(&step)),
        }
    }

    /// Moves a rule behind the others of its priority. It is doubled, then the first of the two goes.
    pub fn requeue(&mut self, rule: &Rule) -> Result<(), Error> {
        let (add, delete) = (Step::AddRule(*rule), Step::DelRule(*rule));
        self.send(&add, 0).map_err(|cause| cause.of(&add))?;
        self.send(&delete, 0).map_err(|cause| cause.of(&delete))
    }

    fn send(&mut self, step: &Step, exclusive: u16) -> Result<(), Cause> {
        let message = self.message_of(step, exclusive)?;
        self.socket.change(&message).map_err(Cause::Kernel)
    }

    fn message_of(&mut self, step: &Step, exclusive: u16) -> Result<Message, Error> {
        let (kind, flags, payload) = match step {
            Step::AddRoute(route) => (RTM_NEWROUTE, NLM_F_CREATE | exclusive, self.route(route)?),
            Step::ReplaceRoute { new, .. } => (RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, self.route(new)?),
            Step::DelRoute(route) => (RTM_DELROUTE, 0, self.route(route)?),
            Step::AddRule(rule) => (RTM_NEWRULE, NLM_F_CREATE | exclusive, emitted(&message(rule))),
            Step::DelRule(rule) => (RTM_DELRULE, 0, emitted(&message(rule))),
        };
        Ok(Message { kind, flags, payload })
    }

    fn route(&mut self, route: &Route) -> Result<Vec<u8>, Error> {
        let index = match &route.next {
            Next::Gateway { device: Some(device), .. } | Next::Device(device) => {
                let missing = || Error::new(format!("port {device}: it is gone; make it again"));
                Some(self.link(device)?.ok_or_else(missing)?.index)
            }
            _ => None,
        };
        Ok(match (&route.next, route.family) {
            (Next::Gateway { address: IpAddr::V4(address), .. }, _) => {
                finish(RouteMessageBuilder::<Ipv4Addr>::new().gateway(*address), route, index)
            }
            (Next::Gateway { address: IpAddr::V6(address), .. }, _) => {
                finish(RouteMessageBuilder::<Ipv6Addr>::new().gateway(*address), route, index)
            }
            (_, Family::V4) => finish(RouteMessageBuilder::<Ipv4Addr>::new(), route, index),
            (_, Family::V6) => finish(RouteMessageBuilder::<Ipv6Addr>::new(), route, index),
        })
    }

    /// A route is one of ours only if it is exactly what we make, by metric and all.
    fn parse_route(&mut self, family: Family, message: &[u8]) -> Result<Option<Route>, Error> {
        let (Some(&[_, length, _, tos, _, protocol, _, kind, flags]), Some(rest)) =
            (message.first_chunk(), message.get(12..))
        else {
            return Ok(None);
        };
        let number = |kind| find(rest, kind).and_then(|value| u32_at(value, 0));
        let Some(table) = number(RTA_TABLE) else { return Ok(None) };
        let is_plain = (protocol, length, tos) == (PROTOCOL, 0, 0) && find(rest, RTA_METRICS).is_none();
        let is_ours_by_metric = match (kind, family) {
            (RTN_UNREACHABLE, _) => number(RTA_PRIORITY) == Some(LAST_METRIC),
            (_, Family::V4) => number(RTA_PRIORITY).is_none(),
            (_, Family::V6) => number(RTA_PRIORITY) == Some(IP6_RT_PRIO_USER),
        };
        if !is_plain || !is_ours_by_metric {
            return Ok(None);
        }
        let device = match number(RTA_OIF) {
            Some(index) if kind == RTN_UNICAST => self.link_at(index)?.map(|link| link.name),
            _ => None,
        };
        let next = match (kind, find(rest, RTA_GATEWAY).and_then(address), device) {
            (RTN_UNREACHABLE, _, _) => Next::Unreachable,
            (RTN_UNICAST, Some(address), device) => {
                Next::Gateway { address, device, onlink: flags & RTNH_F_ONLINK != 0 }
            }
            (RTN_UNICAST, None, Some(device)) => Next::Device(device),
            _ => return Ok(None),
        };
        Ok(Some(Route { family, table, next }))
    }
}

/// What all our routes have in common.
fn finish<T>(builder: RouteMessageBuilder<T>, route: &Route, index: Option<u32>) -> Vec<u8> {
    let mut builder = builder.table_id(route.table).protocol(RouteProtocol::from(PROTOCOL));
    if let Some(index) = index {
        builder = builder.output_interface(index);
    }
    builder = match &route.next {
        Next::Gateway { onlink: true, .. } => builder.onlink(),
        Next::Device(_) if route.family == Family::V4 => builder.scope(RouteScope::Link), // as iproute2 does
        Next::Unreachable => builder.kind(RouteType::Unreachable).priority(LAST_METRIC),
        _ => builder,
    };
    emitted(&builder.build())
}

fn message(rule: &Rule) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.family = match rule.family {
        Family::V4 => AddressFamily::Inet,
        Family::V6 => AddressFamily::Inet6,
    };
    message.header.action = RuleAction::ToTable;
    message.header.table = u8::try_from(rule.table).unwrap_or(0);
    message.attributes = vec![
        RuleAttribute::Priority(rule.priority),
        RuleAttribute::FwMark(rule.mark),
        RuleAttribute::FwMask(rule.mask),
        RuleAttribute::Table(rule.table),
        RuleAttribute::Protocol(RouteProtocol::from(PROTOCOL)),
    ];
    message
}

enum Found {
    Ours(Rule),
    Foreign(ForeignRule),
}

/// A rule is one of ours only if it is exactly what we make: with a selector more it is another rule.
fn parse_rule(family: Family, message: &[u8]) -> Option<Found> {
    let (lengths_and_tos, action, rest) = (message.get(1..4)?, *message.get(7)?, message.get(12..)?);
    let is_inverted = u32_at(message, 8)? & FIB_RULE_INVERT != 0;
    let number = |kind| find(rest, kind).and_then(|value| u32_at(value, 0));
    let (priority, table) = (number(FRA_PRIORITY).unwrap_or(0), number(FRA_TABLE).unwrap_or(0));
    let (mark, mask) = (number(FRA_FWMARK).unwrap_or(0), number(FRA_FWMASK).unwrap_or(0));
    let is_plain = |(kind, value): (u16, &[u8])| match kind {
        FRA_PRIORITY | FRA_FWMARK | FRA_FWMASK | FRA_TABLE => true,
        FRA_PROTOCOL => value == [PROTOCOL],
        FRA_SUPPRESS_PREFIXLEN => u32_at(value, 0) == Some(u32::MAX), // dumped where there is none
        _ => false,
    };
    let is_ours = action == FR_ACT_TO_TBL
        && !is_inverted
        && lengths_and_tos == [0; 3]
        && find(rest, FRA_PROTOCOL).is_some()
        && attributes(rest).all(is_plain);
    Some(match is_ours {
        true => Found::Ours(Rule { family, priority, mark, mask, table }),
        false => Found::Foreign(ForeignRule {
            family,
            priority,
            mark: (mark, mask),
            table,
            message: message.into(),
        }),
    })
}

fn parse_link(message: &[u8]) -> Option<Link> {
    let name = find(message.get(16..)?, IFLA_IFNAME)?;
    Some(Link {
        index: u32_at(message, 4)?,
        name: Name::try_from(text(name)).ok()?,
        is_up: u32_at(message, 8)? & libc::IFF_UP as u32 != 0,
        is_point_to_point: u32_at(message, 8)? & libc::IFF_POINTOPOINT as u32 != 0,
        mac: find(message.get(16..)?, IFLA_ADDRESS).and_then(|bytes| bytes.try_into().ok()).map(Mac),
    })
}

/// An address of either family, by its length.
pub(super) fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        _ => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
    }
}

/// The family of a route or a rule; `None` for one that we have nothing to do with.
fn family_of(message: &[u8]) -> Option<Family> {
    Family::BOTH.into_iter().find(|family| message.first() == Some(&number(*family)))
}

/// Why a step was not taken.
enum Cause {
    /// The kernel said no.
    Kernel(Refusal),
    /// It could not even be asked.
    Before(Error),
}

impl From<Error> for Cause {
    fn from(error: Error) -> Cause {
        Cause::Before(error)
    }
}

impl Cause {
    fn of(self, step: &Step) -> Error {
        let refusal = match self {
            Cause::Before(error) => return error,
            Cause::Kernel(refusal) => refusal,
        };
        let is_route = matches!(step, Step::AddRoute(_) | Step::ReplaceRoute { .. });
        let remedy = match refusal.errno {
            libc::EAFNOSUPPORT => "the kernel lacks this family; leave its gateways out of the policy",
            libc::ENETUNREACH | libc::EHOSTUNREACH | libc::EINVAL if is_route => {
                "the gateway is not on a link; bring its port up with an address that covers it, or set `device` and `onlink`"
            }
            libc::ENETDOWN if is_route => "bring the port up first",
            libc::EEXIST => {
                "another program has put the same there; remove it, or choose another `table` or `priority`"
            }
            _ => SEE_LOG,
        };
        // fib_check_nh() of net/ipv4/fib_semantics.c and ip6_route_check_nh() of net/ipv6/route.c.
        let is_early = is_route
            && matches!(
                refusal.errno,
                libc::ENETUNREACH | libc::EHOSTUNREACH | libc::ENETDOWN | libc::ENODEV
            );
        Error { is_early, ..refused(format_args!("{step}"), &refusal, remedy) }
    }
}

fn is_delete(step: &Step) -> bool {
    matches!(step, Step::DelRoute(_) | Step::DelRule(_))
}

pub(super) fn number(family: Family) -> u8 {
    match family {
        Family::V4 => libc::AF_INET as u8,
        Family::V6 => libc::AF_INET6 as u8,
    }
}

fn emitted(message: &impl Emitable) -> Vec<u8> {
    let mut bytes = vec![0; message.buffer_len()];
    message.emit(&mut bytes);
    bytes
}

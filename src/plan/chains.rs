//! The rules: what marks connections and packets.
//!
//! Dispatch is by map, so that a packet costs the same with one path and with 256. The connection mark is
//! written once, on the first packet, as a constant; packets get it from there. Which packets do:
//!
//! | packet | hook | why |
//! |---|---|---|
//! | from the router, for this host | prerouting | accepted sockets, resets and echo replies inherit the mark, and the reverse-path filter looks the source up with it |
//! | from the router, to be forwarded | none | a mark would send it back to where it came from |
//! | reply of a host behind us | prerouting | it is about to be routed |
//! | reply of this host | output | only if its socket has not got the mark already: routing twice costs a microsecond |
//!
//! Whether a connection is for this host is asked once (`fib`, slow) and remembered as a conntrack label.
//!
//! Packets are counted by the same maps: inward in prerouting, outward in postrouting, where their way is certain.
//!
//! Each question costs 13 ns or more, each map 60 (`tests/bench`): what most packets are is asked first, and what is
//! rare only of those that are left.

use super::nft::{
    Base, Chain, DIGEST, Direction, Elements, FWMARK_ACCEPT, FWMARK_REFLECT4, FWMARK_REFLECT6, INBOUND,
    INHERITED, Key, LABEL_LOCAL, LABEL_OUTWARD, MACS, MARKS, OUTBOUND, PORTS_AND_MACS, Rule, SOCKETS,
    SYSCTLS, Set, State, Statement, Table,
};
use super::ways::Family;
use crate::policy::wire::CRC;
use crate::policy::{Network, Path, Policy, PortRange, Scope, Service};
use core::net::IpAddr;

/// What the name of the chain to which a path's frames go begins with; the path's own name follows.
pub const FROM: &str = "from_";

const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;
const SCTP: u8 = 132;

/// What [`Table::with_record`] adds: rules, each at the end of a chain.
pub fn rules_of_record(
    mask: u32,
    record: &[(String, u32)],
    trial: Option<&str>,
) -> Vec<(&'static str, Rule)> {
    let mut rules = Vec::new();
    for (name, before) in record {
        rules.push((SYSCTLS, vec![Statement::Remember(format!("{name}={before}"))]));
        rules.extend(forget_foreign_bits(name, mask).map(|rule| (INHERITED, rule)));
        let port = name.strip_prefix("net/ipv4/conf/").and_then(|rest| rest.strip_suffix("/rp_filter"));
        rules.extend(port.map(|port| ("prerouting", strict_source(port))));
    }
    rules.extend(trial.map(|line| (SYSCTLS, vec![Statement::Remember(line.into())])));
    rules
}

impl Table {
    /// The table for a policy that has passed [`Policy::check`], and for its digest ([`super::Plan::digest`]).
    pub fn new(policy: &Policy, digest: u32) -> Table {
        let mask = policy.mark_mask;
        let locals = local_networks(policy);
        let arrivals = arrivals(policy);
        let by_mark = |prefix: &str| {
            let paths = policy.paths.iter();
            Elements::Marks(sorted(paths.map(|path| (path.mark, format!("{prefix}_{}", path.name)))))
        };
        let mut table = Table::default();
        table.counters.extend(policy.paths.iter().flat_map(counters));
        table.sets.extend(locals.iter().map(|(_, set)| set.clone()));
        table.sets.extend(arrivals.iter().map(|(_, set)| set.clone()));
        for (name, prefix) in [(MARKS, "mark"), (INBOUND, "in"), (OUTBOUND, "back")] {
            table.sets.push(Set { name: name.into(), elements: by_mark(prefix) });
        }

        let answers_here = |path: &&Path| path.scope != Scope::Forward;
        let adopters = policy.paths.iter().filter(answers_here);
        let adopters = sorted(adopters.map(|path| (path.mark, format!("adopt_{}", path.name))));
        if !adopters.is_empty() {
            table.sets.push(Set { name: SOCKETS.into(), elements: Elements::Marks(adopters) });
        }

        table.chain(SYSCTLS, vec![]);
        table.chain(DIGEST, vec![vec![Statement::Remember(format!("policy {digest:#010x}"))]]);
        for path in &policy.paths {
            table.chain(
                format!("mark_{}", path.name),
                vec![vec![Statement::SetMetaMark { mask, mark: path.mark }]],
            );
        }
        for path in &policy.paths {
            table.path_chains(path, mask);
        }
        table.shared_chains(mask, &locals, &arrivals);
        if policy.paths.iter().any(|path| answers_here(&path)) {
            table.chain(INHERITED, vec![]);
            let foreign = vec![Statement::MetaMarkSet(!mask), Statement::Goto(INHERITED.into())];
            let rules = (mask != u32::MAX).then_some(foreign).into_iter().collect();
            table.chains.push(Chain { name: "input".into(), base: Some(Base::Input), rules });
        }
        // What stays on an update comes first, so that the order is that of a first install.
        table.chains.sort_by_key(|chain| (chain.name != SYSCTLS, chain.name != DIGEST, chain.base.is_none()));
        table
    }

    /// With the record of settings from before, so that it lives and dies with the table; and with the rules
    /// that make good what the changed settings would do to packets that are none of ours. A policy that is on `trial`
    /// says so there.
    pub fn with_record(mut self, mask: u32, record: &[(String, u32)], trial: Option<&str>) -> Table {
        for (chain, rule) in rules_of_record(mask, record, trial) {
            self.chains.iter_mut().filter(|c| c.name == chain).for_each(|c| c.rules.push(rule.clone()));
        }
        self
    }

    fn chain(&mut self, name: impl Into<String>, rules: Vec<Rule>) {
        self.chains.push(Chain { name: name.into(), base: None, rules });
    }

    /// `from_X`: is the connection one that counts? `take_X`: it belongs to the path. `in_X`, `back_X`: its packets.
    fn path_chains(&mut self, path: &Path, mask: u32) {
        use Statement::*;
        let (from, take) = (format!("{FROM}{}", path.name), format!("take_{}", path.name));
        let mark = path.mark;
        let [new, inward, back, astray] = counters(path).map(Count);
        let for_this_host = [SetCtLabel(LABEL_LOCAL), SetMetaMark { mask, mark }];

        let mut rules: Vec<Rule> = Vec::new();
        match path.scope {
            Scope::Local => rules.push(vec![FibLocal(false), Return]),
            Scope::Forward => rules.push(vec![FibLocal(true), Return]),
            Scope::Both => {}
        }
        rules.push(vec![SetCtMark { mask, mark }, new, inward.clone()]);
        if path.log {
            rules.push(vec![Limit, Log(format!("returnpath {}: ", path.name))]);
        }
        match path.scope {
            Scope::Local => rules.push(for_this_host.to_vec()),
            Scope::Forward => {}
            Scope::Both => rules.push([&[FibLocal(true)], &for_this_host[..]].concat()),
        }
        rules.push(vec![Accept]);
        self.chain(&take, rules);
        // For this host: its sockets, resets and echo replies inherit the mark, and the reverse-path filter wants it.
        self.chain(
            format!("in_{}", path.name),
            vec![vec![inward, CtLabel(LABEL_LOCAL), SetMetaMark { mask, mark }, Return], unmark(mask)],
        );
        let mut rules: Vec<Rule> =
            ways_out(path).map(|way| [&way[..], &[back.clone(), Return]].concat()).collect();
        // What was opened from inside is answered by the router, and goes to a host behind us.
        rules.push(vec![CtDirection(Direction::Reply), CtExpected, CtLabel(LABEL_OUTWARD), Return]);
        rules.push(vec![astray]);
        self.chain(format!("back_{}", path.name), rules);
        if path.scope != Scope::Forward {
            let labels = [SetCtLabel(LABEL_LOCAL), SetCtLabel(LABEL_OUTWARD)];
            let adopt = [&[SetCtMark { mask, mark }], &labels[..]].concat();
            self.chain(format!("adopt_{}", path.name), vec![adopt]);
        }

        let mut rules: Vec<Rule> = Vec::new();
        match (path.has_v4(), path.has_v6()) {
            (true, false) => rules.push(vec![NfProto(Family::V6), Return]),
            (false, true) => rules.push(vec![NfProto(Family::V4), Return]),
            _ => {}
        }
        // A connection that a helper announced belongs to the path whatever its port.
        rules.push(vec![CtState(State::Related), Goto(take.clone())]);
        for family in Family::BOTH.into_iter().filter(|_| !path.destinations.is_empty()) {
            let networks = networks(&path.destinations, family);
            if networks.is_empty() {
                rules.push(vec![NfProto(family), Return]);
            } else {
                let name = format!("to{}_{}", family.digit(), path.name);
                let set = constant(&name, Elements::Networks(family, networks));
                rules.push(vec![NfProto(family), CtDestinationNotIn(family, set.name.clone()), Return]);
                self.sets.push(set);
            }
        }
        if path.services.is_empty() {
            rules.retain(|rule| !(path.destinations.is_empty() && rule[0] == CtState(State::Related)));
            rules.push(vec![Goto(take.clone())]);
        }
        for (protocol, label) in [(TCP, "tcp"), (UDP, "udp"), (SCTP, "sctp")] {
            let ranges = ranges(&path.services, protocol);
            match ranges.as_slice() {
                [] => {}
                [PortRange { first: 0, last: u16::MAX }] => {
                    rules.push(vec![L4Proto(protocol), Goto(take.clone())])
                }
                _ => {
                    let set = constant(&format!("{label}_{}", path.name), Elements::Services(ranges));
                    rules.push(vec![L4Proto(protocol), CtServiceIn(set.name.clone()), Goto(take.clone())]);
                    self.sets.push(set);
                }
            }
        }
        if path.services.contains(&Service::Icmp) {
            for protocol in [ICMP, ICMPV6] {
                rules.push(vec![L4Proto(protocol), Goto(take.clone())]);
            }
        }
        self.chain(from, rules);
    }

    fn shared_chains(&mut self, mask: u32, locals: &[(Family, Set)], arrivals: &[(Key, Set)]) {
        use Statement::*;
        let mark_it = || Dispatch(Key::CtMark(mask), MARKS.into());
        let inward = || Dispatch(Key::CtMark(mask), INBOUND.into());
        let outward = || Dispatch(Key::CtMark(mask), OUTBOUND.into());
        let errors = || [ICMP, ICMPV6].map(|protocol| vec![L4Proto(protocol), Return]);

        let arriving = locals
            .iter()
            .map(|(family, set)| vec![CtState(State::Own), SourceIn(*family, set.name.clone()), Return])
            .chain(arrivals.iter().map(|(key, set)| vec![Dispatch(*key, set.name.clone())]))
            // Not from a router: from inside, on behalf of a connection that came from one.
            .chain([vec![CtState(State::Related), SetCtLabel(LABEL_OUTWARD)]])
            .collect();
        self.chain("arriving", arriving);
        self.chain(
            "undecided",
            vec![
                // What another connection announced, and errors about any.
                vec![CtState(State::Related), Return],
                vec![CtExpected, Return],
                vec![CtState(State::New), Goto("arriving".into())],
                // The rules may have been away when it began, or not have known its router's MAC yet. Other protocols,
                // whose connections are never assured, would be open to one packet with a made-up source for ever.
                vec![L4Proto(TCP), Goto("arriving".into())],
                vec![L4Proto(UDP), Goto("arriving".into())],
            ],
        );
        // Connections that a helper announced (FTP data). An error about one is not its first packet.
        self.chain("announced", errors().into_iter().chain([vec![Goto("arriving".into())]]).collect());
        self.chain(
            "marked_reply",
            vec![vec![CtLabel(LABEL_OUTWARD), inward()], vec![mark_it()], unmark(mask)],
        );
        let reply = || vec![CtDirection(Direction::Reply), Goto("marked_reply".into())];
        self.chain(
            "marked_expected",
            vec![
                unmark(mask),
                vec![CtState(State::Related), Jump("announced".into())],
                reply(),
                vec![CtLabel(LABEL_OUTWARD), mark_it()],
                vec![inward()],
            ],
        );
        self.chain(
            "marked",
            vec![vec![CtExpected, Goto("marked_expected".into())], reply(), vec![inward()], unmark(mask)],
        );
        self.chains.push(Chain {
            name: "prerouting".into(),
            base: Some(Base::Prerouting),
            rules: vec![
                vec![CtMarkSet(mask), Goto("marked".into())],
                unmark(mask),
                // Until both ends have answered, and no longer.
                vec![CtDirection(Direction::Original), CtUnassured, Jump("undecided".into())],
            ],
        });

        let from_here =
            vec![CtDirection(Direction::Original), SetCtLabel(LABEL_LOCAL), SetCtLabel(LABEL_OUTWARD)];
        self.chain("leaving_announced", errors().into_iter().chain([from_here]).collect());
        let announced = || vec![CtState(State::Related), Jump("leaving_announced".into())];
        let if_outward = || vec![CtLabel(LABEL_OUTWARD), Return];
        // `carrying`: a packet of this host that has a mark already, by its socket or by the packet that it answers.
        // Right for what leaves by the path; wrong for an error that goes to a host behind us.
        self.chain(
            "carrying_expected",
            vec![
                announced(),
                vec![CtLabel(LABEL_OUTWARD), CtDirection(Direction::Reply), SetMetaMark { mask, mark: 0 }],
                if_outward(),
                vec![CtDirection(Direction::Original), SetMetaMark { mask, mark: 0 }],
            ],
        );
        // A socket outlives what connection tracking remembers: its mark says which path the connection came by.
        let adopt = vec![CtState(State::New), Dispatch(Key::MetaMark(mask), SOCKETS.into())];
        let has_sockets = self.sets.iter().any(|set| set.name == SOCKETS);
        let carrying = [
            vec![CtExpected, CtMarkSet(mask), Goto("carrying_expected".into())],
            vec![CtDirection(Direction::Reply), Return],
        ];
        self.chain(
            "carrying",
            carrying
                .into_iter()
                .chain(has_sockets.then_some(adopt))
                .chain([if_outward(), vec![CtMarkSet(mask), SetMetaMark { mask, mark: 0 }]])
                .collect(),
        );
        self.chain(
            "leaving_expected",
            vec![
                announced(),
                vec![CtLabel(LABEL_OUTWARD), CtDirection(Direction::Original), mark_it()],
                if_outward(),
                vec![CtDirection(Direction::Reply), mark_it()],
            ],
        );
        self.chain(
            "leaving",
            vec![
                vec![CtExpected, Goto("leaving_expected".into())],
                vec![CtDirection(Direction::Reply), mark_it()],
                vec![CtLabel(LABEL_OUTWARD), mark_it()],
            ],
        );
        self.chains.push(Chain {
            name: "output".into(),
            base: Some(Base::Output),
            rules: vec![
                vec![MetaMarkSet(mask), Goto("carrying".into())],
                vec![CtMarkSet(mask), Goto("leaving".into())],
            ],
        });

        // Only what goes to the router is asked for its way; hosts behind us get the other direction.
        self.chain(
            "left",
            vec![vec![CtDirection(Direction::Reply), outward()], vec![CtLabel(LABEL_OUTWARD), outward()]],
        );
        self.chains.push(Chain {
            name: "postrouting".into(),
            base: Some(Base::Postrouting),
            rules: vec![vec![CtMarkSet(mask), Goto("left".into())]],
        });
    }
}

/// A packet that comes out of a tunnel still has the mark of the one that carried it.
fn unmark(mask: u32) -> Rule {
    vec![Statement::MetaMarkSet(mask), Statement::SetMetaMark { mask, mark: 0 }]
}

/// The counters of a path: connections taken, what came in of them, what left by the path, and by another way.
fn counters(path: &Path) -> [String; 4] {
    ["new", "in", "back", "astray"].map(|what| format!("{what}_{}", path.name))
}

/// How a packet leaves by a path, once it is routed: where routers share a port, only the next hop tells them apart.
fn ways_out(path: &Path) -> impl Iterator<Item = Rule> {
    let gateways = [path.gateway4.map(IpAddr::V4), path.gateway6.map(IpAddr::V6)];
    let port = || path.device.iter().map(|port| Statement::LeavesBy(port.to_string()));
    let by_gateway = gateways
        .into_iter()
        .flatten()
        .map(move |gateway| port().chain([Statement::NextHop(gateway)]).collect());
    let by_port = gateways.iter().all(Option::is_none).then(|| port().collect());
    by_gateway.chain(by_port)
}

/// With `tcp_fwmark_accept` and `fwmark_reflect` an answer inherits the whole mark of what it answers. Only our
/// bits shall be inherited, as others' were not before; so for what is answered they end where the packet does.
pub fn forget_foreign_bits(setting: &str, mask: u32) -> Option<Rule> {
    let protocol = match setting {
        FWMARK_ACCEPT => TCP,
        FWMARK_REFLECT4 => ICMP,
        FWMARK_REFLECT6 => ICMPV6,
        _ => return None,
    };
    let forget = Statement::SetMetaMark { mask: !mask, mark: 0 };
    (mask != u32::MAX).then(|| vec![Statement::L4Proto(protocol), forget])
}

/// The strict reverse-path filter of a port where it had to be loosened, for all that is not of a path.
pub fn strict_source(port: &str) -> Rule {
    vec![
        Statement::ArrivedBy(port.into()),
        Statement::NfProto(Family::V4),
        Statement::SourceElsewhere,
        Statement::Drop,
    ]
}

/// A set that never changes: its name ends in a sum of its content, so that another content is another set. (Intervals
/// can not be exchanged under packets that are under way; one that is made before the rules that ask it can.)
fn constant(name: &str, elements: Elements) -> Set {
    let sum = CRC.checksum(elements.to_string().as_bytes()) & 0xffff;
    Set { name: format!("{name}_{sum:04x}"), elements }
}

fn local_networks(policy: &Policy) -> Vec<(Family, Set)> {
    Family::BOTH
        .into_iter()
        .map(|family| (family, networks(&policy.local_networks, family)))
        .filter(|(_, networks)| !networks.is_empty())
        .map(|(family, networks)| {
            let name = format!("local_networks{}", family.digit());
            (family, constant(&name, Elements::Networks(family, networks)))
        })
        .collect()
}

/// The maps by which frames find their path, the most specific one first; only those that some path needs. One without
/// elements is for MACs that are not known yet.
fn arrivals(policy: &Policy) -> Vec<(Key, Set)> {
    let chain = |path: &Path| format!("{FROM}{}", path.name);
    let paths = |macs: bool, ports: bool| {
        policy.paths.iter().filter(move |p| p.has_macs() == macs && p.ingress.is_empty() != ports)
    };
    let is_needed = |macs, ports| paths(macs, ports).next().is_some();
    let both = paths(true, true).flat_map(|p| {
        p.ingress
            .iter()
            .flat_map(move |port| p.source_macs.iter().map(move |mac| ((port.clone(), *mac), chain(p))))
    });
    let macs = paths(true, false).flat_map(|p| p.source_macs.iter().map(move |mac| (*mac, chain(p))));
    let ports = paths(false, true).flat_map(|p| p.ingress.iter().map(move |port| (port.clone(), chain(p))));
    let (both, macs, ports) = (sorted(both), sorted(macs), sorted(ports));

    let mut maps = Vec::new();
    if is_needed(true, true) {
        maps.push((
            Key::PortAndMac,
            Set { name: PORTS_AND_MACS.into(), elements: Elements::PortsAndMacs(both) },
        ));
    }
    if is_needed(true, false) {
        maps.push((Key::Mac, Set { name: MACS.into(), elements: Elements::Macs(macs) }));
    }
    if is_needed(false, true) {
        maps.push((Key::Port, Set { name: "ports".into(), elements: Elements::Ports(ports) }));
    }
    maps
}

fn sorted<T: Ord>(items: impl Iterator<Item = T>) -> Vec<T> {
    let mut list: Vec<T> = items.collect();
    list.sort();
    list
}

fn networks(all: &[Network], family: Family) -> Vec<Network> {
    let is_ours = |network: &&Network| match network.address {
        IpAddr::V4(_) => family == Family::V4,
        IpAddr::V6(_) => family == Family::V6,
    };
    sorted(all.iter().filter(is_ours).copied())
}

/// The port ranges of one protocol, sorted, neighbours joined: fewer elements, and a listing that reads well.
fn ranges(services: &[Service], protocol: u8) -> Vec<PortRange> {
    let of_protocol = services.iter().filter_map(|service| match (service, protocol) {
        (Service::Tcp(r), TCP) | (Service::Udp(r), UDP) | (Service::Sctp(r), SCTP) => Some(*r),
        _ => None,
    });
    let mut joined: Vec<PortRange> = Vec::new();
    for range in sorted(of_protocol) {
        match joined.last_mut() {
            Some(before) if before.last.checked_add(1) == Some(range.first) => before.last = range.last,
            _ => joined.push(range),
        }
    }
    joined
}

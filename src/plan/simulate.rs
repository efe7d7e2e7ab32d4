//! What the rules do with a connection: the planned table, interpreted.
//!
//! It runs the very statements that are installed, so it can have no other idea of a policy than they have. Whether
//! it has another idea of a statement than nftables, `tests/explain` asks, with packets.

use super::Plan;
use super::nft::{Base, Chain, Direction, Elements, Key, State, Statement, Table};
use super::ways::{Family, Next, Rule};
use crate::policy::{Mac, Name, Network};
use core::net::IpAddr;

/// A connection as its first packet arrives. It is one of its own: no helper has announced it, and it is no error
/// about another one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flow {
    /// The port by which it comes in.
    pub port: Name,
    /// Its source MAC; `None` on a port whose frames have none.
    pub mac: Option<Mac>,
    /// Who opens it.
    pub source: IpAddr,
    /// Whom it is for, as it arrives: of the source's family.
    pub destination: IpAddr,
    /// Whom it is for after this host's own DNAT; the same where there is none.
    pub server: IpAddr,
    /// The IP protocol's number.
    pub protocol: u8,
    /// The destination's transport port as it arrives; `None` for a protocol without.
    pub service: Option<u16>,
    /// Whether `server` is an address of this host, which only the kernel knows.
    pub is_local: bool,
    /// Whether the kernel's route to `source` leads out of another port, unmarked: what a strict reverse-path filter
    /// asks.
    pub is_elsewhere: bool,
}

impl Flow {
    /// Its address family.
    pub fn family(&self) -> Family {
        if self.source.is_ipv4() { Family::V4 } else { Family::V6 }
    }
}

/// What becomes of a connection. The marks are ours: other bits are taken to be 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome<'a> {
    /// What ran for its first packet.
    pub arriving: Vec<Step<'a>>,
    /// The first packet goes no further.
    pub is_dropped: bool,
    /// The first packet's mark when it is routed.
    pub mark: u32,
    /// The connection's mark; 0: no path takes it.
    pub connection: u32,
    /// What ran for the answer.
    pub answering: Vec<Step<'a>>,
    /// The answer's mark when it is routed.
    pub answer: u32,
}

/// A rule that ran to its end, or a chain of which no rule did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step<'a> {
    /// The chain's name.
    pub chain: &'a str,
    /// The rule; `None`: none of the chain's.
    pub rule: Option<&'a [Statement]>,
}

/// Where packets with a mark go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Way<'a> {
    /// The path's name.
    pub path: &'a str,
    /// The rule that the mark meets.
    pub rule: &'a Rule,
    /// Where the route of its table leads.
    pub next: &'a Next,
}

impl Plan {
    /// What the rules do with a connection's first packet, and with the answer to it.
    pub fn simulate<'a>(&'a self, flow: &'a Flow) -> Outcome<'a> {
        let mut packet = Packet {
            table: &self.table,
            flow,
            direction: Direction::Original,
            mark: 0,
            connection: 0,
            labels: 0,
            steps: Vec::new(),
        };
        let is_dropped = packet.pass(Base::Prerouting) == End::Drop;
        let (arriving, mark) = (core::mem::take(&mut packet.steps), packet.mark);
        if !is_dropped {
            // What answers here may have the mark already, by its socket; output is then content with it. Both come
            // to the same, so the answer is taken to have none.
            (packet.direction, packet.mark) = (Direction::Reply, 0);
            packet.pass(if flow.is_local { Base::Output } else { Base::Prerouting });
        }
        let (answering, answer) = (packet.steps, packet.mark);
        Outcome { arriving, is_dropped, mark, connection: packet.connection, answering, answer }
    }

    /// Whether a path knows its frames by their MAC.
    pub fn asks_for_macs(&self) -> bool {
        let mut maps = self.table.sets.iter().map(|set| &set.elements);
        maps.any(|map| matches!(map, Elements::PortsAndMacs(_) | Elements::Macs(_)))
    }

    /// The way of packets with a mark; `None` where no rule of ours looks at it.
    pub fn way(&self, family: Family, mark: u32) -> Option<Way<'_>> {
        let rules = self.ways.rules.iter().filter(|rule| rule.family == family);
        let rule = rules.filter(|rule| mark & rule.mask == rule.mark).min_by_key(|rule| rule.priority)?;
        let (_, path) = self.table_names.iter().find(|(table, _)| *table == rule.table)?;
        // The gateway's route stands before the unreachable one, here as in the kernel.
        let mut routes = self.ways.routes.iter();
        let route = routes.find(|route| (route.family, route.table) == (family, rule.table))?;
        Some(Way { path, rule, next: &route.next })
    }
}

/// One packet under way.
struct Packet<'a> {
    table: &'a Table,
    flow: &'a Flow,
    direction: Direction,
    mark: u32,
    connection: u32,
    labels: u128,
    steps: Vec<Step<'a>>,
}

/// How a chain ends.
#[derive(PartialEq)]
enum End {
    Return,
    Accept,
    Drop,
}

/// What follows a statement.
enum Then<'a> {
    /// The next one of the rule.
    On,
    /// The next rule.
    NextRule,
    End(End),
    Goto(&'a str),
    Jump(&'a str),
}

impl<'a> Packet<'a> {
    /// Through the chains of a hook.
    fn pass(&mut self, hook: Base) -> End {
        let table = self.table;
        let mut chains = table.chains.iter().filter(|chain| chain.base == Some(hook));
        chains.find_map(|chain| (self.run(chain) == End::Drop).then_some(End::Drop)).unwrap_or(End::Accept)
    }

    fn call(&mut self, name: &str) -> End {
        let table = self.table;
        table.chains.iter().find(|chain| chain.name == name).map_or(End::Return, |chain| self.run(chain))
    }

    fn run(&mut self, chain: &'a Chain) -> End {
        let mut nothing_ran = true;
        for rule in &chain.rules {
            let then =
                rule.iter().map(|statement| self.take(statement)).find(|then| !matches!(then, Then::On));
            if let Some(Then::NextRule) = then {
                continue;
            }
            nothing_ran = false;
            self.steps.push(Step { chain: &chain.name, rule: Some(rule) });
            match then {
                None | Some(Then::On | Then::NextRule) => {}
                Some(Then::End(end)) => return end,
                Some(Then::Goto(name)) => return self.call(name),
                Some(Then::Jump(name)) => match self.call(name) {
                    End::Return => {}
                    end => return end,
                },
            }
        }
        if nothing_ran {
            self.steps.push(Step { chain: &chain.name, rule: None });
        }
        End::Return
    }

    /// A statement's effect. A new kind of statement does not compile before it is said here what it does.
    fn take(&mut self, statement: &'a Statement) -> Then<'a> {
        use Statement::*;
        let (flow, is_first) = (self.flow, self.direction == Direction::Original);
        let goes_on = match statement {
            CtMarkSet(mask) => self.connection & mask != 0,
            MetaMarkSet(mask) => self.mark & mask != 0,
            MetaMarkClear(mask) => self.mark & mask == 0,
            CtState(State::New) => is_first,
            CtState(State::Own) => true,
            CtUnassured => true,
            CtState(State::Related) | CtExpected => false,
            CtDirection(direction) => *direction == self.direction,
            CtLabel(bit) => self.labels & label(*bit) != 0,
            L4Proto(protocol) => *protocol == flow.protocol,
            NfProto(family) => *family == flow.family(),
            FibLocal(is_local) => *is_local == (is_first && flow.is_local),
            ArrivedBy(port) => is_first && flow.port == port.as_str(),
            SourceElsewhere => is_first && flow.is_elsewhere,
            CtServiceIn(set) => flow.service.is_some_and(|port| self.table.has_port(set, port)),
            SourceIn(_, set) => {
                let source = if is_first { flow.source } else { flow.server };
                self.table.network_of(set, source).is_some()
            }
            CtDestinationNotIn(family, set) => {
                *family == flow.family() && self.table.network_of(set, flow.destination).is_none()
            }
            Dispatch(key, map) => return self.target(*key, map).map_or(Then::NextRule, Then::Goto),
            SetCtMark { mask, mark } => {
                self.connection = self.connection & !mask | mark;
                true
            }
            SetMetaMark { mask, mark } => {
                self.mark = self.mark & !mask | mark;
                true
            }
            SetCtLabel(bit) => {
                self.labels |= label(*bit);
                true
            }
            Count(_) | Limit | Log(_) => true,
            LeavesBy(_) | NextHop(_) => false, // nothing has been routed before the hooks that run here
            Accept => return Then::End(End::Accept),
            Drop => return Then::End(End::Drop),
            Return | Remember(_) => return Then::End(End::Return),
            Goto(chain) => return Then::Goto(chain),
            Jump(chain) => return Then::Jump(chain),
        };
        if goes_on { Then::On } else { Then::NextRule }
    }

    /// Where a map sends the packet.
    fn target(&self, key: Key, map: &str) -> Option<&'a str> {
        let arrived = (self.direction == Direction::Original).then_some(self.flow);
        let (port, mac) = (arrived.map(|flow| &flow.port), arrived.and_then(|flow| flow.mac));
        let chain = match self.table.elements(map)? {
            Elements::PortsAndMacs(list) => value(list, |(by, from)| Some(by) == port && Some(*from) == mac),
            Elements::Macs(list) => value(list, |from| Some(*from) == mac),
            Elements::Ports(list) => value(list, |by| Some(by) == port),
            Elements::Marks(list) => {
                let mark = match key {
                    Key::CtMark(mask) => self.connection & mask,
                    Key::MetaMark(mask) => self.mark & mask,
                    Key::PortAndMac | Key::Mac | Key::Port => return None, // no such rule
                };
                value(list, |of| *of == mark)
            }
            Elements::Services(_) | Elements::Networks(..) => None, // sets lead nowhere
        };
        chain.map(String::as_str)
    }
}

fn value<K>(list: &[(K, String)], is_it: impl Fn(&K) -> bool) -> Option<&String> {
    list.iter().find(|(key, _)| is_it(key)).map(|(_, chain)| chain)
}

/// A connection has 128 label bits (`linux/netfilter/xt_connlabel.h`).
fn label(bit: u8) -> u128 {
    1_u128.checked_shl(bit.into()).unwrap_or(0)
}

impl Table {
    fn elements(&self, set: &str) -> Option<&Elements> {
        self.sets.iter().find(|found| found.name == set).map(|found| &found.elements)
    }

    fn has_port(&self, set: &str, port: u16) -> bool {
        match self.elements(set) {
            Some(Elements::Services(list)) => list.iter().any(|range| range.contains(port)),
            _ => false,
        }
    }

    /// The network of a set that an address is in.
    pub(super) fn network_of(&self, set: &str, address: IpAddr) -> Option<&Network> {
        match self.elements(set) {
            Some(Elements::Networks(_, list)) => list.iter().find(|network| network.contains(address)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::nft::LABEL_LOCAL;
    use crate::policy::{Path, Policy};

    fn name(text: &str) -> Name {
        text.try_into().unwrap()
    }

    fn plan() -> Plan {
        let mut policy = Box::new(Policy::new());
        policy.mark_mask = 0xff;
        let mut path = Path::new(name("p"), 2, 200);
        path.gateway4 = Some([10, 0, 0, 2].into());
        path.ingress.push(name("eth1")).unwrap();
        policy.paths.push(path).unwrap();
        Plan::new(&policy)
    }

    fn flow(is_local: bool) -> Flow {
        Flow {
            port: name("eth1"),
            mac: None,
            source: [198, 51, 100, 7].into(),
            destination: [10, 0, 0, 10].into(),
            server: [10, 0, 0, 10].into(),
            protocol: 6,
            service: Some(80),
            is_local,
            is_elsewhere: false,
        }
    }

    /// A connection after its first packet.
    fn opened<'a>(plan: &'a Plan, flow: &'a Flow) -> Packet<'a> {
        let outcome = plan.simulate(flow);
        let labels = if flow.is_local { label(LABEL_LOCAL) } else { 0 };
        let (connection, direction) = (outcome.connection, Direction::Original);
        Packet { table: &plan.table, flow, direction, mark: 0, connection, labels, steps: Vec::new() }
    }

    #[test]
    fn a_mark_that_the_socket_has_stays() {
        let (plan, flow) = (plan(), flow(true));
        for mark in [0, 2] {
            let mut answer = Packet { direction: Direction::Reply, mark, ..opened(&plan, &flow) };
            assert!(answer.pass(Base::Output) == End::Accept);
            assert_eq!((answer.mark, answer.connection), (2, 2));
        }
    }

    #[test]
    fn what_is_forwarded_has_no_mark_on_its_way_in() {
        for (is_local, mark) in [(true, 2), (false, 0)] {
            let (plan, flow) = (plan(), flow(is_local));
            let outcome = plan.simulate(&flow);
            assert_eq!((outcome.mark, outcome.connection, outcome.answer), (mark, 2, 2));
            let way = plan.way(Family::V4, outcome.answer).unwrap();
            assert_eq!((way.path, way.rule.table), ("p", 200));
            assert!(matches!(way.next, Next::Gateway { .. }));
        }
        assert_eq!(plan().way(Family::V4, 3), None);
        assert_eq!(plan().way(Family::V6, 2), None);
    }
}

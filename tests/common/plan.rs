//! Small policies that collide as often as can be, and what a plan makes of them.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use returnpath::plan::Plan;
use returnpath::plan::ways::{Family, Next, Route, Rule, Ways};
use returnpath::policy::{Path, Policy, WhenDown};
use std::fmt::{self, Debug, Formatter};
use std::net::{Ipv4Addr, Ipv6Addr};

/// The last is where paths wait that swap tables: a policy may well have it.
const TABLES: [u32; 5] = [100, 200, 300, 400, 0x5250_0000];
const PRIORITIES: [u32; 3] = [900, 1000, 1100];
/// Masks, each with marks within it; some marks are others under another mask.
const MARKS: [(u32, [u32; 4]); 3] =
    [(0xff, [0x02, 0x12, 0x22, 0x20]), (0x0f, [0x01, 0x02, 0x03, 0x04]), (0xf0, [0x10, 0x20, 0x30, 0x40])];

/// What a policy asks for: ways, and chains that give these marks.
#[derive(Clone, PartialEq)]
pub struct Goal {
    pub ways: Ways,
    pub mask: u32,
    pub marks: Vec<u32>,
}

impl Goal {
    /// The mark of a connection's packets.
    pub fn given(&self, connection: u32) -> u32 {
        let mark = connection & self.mask;
        if self.marks.contains(&mark) { mark } else { 0 }
    }
}

impl Debug for Goal {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "marks {:#x?} of {:#x}", self.marks, self.mask)?;
        self.ways.routes.iter().try_for_each(|route| writeln!(f, "{route}"))?;
        self.ways.rules.iter().try_for_each(|rule| writeln!(f, "{rule}"))
    }
}

/// The plan of paths that have passed no check, since a plan's ways need no frames.
pub fn goal(mask: u32, paths: impl IntoIterator<Item = Path>) -> Goal {
    let mut policy = Box::new(Policy::new());
    policy.mark_mask = mask;
    policy.paths.extend(paths);
    let marks = policy.paths.iter().map(|path| path.mark).collect();
    let mut ways = Plan::new(&policy).ways;
    ways.routes.iter_mut().for_each(find_port);
    Goal { ways, mask, marks }
}

/// The port of a next hop where the policy names none, as `apply` asks the kernel for it.
fn find_port(route: &mut Route) {
    if let Next::Gateway { address, device: device @ None, .. } = &mut route.next {
        let port = if address.to_string().ends_with('3') { "eth1" } else { "eth0" };
        *device = Some(port.try_into().unwrap());
    }
}

/// A path by the IPv4 gateway 10.0.0.`gateway`.
pub fn path(mark: u32, table: u32, gateway: u8) -> Path {
    let mut path = Path::new(format!("m{mark:x}").as_str().try_into().unwrap(), mark, table);
    path.gateway4 = Some(Ipv4Addr::new(10, 0, 0, gateway));
    path
}

/// None to four paths over four marks, five tables, three gateways a family, three ports and three priorities.
pub fn any_goal() -> impl Strategy<Value = Goal> {
    (select(&MARKS[..]), 0..=4usize).prop_flat_map(|((mask, marks), paths)| {
        let marks = subsequence(marks.to_vec(), paths);
        let tables = Just(TABLES.to_vec()).prop_shuffle();
        (marks, tables, vec(any_way(), paths)).prop_map(move |(marks, tables, ways)| {
            let paths = marks.into_iter().zip(tables).zip(ways);
            goal(mask, paths.map(|((mark, table), way)| Path { mark, table, ..way }))
        })
    })
}

fn any_way() -> impl Strategy<Value = Path> {
    let (gateway, device) = (0..=3u8, select(vec![None, Some("eth0"), Some("eth1")]));
    let rest = (any::<bool>(), any::<bool>(), select(&PRIORITIES[..]));
    (gateway.clone(), gateway, device, rest).prop_map(|(v4, v6, device, (onlink, down, priority))| {
        let mut path = Path::new("p".try_into().unwrap(), 0, 0);
        path.gateway4 = (v4 > 0).then(|| Ipv4Addr::new(10, 0, 0, v4));
        path.gateway6 = (v6 > 0).then(|| Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, v6.into()));
        let has_gateway = v4 > 0 || v6 > 0;
        path.device = device.or((!has_gateway).then_some("wg0")).map(|device| device.try_into().unwrap());
        path.onlink = onlink && has_gateway && path.device.is_some();
        path.when_down = if down { WhenDown::Main } else { WhenDown::Unreachable };
        path.priority = priority;
        path
    })
}

/// A table of the universe, or one that a killed run has left.
fn any_table() -> impl Strategy<Value = u32> {
    prop_oneof![4 => select(&TABLES[..]), 1 => 0x5250_0000..0x5250_0003u32]
}

/// A rule as an earlier version may have left it.
pub fn any_rule() -> impl Strategy<Value = Rule> {
    let mark = (select(&MARKS[..]), 0..4usize);
    (select(&Family::BOTH[..]), mark, select(&PRIORITIES[..]), any_table()).prop_map(
        |(family, ((mask, marks), mark), priority, table)| Rule {
            family,
            priority,
            mark: marks[mark],
            mask,
            table,
        },
    )
}

/// A route as an earlier version may have left it.
pub fn any_route() -> impl Strategy<Value = Route> {
    let port = || "eth0".try_into().unwrap();
    (select(&Family::BOTH[..]), any_table(), 0..=4u8).prop_map(move |(family, table, next)| {
        let address = match family {
            Family::V4 => Ipv4Addr::new(10, 0, 0, next).into(),
            Family::V6 => Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, next.into()).into(),
        };
        let next = match next {
            0 => Next::Unreachable,
            4 => Next::Device(port()),
            _ => Next::Gateway { address, device: Some(port()), onlink: false },
        };
        Route { family, table, next }
    })
}

//! What there is to draw, in words, before anybody draws it.

use crate::plan::Plan;
use crate::plan::nft::{Elements, Set};
use crate::plan::ways::{Family, Next, Route};
use crate::policy::{self, Policy, Scope};
use std::fmt::Display;

/// A policy's ways.
pub struct Picture {
    /// The policy in a line.
    pub about: String,
    /// Those of the paths, in the policy's order; at last that of everything else.
    pub lanes: Vec<Lane>,
    /// What else holds for all of them.
    pub note: Option<&'static str>,
}

/// The way in of some connections, from left to right, and the way out of their replies, back from right to left.
pub struct Lane {
    /// The path's name.
    pub name: String,
    /// It is a path's, and not that of everything else.
    pub is_path: bool,
    /// Router, port, what is looked at, mark, who answers.
    pub inward: [Stop; 5],
    /// Beneath these: next hop, port, table, rule, the reply. Packets pass them from the last to the first.
    pub outward: [Stop; 5],
}

/// A place that packets pass.
pub struct Stop {
    /// What it is.
    pub title: String,
    /// What it says.
    pub items: Vec<Item>,
}

/// Something that a stop says: a key, often of the policy, and its values.
pub struct Item {
    /// The key; empty where the values speak for themselves.
    pub key: &'static str,
    /// The values.
    pub values: Vec<String>,
}

impl Picture {
    /// The picture of a policy and of its plan.
    pub fn new(policy: &Policy, plan: &Plan) -> Picture {
        let paths = policy.paths.iter().map(|path| Lane::of_path(policy, path, plan));
        let has_several_maps = plan.table.sets.iter().filter(|set| is_dispatch(set)).count() > 1;
        let specific = "Where two paths could claim a frame, the more specific one decides alone: \
                        port and MAC, then MAC, then port.";
        Picture {
            about: format!("{}, mark_mask {:#x}", policy.count(), plan.mark_mask),
            lanes: paths.chain([Lane::of_everything_else(policy)]).collect(),
            note: has_several_maps.then_some(specific),
        }
    }
}

/// Whether it finds the path of a frame.
fn is_dispatch(set: &Set) -> bool {
    matches!(set.elements, Elements::PortsAndMacs(_) | Elements::Macs(_) | Elements::Ports(_))
}

impl Lane {
    fn of_path(policy: &Policy, path: &policy::Path, plan: &Plan) -> Lane {
        let rules = plan.ways.rules.iter().filter(|rule| rule.table == path.table).collect::<Vec<_>>();
        let routes = plan.ways.routes.iter().filter(|route| route.table == path.table).collect::<Vec<_>>();
        let families = rules.iter().map(|rule| word(rule.family));
        let local = (!policy.local_networks.is_empty()).then(|| Item::new("source", ["no local network"]));
        let looked_at = [
            Some(Item::new("family", families)),
            local,
            Some(Item::or("destination", &path.destinations, "any")),
            Some(Item::or("service", &path.services, "any")),
        ];
        let auto = path.auto_macs.then(|| "the gateways' MACs (auto)".to_owned());
        let macs =
            auto.into_iter().chain(path.source_macs.iter().map(ToString::to_string)).collect::<Vec<_>>();
        let marks = one_of(&rules, |rule| format!("{:#x}/{:#x}", rule.mark, rule.mask));
        let logged = path.log.then(|| Item::new("", ["logged"]));
        let has_last = routes.iter().any(|route| route.next == Next::Unreachable);
        let when_down = Item::new("when_down", [if has_last { "unreachable" } else { "main" }]);
        let defaults = routes.iter().filter(|route| route.next != Next::Unreachable).collect::<Vec<_>>();
        let worded = defaults.iter().map(|route| Item::new(word(route.family), [default(route)]));
        let priorities = one_of(&rules, |rule| format!("rule {}", rule.priority));
        let replies = one_of(&rules, |rule| format!("with mark {:#x}", rule.mark));
        let lookups =
            one_of(&rules, |rule| format!("fwmark {:#x}/{:#x} lookup {}", rule.mark, rule.mask, rule.table));
        Lane {
            name: path.name.to_string(),
            is_path: true,
            inward: [
                Stop::new(path.name.to_string(), [Item::or("frames from", &macs, "any MAC")]),
                Stop::new("port in", [Item::or("", &path.ingress, "any")]),
                Stop::new("new connection", looked_at.into_iter().flatten()),
                Stop::new("connection mark", [Item::new("", marks)].into_iter().chain(logged)),
                Stop::new("answered by", [Item::new("", [who(path.scope)])]),
            ],
            outward: [
                Stop::new("next hop", [Item::new("", one_of(&defaults, |route| next_hop(route)))]),
                Stop::new("port out", [Item::new("", one_of(&defaults, |route| port(route)))]),
                Stop::new(format!("table {} ({})", path.table, path.name), worded.chain([when_down])),
                Stop::new(priorities.join(", "), [Item::new("", lookups)]),
                Stop::new("reply", [Item::new("", replies)]),
            ],
        }
    }

    /// What no path takes, so that nobody has to guess.
    fn of_everything_else(policy: &Policy) -> Lane {
        let local = &policy.local_networks;
        let local = (!local.is_empty()).then(|| Item::or("source in a local network", local, ""));
        let rest = Item::new(
            "",
            [if local.is_some() { "or whatever no path takes" } else { "whatever no path takes" }],
        );
        let as_ever = || [Item::new("", ["as main says"])];
        Lane {
            name: "everything else".to_owned(),
            is_path: false,
            inward: [
                Stop::new("everything else", [Item::new("frames from", ["any MAC"])]),
                Stop::new("port in", [Item::new("", ["any"])]),
                Stop::new("new connection", local.into_iter().chain([rest])),
                Stop::new("no mark", []),
                Stop::new("answered by", [Item::new("", [who(Scope::Both)])]),
            ],
            outward: [
                Stop::new("next hop", as_ever()),
                Stop::new("port out", as_ever()),
                Stop::new("table main", [Item::new("", ["as without returnpath"])]),
                Stop::new("no rule of ours", []),
                Stop::new("reply", [Item::new("", ["without mark"])]),
            ],
        }
    }
}

impl Lane {
    /// The stops by name, the way in first, for drawings that have a box for the router and its next hop.
    pub fn boxes(&self) -> [(&'static str, Vec<String>); 8] {
        let [router, port_in, looked_at, mark, answers] = &self.inward;
        let [next_hop, port_out, table, rule, reply] = &self.outward;
        [
            ("router", [router.lines(), vec![next_hop.text()]].concat()),
            ("in", port_in.lines()),
            ("match", looked_at.lines()),
            ("mark", mark.lines()),
            ("answers", [answers.lines(), vec![reply.text()]].concat()),
            ("rule", rule.lines()),
            ("table", table.lines()),
            ("out", port_out.lines()),
        ]
    }
}

impl Stop {
    /// Its title and what it says, in lines of any width.
    fn lines(&self) -> Vec<String> {
        [self.title.clone()].into_iter().chain(self.items.iter().map(Item::text)).collect()
    }

    /// Its title and what it says, in a sentence.
    pub fn text(&self) -> String {
        let said = self.items.iter().map(Item::text).collect::<Vec<_>>().join(", ");
        if said.is_empty() { self.title.clone() } else { format!("{}: {said}", self.title) }
    }

    fn new(title: impl Into<String>, items: impl IntoIterator<Item = Item>) -> Stop {
        Stop { title: title.into(), items: items.into_iter().collect() }
    }
}

impl Item {
    fn new(key: &'static str, values: impl IntoIterator<Item = impl Display>) -> Item {
        Item { key, values: values.into_iter().map(|value| value.to_string()).collect() }
    }

    /// The values, or the word for none.
    fn or<T: Display>(key: &'static str, values: &[T], none: &str) -> Item {
        match values {
            [] => Item::new(key, [none]),
            _ => Item::new(key, values),
        }
    }

    /// The first `count` values, and what stands before them.
    pub fn text_of(&self, count: usize) -> String {
        let values = self.values.iter().take(count).map(String::as_str).collect::<Vec<_>>().join(", ");
        if self.key.is_empty() { values } else { format!("{}: {values}", self.key) }
    }

    /// All of it.
    pub fn text(&self) -> String {
        self.text_of(self.values.len())
    }
}

/// What the rules or routes of both families say, once where they say the same.
fn one_of<T>(of: &[T], say: impl Fn(&T) -> String) -> Vec<String> {
    let mut said = of.iter().map(say).collect::<Vec<_>>();
    said.dedup();
    said
}

fn who(scope: Scope) -> &'static str {
    match scope {
        Scope::Local => "this host",
        Scope::Forward => "hosts behind it",
        Scope::Both => "this host or hosts behind it",
    }
}

fn word(family: Family) -> &'static str {
    match family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    }
}

/// A route as `ip route` words it.
fn default(route: &Route) -> String {
    match &route.next {
        Next::Gateway { address, device, onlink } => {
            let device = device.as_ref().map(|device| format!(" dev {device}")).unwrap_or_default();
            format!("default via {address}{device}{}", if *onlink { " onlink" } else { "" })
        }
        Next::Device(device) => format!("default dev {device}"),
        Next::Unreachable => "unreachable".to_owned(),
    }
}

fn next_hop(route: &Route) -> String {
    match &route.next {
        Next::Gateway { address, .. } => address.to_string(),
        Next::Device(device) => format!("the far end of {device}"),
        Next::Unreachable => "none".to_owned(),
    }
}

fn port(route: &Route) -> String {
    match &route.next {
        Next::Gateway { device: Some(device), .. } | Next::Device(device) => device.to_string(),
        _ => "looked up".to_owned(),
    }
}

//! Why the rules do with a connection what they do, in plain words.

use super::Plan;
use super::macs::Follower;
use super::nft::{Elements, Key, Statement};
use super::simulate::{Flow, Outcome, Step};
use super::ways::Family;
use core::fmt::{self, Display, Formatter};

const TCP: u8 = 6;
const UDP: u8 = 17;
const SCTP: u8 = 132;
/// ICMP and ICMPv6: a policy has one word for both.
const ICMP: [u8; 2] = [1, 58];

impl Plan {
    /// What decided about the first packet, one sentence each; the last one decided that it is taken, or that it is
    /// not.
    pub fn why(&self, flow: &Flow, outcome: &Outcome) -> Vec<String> {
        let next = outcome.arriving.iter().skip(1).map(Some).chain([None]);
        outcome.arriving.iter().zip(next).filter_map(|(step, next)| self.sentence(flow, step, next)).collect()
    }

    fn sentence(&self, flow: &Flow, step: &Step, next: Option<&Step>) -> Option<String> {
        let Flow { port, source, destination, server, .. } = flow;
        let path = path_of(step.chain);
        let service = Service(flow);
        let from = |mac: Option<_>| mac.map_or(String::new(), |mac| format!(" from {mac}"));
        let Some(rule) = step.rule else {
            return match step.chain {
                "arriving" => {
                    Some(format!("no path knows frames{} on {port}{}", from(flow.mac), self.near(flow)))
                }
                _ => path.map(|path| format!("{service} is not among the services of path {path}")),
            };
        };
        let is_refused = rule.contains(&Statement::Return);
        rule.iter().find_map(|statement| {
            Some(match (statement, path) {
                (Statement::SourceIn(_, set), _) => {
                    format!("source {source} is in local_networks ({})", self.table.network_of(set, *source)?)
                }
                (Statement::Dispatch(key, _), _) => {
                    let by = match key {
                        Key::PortAndMac => format!("{} on {port}", from(flow.mac)),
                        Key::Mac => from(flow.mac),
                        Key::Port => format!(" on {port}"),
                        Key::CtMark(_) | Key::MetaMark(_) => return None,
                    };
                    format!("frames{by} are of path {}", path_of(next?.chain)?)
                }
                (Statement::NfProto(family), Some(path)) if is_refused && rule.len() == 2 => {
                    let lack = if self.has_way(path, *family) { "destinations" } else { "gateway" };
                    format!("path {path} has no IPv{} {lack}", family.digit())
                }
                (Statement::CtDestinationNotIn(..), Some(path)) => {
                    format!("{destination} is not among the destinations of path {path}")
                }
                (Statement::CtServiceIn(_) | Statement::L4Proto(_), Some(_)) => {
                    format!("{service} is among its services")
                }
                (Statement::Goto(_), Some(path)) => format!("path {path} takes every service"),
                (Statement::FibLocal(false), Some(path)) if is_refused => {
                    format!("path {path} is of scope local, and {server} is not an address of this host")
                }
                (Statement::FibLocal(true), Some(path)) if is_refused => {
                    format!("path {path} is of scope forward, and {server} is an address of this host")
                }
                (Statement::SourceElsewhere, _) => format!(
                    "the route to {source} is not by {port}: its strict reverse-path filter, in whose place this table stands, drops that"
                ),
                _ => return None,
            })
        })
    }

    /// Which path might have known its frames, and why it does not.
    fn near(&self, flow: &Flow) -> String {
        let on_another_port = self.table.sets.iter().find_map(|set| match &set.elements {
            Elements::PortsAndMacs(list) => list.iter().find(|((_, mac), _)| Some(*mac) == flow.mac),
            _ => None,
        });
        if let Some(((port, mac), chain)) = on_another_port {
            return format!("; path {} knows {mac} on {port}", path_of(chain).unwrap_or_default());
        }
        let lacks_macs = |follower: &&Follower| {
            (follower.ingress.is_empty() || follower.ingress.contains(&flow.port))
                && self.macs_of(follower).is_empty()
        };
        match self.followers.iter().find(lacks_macs).filter(|_| flow.mac.is_some()) {
            Some(follower) => {
                format!(
                    "; path {} takes the MACs of its gateways, and has none yet: see `ip neigh`",
                    follower.path
                )
            }
            None => String::new(),
        }
    }

    fn has_way(&self, path: &str, family: Family) -> bool {
        let tables = self.table_names.iter().filter(|(_, name)| name == path).map(|(table, _)| *table);
        tables
            .into_iter()
            .any(|table| self.ways.rules.iter().any(|rule| (rule.family, rule.table) == (family, table)))
    }
}

/// The path whose chain it is.
fn path_of(chain: &str) -> Option<&str> {
    chain.strip_prefix("from_").or(chain.strip_prefix("take_"))
}

/// A connection's service, in the words of a policy: `tcp/80`, `icmp`.
pub struct Service<'a>(pub &'a Flow);

impl Display for Service<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Flow { protocol, service, .. } = self.0;
        match *protocol {
            TCP => f.write_str("tcp")?,
            UDP => f.write_str("udp")?,
            SCTP => f.write_str("sctp")?,
            number if ICMP.contains(&number) => f.write_str("icmp")?,
            number => write!(f, "protocol {number}")?,
        }
        service.map_or(Ok(()), |port| write!(f, "/{port}"))
    }
}

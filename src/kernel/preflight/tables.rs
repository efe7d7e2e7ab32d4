//! The nftables chains of other programs (iptables-nft's among them): where the kernel calls them, and what of their
//! rules may matter. Rules are read as they are dumped, and only those that matter are kept.

use super::foreign::{self, Effect, Mark, Rule};
use crate::kernel::netlink::{Message, Refusal, Socket, find, text};
use crate::kernel::ruleset::{CHAIN_NAME, GETCHAIN, GETRULE, NFGENMSG, OBJECT_OWNER, OBJECT_TABLE};
use crate::kernel::ways::SEE_LOG;
use crate::kernel::{Error, refused};
use crate::plan::nft::{self, TABLE};
use core::fmt::{self, Display, Formatter};
use std::collections::BTreeMap;

/// Attributes of a chain (`linux/netfilter/nf_tables.h`).
const CHAIN_HOOK: u16 = 4;
const CHAIN_POLICY: u16 = 5;
const CHAIN_TYPE: u16 = 7;
const HOOK_NUMBER: u16 = 1;
const HOOK_PRIORITY: u16 = 2;

/// The name of a chain, as `nft list` takes it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Its family (`NFPROTO_*`).
    pub family: u8,
    /// Its table.
    pub table: String,
    /// Its own name.
    pub chain: String,
}

impl Display for Place {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let family = match i32::from(self.family) {
            libc::NFPROTO_INET => "inet",
            libc::NFPROTO_IPV4 => "ip",
            libc::NFPROTO_IPV6 => "ip6",
            libc::NFPROTO_ARP => "arp",
            libc::NFPROTO_NETDEV => "netdev",
            _ => "bridge",
        };
        write!(f, "chain {family} {} {}", self.table, self.chain)
    }
}

/// Where the kernel calls a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Base {
    /// The hook (`NF_INET_*`).
    pub hook: u32,
    /// The priority in it.
    pub priority: i32,
    /// It sees only the first packet of a connection.
    pub is_nat: bool,
    /// A packet whose mark it has changed is routed again.
    pub is_route: bool,
    /// What no rule decides is dropped.
    pub drops: bool,
}

/// A chain with rules that matter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// Its name.
    pub place: Place,
    /// Those rules.
    pub rules: Vec<Rule>,
    /// Some rule of it drops.
    pub drops: bool,
    /// Where the kernel calls it, or a chain that leads to it. Empty: nobody knows, a map may lead there.
    pub bases: Vec<Base>,
}

/// Reads the chains of all tables but ours.
pub fn read(socket: &mut Socket) -> Result<Vec<Chain>, Error> {
    let no = |refusal: Refusal| refused(format_args!("nftables: cannot list it"), &refusal, SEE_LOG);
    let all = |kind| Message { kind, flags: 0, payload: vec![0; NFGENMSG] };

    let mut bases: Vec<(Place, Base)> = Vec::new();
    socket.stream(&all(GETCHAIN), |message| bases.extend(base(message))).map_err(no)?;
    let mut found = Found::default();
    socket.stream(&all(GETRULE), |message| found.add(message)).map_err(no)?;
    Ok(found.finish(&bases))
}

fn place(message: &[u8], chain: u16) -> Option<Place> {
    let of = |kind| find(message.get(NFGENMSG..)?, kind).map(|name| text(name).to_string());
    let place = Place { family: *message.first()?, table: of(OBJECT_TABLE)?, chain: of(chain)? };
    let is_ours = i32::from(place.family) == libc::NFPROTO_INET && place.table == TABLE;
    (!is_ours).then_some(place)
}

fn base(message: &[u8]) -> Option<(Place, Base)> {
    let attributes = message.get(NFGENMSG..)?;
    let number = |bytes, kind| Some(u32::from_be_bytes(find(bytes, kind)?.try_into().ok()?));
    let hook = find(attributes, CHAIN_HOOK)?;
    let kind = find(attributes, CHAIN_TYPE).map_or("", text);
    let base = Base {
        hook: number(hook, HOOK_NUMBER)?,
        priority: number(hook, HOOK_PRIORITY)? as i32,
        is_nat: kind == "nat",
        is_route: kind == "route",
        drops: number(attributes, CHAIN_POLICY) == Some(libc::NF_DROP as u32),
    };
    Some((place(message, CHAIN_NAME)?, base))
}

/// What a dump of rules has shown so far.
#[derive(Default)]
struct Found {
    chains: Vec<Chain>,
    /// The chains that lead to a chain, and the number of the last walk that has been there.
    ways: BTreeMap<Place, (Vec<String>, usize)>,
}

impl Found {
    fn add(&mut self, message: &[u8]) {
        let Some(place) = place(message, OBJECT_OWNER) else { return };
        let mut rule = foreign::rule(message.get(NFGENMSG..).unwrap_or_default());
        if let Some(to) = rule.leads_to.take() {
            let (from, _) = self.ways.entry(Place { chain: to, ..place.clone() }).or_default();
            if from.last() != Some(&place.chain) {
                from.push(place.chain.clone());
            }
        }
        // The rules of a chain are dumped one after the other.
        let chain = match self.chains.last_mut().filter(|chain| chain.place == place) {
            Some(chain) => chain,
            None if rule.effects.is_empty() => return,
            None => {
                self.chains.push(Chain { place, rules: Vec::new(), drops: false, bases: Vec::new() });
                let Some(chain) = self.chains.last_mut() else { return };
                chain
            }
        };
        chain.drops |= rule.drops;
        if !rule.effects.is_empty() && chain.rules.last() != Some(&rule) {
            chain.rules.push(rule);
        }
    }

    /// Follows the chains back to where the kernel calls them.
    fn finish(mut self, bases: &[(Place, Base)]) -> Vec<Chain> {
        for (at, chain) in self.chains.iter_mut().enumerate() {
            let walk = at + 1;
            let mut left = vec![chain.place.clone()];
            while let Some(place) = left.pop() {
                for (_, base) in bases.iter().filter(|(at, _)| *at == place) {
                    if !chain.bases.contains(base) {
                        chain.bases.push(*base);
                    }
                }
                let Some((from, last)) = self.ways.get_mut(&place) else { continue };
                if core::mem::replace(last, walk) != walk {
                    left.extend(from.iter().map(|chain| Place { chain: chain.clone(), ..place.clone() }));
                }
            }
        }
        self.chains
    }
}

impl Chain {
    /// Whether a mark that we gave may be there when the chain runs.
    pub fn sees(&self, mark: Mark) -> bool {
        self.is_called(|base| match (mark, base.hook as i32) {
            (Mark::Connection, libc::NF_INET_PRE_ROUTING) => !base.is_nat || !base.is_ahead(),
            (Mark::Connection, _) => true,
            (Mark::Packet, libc::NF_INET_PRE_ROUTING) => !base.is_ahead(),
            (Mark::Packet, libc::NF_INET_LOCAL_IN) => true,
            (Mark::Packet, _) => !base.is_nat, // first packets that leave have no mark of ours
        })
    }

    /// Whether a reply may take another way if the chain writes over a mark.
    pub fn spoils(&self, mark: Mark) -> bool {
        self.is_called(|base| match (mark, base.hook as i32) {
            (Mark::Connection, _) => true,
            (Mark::Packet, libc::NF_INET_PRE_ROUTING) => !base.is_ahead(),
            (Mark::Packet, libc::NF_INET_LOCAL_IN) => true, // a socket inherits it from there
            // Ours asks for it again, if its turn is later.
            (Mark::Packet, libc::NF_INET_LOCAL_OUT) => {
                base.is_route && base.priority >= nft::Base::Output.priority()
            }
            (Mark::Packet, _) => false,
        }) && self.sees(mark)
    }

    fn is_called(&self, counts: impl Fn(&Base) -> bool) -> bool {
        let is_routed = [libc::NFPROTO_INET, libc::NFPROTO_IPV4, libc::NFPROTO_IPV6]
            .contains(&i32::from(self.place.family));
        is_routed && (self.bases.is_empty() || self.bases.iter().any(counts))
    }

    /// Whether what fails a test of the way back is dropped.
    pub fn filters_ways_back(&self) -> bool {
        let tests = |wanted: bool| {
            let is_it = move |effect: &Effect| matches!(effect, Effect::ReversePath { is_missing, .. } if *is_missing == wanted);
            self.rules.iter().filter(move |rule| rule.effects.iter().any(is_it))
        };
        let drops_rest = self.drops || self.bases.iter().any(|base| base.drops);
        tests(true).any(|rule| rule.drops) || tests(false).next().is_some() && drops_rest
    }
}

impl Base {
    /// Whether it has its turn before our chain, in prerouting.
    pub fn is_ahead(&self) -> bool {
        self.priority < nft::Base::Prerouting.priority()
    }
}

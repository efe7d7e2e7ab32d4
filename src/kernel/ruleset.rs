//! An nftables table as the messages that make it: compared with another. No socket here.
//!
//! What is planned and what is read are the same thing, so that what was read can be put back word for word.
//! `linux/netfilter/nf_tables.h` has the numbers.

use super::differences::{Cause, Difference};
use super::encode;
use super::netlink::{self, Message, NESTED, attributes, flagged_attributes, put, put_text, text};
use crate::plan::nft::{DIGEST, INHERITED, MACS, MARKS, PORTS_AND_MACS, Rule, SYSCTLS, TABLE, TRIAL, Table};
use crate::policy::Mac;
use core::ops::ControlFlow;
use std::borrow::Cow;
use std::collections::BTreeSet;

pub(super) const SUBSYSTEM: u16 = (libc::NFNL_SUBSYS_NFTABLES as u16) << 8;
pub(super) const NEWTABLE: u16 = SUBSYSTEM | libc::NFT_MSG_NEWTABLE as u16;
pub(super) const GETTABLE: u16 = SUBSYSTEM | libc::NFT_MSG_GETTABLE as u16;
pub(super) const DELTABLE: u16 = SUBSYSTEM | libc::NFT_MSG_DELTABLE as u16;
pub(super) const DELRULE: u16 = SUBSYSTEM | libc::NFT_MSG_DELRULE as u16;
pub(super) const DELSET: u16 = SUBSYSTEM | libc::NFT_MSG_DELSET as u16;
pub(super) const DELSETELEM: u16 = SUBSYSTEM | libc::NFT_MSG_DELSETELEM as u16;
pub(super) const DELCHAIN: u16 = SUBSYSTEM | libc::NFT_MSG_DELCHAIN as u16;
pub(super) const NEWCHAIN: u16 = SUBSYSTEM | libc::NFT_MSG_NEWCHAIN as u16;
pub(super) const GETCHAIN: u16 = SUBSYSTEM | libc::NFT_MSG_GETCHAIN as u16;
pub(super) const NEWRULE: u16 = SUBSYSTEM | libc::NFT_MSG_NEWRULE as u16;
pub(super) const GETRULE: u16 = SUBSYSTEM | libc::NFT_MSG_GETRULE as u16;
pub(super) const NEWSET: u16 = SUBSYSTEM | libc::NFT_MSG_NEWSET as u16;
pub(super) const GETSET: u16 = SUBSYSTEM | libc::NFT_MSG_GETSET as u16;
pub(super) const NEWSETELEM: u16 = SUBSYSTEM | libc::NFT_MSG_NEWSETELEM as u16;
pub(super) const GETSETELEM: u16 = SUBSYSTEM | libc::NFT_MSG_GETSETELEM as u16;
pub(super) const NEWOBJ: u16 = SUBSYSTEM | libc::NFT_MSG_NEWOBJ as u16;
pub(super) const GETOBJ: u16 = SUBSYSTEM | libc::NFT_MSG_GETOBJ as u16;
pub(super) const DELOBJ: u16 = SUBSYSTEM | libc::NFT_MSG_DELOBJ as u16;
const NLM_F_CREATE: u16 = 0x400;
const NLM_F_EXCL: u16 = 0x200;
const NLM_F_APPEND: u16 = 0x800;

/// Size of the header before the attributes (`struct nfgenmsg`).
pub(super) const NFGENMSG: usize = 4;
/// Every object names its table in attribute 1.
pub(super) const OBJECT_TABLE: u16 = 1;
/// Attribute 2 is the name of a set or a counter, the set of elements, the chain of a rule.
pub(super) const OBJECT_OWNER: u16 = 2;
pub(super) const OBJECT_TYPE: u16 = 3;
pub(super) const OBJECT_DATA: u16 = 4;
pub(super) const CHAIN_NAME: u16 = 3;
pub(super) const SET_ID: u16 = 10;
pub(super) const SET_DATA_TYPE: u16 = 6;
pub(super) const SET_DESC: u16 = 9;
pub(super) const SET_USERDATA: u16 = 13;
pub(super) const ELEMENTS: u16 = 3;
pub(super) const ELEM_KEY: u16 = 1;
pub(super) const ELEM_DATA: u16 = 2;
pub(super) const ELEM_FLAGS: u16 = 3;
pub(super) const DATA_VALUE: u16 = 1;
pub(super) const DATA_VERDICT: u16 = 2;
pub(super) const VERDICT_CHAIN: u16 = 2;
pub(super) const TABLE_USERDATA: u16 = 6;
pub(super) const RULE_EXPRESSIONS: u16 = 4;
pub(super) const RULE_USERDATA: u16 = 7;

/// What a message makes or adds to: its kind and name.
pub(super) type Place<'a> = (u16, &'a str);

/// Messages in the order of their places, and within one as they came; and those places, each of which is looked up once.
pub(super) struct Objects<'a> {
    places: Vec<Place<'a>>,
    messages: Vec<&'a Message>,
}

impl<'a> Objects<'a> {
    fn new(messages: impl Iterator<Item = &'a Message>) -> Objects<'a> {
        let mut list: Vec<(Place, &Message)> = messages.map(|message| (place_of(message), message)).collect();
        list.sort_by_key(|(place, _)| *place);
        let (places, messages) = list.into_iter().unzip();
        Objects { places, messages }
    }

    /// Those of one place.
    pub fn of(&self, place: Place<'_>) -> &[&'a Message] {
        let from = self.places.partition_point(|other| *other < place);
        let rest = self.places.get(from..).unwrap_or_default();
        let length = rest.iter().take_while(|other| **other == place).count();
        self.messages.get(from..from + length).unwrap_or_default()
    }

    /// Each place with its messages.
    fn each(&self) -> impl Iterator<Item = (Place<'a>, &[&'a Message])> {
        let mut rest = &self.messages[..];
        self.places.chunk_by(|a, b| a == b).filter_map(move |same| {
            let (messages, after) = rest.split_at_checked(same.len())?;
            rest = after;
            Some((*same.first()?, messages))
        })
    }
}

fn place_of(message: &Message) -> Place<'_> {
    (message.kind, name(message))
}

/// The messages that make our table, in order: table, counters, sets, chains, elements, rules.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ruleset(pub Vec<Message>);

impl Ruleset {
    /// No table at all.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The comments in the chain that remembers sysctls.
    pub fn record(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter(|m| is_record(m)).filter_map(|m| find(m, RULE_USERDATA).and_then(comment))
    }

    /// The line that says that its policy is on trial.
    pub fn trial(&self) -> Option<&str> {
        self.record().find(|line| line.starts_with(TRIAL))
    }

    /// The table without that line.
    pub fn without_trial(&self) -> Ruleset {
        let says_so = |m: &Message| {
            is_record(m)
                && find(m, RULE_USERDATA).and_then(comment).is_some_and(|line| line.starts_with(TRIAL))
        };
        Ruleset(self.0.iter().filter(|m| !says_so(m)).cloned().collect())
    }

    /// Which policy it was made for ([`crate::plan::Plan::digest`]); `None` where it is none of a policy.
    pub fn digest(&self) -> Option<u32> {
        let mut rules = self.0.iter().filter(|m| m.kind == NEWRULE && name(m) == DIGEST);
        let line = rules.next().and_then(|rule| find(rule, RULE_USERDATA)).and_then(comment)?;
        u32::from_str_radix(line.strip_prefix("policy 0x")?, 16).ok()
    }

    /// The marks that it gives, each with the chain that sets it.
    pub fn marks(&self) -> Vec<(u32, &str)> {
        let mark = |key: &[u8]| key.try_into().ok().map(u32::from_ne_bytes);
        self.verdicts(MARKS).into_iter().filter_map(|(key, chain)| Some((mark(key)?, chain))).collect()
    }

    /// The source MACs that it knows, each with the chain to which its frames go.
    pub fn macs(&self) -> Vec<(Mac, &str)> {
        let within = |(map, at)| {
            let mac = move |key: &[u8]| key.get(at..at + 6)?.try_into().ok().map(Mac);
            self.verdicts(map).into_iter().filter_map(move |(key, chain)| Some((mac(key)?, chain)))
        };
        let mut macs: Vec<(Mac, &str)> =
            [(MACS, 0), (PORTS_AND_MACS, libc::IFNAMSIZ)].into_iter().flat_map(within).collect();
        macs.sort();
        macs.dedup(); // one element a port
        macs
    }

    /// The elements of a map, each with the chain to which it leads.
    fn verdicts(&self, map: &str) -> Vec<(&[u8], &str)> {
        let messages: Vec<&Message> =
            self.0.iter().filter(|m| m.kind == NEWSETELEM && name(m) == map).collect();
        elements(&messages).into_iter().map(|(key, chain, _)| (key, text(chain))).collect()
    }

    /// This table with the record of another in place of its own.
    pub fn with_record_of(&self, other: &Ruleset) -> Ruleset {
        let rest = self.0.iter().filter(|m| !is_record(m));
        let table = other.0.iter().filter(|m| m.kind == NEWTABLE && self.is_empty());
        Ruleset(rest.chain(table).chain(other.0.iter().filter(|m| is_record(m))).cloned().collect())
    }

    /// The table with its record and nothing else: it marks nothing.
    pub fn only_record(&self) -> Ruleset {
        Ruleset(self.0.iter().filter(|m| m.kind == NEWTABLE || is_record(m)).cloned().collect())
    }

    /// Whether this, read from the kernel, is the planned table with `more` rules. All of that is never in memory.
    pub fn is(&self, planned: &Table, more: &[(&str, Rule)]) -> bool {
        let there = self.objects();
        let mut left = there.each().count();
        let is_whole = encode::each(planned, more, &mut |object| {
            let [first, ..] = &object[..] else { return ControlFlow::Continue(()) };
            let messages: Vec<&Message> = object.iter().collect();
            match left > 0 && is_same(&messages, there.of(place_of(first))) {
                true => left -= 1,
                false => return ControlFlow::Break(()),
            }
            ControlFlow::Continue(())
        });
        is_whole.is_continue() && left == 0
    }

    /// Whether `installed`, read from the kernel, is not this very table.
    pub fn differs(&self, installed: &Ruleset) -> bool {
        !self.differing(installed).is_empty()
    }

    /// What `installed`, read from the kernel, lacks, or has too much or otherwise; one for each object.
    pub fn differences(&self, installed: &Ruleset) -> Vec<Difference> {
        if installed.is_empty() && !self.is_empty() {
            let command = format!("nft list table inet {TABLE}");
            let line = format!("missing: table inet {TABLE}");
            return vec![Difference { line, command, cause: Cause::Nothing }];
        }
        let mut differences: Vec<Difference> = Vec::new();
        let differing = self.differing(installed);
        // A port that comes or goes changes the record of settings, and with it these rules.
        let is_recorded = differing.iter().any(|(place, _)| *place == (NEWRULE, SYSCTLS));
        for ((kind, object), how) in differing {
            let what = self.what((kind, object), installed);
            let content = if matches!(kind, NEWRULE | NEWSETELEM) { "content of " } else { "" };
            let line = format!("table inet {TABLE}: {content}{what} {object} {how}");
            let command = match kind {
                NEWTABLE => format!("nft list table inet {TABLE}"),
                _ => format!("nft list {what} inet {TABLE} {object}"),
            };
            // Of a chain or a set that is missing, so is the content.
            if differences.iter().all(|known| known.command != command) {
                let is_of_record = is_recorded && [SYSCTLS, INHERITED, "prerouting"].contains(&object);
                let is_of_macs = kind == NEWSETELEM && [MACS, PORTS_AND_MACS].contains(&object);
                let cause = match () {
                    () if is_of_macs => Cause::Neighbour,
                    () if is_of_record => Cause::Port,
                    () => Cause::Nothing,
                };
                differences.push(Difference { line, command, cause });
            }
        }
        differences
    }

    /// The objects that differ, and how.
    fn differing<'a>(&'a self, installed: &'a Ruleset) -> Vec<(Place<'a>, &'static str)> {
        if core::ptr::eq(self, installed) {
            return Vec::new();
        }
        let (wanted, there) = (self.objects(), installed.objects());
        let lacking = wanted.each().filter_map(|(place, messages)| match there.of(place) {
            [] => Some((place, "is missing")),
            found if !is_same(messages, found) => Some((place, "is not as the policy has it")),
            _ => None,
        });
        let extra = there.each().filter(|(place, _)| wanted.of(*place).is_empty());
        lacking.chain(extra.map(|(place, _)| (place, "is not of the policy"))).collect()
    }

    /// What nft calls an object, or that whose content it is; it is in this table or in the other.
    fn what(&self, (kind, object): (u16, &str), other: &Ruleset) -> &'static str {
        let mut sets = self.0.iter().chain(&other.0).filter(|m| m.kind == NEWSET && name(m) == object);
        match kind {
            NEWTABLE => "table",
            NEWSET | NEWSETELEM if sets.any(is_map) => "map",
            NEWSET | NEWSETELEM => "set",
            NEWOBJ => "counter",
            _ => "chain",
        }
    }

    /// The messages of each object: the rules of a chain, the elements of a set.
    pub(super) fn objects(&self) -> Objects<'_> {
        // A set without elements is dumped with an empty list of them.
        let has_content =
            |m: &&Message| m.kind != NEWSETELEM || find(m, ELEMENTS).is_some_and(|list| !list.is_empty());
        Objects::new(self.0.iter().filter(has_content))
    }
}

/// Whether the messages of a place are as wanted. Numbers that the kernel adds by itself (handles, counters) do not count.
fn is_same(wanted: &[&Message], found: &[&Message]) -> bool {
    if wanted.first().is_some_and(|message| message.kind == NEWSETELEM) {
        return elements(wanted) == elements(found);
    }
    let covered = |(w, f): (&&Message, &&Message)| covers(&essence(w), attributes_of(f));
    wanted.len() == found.len() && wanted.iter().zip(found).all(covered)
}

/// Whether a message makes the chain that remembers sysctls, or a rule in it.
fn is_record(message: &Message) -> bool {
    matches!(message.kind, NEWCHAIN | NEWRULE) && name(message) == SYSCTLS
}

/// Whether a message makes a map.
pub(super) fn is_map(set: &Message) -> bool {
    find(set, SET_DATA_TYPE).is_some()
}

/// The name of the table, chain, counter or set that a message makes or adds to.
pub(super) fn name(message: &Message) -> &str {
    let number = match message.kind {
        NEWTABLE | DELTABLE => OBJECT_TABLE,
        NEWCHAIN | DELCHAIN => CHAIN_NAME,
        _ => OBJECT_OWNER,
    };
    find(message, number).map_or("", text)
}

pub(super) fn describe((kind, name): (u16, &str)) -> String {
    let what = match kind {
        NEWTABLE | DELTABLE => "table",
        NEWCHAIN | DELCHAIN => "chain",
        NEWSET | DELSET => "set",
        NEWOBJ | DELOBJ => "counter",
        NEWSETELEM | DELSETELEM => "content of set",
        _ => "content of chain",
    };
    format!("{what} {name}")
}

/// The elements of a set, in an order of their own.
pub(super) fn elements<'a>(messages: &[&'a Message]) -> BTreeSet<(&'a [u8], &'a [u8], u32)> {
    let lists = messages.iter().filter_map(|m| find(m, ELEMENTS));
    lists.flat_map(attributes).map(|(_, bytes)| element(bytes)).collect()
}

/// An element: its key, the chain that it leads to, its flags.
pub(super) fn element(bytes: &[u8]) -> (&[u8], &[u8], u32) {
    let inner = |kind, within| netlink::find(netlink::find(bytes, kind)?, within);
    let key = inner(ELEM_KEY, DATA_VALUE).unwrap_or_default();
    let chain = inner(ELEM_DATA, DATA_VERDICT).and_then(|verdict| netlink::find(verdict, VERDICT_CHAIN));
    let flags =
        netlink::find(bytes, ELEM_FLAGS).and_then(|f| f.try_into().ok()).map_or(0, u32::from_be_bytes);
    (key, chain.unwrap_or_default(), flags)
}

/// Whether every attribute of `wanted` is in `found`, to any depth. Attributes with the same number, which follow one
/// another, are a list: there have to be as many, in the same order.
pub(super) fn covers(wanted: &[u8], found: &[u8]) -> bool {
    let (mut wanted, mut there) = (flagged_attributes(wanted).peekable(), attributes(found));
    while let Some((flagged, value)) = wanted.next() {
        let kind = flagged & !NESTED;
        let same = there.find(|(other, _)| *other == kind).is_some_and(|(_, other)| match flagged & NESTED {
            // libnftnl writes the name of a counter without the NUL at its end.
            0 => value == other || other.strip_suffix(&[0]) == Some(value),
            _ => covers(value, other),
        });
        let goes_on = wanted.peek().is_some_and(|(next, _)| *next == flagged);
        if !same || !goes_on && there.any(|(other, _)| other == kind) {
            return false;
        }
        if !goes_on {
            there = attributes(found);
        }
    }
    true
}

/// The attributes that count. A set's user data is for nft alone, its size a hint and its number for one batch:
/// they depend on who made it, and when.
pub(super) fn essence(message: &Message) -> Cow<'_, [u8]> {
    let all = attributes_of(message);
    if message.kind != NEWSET {
        return all.into();
    }
    let mut essence = Vec::new();
    let counts = |kind: u16| !matches!(kind & !NESTED, SET_USERDATA | SET_DESC | SET_ID);
    for (kind, value) in flagged_attributes(all).filter(|(kind, _)| counts(*kind)) {
        put(&mut essence, kind, value);
    }
    essence.into()
}

pub(super) fn attributes_of(message: &Message) -> &[u8] {
    message.payload.get(NFGENMSG..).unwrap_or(&[])
}

pub(super) fn find(message: &Message, kind: u16) -> Option<&[u8]> {
    netlink::find(attributes_of(message), kind)
}

/// The comment in user data (libnftnl/udata.h): type 0, length, text.
pub(super) fn comment(userdata: &[u8]) -> Option<&str> {
    match userdata {
        [0, length, rest @ ..] => rest.get(..usize::from(*length)).map(text),
        _ => None,
    }
}

/// A payload that names something.
pub(super) fn naming(names: &[(u16, &str)]) -> Vec<u8> {
    let mut payload = header();
    names.iter().for_each(|(kind, name)| put_text(&mut payload, *kind, name));
    payload
}

/// A message of a dump, as it would be sent to make the object again: without handles, uses and positions, and
/// for a set with the number that a batch wants for it.
pub(super) fn as_made(kind: u16, dumped: &[u8], set_id: u32) -> Message {
    let kept: &[u16] = match kind {
        NEWTABLE => &[OBJECT_TABLE, 2, TABLE_USERDATA], // flags: a dormant table marks nothing
        NEWSET => &[OBJECT_TABLE, OBJECT_OWNER, 3, 4, 5, SET_DATA_TYPE, 7, SET_DESC, SET_USERDATA], // flags, key, data, description, user data
        NEWCHAIN => &[OBJECT_TABLE, CHAIN_NAME, 4, 5, 7], // hook, policy, type
        NEWSETELEM => &[OBJECT_TABLE, OBJECT_OWNER, ELEMENTS],
        NEWOBJ => &[OBJECT_TABLE, OBJECT_OWNER, OBJECT_TYPE],
        _ => &[OBJECT_TABLE, OBJECT_OWNER, RULE_EXPRESSIONS, RULE_USERDATA],
    };
    let (header, all) = dumped.split_at_checked(NFGENMSG).unwrap_or_default();
    let mut payload = Vec::with_capacity(dumped.len() + 8); // it is given back below
    payload.extend_from_slice(header);
    for (kind, value) in attributes(all).filter(|(kind, _)| kept.contains(kind)) {
        put(&mut payload, kind, value);
    }
    match kind {
        NEWSET => put(&mut payload, SET_ID, &set_id.to_be_bytes()),
        NEWOBJ => put(&mut payload, OBJECT_DATA | NESTED, &[]), // what it has counted is no difference
        _ => {}
    }
    payload.shrink_to_fit(); // there are thousands of them
    Message { kind, flags: making(kind), payload }
}

/// Flags of a message that makes something: nothing is made twice, rules follow one another.
pub(super) fn making(kind: u16) -> u16 {
    match kind {
        NEWRULE => NLM_F_CREATE | NLM_F_APPEND,
        _ => NLM_F_CREATE | NLM_F_EXCL,
    }
}

/// The header of a message about the `inet` family (`struct nfgenmsg`).
pub(super) fn header() -> Vec<u8> {
    vec![libc::NFPROTO_INET as u8, 0, 0, 0]
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::kernel::encode::ruleset;
    use crate::plan::Plan;
    use crate::plan::nft::Statement;
    use crate::policy::{Policy, wire};

    fn plan() -> Plan {
        let mut policy = Box::new(Policy::new());
        let image = include_bytes!("../../tests/golden/policy/full.bin");
        wire::decode(image, &mut policy).unwrap();
        Plan::new(&policy)
    }

    pub(in super::super) fn planned() -> Ruleset {
        ruleset(&plan().table, &[])
    }

    /// Each message of a table counts: without it, or with another byte at its end, the table is another.
    #[test]
    fn nothing_of_a_table_goes_unnoticed() {
        let (plan, whole) = (plan(), planned());
        assert!(!whole.differs(&whole.clone()) && whole.is(&plan.table, &[]));
        assert!(!Ruleset::default().is(&plan.table, &[]));
        let more = [(DIGEST, vec![Statement::Accept])];
        assert!(!whole.is(&plan.table, &more) && ruleset(&plan.table, &more).is(&plan.table, &more));
        assert!(!ruleset(&plan.table, &more).is(&plan.table, &[]));
        for at in 0..whole.0.len() {
            let mut lacking = whole.clone();
            let message = lacking.0.remove(at);
            assert!(whole.differs(&lacking), "{} was not missed", name(&message));
            assert!(lacking.differs(&whole), "{} was not too much", name(&message));
            assert!(!lacking.is(&plan.table, &[]), "{} is not asked for", name(&message));
        }
    }

    /// Which policy it is for goes when a removal begins, and while only the record changes it stays what it was.
    #[test]
    fn the_digest_is_that_of_the_rules() {
        let planned = planned();
        let image = include_bytes!("../../tests/golden/policy/full.bin");
        let crc = u32::from_le_bytes(*image.last_chunk().unwrap());
        assert_eq!(planned.digest(), Some(crc));
        assert_eq!(planned.with_record_of(&Ruleset::default()).digest(), Some(crc));
        assert_eq!(planned.only_record().digest(), None);
        assert_eq!(Ruleset::default().with_record_of(&planned).digest(), None);
    }

    /// Sets are numbered within a batch. After an update the kernel lists them in another order.
    #[test]
    fn the_order_of_sets_is_no_difference() {
        let planned = planned();
        let (sets, mut rest): (Vec<Message>, Vec<Message>) =
            planned.0.iter().cloned().partition(|m| m.kind == NEWSET);
        let renumbered =
            sets.iter().rev().enumerate().map(|(number, set)| as_made(set.kind, &set.payload, number as u32));
        rest.splice(1..1, renumbered);
        assert!(!planned.differs(&Ruleset(rest)));
    }

    /// An attribute that the kernel adds is no difference; one that differs is, at any depth.
    #[test]
    fn attributes_are_covered_or_not() {
        let list = |parts: &[(u16, &[u8])]| {
            let mut bytes = Vec::new();
            parts.iter().for_each(|(kind, value)| put(&mut bytes, *kind, value));
            bytes
        };
        let inner = list(&[(1, b"name"), (2, &[1, 2, 3, 4])]);
        let wanted = list(&[(1, b"x"), (4 | NESTED, &inner)]);
        let more = list(&[(1, b"name"), (2, &[1, 2, 3, 4]), (3, b"handle")]);
        let less = list(&[(1, b"name")]);
        let other = list(&[(1, b"name"), (2, &[1, 2, 3, 5])]);
        assert!(covers(&wanted, &list(&[(9, b"handle"), (1, b"x"), (4, &more)])));
        for inner in [less, other] {
            assert!(!covers(&wanted, &list(&[(1, b"x"), (4, &inner)])));
        }
        assert!(!covers(&wanted, &list(&[(1, b"x"), (4, &inner), (4, &inner)])));
    }
}

//! The planned table as netlink messages. libnftnl writes tables, chains and rules; sets and maps are written
//! here, since it has neither maps nor intervals in its Rust form.

use super::expressions::{OBJECT_COUNTER, expressions, port_key};
use super::netlink::{Message, NESTED, put};
use super::ruleset::{self, Ruleset};
use crate::plan::nft::{Base, Chain, Elements, OWNER, ROOM, Rule, Set, Statement, TABLE, Table};
use crate::plan::ways::Family;
use crate::policy::Network;
use core::net::IpAddr;
use nftnl::{MsgType, NlMsg, ProtoFamily};
use std::ffi::CString;

/// Elements in one message: an attribute holds 64 KiB, an element at most 72 bytes of it.
const ELEMENTS_PER_MESSAGE: usize = 512;

/// The messages that make a table; with `more` rules, each at the end of a chain.
pub fn ruleset(planned: &Table, more: &[(&str, Rule)]) -> Ruleset {
    let mut messages = Vec::new();
    each(planned, more, &mut |object| messages.extend(object));
    Ruleset(messages)
}

/// The same, one object after another: a chain, and later all its rules; a set, and later all its elements, if any.
pub fn each(planned: &Table, more: &[(&str, Rule)], take: &mut dyn FnMut(Vec<Message>)) {
    let mut take = |mut object: Vec<Message>| {
        object.iter_mut().for_each(|message| message.flags = ruleset::making(message.kind));
        take(object);
    };
    let mut writer = Writer::new();
    let table = nftnl::Table::new(c_string(TABLE), ProtoFamily::Inet);
    let mut made = writer.write(&table);
    put(&mut made.payload, ruleset::TABLE_USERDATA, &userdata_comment(OWNER));
    take(vec![made]);

    planned.counters.iter().for_each(|name| take(vec![counter_message(name)]));
    planned.sets.iter().enumerate().for_each(|(index, set)| take(vec![set_message(set, index as u32)]));
    planned.chains.iter().for_each(|chain| take(vec![writer.write(&chain_of(chain, &table))]));
    planned.sets.iter().for_each(|set| take(element_messages(set)));
    for planned in &planned.chains {
        let chain = chain_of(planned, &table);
        let more = more.iter().filter(|(name, _)| *name == planned.name).map(|(_, rule)| rule);
        let rules = planned.rules.iter().chain(more);
        take(rules.map(|statements| rule_message(&chain, statements, &mut writer)).collect());
    }
}

fn chain_of<'a>(planned: &Chain, table: &'a nftnl::Table) -> nftnl::Chain<'a> {
    let mut chain = nftnl::Chain::new(c_string(&planned.name), table);
    if let Some(base) = planned.base {
        let (hook, kind) = match base {
            Base::Prerouting => (nftnl::Hook::PreRouting, nftnl::ChainType::Filter),
            Base::Output => (nftnl::Hook::Out, nftnl::ChainType::Route),
            Base::Input => (nftnl::Hook::In, nftnl::ChainType::Filter),
            Base::Postrouting => (nftnl::Hook::PostRouting, nftnl::ChainType::Filter),
        };
        chain.set_hook(hook, base.priority());
        chain.set_type(kind);
        chain.set_policy(nftnl::Policy::Accept);
    }
    chain
}

fn rule_message(chain: &nftnl::Chain<'_>, statements: &[Statement], writer: &mut Writer) -> Message {
    let mut rule = nftnl::Rule::new(chain);
    statements.iter().flat_map(expressions).for_each(|expression| rule.add_expr(&expression));
    let mut message = writer.write(&rule);
    if let [Statement::Remember(line)] = statements {
        put(&mut message.payload, ruleset::RULE_USERDATA, &userdata_comment(line));
    }
    message
}

/// Room for the largest message, as words: that keeps the header aligned.
struct Writer(Vec<u64>);

impl Writer {
    fn new() -> Writer {
        Writer(vec![0; nftnl::nft_nlmsg_maxsize().div_ceil(8) as usize])
    }

    /// A message as libnftnl writes it.
    fn write(&mut self, object: &impl NlMsg) -> Message {
        // SAFETY: the buffer holds `nft_nlmsg_maxsize()` bytes, which is what `write` asks for.
        unsafe { object.write(self.0.as_mut_ptr().cast(), 0, MsgType::Add) };
        Message::from_written(&self.0)
    }
}

fn counter_message(name: &str) -> Message {
    let mut payload = ruleset::naming(&[(ruleset::OBJECT_TABLE, TABLE), (ruleset::OBJECT_OWNER, name)]);
    put(&mut payload, ruleset::OBJECT_TYPE, &OBJECT_COUNTER.to_be_bytes());
    put(&mut payload, ruleset::OBJECT_DATA | NESTED, &[]); // it begins at 0
    Message { kind: ruleset::NEWOBJ, flags: 0, payload }
}

fn set_message(set: &Set, index: u32) -> Message {
    let shape = shape(&set.elements);
    let mut payload = ruleset::header();
    let put_u32 = |payload: &mut Vec<u8>, kind, value: u32| put(payload, kind, &value.to_be_bytes());
    put(&mut payload, ruleset::OBJECT_TABLE, &terminated(TABLE));
    put(&mut payload, ruleset::OBJECT_OWNER, &terminated(&set.name));
    // A map changes while rules use it; a set is made anew.
    let flags =
        if shape.is_map { libc::NFT_SET_MAP } else { libc::NFT_SET_CONSTANT | libc::NFT_SET_INTERVAL };
    put_u32(&mut payload, SET_FLAGS, flags as u32);
    put_u32(&mut payload, SET_KEY_TYPE, shape.key_type);
    put_u32(&mut payload, SET_KEY_LEN, shape.key_length);
    if shape.is_map {
        put_u32(&mut payload, ruleset::SET_DATA_TYPE, libc::NFT_DATA_VERDICT);
    }
    put_u32(&mut payload, ruleset::SET_ID, index);
    let size = match &set.elements {
        Elements::Marks(_) => ROOM,
        _ if shape.is_map => 0,
        all => elements(all).len() as u32,
    };
    if size > 0 {
        let mut description = Vec::new();
        put_u32(&mut description, SET_DESC_SIZE, size);
        put(&mut payload, ruleset::SET_DESC | NESTED, &description);
    }
    // libnftnl/udata.h: without the byte order `nft list` shows the keys wrongly.
    let mut userdata = vec![UDATA_KEYBYTEORDER, 4];
    userdata.extend(shape.byte_order.to_ne_bytes());
    if shape.is_map {
        userdata.extend([UDATA_DATABYTEORDER, 4, 0, 0, 0, 0]);
    }
    put(&mut payload, ruleset::SET_USERDATA, &userdata);
    Message { kind: ruleset::NEWSET, flags: 0, payload }
}

// linux/netfilter/nf_tables.h, enum nft_set_attributes; libnftnl/udata.h.
const SET_FLAGS: u16 = 3;
const SET_KEY_TYPE: u16 = 4;
const SET_KEY_LEN: u16 = 5;
const SET_DESC_SIZE: u16 = 1;
const UDATA_KEYBYTEORDER: u8 = 0;
const UDATA_DATABYTEORDER: u8 = 1;
const UDATA_ELEM_FLAGS: u8 = 1;
const ELEM_USERDATA: u16 = 6;
pub(super) const VERDICT_CODE: u16 = 1;

struct Shape {
    is_map: bool,
    /// nft's own number of the type (nftables, include/datatype.h); a concatenation has six bits for each part.
    key_type: u32,
    key_length: u32,
    /// nft's enum byteorder: 0 mixed, 1 host, 2 network.
    byte_order: u32,
}

fn shape(elements: &Elements) -> Shape {
    let (is_map, key_type, key_length, byte_order) = match elements {
        Elements::Services(_) => (false, 13, 2, 2),
        Elements::Networks(Family::V4, _) => (false, 7, 4, 2),
        Elements::Networks(Family::V6, _) => (false, 8, 16, 2),
        Elements::PortsAndMacs(_) => (true, 41 << 6 | 9, 24, 0),
        Elements::Macs(_) => (true, 9, 6, 2),
        Elements::Ports(_) => (true, 41, 16, 1),
        Elements::Marks(_) => (true, 19, 4, 1),
    };
    Shape { is_map, key_type, key_length, byte_order }
}

/// An element: a key, and what it is.
enum Element {
    Verdict { key: Vec<u8>, chain: String },
    Start { key: Vec<u8>, is_open: bool },
    End { key: Vec<u8> },
}

fn elements(all: &Elements) -> Vec<Element> {
    let verdict = |key: Vec<u8>, chain: &String| Element::Verdict { key, chain: chain.clone() };
    match all {
        Elements::Services(list) => intervals(list.iter().map(|range| {
            (
                range.first.to_be_bytes().to_vec(),
                range.last.checked_add(1).map(|end| end.to_be_bytes().to_vec()),
            )
        })),
        Elements::Networks(_, list) => intervals(list.iter().map(bounds)),
        Elements::PortsAndMacs(list) => list
            .iter()
            .map(|((port, mac), chain)| {
                let key = [&port_key(port)[..], &mac.0, &[0; 2]].concat(); // each part fills whole words
                verdict(key, chain)
            })
            .collect(),
        Elements::Macs(list) => list.iter().map(|(mac, chain)| verdict(mac.0.to_vec(), chain)).collect(),
        Elements::Ports(list) => {
            list.iter().map(|(port, chain)| verdict(port_key(port).to_vec(), chain)).collect()
        }
        Elements::Marks(list) => {
            list.iter().map(|(mark, chain)| verdict(mark.to_ne_bytes().to_vec(), chain)).collect()
        }
    }
}

/// Intervals as nft writes them: an end at zero, then each start, and each end where there is one.
fn intervals(list: impl Iterator<Item = (Vec<u8>, Option<Vec<u8>>)>) -> Vec<Element> {
    let mut elements = Vec::new();
    for (first, end) in list {
        if elements.is_empty() && first.iter().any(|byte| *byte != 0) {
            elements.push(Element::End { key: vec![0; first.len()] });
        }
        elements.push(Element::Start { key: first, is_open: end.is_none() });
        elements.extend(end.map(|key| Element::End { key }));
    }
    elements
}

/// The first address of a network, and the first one behind it, if there is any.
fn bounds(network: &Network) -> (Vec<u8>, Option<Vec<u8>>) {
    let prefix = u32::from(network.prefix);
    match network.address {
        IpAddr::V4(address) => {
            let end = 1_u32.checked_shl(32 - prefix).and_then(|size| u32::from(address).checked_add(size));
            (address.octets().to_vec(), end.map(|end| end.to_be_bytes().to_vec()))
        }
        IpAddr::V6(address) => {
            let end = 1_u128.checked_shl(128 - prefix).and_then(|size| u128::from(address).checked_add(size));
            (address.octets().to_vec(), end.map(|end| end.to_be_bytes().to_vec()))
        }
    }
}

fn element_messages(set: &Set) -> Vec<Message> {
    let message = |elements: &[Element]| {
        let mut list = Vec::new();
        for element in elements {
            put(&mut list, LIST_ELEM | NESTED, &element_attributes(element));
        }
        let mut payload = ruleset::header();
        put(&mut payload, ruleset::OBJECT_TABLE, &terminated(TABLE));
        put(&mut payload, ruleset::OBJECT_OWNER, &terminated(&set.name));
        put(&mut payload, ruleset::ELEMENTS | NESTED, &list);
        Message { kind: ruleset::NEWSETELEM, flags: 0, payload }
    };
    elements(&set.elements).chunks(ELEMENTS_PER_MESSAGE).map(message).collect()
}

const LIST_ELEM: u16 = 1;

fn element_attributes(element: &Element) -> Vec<u8> {
    let nested = |kind: u16, value: &[u8]| {
        let mut bytes = Vec::new();
        put(&mut bytes, kind, value);
        bytes
    };
    let mut attributes = Vec::new();
    match element {
        Element::Verdict { key, chain } => {
            put(&mut attributes, ruleset::ELEM_KEY | NESTED, &nested(ruleset::DATA_VALUE, key));
            let mut verdict = nested(VERDICT_CODE, &libc::NFT_GOTO.to_be_bytes());
            put(&mut verdict, ruleset::VERDICT_CHAIN, &terminated(chain));
            put(
                &mut attributes,
                ruleset::ELEM_DATA | NESTED,
                &nested(ruleset::DATA_VERDICT | NESTED, &verdict),
            );
        }
        Element::Start { key, is_open } => {
            put(&mut attributes, ruleset::ELEM_KEY | NESTED, &nested(ruleset::DATA_VALUE, key));
            if *is_open {
                // NFTNL_SET_ELEM_F_INTERVAL_OPEN: it reaches to the end of all keys.
                put(
                    &mut attributes,
                    ELEM_USERDATA,
                    &[&[UDATA_ELEM_FLAGS, 4], &1_u32.to_ne_bytes()[..]].concat(),
                );
            }
        }
        Element::End { key } => {
            put(
                &mut attributes,
                ruleset::ELEM_FLAGS,
                &(libc::NFT_SET_ELEM_INTERVAL_END as u32).to_be_bytes(),
            );
            put(&mut attributes, ruleset::ELEM_KEY | NESTED, &nested(ruleset::DATA_VALUE, key));
        }
    }
    attributes
}

/// A comment in user data (libnftnl/udata.h): type 0, length, text.
fn userdata_comment(line: &str) -> Vec<u8> {
    let text = terminated(line);
    [&[0, text.len() as u8], &text[..]].concat()
}

fn terminated(text: &str) -> Vec<u8> {
    [text.as_bytes(), &[0]].concat()
}

fn c_string(text: &str) -> CString {
    CString::new(text).unwrap_or_default() // names have no NUL
}

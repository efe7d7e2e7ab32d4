//! The planned table as netlink messages. libnftnl writes tables, chains and rules; sets and maps are written
//! here, since it has neither maps nor intervals in its Rust form.

use super::expressions::{OBJECT_COUNTER, expressions, port_key};
use super::netlink::{Message, NESTED, nest, put, put_text};
use super::ruleset::{self, Ruleset};
use crate::plan::nft::{Base, Chain, Elements, OWNER, ROOM, Rule, Set, Statement, TABLE, Table};
use crate::plan::ways::Family;
use crate::policy::{Network, PortRange};
use core::net::IpAddr;
use core::ops::ControlFlow;
use nftnl::{MsgType, NlMsg, ProtoFamily};
use std::ffi::CString;

/// Elements in one message: an attribute holds 64 KiB, an element at most 72 bytes of it.
const ELEMENTS_PER_MESSAGE: usize = 512;

/// The messages that make a table; with `more` rules, each at the end of a chain.
pub fn ruleset(planned: &Table, more: &[(&str, Rule)]) -> Ruleset {
    let mut messages = Vec::new();
    let _ = each(planned, more, &mut |object| {
        messages.extend(object);
        ControlFlow::Continue(())
    });
    Ruleset(messages)
}

/// The same, one object after another, for as long as they are wanted: a chain, and later all its rules; a set, and later
/// all its elements, if any.
pub fn each(
    planned: &Table,
    more: &[(&str, Rule)],
    take: &mut dyn FnMut(Vec<Message>) -> ControlFlow<()>,
) -> ControlFlow<()> {
    let mut take = |mut object: Vec<Message>| {
        object.iter_mut().for_each(|message| message.flags = ruleset::making(message.kind));
        take(object)
    };
    let mut writer = Writer::new();
    let table = nftnl::Table::new(c_string(TABLE), ProtoFamily::Inet);
    let mut made = writer.write(&table);
    put(&mut made.payload, ruleset::TABLE_USERDATA, &userdata_comment(OWNER));
    take(vec![made])?;

    planned.counters.iter().try_for_each(|name| take(vec![counter_message(name)]))?;
    let sets = || planned.sets.iter();
    sets().enumerate().try_for_each(|(index, set)| take(vec![set_message(set, index as u32)]))?;
    planned.chains.iter().try_for_each(|chain| take(vec![writer.write(&chain_of(chain, &table))]))?;
    sets().try_for_each(|set| take(element_messages(set)))?;
    planned.chains.iter().try_for_each(|planned| {
        let chain = chain_of(planned, &table);
        let more = more.iter().filter(|(name, _)| *name == planned.name).map(|(_, rule)| rule);
        let rules = planned.rules.iter().chain(more);
        take(rules.map(|statements| rule_message(&chain, statements, &mut writer)).collect())
    })
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
        // SAFETY: the buffer holds `nft_nlmsg_maxsize()` bytes, which is what `write` asks for. Words are bytes as well.
        let written = unsafe {
            object.write(self.0.as_mut_ptr().cast(), 0, MsgType::Add);
            core::slice::from_raw_parts(self.0.as_ptr().cast(), size_of_val(&self.0[..]))
        };
        Message::from_written(written)
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
    put_text(&mut payload, ruleset::OBJECT_TABLE, TABLE);
    put_text(&mut payload, ruleset::OBJECT_OWNER, &set.name);
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
        all => {
            let mut size = 0;
            elements(all, &mut |_| size += 1);
            size
        }
    };
    if size > 0 {
        nest(&mut payload, ruleset::SET_DESC | NESTED, &mut |description| {
            put_u32(description, SET_DESC_SIZE, size);
        });
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
enum Element<'a> {
    Verdict { key: &'a [u8], chain: &'a str },
    Start { key: &'a [u8], is_open: bool },
    End { key: &'a [u8] },
}

/// Hands over the elements one after another.
fn elements(all: &Elements, each: &mut dyn FnMut(Element)) {
    match all {
        Elements::Services(list) => {
            let bounds = |range: &PortRange| {
                (range.first.to_be_bytes(), range.last.checked_add(1).map(u16::to_be_bytes))
            };
            intervals(list.iter().map(bounds), each);
        }
        Elements::Networks(Family::V4, list) => intervals(list.iter().filter_map(bounds4), each),
        Elements::Networks(Family::V6, list) => intervals(list.iter().filter_map(bounds6), each),
        Elements::PortsAndMacs(list) => list.iter().for_each(|((port, mac), chain)| {
            // Each part fills whole words.
            let mut key = [0; 24];
            key[..16].copy_from_slice(&port_key(port));
            key[16..22].copy_from_slice(&mac.0);
            each(Element::Verdict { key: &key, chain });
        }),
        Elements::Macs(list) => {
            list.iter().for_each(|(mac, chain)| each(Element::Verdict { key: &mac.0, chain }));
        }
        Elements::Ports(list) => {
            list.iter().for_each(|(port, chain)| each(Element::Verdict { key: &port_key(port), chain }));
        }
        Elements::Marks(list) => {
            list.iter().for_each(|(mark, chain)| each(Element::Verdict { key: &mark.to_ne_bytes(), chain }));
        }
    }
}

/// Intervals as nft writes them: an end at zero, then each start, and each end where there is one.
fn intervals<const N: usize>(
    list: impl Iterator<Item = ([u8; N], Option<[u8; N]>)>,
    each: &mut dyn FnMut(Element),
) {
    for (at, (first, end)) in list.enumerate() {
        if at == 0 && first != [0; N] {
            each(Element::End { key: &[0; N] });
        }
        each(Element::Start { key: &first, is_open: end.is_none() });
        end.iter().for_each(|key| each(Element::End { key }));
    }
}

/// The first address of a network, and the first one behind it, if there is any.
fn bounds4(network: &Network) -> Option<([u8; 4], Option<[u8; 4]>)> {
    let IpAddr::V4(address) = network.address else { return None };
    let size = 1_u32.checked_shl(32 - u32::from(network.prefix));
    let end = size.and_then(|size| u32::from(address).checked_add(size));
    Some((address.octets(), end.map(u32::to_be_bytes)))
}

fn bounds6(network: &Network) -> Option<([u8; 16], Option<[u8; 16]>)> {
    let IpAddr::V6(address) = network.address else { return None };
    let size = 1_u128.checked_shl(128 - u32::from(network.prefix));
    let end = size.and_then(|size| u128::from(address).checked_add(size));
    Some((address.octets(), end.map(u128::to_be_bytes)))
}

fn element_messages(set: &Set) -> Vec<Message> {
    let mut messages: Vec<Message> = Vec::new();
    let mut list = Vec::new();
    let mut count = 0;
    let message = |list: &[u8]| {
        let mut payload =
            ruleset::naming(&[(ruleset::OBJECT_TABLE, TABLE), (ruleset::OBJECT_OWNER, &set.name)]);
        put(&mut payload, ruleset::ELEMENTS | NESTED, list);
        Message { kind: ruleset::NEWSETELEM, flags: 0, payload }
    };
    elements(&set.elements, &mut |element| {
        if count == ELEMENTS_PER_MESSAGE {
            messages.push(message(&list));
            list.clear();
            count = 0;
        }
        nest(&mut list, LIST_ELEM | NESTED, &mut |attributes| write_element(&element, attributes));
        count += 1;
    });
    if count > 0 {
        messages.push(message(&list));
    }
    messages
}

const LIST_ELEM: u16 = 1;

fn write_element(element: &Element, attributes: &mut Vec<u8>) {
    let write_key = |attributes: &mut Vec<u8>, key| {
        nest(attributes, ruleset::ELEM_KEY | NESTED, &mut |bytes| put(bytes, ruleset::DATA_VALUE, key));
    };
    match element {
        Element::Verdict { key, chain } => {
            write_key(attributes, key);
            nest(attributes, ruleset::ELEM_DATA | NESTED, &mut |data| {
                nest(data, ruleset::DATA_VERDICT | NESTED, &mut |verdict| {
                    put(verdict, VERDICT_CODE, &libc::NFT_GOTO.to_be_bytes());
                    put_text(verdict, ruleset::VERDICT_CHAIN, chain);
                });
            });
        }
        Element::Start { key, is_open } => {
            write_key(attributes, key);
            if *is_open {
                // NFTNL_SET_ELEM_F_INTERVAL_OPEN: it reaches to the end of all keys.
                let [a, b, c, d] = 1_u32.to_ne_bytes();
                put(attributes, ELEM_USERDATA, &[UDATA_ELEM_FLAGS, 4, a, b, c, d]);
            }
        }
        Element::End { key } => {
            let flags = libc::NFT_SET_ELEM_INTERVAL_END as u32;
            put(attributes, ruleset::ELEM_FLAGS, &flags.to_be_bytes());
            write_key(attributes, key);
        }
    }
}

/// A comment in user data (libnftnl/udata.h): type 0, length, text.
fn userdata_comment(line: &str) -> Vec<u8> {
    [&[0, line.len() as u8 + 1], line.as_bytes(), &[0]].concat()
}

fn c_string(text: &str) -> CString {
    CString::new(text).unwrap_or_default() // names have no NUL
}

//! What the pure parts read, from bytes as the kernel dumps them (`nft --debug=netlink list ruleset` shows such rules).

use super::foreign::{Bits, Effect, Known, Mark, Rule, rule};
use super::{flowtables, marks, rules, tables};
use crate::kernel::netlink::put;
use crate::kernel::ways::ForeignRule;
use crate::plan::ways::Family;
use crate::policy::{Name, Path, Policy, Scope};
use proptest::collection::vec;
use proptest::prelude::*;

const ALL: u32 = u32::MAX;
const META_MARK: (u16, &[u8]) = (2, &[0, 0, 0, 3]);
const CT_MARK: (u16, &[u8]) = (2, &[0, 0, 0, 3]);
const TO_1: (u16, &[u8]) = (1, &[0, 0, 0, 1]);

fn attributes(list: &[(u16, &[u8])]) -> Vec<u8> {
    let mut bytes = Vec::new();
    list.iter().for_each(|(kind, value)| put(&mut bytes, *kind, value));
    bytes
}

fn expression(name: &str, list: &[(u16, &[u8])]) -> Vec<u8> {
    attributes(&[(1, name.as_bytes()), (2, &attributes(list))])
}

fn read(expressions: &[Vec<u8>]) -> Rule {
    let list: Vec<(u16, &[u8])> = expressions.iter().map(|bytes| (1, bytes.as_slice())).collect();
    rule(&attributes(&[(4, &attributes(&list))]))
}

fn data(value: u32) -> Vec<u8> {
    attributes(&[(1, &value.to_ne_bytes())])
}

fn load(what: &str, key: (u16, &[u8]), register: u32) -> Vec<u8> {
    expression(what, &[key, (1, &register.to_be_bytes())])
}

/// `register = register & mask ^ flip`
fn and_xor(register: u32, mask: u32, flip: u32) -> Vec<u8> {
    let register = register.to_be_bytes();
    expression("bitwise", &[(1, &register), (2, &register), (4, &data(mask)), (5, &data(flip))])
}

fn or(register: u32, other: u32) -> Vec<u8> {
    let (to, with) = (register.to_be_bytes(), other.to_be_bytes());
    expression("bitwise", &[(1, &to), (2, &to), (6, &[0, 0, 0, 4]), (8, &with)])
}

fn compare(operator: u8, value: u32) -> Vec<u8> {
    expression("cmp", &[TO_1, (2, &[0, 0, 0, operator]), (3, &data(value))])
}

fn set_packet() -> Vec<u8> {
    expression("meta", &[META_MARK, (3, &[0, 0, 0, 1])])
}

fn set_connection() -> Vec<u8> {
    expression("ct", &[CT_MARK, (4, &[0, 0, 0, 1])])
}

fn known(bits: u32, value: u32) -> Known {
    Known { bits, value }
}

#[test]
fn what_is_written() {
    let constant = expression("immediate", &[TO_1, (2, &data(0x1))]);
    let packet = || load("meta", META_MARK, 1);
    let connection = || load("ct", CT_MARK, 1);
    let cases = [
        ("a constant", vec![constant, set_packet()], Mark::Packet, ALL, known(ALL, 1)),
        (
            "some bits",
            vec![packet(), and_xor(1, 0xff00ffff, 0x10000), set_packet()],
            Mark::Packet,
            0xff0000,
            known(0xff0000, 0x10000),
        ),
        ("one bit", vec![packet(), and_xor(1, !4, 4), set_packet()], Mark::Packet, 4, known(4, 4)),
        ("one bit turned", vec![packet(), and_xor(1, ALL, 4), set_packet()], Mark::Packet, 4, known(0, 0)),
        ("restored", vec![connection(), set_packet()], Mark::Packet, ALL, known(0, 0)),
        ("saved", vec![packet(), set_connection()], Mark::Connection, ALL, known(0, 0)),
        (
            "saved with a mask, and 0 in the rest",
            vec![packet(), and_xor(1, 0xff, 0), set_connection()],
            Mark::Connection,
            ALL,
            known(!0xff, 0),
        ),
        (
            "some bits restored",
            vec![
                packet(),
                load("ct", CT_MARK, 2),
                and_xor(1, !0xff, 0),
                and_xor(2, 0xff, 0),
                or(1, 2),
                set_packet(),
            ],
            Mark::Packet,
            0xff,
            known(0, 0),
        ),
        (
            "a number that counts up",
            vec![expression("numgen", &[TO_1]), set_packet()],
            Mark::Packet,
            ALL,
            known(0, 0),
        ),
    ];
    for (what, expressions, mark, bits, value) in cases {
        assert_eq!(read(&expressions).effects, [Effect::Writes(mark, bits, value)], "{what}");
    }
}

#[test]
fn what_is_looked_at() {
    let reads = |bits, value| vec![Effect::Reads(Mark::Packet, bits, value)];
    let packet = || load("meta", META_MARK, 1);
    let one = read(&[packet(), compare(0, 1)]);
    assert_eq!((one.effects, one.packet), (reads(ALL, Some(1)), known(ALL, 1)));
    let another = read(&[packet(), and_xor(1, 0xff, 0), compare(1, 0)]);
    assert_eq!((another.effects, another.packet), (reads(0xff, Some(0)), known(0, 0)));
    // A range is compared in network order.
    let swap = expression("byteorder", &[TO_1, (2, &[0, 0, 0, 1])]);
    assert_eq!(read(&[packet(), and_xor(1, 0xff, 0), swap, compare(5, 1)]).effects, reads(0xff, None));
    // A key of two parts, and a map.
    let address = expression("payload", &[(1, &9_u32.to_be_bytes())]);
    let set = expression("lookup", &[(1, b"set\0"), (2, &[0, 0, 0, 1])]);
    assert_eq!(read(&[packet(), address, set]).effects, reads(ALL, None));
    // What is no mark, and what is no more in the register, is nothing.
    assert_eq!(read(&[packet(), expression("payload", &[TO_1]), compare(0, 1)]).effects, []);
    assert_eq!(read(&[load("meta", (2, &[0, 0, 0, 4]), 1), compare(0, 1)]).effects, []);
}

#[test]
fn what_else_matters() {
    let way_back = |flags: u8| expression("fib", &[TO_1, (2, &[0, 0, 0, 1]), (3, &[0, 0, 0, flags])]);
    let verdict = |code: i32, chain: &str| {
        let verdict = attributes(&[(1, &code.to_be_bytes()), (2, chain.as_bytes())]);
        expression("immediate", &[(1, &[0; 4]), (2, &attributes(&[(2, &verdict)]))])
    };
    let dropping = read(&[
        load("meta", (2, &[0, 0, 0, 15]), 1),
        compare(0, 10),
        way_back(9),
        compare(0, 0),
        verdict(0, ""),
    ]);
    assert_eq!(dropping.effects, [Effect::ReversePath { with_mark: false, is_missing: true }]);
    assert_eq!((dropping.family, dropping.drops), (Some(10), true));
    let passing = read(&[way_back(45), compare(0, 1), verdict(1, "")]);
    assert_eq!(passing.effects, [Effect::ReversePath { with_mark: true, is_missing: false }]);
    assert_eq!(read(&[way_back(1), compare(0, 0)]).effects, []); // by any port: loose
    assert_eq!(read(&[verdict(-3, "next\0")]).leads_to.as_deref(), Some("next"));
    assert_eq!(read(&[expression("flow_offload", &[(1, b"f\0")])]).effects, [Effect::Offloads]);
}

#[test]
fn what_iptables_does() {
    let xtables = |what: &str, name: &str, revision: u8, words: &[u32], tail: &[u8]| {
        let words: Vec<u8> =
            words.iter().flat_map(|word| word.to_ne_bytes()).chain(tail.iter().copied()).collect();
        read(&[expression(what, &[(1, name.as_bytes()), (2, &[0, 0, 0, revision]), (3, &words)])])
    };
    let target =
        |name, revision, words: &[u32], tail: &[u8]| xtables("target", name, revision, words, tail).effects;
    let writes = |mark, bits, value| vec![Effect::Writes(mark, bits, value)];
    assert_eq!(target("MARK", 2, &[1, ALL], &[]), writes(Mark::Packet, ALL, known(ALL, 1)));
    assert_eq!(target("MARK", 2, &[0x4000, 0], &[]), writes(Mark::Packet, 0x4000, known(0, 0)));
    assert_eq!(target("CONNMARK", 1, &[1, 3, ALL], &[0]), writes(Mark::Connection, 3, known(3, 1)));
    assert_eq!(target("CONNMARK", 2, &[0, ALL, ALL], &[0, 0, 1]), writes(Mark::Connection, ALL, known(0, 0)));
    assert_eq!(
        target("CONNMARK", 2, &[0, 0xff00, 0xff00], &[0, 0, 2]),
        writes(Mark::Packet, 0xff00, known(0, 0))
    );
    assert_eq!(target("TPROXY", 1, &[1, 1], &[]), writes(Mark::Packet, 1, known(1, 1)));
    assert_eq!(target("FLOWOFFLOAD", 0, &[0], &[]), [Effect::Offloads]);
    assert_eq!(target("CONNMARK", 2, &[0, 0xff00], &[]), []); // cut off

    let equal = xtables("match", "connmark", 1, &[1, 0xff], &[0]);
    assert_eq!(
        (equal.effects, equal.connection),
        (vec![Effect::Reads(Mark::Connection, 0xff, Some(1))], known(0xff, 1))
    );
    assert_eq!(xtables("match", "mark", 1, &[1, 0xff], &[1]).packet, known(0, 0));
    let filter = |flags| xtables("match", "rpfilter", 0, &[], &[flags]).effects;
    assert_eq!(filter(2 | 8), [Effect::ReversePath { with_mark: true, is_missing: true }]);
    assert_eq!(filter(1 | 8), []);
}

fn policy(scope: Scope) -> Box<Policy> {
    let mut policy = Box::new(Policy::new());
    policy.mark_mask = 0xff;
    let path = Path { scope, ..Path::new(Name::try_from("a").unwrap(), 2, 200) };
    let _ = policy.paths.push(Path { priority: 1000, ..path });
    policy
}

fn chain(rule: Rule, base: Option<tables::Base>) -> tables::Chain {
    let place = tables::Place { family: 1, table: "t".into(), chain: "c".into() };
    tables::Chain { place, rules: vec![rule], drops: false, bases: base.into_iter().collect() }
}

/// Kernels without flowtables take no such rule, so there is no test with one.
#[test]
fn a_flowtable_is_told_unless_it_leaves_ours_alone() {
    let offload = || expression("flow_offload", &[(1, b"f\0")]);
    let others = [load("ct", CT_MARK, 1), and_xor(1, 0xff, 0), compare(0, 0), offload()];
    let found =
        |scope, expressions: &[Vec<u8>]| flowtables(&policy(scope), &[chain(read(expressions), None)]);
    let told = found(Scope::Both, &[offload()]);
    assert_eq!(told.len(), 1);
    assert!(told[0].line.contains("ct mark & 0xff == 0"), "{}", told[0].line);
    assert_eq!(found(Scope::Local, &[offload()]), []);
    assert_eq!(found(Scope::Both, &others), []);
}

/// Where a whole mark is written decides whether ours is hit.
#[test]
fn a_hook_before_ours_does_no_harm() {
    let restore = || read(&[load("ct", CT_MARK, 1), set_packet()]);
    let base =
        |hook, priority, is_nat, is_route| tables::Base { hook, priority, is_nat, is_route, drops: false };
    let count = |base| marks::findings(&policy(Scope::Both), &[chain(restore(), base)], &[]).len();
    let hooks = [
        (Some(base(0, -150, false, false)), 0), // prerouting, before ours
        (Some(base(0, -95, false, false)), 1),  // and not
        (Some(base(1, 0, false, false)), 1),    // input: sockets inherit it
        (Some(base(2, 0, false, false)), 0),    // forward: routed already
        (Some(base(3, -150, false, true)), 1),  // output, where it is routed again
        (Some(base(3, -151, false, true)), 0),
        (Some(base(3, 0, false, false)), 0),
        (Some(base(3, -100, true, false)), 0), // only first packets, which are not ours
        (None, 1),                             // nobody knows
    ];
    for (base, expected) in hooks {
        assert_eq!(count(base), expected, "{base:?}");
    }
}

fn foreign(action: u8, attributes_of: &[(u16, &[u8])]) -> ForeignRule {
    let mut message = vec![0; 12];
    message[7] = action;
    message.extend(attributes(attributes_of));
    ForeignRule { family: Family::V4, priority: 900, mark: (0, 0), table: 400, message }
}

#[test]
fn rules_that_come_first() {
    let count = |rule: &ForeignRule| rules::findings(&policy(Scope::Local), &[rule]).len();
    let all = foreign(1, &[]);
    assert_eq!(count(&all), 1);
    assert_eq!(count(&ForeignRule { priority: 1000, ..all.clone() }), 1); // ours goes behind it
    assert_eq!(count(&ForeignRule { priority: 1001, ..all.clone() }), 0);
    assert_eq!(count(&ForeignRule { table: 255, ..all.clone() }), 0);
    assert_eq!(count(&ForeignRule { mark: (2, 0xff), ..all.clone() }), 1);
    assert_eq!(count(&ForeignRule { mark: (1, 0xff), ..all.clone() }), 0);
    assert_eq!(count(&foreign(1, &[(14, &0_u32.to_ne_bytes())])), 0); // suppress_prefixlength 0
    assert_eq!(count(&foreign(1, &[(14, &ALL.to_ne_bytes())])), 1); // none
    assert_eq!(count(&foreign(1, &[(3, b"eth0\0")])), 0); // iif: nothing of scope local comes from there
    assert_eq!(count(&foreign(1, &[(3, b"lo\0")])), 1);
    assert_eq!(count(&foreign(2, &[(4, &1000_u32.to_ne_bytes())])), 0); // goto ours
    assert_eq!(count(&foreign(2, &[(4, &1001_u32.to_ne_bytes())])), 1);
    assert_eq!(count(&foreign(3, &[])), 0); // nop
    assert_eq!(count(&foreign(6, &[])), 1); // blackhole
}

/// `mark = mark & mask ^ flip`, or the two registers joined.
#[derive(Debug, Clone)]
enum Step {
    Masked(u32, u32),
    Joined(u32, u32, u32),
}

fn step() -> impl Strategy<Value = Step> {
    // Masks of whole bytes, as people have them, meet more often than any numbers would.
    let mask =
        || prop_oneof![any::<u32>(), prop::sample::select(vec![0, ALL, 0xff, !0xff, 0xff00, 0xffff0000])];
    prop_oneof![
        (mask(), mask()).prop_map(|(mask, flip)| Step::Masked(mask, flip)),
        (mask(), mask(), 3..=5_u32).prop_map(|(mask, flip, operation)| Step::Joined(mask, flip, operation)),
    ]
}

proptest! {
    /// What is said to be kept, known or not looked at is so, whatever the marks are.
    #[test]
    fn bits_are_followed(steps in vec(step(), 0..6), packet: u32, connection: u32, other: u32) {
        let run = |marks: [u32; 2]| {
            let (mut bits, mut value) = (Bits::of(Mark::Packet), marks[0]);
            for step in &steps {
                match *step {
                    Step::Masked(mask, flip) => {
                        (bits, value) = (bits.masked(mask, flip), value & mask ^ flip);
                    }
                    Step::Joined(mask, flip, operation) => {
                        let (there, with) = (Bits::of(Mark::Connection).masked(mask, flip), marks[1] & mask ^ flip);
                        bits = bits.joined(there, operation);
                        value = match operation { 3 => value & with, 4 => value | with, _ => value ^ with };
                    }
                }
            }
            (bits, value)
        };
        let (bits, value) = run([packet, connection]);
        prop_assert_eq!((value ^ packet) & bits.kept[0], 0);
        prop_assert_eq!((value ^ connection) & bits.kept[1], 0);
        prop_assert_eq!((value ^ bits.known.value) & bits.known.bits, 0);
        prop_assert_eq!(bits.known.value & !bits.known.bits, 0);
        let unseen = [packet ^ other & !bits.seen[0], connection ^ other & !bits.seen[1]];
        prop_assert_eq!(run(unseen).1, value);
    }

    /// Nothing that the kernel, or whoever speaks for it, sends breaks the reader.
    #[test]
    fn no_bytes_break_the_reader(bytes in vec(any::<u8>(), 0..200)) {
        rule(&bytes);
        let message = foreign(bytes.first().copied().unwrap_or(0), &[]).message;
        rules::findings(&policy(Scope::Both), &[&ForeignRule { message: bytes, ..foreign(1, &[]) }, &ForeignRule { message, ..foreign(1, &[]) }]);
    }

    #[test]
    fn no_attributes_break_it_either(
        list in vec((0..14_usize, vec((0..10_u16, vec(any::<u8>(), 0..24)), 0..5)), 0..6)
    ) {
        let names = ["meta", "ct", "bitwise", "byteorder", "immediate", "cmp", "range", "lookup", "dynset", "fib", "match",
            "target", "flow_offload", "payload"];
        let expressions: Vec<Vec<u8>> = list.iter().map(|(name, attributes)| {
            let attributes: Vec<(u16, &[u8])> = attributes.iter().map(|(kind, value)| (*kind, value.as_slice())).collect();
            expression(names[*name], &attributes)
        }).collect();
        read(&expressions);
    }
}

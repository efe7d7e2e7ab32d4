//! What a rule of another program does that a policy may feel, from the bytes in which the kernel dumps it. Pure.
//!
//! A rule is run in the head: of each register we know which bits of which mark are in it. `expressions.rs` is the
//! other direction; here everything that we do not know counts as unknown, and is passed over.

use super::xtables;
use crate::kernel::encode::VERDICT_CODE;
use crate::kernel::netlink::{attributes, find, text, u32_at};
use crate::kernel::ruleset::{DATA_VALUE, DATA_VERDICT, RULE_EXPRESSIONS, VERDICT_CHAIN};

/// A mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// Of the packet.
    Packet,
    /// Of its connection.
    Connection,
}

/// Bits of a mark that have a certain value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Known {
    /// Which ones.
    pub bits: u32,
    /// Their value; all others are 0.
    pub value: u32,
}

/// What a rule does that may matter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// What it does depends on these bits of a mark.
    Reads(Mark, u32, Option<u32>),
    /// It changes these bits of a mark; some to a value that it names.
    Writes(Mark, u32, Known),
    /// It moves the connection to a flowtable.
    Offloads,
    /// It asks whether the way back to the source is by the port that the packet came by.
    ReversePath {
        /// The look-up knows the packet's mark.
        with_mark: bool,
        /// It goes on where the way back is another, rather than where it is the same.
        is_missing: bool,
    },
}

/// A rule, as far as it matters.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rule {
    /// What it does.
    pub effects: Vec<Effect>,
    /// It is only about packets with these bits of their mark...
    pub packet: Known,
    /// ...and of their connection's mark.
    pub connection: Known,
    /// It is only about packets of this family (`NFPROTO_IPV4`, `_IPV6`).
    pub family: Option<u8>,
    /// The chain that it leads to.
    pub leads_to: Option<String>,
    /// It ends in a drop.
    pub drops: bool,
}

/// Attributes of a rule and of an expression (`linux/netfilter/nf_tables.h`).
pub(super) const EXPR_NAME: u16 = 1;
const EXPR_DATA: u16 = 2;
const LOOKUP_SET: u16 = 1;
/// `NFT_REG32_00`: registers of 4 bytes are numbered from here.
const REGISTERS_OF_4: u32 = 8;
const META_NFPROTO: u32 = libc::NFT_META_NFPROTO as u32;
const META_MARK: u32 = libc::NFT_META_MARK as u32;
const CT_MARK: u32 = libc::NFT_CT_MARK as u32;
const CMP_EQ: u32 = libc::NFT_CMP_EQ as u32;
const CMP_NEQ: u32 = libc::NFT_CMP_NEQ as u32;
/// `enum nft_bitwise_ops`: libc ends before these. Those of two registers since 6.13.
const BITWISE_BOOL: u32 = 0;
const BITWISE_AND: u32 = 3;
const BITWISE_OR: u32 = 4;
const BITWISE_XOR: u32 = 5;
/// `enum nft_fib_result`, `enum nft_fib_flags`.
const FIB_RESULT_OIF: u32 = 1;
const FIB_RESULT_OIFNAME: u32 = 2;
const FIB_F_SADDR: u32 = 1;
const FIB_F_MARK: u32 = 4;
const FIB_F_IIF: u32 = 8;

/// What is in four bytes of a register.
#[derive(Clone, Copy)]
enum Word {
    /// Nothing that we know of.
    Opaque,
    /// Bits of a mark, or a constant.
    Bits(Bits),
    /// The packet's family.
    Family,
    /// The port of the way back to the source.
    WayBack { with_mark: bool },
}

/// Bits in a register, by where they come from.
#[derive(Clone, Copy, Default)]
pub(super) struct Bits {
    /// Bits that are those of the packet's and of the connection's mark, each in its own place.
    pub(super) kept: [u32; 2],
    /// Bits of the two marks that make a difference to the rest.
    pub(super) seen: [u32; 2],
    /// Bits that are a constant's.
    pub(super) known: Known,
    /// Somebody has moved bits about, so that a mask says nothing of their old places.
    is_moved: bool,
}

impl Bits {
    /// A mark as it is.
    pub(super) fn of(mark: Mark) -> Bits {
        let mut bits = Bits::default();
        bits.kept[mark as usize] = u32::MAX;
        bits.seen[mark as usize] = u32::MAX;
        bits
    }

    fn constant(value: u32) -> Bits {
        Bits { known: Known { bits: u32::MAX, value }, ..Bits::default() }
    }

    /// `self & mask ^ flip`
    pub(super) fn masked(self, mask: u32, flip: u32) -> Bits {
        Bits {
            kept: self.kept.map(|bits| bits & mask & !flip),
            seen: self.seen.map(|bits| if self.is_moved { bits } else { bits & mask }),
            known: Known {
                bits: self.known.bits | !mask,
                value: (self.known.value & mask ^ flip) & (self.known.bits | !mask),
            },
            is_moved: self.is_moved,
        }
    }

    /// Of two registers. What one of them lets through of the other is kept: where it is 1 for an `and`, else 0.
    pub(super) fn joined(self, other: Bits, operation: u32) -> Bits {
        let lets_through = |bits: Known| match operation {
            BITWISE_AND => bits.bits & bits.value,
            _ => bits.bits & !bits.value,
        };
        let (here, there) = (lets_through(self.known), lets_through(other.known));
        let both = self.known.bits & other.known.bits;
        let (a, b) = (self.known.value, other.known.value);
        let value = match operation {
            BITWISE_AND => a & b,
            BITWISE_OR => a | b,
            _ => a ^ b,
        };
        let join = |at: usize| self.kept[at] & there | other.kept[at] & here;
        Bits {
            kept: [join(0), join(1)],
            seen: [self.seen[0] | other.seen[0], self.seen[1] | other.seen[1]],
            known: Known { bits: both, value: value & both },
            is_moved: self.is_moved | other.is_moved,
        }
    }

    /// Its bytes or bits in other places.
    fn moved(self) -> Bits {
        Bits { seen: self.seen, is_moved: true, ..Bits::default() }
    }
}

/// Reads a rule: the payload of an `NFT_MSG_NEWRULE`, behind its `struct nfgenmsg`.
pub fn rule(message: &[u8]) -> Rule {
    let mut run = Run { registers: [Word::Opaque; 16], rule: Rule::default() };
    for (_, element) in attributes(find(message, RULE_EXPRESSIONS).unwrap_or_default()) {
        let name = find(element, EXPR_NAME).map_or("", text);
        run.expression(name, find(element, EXPR_DATA).unwrap_or_default());
    }
    run.rule
}

/// The names of the sets that a rule asks.
pub fn sets(message: &[u8]) -> Vec<String> {
    let elements = attributes(find(message, RULE_EXPRESSIONS).unwrap_or_default());
    let lookups = elements.filter(|(_, element)| find(element, EXPR_NAME).map(text) == Some("lookup"));
    let set = |(_, element)| find(find(element, EXPR_DATA)?, LOOKUP_SET).map(|name| text(name).into());
    lookups.filter_map(set).collect()
}

struct Run {
    registers: [Word; 16],
    rule: Rule,
}

/// A number of an expression, which is big-endian.
fn number(data: &[u8], kind: u16) -> Option<u32> {
    Some(u32::from_be_bytes(find(data, kind)?.try_into().ok()?))
}

/// Four bytes of data, as they lie in a register.
fn value(data: &[u8], kind: u16) -> Option<u32> {
    u32_at(find(find(data, kind)?, DATA_VALUE)?, 0)
}

impl Run {
    fn expression(&mut self, name: &str, data: &[u8]) {
        match name {
            "meta" => match number(data, 2) {
                Some(META_MARK) => self.mark(Mark::Packet, data, 3),
                Some(META_NFPROTO) => self.load(data, 1, Word::Family),
                _ => self.load(data, 1, Word::Opaque),
            },
            "ct" => match number(data, 2) {
                Some(CT_MARK) => self.mark(Mark::Connection, data, 4),
                _ => self.load(data, 1, Word::Opaque),
            },
            "bitwise" => self.bitwise(data),
            "byteorder" => {
                let moved = self.bits(data, 1).map_or(Word::Opaque, |bits| Word::Bits(bits.moved()));
                self.load(data, 2, moved);
            }
            "immediate" => self.immediate(data),
            "cmp" => self.compare(data),
            "range" => self.reads(self.slot(data, 1)),
            "lookup" => {
                self.reads(self.slot(data, 2));
                self.load(data, 3, Word::Opaque);
            }
            "dynset" => self.reads(self.slot(data, 4)),
            "fib" => {
                let (result, flags) = (number(data, 2), number(data, 3).unwrap_or(0));
                let is_port = matches!(result, Some(FIB_RESULT_OIF | FIB_RESULT_OIFNAME));
                let asks = FIB_F_SADDR | FIB_F_IIF;
                self.load(
                    data,
                    1,
                    match is_port && flags & asks == asks {
                        true => Word::WayBack { with_mark: flags & FIB_F_MARK != 0 },
                        false => Word::Opaque,
                    },
                );
            }
            "payload" | "exthdr" | "rt" | "numgen" => self.load(data, 1, Word::Opaque),
            "flow_offload" => self.rule.effects.push(Effect::Offloads),
            "reject" => self.rule.drops = true,
            "match" => xtables::matches(data, &mut self.rule),
            "target" => xtables::target(data, &mut self.rule),
            "counter" | "limit" | "quota" | "log" | "last" | "objref" | "notrack" => {}
            _ => self.registers = [Word::Opaque; 16],
        }
    }

    /// The place of a register among sixteen of 4 bytes (`nft_parse_register`, `net/netfilter/nf_tables_api.c`).
    fn slot(&self, data: &[u8], kind: u16) -> Option<usize> {
        let number = number(data, kind)?;
        let slot = match number {
            1..=4 => (number - 1) * 4,
            _ => number.checked_sub(REGISTERS_OF_4)?,
        };
        Some(slot as usize).filter(|slot| *slot < self.registers.len())
    }

    fn load(&mut self, data: &[u8], kind: u16, word: Word) {
        if let Some(register) = self.slot(data, kind).and_then(|slot| self.registers.get_mut(slot)) {
            *register = word;
        }
    }

    fn word(&self, data: &[u8], kind: u16) -> Word {
        self.slot(data, kind).and_then(|slot| self.registers.get(slot)).copied().unwrap_or(Word::Opaque)
    }

    fn bits(&self, data: &[u8], kind: u16) -> Option<Bits> {
        match self.word(data, kind) {
            Word::Bits(bits) => Some(bits),
            _ => None,
        }
    }

    /// `mark` is loaded, or set from the register that attribute `source` names.
    fn mark(&mut self, mark: Mark, data: &[u8], source: u16) {
        match number(data, source) {
            None => self.load(data, 1, Word::Bits(Bits::of(mark))),
            Some(_) => {
                let bits = self.bits(data, source).unwrap_or_default();
                let changed = !bits.kept[mark as usize];
                let known = Known { bits: bits.known.bits & changed, value: bits.known.value & changed };
                self.rule.effects.push(Effect::Writes(mark, changed, known));
            }
        }
    }

    fn bitwise(&mut self, data: &[u8]) {
        let (mask, flip) = (value(data, 4), value(data, 5));
        let result =
            self.bits(data, 1).map(|bits| match (number(data, 6).unwrap_or(BITWISE_BOOL), mask, flip) {
                (BITWISE_BOOL, Some(mask), Some(flip)) => bits.masked(mask, flip),
                (operation @ (BITWISE_AND | BITWISE_OR | BITWISE_XOR), ..) => {
                    let other = self.bits(data, 8).or(value(data, 7).map(Bits::constant));
                    other.map_or(bits.moved(), |other| bits.joined(other, operation))
                }
                _ => bits.moved(),
            });
        self.load(data, 2, result.map_or(Word::Opaque, Word::Bits));
    }

    fn immediate(&mut self, data: &[u8]) {
        let Some(verdict) = find(data, 2).and_then(|data| find(data, DATA_VERDICT)) else {
            return self.load(
                data,
                1,
                value(data, 2).map_or(Word::Opaque, |c| Word::Bits(Bits::constant(c))),
            );
        };
        self.rule.drops |= number(verdict, VERDICT_CODE) == Some(libc::NF_DROP as u32);
        self.rule.leads_to = find(verdict, VERDICT_CHAIN).map(|chain| text(chain).into());
    }

    fn compare(&mut self, data: &[u8]) {
        let operator = number(data, 2);
        let with = find(data, 3).and_then(|data| find(data, DATA_VALUE)).unwrap_or_default();
        let is_equal = operator == Some(CMP_EQ);
        match self.word(data, 1) {
            Word::Opaque => {}
            Word::Family if is_equal => self.rule.family = with.first().copied(),
            Word::Family => {}
            Word::WayBack { with_mark } => {
                let is_missing = is_equal == with.iter().all(|byte| *byte == 0);
                self.rule.effects.push(Effect::ReversePath { with_mark, is_missing });
            }
            Word::Bits(bits) => {
                let value = u32_at(with, 0).filter(|_| is_equal || operator == Some(CMP_NEQ));
                for mark in [Mark::Packet, Mark::Connection] {
                    let (seen, kept) = (bits.seen[mark as usize], bits.kept[mark as usize]);
                    self.rule.compares(mark, seen, value.filter(|_| seen == kept), is_equal);
                }
            }
        }
    }

    /// Something else than a comparison with a constant looks at a register, and at those that follow: a key of several
    /// parts.
    fn reads(&mut self, slot: Option<usize>) {
        let words = slot.and_then(|slot| self.registers.get(slot..)).unwrap_or_default();
        for bits in
            words.iter().filter_map(|word| if let Word::Bits(bits) = word { Some(bits) } else { None })
        {
            for mark in [Mark::Packet, Mark::Connection] {
                self.rule.compares(mark, bits.seen[mark as usize], None, false);
            }
        }
    }
}

impl Rule {
    /// It goes on where these bits of a mark are, or are not, the value.
    pub fn compares(&mut self, mark: Mark, bits: u32, value: Option<u32>, is_equal: bool) {
        if bits == 0 {
            return;
        }
        self.effects.push(Effect::Reads(mark, bits, value));
        let known = match mark {
            Mark::Packet => &mut self.packet,
            Mark::Connection => &mut self.connection,
        };
        if let (true, Some(value)) = (is_equal, value) {
            known.bits |= bits;
            known.value |= value & bits;
        }
    }
}

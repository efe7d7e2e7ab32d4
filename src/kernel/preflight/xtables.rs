//! Matches and targets of iptables, which iptables-nft has the kernel keep as they are (`linux/netfilter/xt_*.h`).

use super::foreign::{Effect, Known, Mark, Rule};
use crate::kernel::netlink::{find, text, u32_at};

/// Attributes of the expressions `match` and `target` (`linux/netfilter/nf_tables_compat.h`).
const NAME: u16 = 1;
const REVISION: u16 = 2;
const INFO: u16 = 3;
/// `struct xt_rpfilter_info`: it has to be any port; the look-up knows the mark; it goes on where the test fails.
const RPFILTER_LOOSE: u8 = 1;
const RPFILTER_VALID_MARK: u8 = 2;
const RPFILTER_INVERT: u8 = 8;
/// `enum` of `linux/netfilter/xt_connmark.h`.
const CONNMARK_SET: u8 = 0;
const CONNMARK_SAVE: u8 = 1;
const CONNMARK_RESTORE: u8 = 2;

/// The name, with the revision, and what is given to it.
fn parts(data: &[u8]) -> (&str, u32, &[u8]) {
    let revision = find(data, REVISION).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_be_bytes);
    (find(data, NAME).map_or("", text), revision, find(data, INFO).unwrap_or_default())
}

/// What a match looks at.
pub fn matches(data: &[u8], rule: &mut Rule) {
    let (name, revision, info) = parts(data);
    match (name, revision) {
        ("mark" | "connmark", 1..) => {
            // struct xt_mark_mtinfo1, xt_connmark_mtinfo1: mark, mask, invert
            let (Some(value), Some(mask), Some(invert)) = (u32_at(info, 0), u32_at(info, 4), info.get(8))
            else {
                return;
            };
            let mark = if name == "mark" { Mark::Packet } else { Mark::Connection };
            rule.compares(mark, mask, Some(value), *invert == 0);
        }
        ("rpfilter", _) => {
            let flags = info.first().copied().unwrap_or(RPFILTER_LOOSE);
            if flags & RPFILTER_LOOSE == 0 {
                rule.effects.push(Effect::ReversePath {
                    with_mark: flags & RPFILTER_VALID_MARK != 0,
                    is_missing: flags & RPFILTER_INVERT != 0,
                });
            }
        }
        _ => {}
    }
}

/// What a target changes.
pub fn target(data: &[u8], rule: &mut Rule) {
    let (name, revision, info) = parts(data);
    let (first, second, third) = (u32_at(info, 0), u32_at(info, 4), u32_at(info, 8));
    let mut writes = |mark, bits, value| rule.effects.push(Effect::Writes(mark, bits, value));
    let constant = |bits, value| Known { bits, value };
    match (name, revision, first, second) {
        // struct xt_mark_tginfo2: mark, mask; the new mark is `old & ~mask ^ mark`
        ("MARK", 2.., Some(value), Some(mask)) => {
            writes(Mark::Packet, mask | value, constant(mask, value & mask))
        }
        // struct xt_connmark_tginfo1: ctmark, ctmask, nfmask, mode; xt_connmark_tginfo2 has a shift before the mode
        ("CONNMARK", 1.., Some(value), Some(mask)) => {
            match (info.get(if revision == 1 { 12 } else { 14 }), third) {
                (Some(&CONNMARK_SET), _) => {
                    writes(Mark::Connection, mask | value, constant(mask, value & mask))
                }
                (Some(&CONNMARK_SAVE), Some(nfmask)) => {
                    writes(Mark::Connection, mask | nfmask, constant(mask & !nfmask, 0));
                }
                (Some(&CONNMARK_RESTORE), Some(nfmask)) => {
                    writes(Mark::Packet, mask | nfmask, constant(nfmask & !mask, 0));
                }
                _ => {}
            }
        }
        // struct xt_tproxy_target_info, _v1: mark_mask, mark_value
        ("TPROXY", _, Some(mask), Some(value)) => {
            writes(Mark::Packet, mask | value, constant(mask, value & mask))
        }
        ("HMARK", ..) => writes(Mark::Packet, u32::MAX, Known::default()),
        ("FLOWOFFLOAD", ..) => rule.effects.push(Effect::Offloads),
        ("REJECT", ..) => rule.drops = true,
        _ => {}
    }
}

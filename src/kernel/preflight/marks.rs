//! Which bits of the marks other programs use, and which are free. Pure.

use super::foreign::{Effect, Known, Mark, Rule};
use super::tables::Chain;
use super::{Finding, warning};
use crate::kernel::ways::ForeignRule;
use crate::policy::Policy;

/// What a program does with a mark.
#[derive(Default)]
struct Use {
    /// Bits that it writes,
    writes: u32,
    /// or looks at, to find what it has marked itself.
    reads: u32,
    /// It writes the whole mark, over what is not its own.
    writes_whole: bool,
    /// It looks at the whole mark, so that what is not its own makes a difference.
    reads_whole: bool,
}

/// What of other programs' use of marks the policy can not live with.
pub fn findings(policy: &Policy, chains: &[Chain], rules: &[&ForeignRule]) -> Vec<Finding> {
    let mask = policy.mark_mask;
    let by_rules = rules.iter().map(|rule| own(rule.mark.1, Some(rule.mark.0)));
    let effects = chains.iter().flat_map(|chain| &chain.rules).flat_map(|rule| &rule.effects);
    let by_chains = effects.map(|effect| own_bits(effect, mask));
    let taken = by_rules.chain(by_chains).fold(0, |all, bits| all | bits);
    let remedy = match free(mask, policy.paths.len(), taken) {
        Some(free) => format!(
            "take `mark_mask = {free:#x}` and marks within it, such as {:#x}",
            1_u32 << free.trailing_zeros().min(31)
        ),
        None => "no bits are free; have it use fewer".into(),
    };

    let mut findings = Vec::new();
    let overlap = |who: String, does: &str, bits: u32, mark: &str| {
        warning(
            "mark-bits",
            format!(
                "{who}: it {does} {bits:#x} of the {mark} mark, which mark_mask {mask:#x} has as well; {remedy}"
            ),
        )
    };
    for rule in rules {
        let bits = own(rule.mark.1, Some(rule.mark.0)) & mask;
        if bits != 0 {
            let who = format!("ip -{} rule {}", rule.family.digit(), rule.priority);
            findings.push(overlap(who, "looks for", bits, "packet"));
        }
    }
    for chain in chains {
        for (mark, name) in [(Mark::Packet, "packet"), (Mark::Connection, "connection")] {
            let of = used(chain, mark, policy);
            let does = match (of.writes & mask, of.reads & mask) {
                (0, 0) => None,
                (_, 0) => Some("writes"),
                (0, _) => Some("looks for"),
                _ => Some("writes and looks for"),
            };
            let bits = (of.writes | of.reads) & mask;
            findings.extend(does.map(|does| overlap(chain.place.to_string(), does, bits, name)));
            let whole = |does: &str| {
                warning(
                    "mark-whole",
                    format!("{}: it {does}; give that rule a mask without {mask:#x}", chain.place),
                )
            };
            if of.writes_whole && chain.spoils(mark) {
                findings.push(whole(&format!("writes the whole {name} mark, our bits included")));
            }
            if of.reads_whole && chain.sees(mark) {
                findings.push(whole(&format!("looks at the whole {name} mark, our bits included")));
            }
        }
    }
    findings
}

fn used(chain: &Chain, wanted: Mark, policy: &Policy) -> Use {
    let mut of = Use::default();
    for rule in &chain.rules {
        for effect in &rule.effects {
            match *effect {
                Effect::Writes(mark, bits, _) if mark == wanted => {
                    let own = own_bits(effect, policy.mark_mask);
                    of.writes |= own;
                    of.writes_whole |= bits & !own & policy.mark_mask != 0 && may_be_ours(rule, policy);
                }
                Effect::Reads(mark, bits, _) if mark == wanted => {
                    let own = own_bits(effect, policy.mark_mask);
                    of.reads |= own;
                    of.reads_whole |= bits == u32::MAX && own == 0;
                }
                _ => {}
            }
        }
    }
    of
}

/// Whether a rule may see a packet with a mark of ours, or of a connection with one.
pub fn may_be_ours(rule: &Rule, policy: &Policy) -> bool {
    [rule.packet, rule.connection].into_iter().all(|known: Known| {
        let bits = known.bits & policy.mark_mask;
        bits == 0 || policy.paths.iter().any(|path| path.mark & bits == known.value & bits)
    })
}

/// The bits that an effect shows to be another program's.
fn own_bits(effect: &Effect, mask: u32) -> u32 {
    match *effect {
        // Who asks whether our bits are 0 leaves ours alone.
        Effect::Reads(_, bits, Some(0)) if bits == mask => 0,
        Effect::Reads(_, bits, value) => own(bits, value),
        // Who copies one mark over the other says nothing of bits.
        Effect::Writes(_, u32::MAX, Known { bits: 0, .. }) => 0,
        Effect::Writes(_, u32::MAX, known) => known.value | !known.bits,
        Effect::Writes(_, bits, _) => bits,
        _ => 0,
    }
}

/// Who gives no mask, and so means every bit, has those that the value has.
fn own(bits: u32, value: Option<u32>) -> u32 {
    match bits {
        u32::MAX => value.unwrap_or(0),
        _ => bits,
    }
}

/// A mask of free bits with a mark for each path: a whole byte, what is left of the mask that there is, as few bits side
/// by side as will do, or all.
fn free(mask: u32, paths: usize, taken: u32) -> Option<u32> {
    let holds = |mask: &u32| (1_u64 << mask.count_ones()) > paths.max(1) as u64;
    let bytes = (0..4).map(|at| 0xff << (8 * at));
    let runs = (1..=32).flat_map(|bits| (0..=32 - bits).map(move |at| (u32::MAX >> (32 - bits)) << at));
    let is_free = |mask: &u32| mask & taken == 0;
    bytes.chain([mask & !taken]).chain(runs).chain([!taken]).filter(is_free).find(holds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_free_mask_is_found() {
        assert_eq!(free(0xff, 1, 0x1), Some(0xff00));
        assert_eq!(free(0xff, 1, 0xff3f01), Some(0xff000000));
        assert_eq!(free(0xff, 1, 0xffffff01), Some(0xfe));
        assert_eq!(free(0xff, 200, 0xff), Some(0xff00));
        assert_eq!(free(0xff, 256, 0xff), Some(0x1ff00)); // 256 marks take more than a byte
        assert_eq!(free(0xf, 3, 0xf0f0f0ff), Some(0x300));
        assert_eq!(free(0xff, 3, 0x5555_5555), Some(0xaa));
        assert_eq!(free(0x5, 256, 0x5555_5555), Some(0xaaaa_aaaa));
        assert_eq!(free(0xff, 1, u32::MAX), None);
        assert_eq!(free(0xff, 7, !0b101), None);
    }
}

//! Rules of other programs that are asked before ours, and so may send packets of ours elsewhere. Pure.

use super::{Finding, warning};
use crate::kernel::answer::TableName;
use crate::kernel::netlink::{attributes, find, text, u32_at};
use crate::kernel::ways::{
    FIB_RULE_INVERT, FR_ACT_TO_TBL, FRA_FWMARK, FRA_FWMASK, FRA_PRIORITY, FRA_PROTOCOL,
    FRA_SUPPRESS_PREFIXLEN, FRA_TABLE, ForeignRule,
};
use crate::plan::ways::Family;
use crate::policy::{Network, Path, Policy, Scope};
use core::net::IpAddr;

/// Attributes and actions of a rule (`linux/fib_rules.h`).
const FRA_DST: u16 = 1;
const FRA_IIFNAME: u16 = 3;
const FRA_GOTO: u16 = 4;
const FRA_OIFNAME: u16 = 17;
const FRA_PAD: u16 = 18;
const FRA_L3MDEV: u16 = 19;
const FRA_UID_RANGE: u16 = 20;
const FR_ACT_GOTO: u8 = 2;
const FR_ACT_NOP: u8 = 3;
/// The local table: what is in it is for this host.
const RT_TABLE_LOCAL: u32 = 255;

/// A warning for each rule that may catch packets which are marked for a path.
pub fn findings(policy: &Policy, foreign: &[&ForeignRule]) -> Vec<Finding> {
    foreign.iter().filter_map(|rule| finding(policy, rule)).collect()
}

fn finding(policy: &Policy, rule: &ForeignRule) -> Option<Finding> {
    let has_family = |path: &&Path| match rule.family {
        Family::V4 => path.has_v4(),
        Family::V6 => path.has_v6(),
    };
    let mut caught = policy.paths.iter().filter(has_family).filter_map(|path| {
        (rule.priority <= path.priority).then(|| catches(rule, path, policy)).flatten().map(|all| (path, all))
    });
    let (path, all) = caught.next()?;
    let last = caught.clone().map(|(path, _)| path.priority).fold(path.priority, u32::max);
    let others = match caught.count() {
        0 => String::new(),
        more => format!(" (and of {more} more)"),
    };
    let some = if all { "" } else { "some " };
    let replies = format!("{some}replies of path {}{others}", path.name);
    let does = match rule.message.get(7) {
        Some(&FR_ACT_TO_TBL) => format!("sends {replies} to {}", TableName(rule.table)),
        Some(&FR_ACT_GOTO) => format!("passes {replies} by ours"),
        _ => format!("refuses {replies}"),
    };
    let ours = match rule.priority {
        0 | 1 => String::new(),
        priority => format!(", or ours a `priority` below {priority}"),
    };
    Some(warning(
        "rule-first",
        format!(
            "ip -{} rule {}: it comes first, and {does}; give it a priority above {last}{ours}",
            rule.family.digit(),
            rule.priority
        ),
    ))
}

/// Whether a rule catches all packets that are marked for a path, or some (`false`); `None`: none at all.
fn catches(rule: &ForeignRule, path: &Path, policy: &Policy) -> Option<bool> {
    let header = rule.message.get(..12)?;
    let attributes_of = rule.message.get(12..)?;
    let of = |kind| find(attributes_of, kind);
    let number = |kind| of(kind).and_then(|value| u32_at(value, 0));
    let does_nothing = match header[7] {
        // Only networks that the table names are looked up, not its default route: what wg-quick does with main.
        FR_ACT_TO_TBL => {
            rule.table == RT_TABLE_LOCAL
                || number(FRA_SUPPRESS_PREFIXLEN).is_some_and(|length| length != u32::MAX)
                || of(FRA_L3MDEV).is_some_and(|value| value != [0]) // only for ports of a VRF
        }
        FR_ACT_GOTO => number(FRA_GOTO).is_none_or(|to| to <= path.priority),
        FR_ACT_NOP => true,
        _ => false,
    };
    let arrives = of(FRA_IIFNAME).map(text);
    let is_elsewhere = of(FRA_OIFNAME).is_some() // only for sockets that are bound to a port
        || arrives.is_some_and(|port| port != "lo") && path.scope == Scope::Local
        || (arrives == Some("lo") || of(FRA_UID_RANGE).is_some()) && path.scope == Scope::Forward
        || of(FRA_DST).and_then(|to| network(to, header[1])).is_some_and(|to| {
            policy.local_networks.iter().any(|local| local.prefix <= to.prefix && local.overlaps(&to))
        });
    let (value, bits) = rule.mark;
    let has_mark = path.mark & bits == value;
    let is_selector = |kind| {
        !matches!(
            kind,
            FRA_PRIORITY
                | FRA_FWMARK
                | FRA_FWMASK
                | FRA_TABLE
                | FRA_GOTO
                | FRA_SUPPRESS_PREFIXLEN
                | FRA_PAD
                | FRA_PROTOCOL
        )
    };
    let is_narrow = header[3] != 0 || attributes(attributes_of).any(|(kind, _)| is_selector(kind));
    let is_inverted = u32_at(header, 8)? & FIB_RULE_INVERT != 0;
    match (does_nothing || is_elsewhere && !is_inverted, is_inverted, has_mark, is_narrow) {
        (true, ..) | (_, false, false, _) | (_, true, true, false) => None,
        (_, true, false, _) | (_, false, true, false) => Some(true),
        (_, true, true, true) | (_, false, true, true) => Some(false),
    }
}

fn network(bytes: &[u8], prefix: u8) -> Option<Network> {
    let address = match bytes.len() {
        4 => IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?),
        _ => IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?),
    };
    Some(Network { address, prefix }.trimmed())
}

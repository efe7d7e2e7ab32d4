//! What the kernel lacks for a policy, by name. The table is sent as a batch without an end: the kernel says of each
//! message whether it would take it, and does nothing.

use super::foreign::EXPR_NAME;
use super::{Finding, refusal};
use crate::kernel::netlink::{Message, Refusal, Socket, attributes, text};
use crate::kernel::ruleset::{NEWCHAIN, NEWTABLE, RULE_EXPRESSIONS, Ruleset, describe, find, name};
use crate::kernel::{Error, encode, sysctl};
use crate::plan::Plan;
use crate::plan::ways::Family;

/// A refusal for each thing that the kernel lacks.
pub fn findings(plan: &Plan, socket: &mut Socket) -> Result<Vec<Finding>, Error> {
    let (mut lines, mut options) = (Vec::new(), Vec::new());
    let is_absent = |name| sysctl::read(name).map(|value| value.is_none());
    if plan.ways.rules.iter().any(|rule| rule.family == Family::V6)
        && is_absent("net/ipv6/conf/all/disable_ipv6")?
        && !is_absent("net/ipv4/conf/all/rp_filter")?
    {
        lines.push("IPv6: the kernel is without it; leave its gateways out of the policy".into());
    }
    let Ruleset(messages) = encode::ruleset(&plan.table, &[]);
    let messages: Vec<&Message> = messages.iter().collect();
    for refused in socket.rehearse(&messages).unwrap_or_else(|refusal| vec![refusal]) {
        let Some(message) = messages.get(refused.index) else { continue };
        let Some(option) = lacks(message, &refused).filter(|option| !options.contains(option)) else {
            continue;
        };
        lines.push(format!(
            "{option}: the kernel is without it, and {} needs it; take one that has it, or load its module",
            describe((message.kind, name(message)))
        ));
        options.push(option);
    }
    Ok(lines.into_iter().map(|line| refusal("kernel-feature", line)).collect())
}

/// The option of the kernel's that a refused message shows to be missing. `None`: it was refused for another reason, which
/// `apply` will say.
fn lacks(message: &Message, refused: &Refusal) -> Option<String> {
    let is_missing =
        matches!(refused.errno, libc::ENOENT | libc::EOPNOTSUPP | libc::EPROTONOSUPPORT | libc::EAFNOSUPPORT);
    let option = match refused.offset.and_then(|offset| expression(message, offset)) {
        Some("ct") if refused.errno == libc::EOPNOTSUPP => "NF_CONNTRACK_LABELS".into(),
        Some("fib") => "NFT_FIB_INET".into(),
        Some(name) => format!("NFT_{}", name.to_ascii_uppercase()),
        None if matches!(message.kind, NEWTABLE | NEWCHAIN) => "NF_TABLES_INET".into(),
        None => return None, // something that leads to what was refused
    };
    is_missing.then(|| format!("CONFIG_{option}"))
}

/// The kind of the expression that begins at an offset in a rule.
fn expression(message: &Message, offset: usize) -> Option<&str> {
    let list = find(message, RULE_EXPRESSIONS)?;
    let start = list.as_ptr() as usize - message.payload.as_ptr() as usize;
    let mut at = start;
    for (_, element) in attributes(list) {
        if at == offset {
            return attributes(element).find(|(kind, _)| *kind == EXPR_NAME).map(|(_, name)| text(name));
        }
        at += (4 + element.len()).next_multiple_of(4);
    }
    None
}

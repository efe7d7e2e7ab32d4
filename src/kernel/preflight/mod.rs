//! What of the machine and of its other programs the policy would not work with: looked at before anything is changed.
//!
//! A *refusal* is what `apply` can not do. A *warning* is what it can do, and what would not work then.

mod features;
mod foreign;
mod marks;
mod ports;
mod reverse_path;
mod routers;
mod routes;
mod rules;
mod tables;
#[cfg(test)]
mod tests;
mod xtables;

pub use routes::{Early, check_ownership, check_ports, foresee, taken};

use super::Error;
use super::files;
use super::journal::Journal;
use super::netlink::Socket;
use super::ways::ForeignRule;
use crate::plan::Plan;
use crate::policy::{Policy, Scope};
use core::fmt::{self, Display, Formatter};
use rustix::fs::OFlags;

/// How many warnings are a page.
const PAGE: usize = 12;

/// Something that is in the way of a policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How much.
    pub severity: Severity,
    /// What kind of thing it is, in a word that stays the same.
    pub code: &'static str,
    /// The thing, the reason and the remedy.
    pub line: String,
}

/// How much a finding is in the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// The policy can be installed, and would not do all that it shall.
    Warning,
    /// It can not be installed.
    Refusal,
}

impl Display for Severity {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Severity::Warning => "warning",
            Severity::Refusal => "refusal",
        })
    }
}

pub(super) fn warning(code: &'static str, line: String) -> Finding {
    Finding { severity: Severity::Warning, code, line }
}

pub(super) fn refusal(code: &'static str, line: String) -> Finding {
    Finding { severity: Severity::Refusal, code, line }
}

/// What is asked before anything is changed: refuses what can not be, and returns what to warn of. Who only completes or
/// repairs what is in force asks nothing.
pub fn before(
    early: Early,
    policy: &Policy,
    plan: &Plan,
    foreign: &[ForeignRule],
    journal: &mut Journal,
) -> Result<Vec<Finding>, Error> {
    match early {
        // What the kernel lacks is asked where it has refused something (`lacking`): a batch that is not carried out
        // costs a grace period of its, which is ten times an `apply`.
        Early::Refuse | Early::Await => heed(look(policy, plan, false, foreign, journal), false),
        Early::Complete | Early::Keep => Ok(Vec::new()),
    }
}

/// What the kernel lacks for a policy, if it lacks something.
pub fn lacking(policy: &Policy, socket: &mut Socket) -> Option<String> {
    let found = features::findings(&Plan::new(policy), socket).unwrap_or_default();
    heed(found, true).err().map(|error| error.line)
}

/// Looks at what is there, without changing it. `is_first`: no table of ours has shown yet that the kernel takes one.
pub fn look(
    policy: &Policy,
    plan: &Plan,
    is_first: bool,
    foreign: &[ForeignRule],
    journal: &mut Journal,
) -> Vec<Finding> {
    // Those in a place of ours are refused; what else they do is no matter then.
    let beside = foreign.iter().filter(|other| routes::collides(plan, other).is_none());
    let foreign = beside.collect::<Vec<_>>();
    let Journal { routing, nftables, .. } = journal;
    let mut findings = Vec::new();
    // What can not be looked at is no reason to refuse.
    let mut add = |found: Result<Vec<Finding>, Error>| match found {
        Ok(mut found) => findings.append(&mut found),
        Err(error) => findings.push(warning("unseen", error.line)),
    };
    if is_first {
        add(features::findings(plan, &mut nftables.socket));
    }
    add(Ok(rules::findings(policy, &foreign)));
    add(tables::read(&mut nftables.socket).and_then(|chains| {
        let mut found = marks::findings(policy, &chains, &foreign);
        found.extend(flowtables(policy, &chains));
        found.extend(reverse_path::findings(policy, plan, &chains, routing)?);
        Ok(found)
    }));
    add(Ok(legacy(policy)));
    add(ports::findings(policy, routing));
    add(routers::findings(policy, plan, routing));
    findings
}

/// The warnings, unless something is found for which nothing shall be changed.
pub fn heed(mut findings: Vec<Finding>, is_strict: bool) -> Result<Vec<Finding>, Error> {
    let first = findings.iter().position(|finding| finding.severity == Severity::Refusal);
    if findings.is_empty() || first.is_none() && !is_strict {
        return Ok(findings);
    }
    let by = if first.is_none() { "refused by --strict, and nothing is changed: " } else { "" };
    let more = if findings.len() > 1 { " (there is more: see `returnpath check`)" } else { "" };
    Err(Error::new([by, &findings.swap_remove(first.unwrap_or(0)).line, more].concat()))
}

/// Says warnings in the log: a page of them at most.
pub fn log(warnings: &[Finding]) {
    warnings.iter().take(PAGE).for_each(|finding| log::warn!("{}", finding.line));
    if let Some(more @ 1..) = warnings.len().checked_sub(PAGE) {
        log::warn!("{more} more warnings: see `returnpath check`");
    }
}

/// A connection in a flowtable has its way from the packet that moved it there, which may be one without a mark.
fn flowtables(policy: &Policy, chains: &[tables::Chain]) -> Vec<Finding> {
    let forwards = policy.paths.iter().any(|path| path.scope != Scope::Local);
    let moves = |chain: &&tables::Chain| {
        let is_ours = |rule: &&foreign::Rule| marks::may_be_ours(rule, policy);
        chain.rules.iter().filter(is_ours).any(|rule| rule.effects.contains(&foreign::Effect::Offloads))
    };
    let line = |chain: &tables::Chain| {
        format!(
            "{}: it moves connections to a flowtable, where their replies lose the path; have `ct mark & {:#x} == 0` before \
             `flow add`",
            chain.place, policy.mark_mask
        )
    };
    let moving = chains.iter().filter(moves).filter(|_| forwards);
    moving.map(|chain| warning("flowtable", line(chain))).collect()
}

/// The tables of iptables-legacy can not be listed here, only their names.
fn legacy(policy: &Policy) -> Vec<Finding> {
    let tables = |file| files::read(file, OFlags::empty()).unwrap_or_default(); // not there, or not for this user
    ["ip", "ip6"]
        .map(|family| (format!("{family}tables-legacy"), tables(format!("/proc/net/{family}_tables_names"))))
        .into_iter()
        .filter(|(_, tables)| !tables.is_empty())
        .map(|(program, tables)| {
            let tables = tables.lines().collect::<Vec<_>>().join(", ");
            let line = format!(
                "{program}: it has tables ({tables}) that can not be looked into from here; see that `{program}-save` shows no \
                 mark within {:#x}",
                policy.mark_mask
            );
            warning("iptables-legacy", line)
        })
        .collect()
}

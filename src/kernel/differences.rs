//! What differs between the kernel and a policy, and which command shows it.

use super::commit::{State, observe, pairs, plan, recorded};
use super::journal::Journal;
use super::preflight::Early;
use super::sysctl::Needs;
use super::trial::seconds_left;
use super::{Error, encode, macs, preflight};
use crate::plan::Plan;
use crate::plan::transition::{Step, Transition, misplaced};
use crate::plan::ways::{Next, Route, Rule};
use crate::policy::Policy;
use core::fmt::{self, Display, Formatter};
use core::mem::take;

/// Something that the kernel holds otherwise than a policy has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// What it is, in one line.
    pub line: String,
    /// The command that shows what the kernel holds there.
    pub command: String,
    /// With what it comes if nobody makes it.
    pub cause: Cause,
}

/// With what the kernel itself changes something of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// With a port or its addresses: the routes through it, its settings.
    Port,
    /// With the MAC of a gateway.
    Neighbour,
    /// With nothing: somebody has changed it.
    Nothing,
}

impl Display for Difference {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}; see `{}`", self.line, self.command)
    }
}

/// The plan of a policy beside what the kernel holds.
pub struct Comparison {
    /// The plan, with the port of each gateway as far as the kernel finds it, and the record of settings from before.
    pub plan: Plan,
    /// Each difference; none where the policy is in force.
    pub differences: Vec<Difference>,
    /// How long what is in force is still on trial (`apply --confirm`), in seconds; `None`: it is not.
    pub seconds_left: Option<u32>,
}

/// Compares the kernel with a policy that has passed [`Policy::check`]; changes nothing.
///
/// # Errors
/// The kernel can not be read.
pub fn compare(policy: &Policy) -> Result<Comparison, Error> {
    let mut journal = Journal::open()?;
    let (there, foreign) = observe(&mut journal)?;
    let mut plan = plan(policy, &there.ways, &mut journal.routing)?;
    let unknown = macs::look(&mut plan, &there.table, Early::Refuse, &mut journal.routing)?;
    let needs = Needs::new(&plan, recorded(&there, &plan, &mut journal.routing)?, &mut journal.routing)?;
    let trial = there.table.trial();
    plan.table = take(&mut plan.table).with_record(plan.mark_mask, &pairs(&needs.record), trial);
    let target = State { ways: plan.ways.clone(), table: encode::ruleset(&plan.table, &[]).into() };
    let mut differences = target.differences(&there);
    differences.extend(needs.differences());
    differences.extend(preflight::taken(&plan, &foreign, &mut journal.routing)?);
    differences.extend(unknown.iter().map(|gateway| Difference {
        line: format!("unknown: {gateway}"),
        command: "ip neigh".into(),
        cause: Cause::Neighbour,
    }));
    Ok(Comparison { plan, differences, seconds_left: trial.and_then(seconds_left) })
}

impl State {
    /// What `there` lacks, or has too much or otherwise.
    pub(super) fn differences(&self, there: &State) -> Vec<Difference> {
        let ways = Transition::new(&there.ways, &self.ways);
        let steps = ways.before.iter().chain(&ways.after).map(|step| match step {
            Step::AddRoute(route) => of_route(format!("missing: {route}"), route),
            Step::ReplaceRoute { old, new } => of_route(format!("differs: {old}; should be: {new}"), old),
            Step::DelRoute(route) => of_route(format!("too much: {route}"), route),
            Step::AddRule(rule) => of_rule(format!("missing: {rule}"), rule),
            Step::DelRule(rule) => of_rule(format!("too much: {rule}"), rule),
        });
        // A rule that is missing moves no other one.
        let in_both = |rules: &[Rule], others: &[Rule]| -> Vec<Rule> {
            rules.iter().filter(|rule| others.contains(rule)).copied().collect()
        };
        let (ours, theirs) = (&self.ways.rules, &there.ways.rules);
        let mut order = misplaced(&in_both(theirs, ours), &in_both(ours, theirs));
        order.sort_by_key(|rule| (rule.family, rule.priority));
        order.dedup_by_key(|rule| (rule.family, rule.priority));
        let order = order.iter().map(|rule| {
            let (family, priority) = (rule.family.digit(), rule.priority);
            of_rule(
                format!("in another order: the rules of ip -{family} rule with priority {priority}"),
                rule,
            )
        });
        steps.chain(order).chain(self.table.differences(&there.table)).collect()
    }
}

fn of_route(line: String, route: &Route) -> Difference {
    let command = format!("ip -{} route show table {}", route.family.digit(), route.table);
    let cause = if route.next == Next::Unreachable { Cause::Nothing } else { Cause::Port };
    Difference { line, command, cause }
}

fn of_rule(line: String, rule: &Rule) -> Difference {
    Difference { line, command: format!("ip -{} rule", rule.family.digit()), cause: Cause::Nothing }
}

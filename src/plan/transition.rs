//! From the routes and rules that are there to those of the plan, one kernel message after another, so that
//! at no point in between a marked connection has neither its old way nor its new one.
//!
//! The kernel has no transaction for these. What makes it hard is a table that changes hands: its routes can
//! not be replaced while another mark still looks it up, and two marks may have swapped tables. Such a mark
//! waits in a spare table, on its new way, until its own table is free.

use super::ways::{Family, Next, Route, Rule, Ways};

/// One kernel message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Add a route to a slot that is empty.
    AddRoute(Route),
    /// Replace a route by another in the same slot, atomically.
    ReplaceRoute {
        /// What is there.
        old: Route,
        /// What shall be there.
        new: Route,
    },
    /// Delete a route.
    DelRoute(Route),
    /// Add a rule, behind those of the same priority.
    AddRule(Rule),
    /// Delete a rule.
    DelRule(Rule),
}

impl Step {
    /// The step that undoes this one.
    pub fn inverse(&self) -> Step {
        match self.clone() {
            Step::AddRoute(route) => Step::DelRoute(route),
            Step::ReplaceRoute { old, new } => Step::ReplaceRoute { old: new, new: old },
            Step::DelRoute(route) => Step::AddRoute(route),
            Step::AddRule(rule) => Step::DelRule(rule),
            Step::DelRule(rule) => Step::AddRule(rule),
        }
    }
}

/// The steps before and after the nftables commit.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Transition {
    /// Until the new chains are in force the old marks are still given: their ways stay.
    pub before: Vec<Step>,
    /// What no chain leads to any more.
    pub after: Vec<Step>,
}

impl Transition {
    /// The steps from `old`, as read from the kernel, to `new`, as planned. Empty where they agree.
    pub fn new(old: &Ways, new: &Ways) -> Transition {
        let mut transition = Transition::default();
        for family in Family::BOTH {
            one_family(&of(old, family), &of(new, family), &new.rules, &mut transition);
        }
        transition
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.before.is_empty() && self.after.is_empty()
    }
}

fn of(ways: &Ways, family: Family) -> Ways {
    Ways {
        routes: ways.routes.iter().filter(|r| r.family == family).cloned().collect(),
        rules: ways.rules.iter().filter(|r| r.family == family).copied().collect(),
    }
}

/// The rule that takes over the connections of an old one: with the same mask, the one with the same mark.
fn successor<'a>(rule: &Rule, new: &'a Ways) -> Option<&'a Rule> {
    new.rules.iter().find(|n| rule.mark & n.mask == n.mark)
}

fn one_family(old: &Ways, new: &Ways, given: &[Rule], out: &mut Transition) {
    let in_table = |ways: &Ways, table: u32| {
        ways.routes.iter().filter(move |r| r.table == table).cloned().collect::<Vec<_>>()
    };
    let kept = |rule: &Rule| new.rules.contains(rule);
    let is_fresh = |table: u32| {
        !old.routes.iter().any(|r| r.table == table) && !old.rules.iter().any(|r| r.table == table)
    };

    // Marks whose table changes: the old rule, and the new one.
    let moved: Vec<(Rule, Rule)> = old
        .rules
        .iter()
        .filter(|rule| !kept(rule))
        .filter_map(|rule| {
            let to = successor(rule, new)?;
            (to.table != rule.table).then_some((*rule, *to))
        })
        .collect();
    let is_moved = |rule: &Rule| moved.iter().any(|(from, _)| from == rule);
    // Marks that the policy has no more, and whose table another one takes over, with other routes.
    let is_evicted = |rule: &Rule| {
        let heir = new.rules.iter().find(|n| n.table == rule.table);
        !kept(rule)
            && !is_moved(rule)
            && heir.is_some()
            && heir != successor(rule, new)
            && in_table(old, rule.table) != in_table(new, rule.table)
    };
    let leaves_now = |rule: &Rule| is_moved(rule) || is_evicted(rule);

    // 1. Tables that nobody looks up yet.
    for route in new.routes.iter().filter(|r| is_fresh(r.table)) {
        out.before.push(Step::AddRoute(route.clone()));
    }
    // 2. Marks that move get their new way: at once, or in a spare table while their own is still taken. Those that
    //    are evicted keep their old way in one, until the commit.
    let mut spare = (0x5250_0000_u32..).filter(|&n| is_fresh(n) && !new.rules.iter().any(|r| r.table == n));
    let placed = |rule: &Rule, out: &Transition| out.before.contains(&Step::AddRule(*rule));
    let mut park = |rule: &Rule, routes: Vec<Route>, out: &mut Transition| {
        let table = spare.next().unwrap_or(rule.table);
        let routes: Vec<Route> = routes.into_iter().map(|route| Route { table, ..route }).collect();
        let rule = Rule { table, ..*rule };
        out.before.extend(routes.iter().cloned().map(Step::AddRoute));
        out.before.push(Step::AddRule(rule));
        (rule, routes)
    };
    let mut parked: Vec<(Rule, Vec<Route>)> = Vec::new();
    for (_, to) in &moved {
        match is_fresh(to.table) {
            true if placed(to, out) => {}
            true => out.before.push(Step::AddRule(*to)),
            false => parked.push(park(to, in_table(new, to.table), out)),
        }
    }
    let evicted = old.rules.iter().filter(|rule| is_evicted(rule));
    let waiting: Vec<(Rule, Vec<Route>)> =
        evicted.map(|rule| park(rule, in_table(old, rule.table), out)).collect();
    // 3. Nobody but its later owner looks up a table after this.
    for rule in old.rules.iter().filter(|rule| leaves_now(rule)) {
        out.before.push(Step::DelRule(*rule));
    }
    // 4. Tables that stay: the routes are replaced in place.
    for route in new.routes.iter().filter(|r| !is_fresh(r.table)) {
        match old.routes.iter().find(|o| o.slot() == route.slot()) {
            None => out.before.push(Step::AddRoute(route.clone())),
            Some(there) if route == there => {}
            Some(there) => out.before.push(Step::ReplaceRoute { old: there.clone(), new: route.clone() }),
        }
    }
    // 5. The remaining rules; then the moved marks leave their spare tables.
    for rule in new.rules.iter().filter(|rule| !old.rules.contains(rule)) {
        if !placed(rule, out) {
            out.before.push(Step::AddRule(*rule));
        }
    }
    for (rule, routes) in parked {
        out.before.push(Step::DelRule(rule));
        out.before.extend(routes.into_iter().map(Step::DelRoute));
    }
    // 6. What no chain leads to, after the commit. Under another mask the new chains may give a mark that an old
    //    rule takes for its own, and it is another's: that rule goes just before.
    let is_misled = |rule: &&Rule| {
        let own = successor(rule, new).map(|own| own.mark);
        let catches =
            |n: &Rule| n.mask != rule.mask && n.mark & rule.mask == rule.mark && own != Some(n.mark);
        given.iter().any(catches)
    };
    let left = old.rules.iter().filter(|rule| !kept(rule) && !leaves_now(rule));
    let (now, later): (Vec<&Rule>, Vec<&Rule>) =
        left.chain(waiting.iter().map(|(rule, _)| rule)).partition(is_misled);
    out.before.extend(now.into_iter().copied().map(Step::DelRule));
    out.after.extend(later.into_iter().copied().map(Step::DelRule));
    let is_double = |(at, rule): &(usize, &Rule)| kept(rule) && old.rules[..*at].contains(rule);
    out.after.extend(old.rules.iter().enumerate().filter(is_double).map(|(_, rule)| Step::DelRule(*rule)));
    let is_gone = |route: &&Route| !new.routes.iter().any(|n| n.slot() == route.slot());
    // The unreachable route goes first: the other one still holds.
    let (last, first): (Vec<&Route>, Vec<&Route>) = old
        .routes
        .iter()
        .filter(is_gone)
        .chain(waiting.iter().flat_map(|(_, routes)| routes))
        .partition(|route| route.next != Next::Unreachable);
    out.after.extend(first.into_iter().chain(last).cloned().map(Step::DelRoute));
}

/// The rules, of those `wanted`, that have to move behind the others of their priority, one after another, for
/// the order to be as wanted. The kernel asks rules of one priority in the order in which they were added.
pub fn misplaced(there: &[Rule], wanted: &[Rule]) -> Vec<Rule> {
    let like = |rule: &Rule, list: &[Rule]| -> Vec<Rule> {
        list.iter().filter(|r| (r.family, r.priority) == (rule.family, rule.priority)).copied().collect()
    };
    let is_misplaced = |rule: &&Rule| there.contains(rule) && like(rule, there) != like(rule, wanted);
    wanted.iter().filter(is_misplaced).copied().collect()
}

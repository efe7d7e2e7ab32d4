//! From any policy to any other, on a model of the kernel: every message is one that the kernel takes, and
//! between any two of them a connection has its old way or its new one.

#[path = "common/plan.rs"]
mod plan;

use plan::{Goal, any_goal, any_route, any_rule, goal, path};
use proptest::prelude::*;
use proptest::sample::Index;
use returnpath::plan::transition::{Step, Transition};
use returnpath::plan::ways::{Family, Next, Route, Rule, Ways};
use returnpath::policy::{Path, WhenDown};
use std::fmt::{self, Display, Formatter};

/// Routes and rules as a kernel keeps them, and which chains are in force.
#[derive(Clone)]
struct Kernel<'a> {
    routes: Vec<Route>,
    rules: Vec<Rule>,
    chains: &'a Goal,
}

#[derive(Clone)]
enum Act<'a> {
    Take(Step),
    /// The nftables batch: from these chains to those.
    Commit(&'a Goal, &'a Goal),
}

impl Act<'_> {
    fn inverse(&self) -> Self {
        match self {
            Act::Take(step) => Act::Take(step.inverse()),
            Act::Commit(from, to) => Act::Commit(to, from),
        }
    }
}

impl Display for Act<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Act::Take(step) => f.write_str(&line(step)),
            Act::Commit(..) => f.write_str("nft -f"),
        }
    }
}

impl<'a> Kernel<'a> {
    fn holding(goal: &'a Goal) -> Kernel<'a> {
        let mut kernel = Kernel { routes: Vec::new(), rules: Vec::new(), chains: goal };
        for step in goal.ways.routes.iter().cloned().map(Step::AddRoute) {
            kernel.take(&step).expect("a plan has no slot twice");
        }
        for step in goal.ways.rules.iter().copied().map(Step::AddRule) {
            kernel.take(&step).expect("a plan has no rule twice");
        }
        kernel
    }

    /// As planned.
    fn planned(goal: &'a Goal) -> Kernel<'a> {
        let mut kernel =
            Kernel { routes: goal.ways.routes.clone(), rules: goal.ways.rules.clone(), chains: goal };
        kernel.rules.sort_by_key(|rule| rule.priority);
        kernel
    }

    fn act(&mut self, act: &Act<'a>) -> Result<(), &'static str> {
        match act {
            Act::Take(step) => self.take(step)?,
            Act::Commit(_, chains) => self.chains = chains,
        }
        Ok(())
    }

    fn take(&mut self, step: &Step) -> Result<(), &'static str> {
        match step {
            Step::AddRoute(route) => match self.at_slot(route) {
                Some(_) => return Err("EEXIST"),
                None => self.routes.push(route.clone()),
            },
            Step::ReplaceRoute { old, new } => match self.at_slot(new) {
                Some(at) if self.routes[at] == *old => self.routes[at] = new.clone(),
                Some(_) => return Err("something else is there"),
                None => return Err("nothing to replace"),
            },
            Step::DelRoute(route) => match self.at_slot(route) {
                Some(at) if self.routes[at] == *route => drop(self.routes.remove(at)),
                _ => return Err("ESRCH"),
            },
            Step::AddRule(rule) => match self.rules.contains(rule) {
                true => return Err("EEXIST"),
                false => {
                    let behind = self.rules.partition_point(|other| other.priority <= rule.priority);
                    self.rules.insert(behind, *rule);
                }
            },
            Step::DelRule(rule) => match self.rules.iter().position(|other| other == rule) {
                Some(at) => drop(self.rules.remove(at)),
                None => return Err("ENOENT"),
            },
        }
        Ok(())
    }

    fn at_slot(&self, route: &Route) -> Option<usize> {
        self.routes.iter().position(|other| other.slot() == route.slot())
    }

    /// Where the packets of a connection go; `None` is the main table.
    fn way(&self, family: Family, connection: u32) -> Option<&Next> {
        let mark = self.chains.given(connection);
        let looks = |rule: &&Rule| rule.family == family && mark & rule.mask == rule.mark;
        self.rules.iter().filter(looks).find_map(|rule| {
            let mut there =
                self.routes.iter().filter(|route| (route.family, route.table) == (family, rule.table));
            // By metric: the unreachable route comes last.
            there
                .clone()
                .find(|route| route.next != Next::Unreachable)
                .or(there.next())
                .map(|route| &route.next)
        })
    }

    /// As read.
    fn ways(&self) -> Ways {
        Ways { routes: self.routes.clone(), rules: self.rules.clone() }
    }

    /// Whether it holds these and no others.
    fn holds(&self, wanted: &Ways) -> bool {
        let has = |route: &Route| self.routes.contains(route);
        self.routes.len() == wanted.routes.len()
            && wanted.routes.iter().all(has)
            && self.rules.len() == wanted.rules.len()
            && wanted.rules.iter().all(|rule| self.rules.contains(rule))
    }

    /// What it holds, whatever the order within one priority.
    fn contents(&self) -> Ways {
        let Ways { mut routes, mut rules } = self.ways();
        routes.sort_by_key(Route::slot);
        rules.sort_by_key(|rule| (rule.family, rule.priority, rule.mark, rule.mask, rule.table));
        Ways { routes, rules }
    }
}

/// All that an `apply` does, in order.
fn acts<'a>(transition: Transition, old: &'a Goal, new: &'a Goal) -> Vec<Act<'a>> {
    let before = transition.before.into_iter().map(Act::Take);
    before.chain([Act::Commit(old, new)]).chain(transition.after.into_iter().map(Act::Take)).collect()
}

fn undone<'a>(acts: &[Act<'a>]) -> Vec<Act<'a>> {
    acts.iter().rev().map(Act::inverse).collect()
}

/// Does it all; the kernel must take each.
fn run<'a>(kernel: &mut Kernel<'a>, acts: &[Act<'a>]) -> Result<(), TestCaseError> {
    watch(kernel, acts, |_| Ok(()))
}

/// The same, with a look after each.
fn watch<'a>(
    kernel: &mut Kernel<'a>,
    acts: &[Act<'a>],
    look: impl Fn(&Kernel) -> Result<(), String>,
) -> Result<(), TestCaseError> {
    for (at, act) in acts.iter().enumerate() {
        let taken = kernel.act(act).map_err(str::to_owned);
        taken.and_then(|()| look(kernel)).map_err(|reason| {
            let script = acts
                .iter()
                .enumerate()
                .map(|(n, act)| format!("{} {act}\n", if n == at { "→" } else { " " }));
            TestCaseError::fail(format!("{reason}, at\n{}", script.collect::<String>()))
        })?;
    }
    Ok(())
}

/// Connections that there may be, by family and mark; whichever earlier policy marked them.
fn connections(goal: &Goal) -> Vec<(Family, u32)> {
    Family::BOTH.into_iter().flat_map(|family| goal.marks.iter().map(move |mark| (family, *mark))).collect()
}

/// Connections that the goal's own chains mark: of the families that the path answers.
fn new_connections(goal: &Goal) -> Vec<(Family, u32)> {
    goal.ways.rules.iter().map(|rule| (rule.family, rule.mark)).collect()
}

/// Every one of these connections goes where it goes in one of these states.
fn go_as_in<const N: usize>(
    kernel: &Kernel,
    connections: Vec<(Family, u32)>,
    states: [&Kernel; N],
) -> Result<(), String> {
    for (family, connection) in connections {
        let way = kernel.way(family, connection);
        let allowed = states.map(|state| state.way(family, connection));
        if !allowed.contains(&way) {
            return Err(format!(
                "{family:?}, connection {connection:#x} goes to {way:?}, not to one of {allowed:?}"
            ));
        }
    }
    Ok(())
}

fn line(step: &Step) -> String {
    step.to_string().replace(" protocol 82", "")
}

/// What has befallen a kernel since the last `apply`.
#[derive(Debug, Clone)]
enum Damage {
    RouteLost(Index),
    RuleLost(Index),
    StaleRoute(Route),
    StaleRule(Rule),
}

fn any_damage() -> impl Strategy<Value = Damage> {
    prop_oneof![
        any::<Index>().prop_map(Damage::RouteLost),
        any::<Index>().prop_map(Damage::RuleLost),
        any_route().prop_map(Damage::StaleRoute),
        any_rule().prop_map(Damage::StaleRule),
    ]
}

impl Kernel<'_> {
    /// Where that is possible.
    fn suffer(&mut self, damage: &Damage) {
        let step = match damage {
            Damage::RouteLost(at) if !self.routes.is_empty() => Step::DelRoute(at.get(&self.routes).clone()),
            Damage::RuleLost(at) if !self.rules.is_empty() => Step::DelRule(*at.get(&self.rules)),
            Damage::RouteLost(_) | Damage::RuleLost(_) => return,
            Damage::StaleRoute(route) => Step::AddRoute(route.clone()),
            Damage::StaleRule(rule) => Step::AddRule(*rule),
        };
        let _ = self.take(&step); // what is there already needs no adding
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_connection_has_its_old_way_or_its_new_one((old, new) in (any_goal(), any_goal()), cut: Index) {
        let (start, goal) = (Kernel::holding(&old), Kernel::planned(&new));
        let old_or_new = |kernel: &Kernel| {
            go_as_in(kernel, connections(&old), [&start, &goal])?;
            // A failed update leaves no trace: what the new policy drops keeps its old way until the commit.
            if std::ptr::eq(kernel.chains, &old) && old.mask == new.mask {
                let dropped = |(family, mark): &(Family, u32)| goal.way(*family, *mark).is_none();
                go_as_in(kernel, connections(&old).into_iter().filter(dropped).collect(), [&start])?;
            }
            match std::ptr::eq(kernel.chains, &new) {
                true => go_as_in(kernel, new_connections(&new), [&goal]),
                false => Ok(()),
            }
        };

        let acts = acts(Transition::new(&start.ways(), &new.ways), &old, &new);
        let mut kernel = start.clone();
        watch(&mut kernel, &acts, old_or_new)?;
        prop_assert!(kernel.holds(&new.ways), "{:#?}", kernel.ways());
        prop_assert!(Transition::new(&kernel.ways(), &new.ways).is_empty());

        // A failure anywhere on the way is undone by the same measure.
        let done = &acts[..=cut.index(acts.len())];
        let mut kernel = start.clone();
        run(&mut kernel, done)?;
        watch(&mut kernel, &undone(done), old_or_new)?;
        prop_assert_eq!(kernel.contents(), start.contents());
    }

    #[test]
    fn what_stays_is_not_touched((old, new) in (any_goal(), any_goal())) {
        let start = Kernel::holding(&old);
        let transition = Transition::new(&start.ways(), &new.ways);
        for step in transition.before.iter().chain(&transition.after) {
            let stays = match step {
                Step::AddRule(rule) | Step::DelRule(rule) => start.rules.contains(rule) && new.ways.rules.contains(rule),
                Step::DelRoute(route) | Step::ReplaceRoute { old: route, .. } => {
                    start.routes.contains(route) && new.ways.routes.contains(route)
                }
                Step::AddRoute(_) => false,
            };
            prop_assert!(!stays, "{}", line(step));
        }
    }

    /// Killed between any two messages, and started again with any policy; but after half a change of the mask
    /// with the same one, since which marks the old chains give can not be seen in the rules.
    #[test]
    fn a_killed_run_is_made_good((old, new, last) in (any_goal(), any_goal(), any_goal()), same: bool, cut: Index) {
        let last = if same || old.mask != new.mask { new.clone() } else { last };
        let (start, middle, goal) = (Kernel::holding(&old), Kernel::planned(&new), Kernel::planned(&last));
        let first = acts(Transition::new(&start.ways(), &new.ways), &old, &new);
        let mut kernel = start.clone();
        run(&mut kernel, &first[..cut.index(first.len() + 1)])?;

        let killed = kernel.clone();
        let second = acts(Transition::new(&killed.ways(), &last.ways), killed.chains, &last);
        watch(&mut kernel, &second, |kernel| go_as_in(kernel, connections(killed.chains), [&start, &middle, &goal]))?;
        prop_assert!(kernel.holds(&last.ways), "{:#?}", kernel.ways());
    }

    /// Ports flap, other programs delete, earlier versions leave things behind.
    #[test]
    fn damage_is_repaired(
        (old, new) in (any_goal(), any_goal()),
        same: bool,
        damage in proptest::collection::vec(any_damage(), 1..6),
        cut: Index,
    ) {
        let new = if same { old.clone() } else { new };
        let mut start = Kernel::holding(&old);
        damage.iter().for_each(|damage| start.suffer(damage));

        let acts = acts(Transition::new(&start.ways(), &new.ways), &old, &new);
        let mut kernel = start.clone();
        run(&mut kernel, &acts)?;
        prop_assert!(kernel.holds(&new.ways), "{:#?}", kernel.ways());

        let done = &acts[..=cut.index(acts.len())];
        let mut kernel = start.clone();
        run(&mut kernel, done)?;
        run(&mut kernel, &undone(done))?;
        prop_assert_eq!(kernel.contents(), start.contents());
    }

    #[test]
    fn from_nothing_and_to_nothing(goal in any_goal()) {
        let nothing = Ways::default();
        let install = Transition::new(&nothing, &goal.ways);
        prop_assert!(install.after.is_empty());
        // `remove` takes the marks away first: nothing is left to be done before that.
        let remove = Transition::new(&Kernel::holding(&goal).ways(), &nothing);
        prop_assert!(remove.before.is_empty());
        prop_assert!(Transition::new(&goal.ways, &goal.ways).is_empty());
    }
}

/// The messages from `old` to `new`, one a line, as commands. Spare tables are called S1 and S2.
fn script(old: &Goal, new: &Goal) -> String {
    let transition = Transition::new(&Kernel::holding(old).ways(), &new.ways);
    let lines = acts(transition, old, new).iter().map(|act| format!("{act}\n")).collect::<String>();
    lines.replace(&0x5250_0000.to_string(), "S1").replace(&0x5250_0001.to_string(), "S2")
}

/// A path without an unreachable route, so that there is less to read.
fn bare(mark: u32, table: u32, gateway: u8) -> Path {
    Path { when_down: WhenDown::Main, ..path(mark, table, gateway) }
}

#[test]
fn an_unchanged_policy_needs_nothing() {
    let it = goal(0xff, [path(1, 100, 1), path(2, 200, 2)]);
    assert_eq!(script(&it, &it), "nft -f\n");
}

#[test]
fn a_policy_comes_and_goes() {
    let (nothing, it) = (goal(0xff, []), goal(0xff, [path(1, 100, 1)]));
    let install = "\
ip -4 route add default via 10.0.0.1 dev eth0 table 100
ip -4 route add unreachable default table 100 metric 4294967295
ip -4 rule add fwmark 0x1/0xff table 100 priority 1000
nft -f
";
    let remove = "\
nft -f
ip -4 rule del fwmark 0x1/0xff table 100 priority 1000
ip -4 route del unreachable default table 100 metric 4294967295
ip -4 route del default via 10.0.0.1 dev eth0 table 100
";
    assert_eq!(script(&nothing, &it), install);
    assert_eq!(script(&it, &nothing), remove);
}

#[test]
fn a_gateway_changes_in_place() {
    let old = goal(0xff, [path(1, 100, 1), path(2, 200, 2)]);
    let new = goal(0xff, [path(1, 100, 1), path(2, 200, 3)]);
    assert_eq!(script(&old, &new), "ip -4 route replace default via 10.0.0.3 dev eth1 table 200\nnft -f\n");
}

#[test]
fn when_down_changes_beneath_the_route() {
    let (main, unreachable) = (goal(0xff, [bare(1, 100, 1)]), goal(0xff, [path(1, 100, 1)]));
    let route = "default table 100 metric 4294967295\n";
    assert_eq!(script(&main, &unreachable), format!("ip -4 route add unreachable {route}nft -f\n"));
    assert_eq!(script(&unreachable, &main), format!("nft -f\nip -4 route del unreachable {route}"));
}

#[test]
fn a_path_moves_to_a_free_table_at_once() {
    let steps = "\
ip -4 route add default via 10.0.0.1 dev eth0 table 200
ip -4 rule add fwmark 0x1/0xff table 200 priority 1000
ip -4 rule del fwmark 0x1/0xff table 100 priority 1000
nft -f
ip -4 route del default via 10.0.0.1 dev eth0 table 100
";
    assert_eq!(script(&goal(0xff, [bare(1, 100, 1)]), &goal(0xff, [bare(1, 200, 1)])), steps);
}

/// Neither table is free: both marks wait in spare ones, with the routes that they will have.
#[test]
fn two_paths_swap_tables() {
    let old = goal(0xff, [bare(1, 100, 1), bare(2, 200, 2)]);
    let new = goal(0xff, [bare(1, 200, 1), bare(2, 100, 2)]);
    let steps = "\
ip -4 route add default via 10.0.0.1 dev eth0 table S1
ip -4 rule add fwmark 0x1/0xff table S1 priority 1000
ip -4 route add default via 10.0.0.2 dev eth0 table S2
ip -4 rule add fwmark 0x2/0xff table S2 priority 1000
ip -4 rule del fwmark 0x1/0xff table 100 priority 1000
ip -4 rule del fwmark 0x2/0xff table 200 priority 1000
ip -4 route replace default via 10.0.0.1 dev eth0 table 200
ip -4 route replace default via 10.0.0.2 dev eth0 table 100
ip -4 rule add fwmark 0x1/0xff table 200 priority 1000
ip -4 rule add fwmark 0x2/0xff table 100 priority 1000
ip -4 rule del fwmark 0x1/0xff table S1 priority 1000
ip -4 route del default via 10.0.0.1 dev eth0 table S1
ip -4 rule del fwmark 0x2/0xff table S2 priority 1000
ip -4 route del default via 10.0.0.2 dev eth0 table S2
nft -f
";
    assert_eq!(script(&old, &new), steps);
}

/// A chain with one end free: only those wait whose table is taken.
#[test]
fn three_paths_move_up_by_one_table() {
    let old = goal(0xff, [bare(1, 100, 1), bare(2, 200, 2)]);
    let new = goal(0xff, [bare(1, 200, 1), bare(2, 300, 2), bare(3, 100, 3)]);
    let steps = "\
ip -4 route add default via 10.0.0.2 dev eth0 table 300
ip -4 route add default via 10.0.0.1 dev eth0 table S1
ip -4 rule add fwmark 0x1/0xff table S1 priority 1000
ip -4 rule add fwmark 0x2/0xff table 300 priority 1000
ip -4 rule del fwmark 0x1/0xff table 100 priority 1000
ip -4 rule del fwmark 0x2/0xff table 200 priority 1000
ip -4 route replace default via 10.0.0.1 dev eth0 table 200
ip -4 route replace default via 10.0.0.3 dev eth1 table 100
ip -4 rule add fwmark 0x1/0xff table 200 priority 1000
ip -4 rule add fwmark 0x3/0xff table 100 priority 1000
ip -4 rule del fwmark 0x1/0xff table S1 priority 1000
ip -4 route del default via 10.0.0.1 dev eth0 table S1
nft -f
";
    assert_eq!(script(&old, &new), steps);
}

#[test]
fn a_mask_changes_with_both_rules_in_force() {
    let (old, new) = (goal(0xff, [path(1, 100, 1)]), goal(0xf, [path(1, 100, 1)]));
    let steps = "\
ip -4 rule add fwmark 0x1/0xf table 100 priority 1000
nft -f
ip -4 rule del fwmark 0x1/0xff table 100 priority 1000
";
    assert_eq!(script(&old, &new), steps);
}

/// The old rule would take the first packets of mark 0x12, which the new chains give, for its own.
#[test]
fn a_rule_that_would_catch_a_new_mark_goes_before_the_commit() {
    let (old, new) = (goal(0xf, [bare(2, 100, 1)]), goal(0xff, [bare(2, 100, 1), bare(0x12, 200, 2)]));
    let steps = "\
ip -4 route add default via 10.0.0.2 dev eth0 table 200
ip -4 rule add fwmark 0x2/0xff table 100 priority 1000
ip -4 rule add fwmark 0x12/0xff table 200 priority 1000
ip -4 rule del fwmark 0x2/0xf table 100 priority 1000
nft -f
";
    assert_eq!(script(&old, &new), steps);
}

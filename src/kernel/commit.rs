//! Everything or nothing: from what the kernel holds to what the plan says.
//!
//! rtnetlink has no transaction, nftables has one. So: ways first, since nobody looks them up yet; then one
//! nftables batch, which is the moment of truth; then what no chain leads to any more. Each step knows how to
//! undo itself, and after a failure they are undone in reverse. A process that is killed in between leaves
//! something inert, and the next run makes it whole.

use super::sysctl::{self, Setting};
use super::table::{Nftables, Ruleset};
use super::ways::{ForeignRule, Routing};
use super::{Error, encode, names};
use crate::plan::transition::{Step, Transition};
use crate::plan::ways::{Next, Rule, Ways};
use crate::plan::{Plan, Port, Sysctl};
use crate::policy::Policy;

/// What an `apply` or a `remove` did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The kernel was in the state asked for; nothing was sent that changes anything.
    Unchanged,
    /// It is now.
    Changed,
}

/// Both netlink sockets, and what has been done so far.
struct Kernel {
    routing: Routing,
    nftables: Nftables,
    done: Vec<Act>,
}

/// One thing done, with all that undoing it takes.
enum Act {
    Way(Step),
    Table { from: Ruleset, to: Ruleset },
    Sysctl { name: String, from: u32, to: u32 },
}

/// What the kernel holds of ours.
struct Observed {
    ways: Ways,
    table: Ruleset,
}

/// Installs a policy that has passed [`Policy::check`], reads it back and compares.
///
/// # Errors
/// The line that says what was refused, why, and what to do. The kernel is then as it was before.
pub fn apply(policy: &Policy) -> Result<Outcome, Error> {
    let mut kernel = Kernel::open()?;
    let plan = kernel.plan(policy)?;
    let (before, foreign) = kernel.observe()?;
    kernel.check_ownership(&plan, &before, &foreign)?;
    kernel.check_ports(&plan)?;

    let needed = kernel.settings(&plan, &before)?;
    let target = Observed { ways: plan.ways.clone(), table: with_record(&plan, &needed.record) };
    let outcome = match needed.is_met() && target.difference(&before).is_none() {
        true => Outcome::Unchanged,
        false => {
            if let Err(error) = kernel.change(&plan, &before, &target, &needed) {
                return Err(kernel.undo(error));
            }
            flush_route_cache();
            for Change { name, from, to } in &needed.changes {
                log::info!("/proc/sys/{name}: {from} → {to}; `returnpath remove` puts it back");
            }
            Outcome::Changed
        }
    };
    names::write(&plan.table_names);
    Ok(outcome)
}

/// Takes out everything that returnpath ever installed, and nothing else.
///
/// # Errors
/// As [`apply`].
pub fn remove() -> Result<Outcome, Error> {
    let mut kernel = Kernel::open()?;
    let (before, _) = kernel.observe()?;
    let outcome = match before.table.is_empty() && before.ways == Ways::default() {
        true => Outcome::Unchanged,
        false => {
            if let Err(error) = kernel.take_out(&before) {
                return Err(kernel.undo(error));
            }
            flush_route_cache();
            Outcome::Changed
        }
    };
    names::remove();
    Ok(outcome)
}

/// Each difference between the kernel and a policy, one line each; empty where there is none.
///
/// # Errors
/// As [`apply`], where the kernel can not be read.
pub fn differences(policy: &Policy) -> Result<Vec<String>, Error> {
    let mut kernel = Kernel::open()?;
    let plan = kernel.plan(policy)?;
    let (there, _) = kernel.observe()?;
    let needed = kernel.settings(&plan, &there)?;
    let target = Observed { ways: plan.ways.clone(), table: with_record(&plan, &needed.record) };
    let settings =
        needed.changes.iter().map(|c| format!("/proc/sys/{}: is {}, should be {}", c.name, c.from, c.to));
    let ways = Transition::new(&there.ways, &target.ways);
    let steps = ways.before.iter().chain(&ways.after).map(|step| match step {
        Step::AddRoute(route) => format!("missing: {route}"),
        Step::ReplaceRoute { old, new } => format!("differs: {old}; should be: {new}"),
        Step::DelRoute(route) => format!("too much: {route}"),
        Step::AddRule(rule) => format!("missing: {rule}"),
        Step::DelRule(rule) => format!("too much: {rule}"),
    });
    let table = target.table.difference(&there.table).map(|line| format!("table inet returnpath: {line}"));
    Ok(steps.chain(table).chain(settings).collect())
}

impl Observed {
    fn difference(&self, there: &Observed) -> Option<String> {
        let ways = Transition::new(&there.ways, &self.ways);
        match ways.before.first().or(ways.after.first()) {
            Some(_) => Some("routes and rules are not as the policy has them".into()),
            None => self.table.difference(&there.table),
        }
    }
}

/// What the policy needs of `/proc/sys`.
#[derive(Default)]
struct Settings {
    /// To be changed.
    changes: Vec<Change>,
    /// What the needed ones were before our first change.
    record: Vec<Setting>,
    /// No longer needed: to be put back.
    returns: Vec<Setting>,
}

struct Change {
    name: String,
    from: u32,
    to: u32,
}

impl Settings {
    fn is_met(&self) -> bool {
        self.changes.is_empty() && self.returns.is_empty()
    }
}

impl Kernel {
    fn open() -> Result<Kernel, Error> {
        Ok(Kernel { nftables: Nftables::open()?, routing: Routing::open()?, done: Vec::new() })
    }

    /// The plan, with the port of each gateway for which the policy names none: as the kernel would find it now.
    fn plan(&mut self, policy: &Policy) -> Result<Plan, Error> {
        let mut plan = Plan::new(policy);
        for route in &mut plan.ways.routes {
            if let Next::Gateway { address, device: device @ None, .. } = &mut route.next {
                *device = self.routing.port_towards(*address)?;
            }
        }
        Ok(plan)
    }

    fn observe(&mut self) -> Result<(Observed, Vec<ForeignRule>), Error> {
        let table = self.nftables.read()?;
        let routes = self.routing.routes()?;
        let (rules, foreign) = self.routing.rules()?;
        Ok((Observed { ways: Ways { routes, rules }, table }, foreign))
    }

    /// Refuses to share a routing table, or a rule's place, with another program.
    fn check_ownership(
        &mut self,
        plan: &Plan,
        before: &Observed,
        foreign: &[ForeignRule],
    ) -> Result<(), Error> {
        for other in foreign {
            let same_place = |rule: &&Rule| {
                rule.family == other.family
                    && (rule.table == other.table
                        || (rule.priority, rule.mark, rule.mask)
                            == (other.priority, other.mark.0, other.mark.1))
            };
            if let Some(rule) = plan.ways.rules.iter().find(same_place) {
                return Err(Error::new(format!(
                    "ip -{} rule: another program's rule of priority {} looks up table {}, which the policy has for mark {:#x}; delete that rule, or choose another `table` and `priority`",
                    other.family.digit(),
                    other.priority,
                    other.table,
                    rule.mark
                )));
            }
        }
        let mut tables: Vec<u32> = plan.ways.routes.iter().map(|route| route.table).collect();
        tables.dedup();
        for table in
            tables.into_iter().filter(|table| !before.ways.rules.iter().any(|rule| rule.table == *table))
        {
            if self.routing.has_foreign_routes(table)? {
                return Err(Error::new(format!(
                    "table {table}: another program has routes in it (`ip route show table {table}`, `ip -6 route show table {table}`); choose another `table`"
                )));
            }
        }
        Ok(())
    }

    /// Ports that routes name have to be there; without a gateway, with one far end.
    fn check_ports(&mut self, plan: &Plan) -> Result<(), Error> {
        for route in &plan.ways.routes {
            let (device, needs_gateway) = match &route.next {
                Next::Gateway { device: Some(device), .. } => (device, false),
                Next::Device(device) => (device, true),
                _ => continue,
            };
            match self.routing.link(device)? {
                None => {
                    return Err(Error::new(format!(
                        "port {device}: it does not exist; correct `device`, or make the port first"
                    )));
                }
                Some(link) if needs_gateway && !link.is_point_to_point => {
                    return Err(Error::new(format!(
                        "port {device}: it is not point-to-point, so table {} needs a next hop; give its path a gateway",
                        route.table
                    )));
                }
                Some(_) => {}
            }
        }
        Ok(())
    }

    fn settings(&mut self, plan: &Plan, before: &Observed) -> Result<Settings, Error> {
        let recorded: Vec<Setting> = before.table.record().filter_map(Setting::parse).collect();
        let mut needed: Vec<(String, u32)> = Vec::new();
        for sysctl in &plan.sysctls {
            let Some((name, value)) = self.wanted(sysctl, &recorded)? else { continue };
            if !needed.iter().any(|(known, _)| *known == name) {
                needed.push((name, value));
            }
        }
        let is_needed = |setting: &Setting| needed.iter().any(|(name, _)| *name == setting.name);
        let (mut record, returns): (Vec<Setting>, Vec<Setting>) = recorded.into_iter().partition(is_needed);
        let mut changes = Vec::new();
        for (name, to) in needed {
            match sysctl::read(&name)? {
                None => log::warn!(
                    "/proc/sys/{name}: not there (a port that is missing, or a kernel without it); run `returnpath apply` again once it is"
                ),
                Some(from) if from == to => {}
                Some(from) => {
                    if !record.iter().any(|setting| setting.name == name) {
                        record.push(Setting { name: name.clone(), before: from });
                    }
                    changes.push(Change { name, from, to });
                }
            }
        }
        Ok(Settings { changes, record, returns })
    }

    /// The setting and its value; `None` where there is no need.
    fn wanted(&mut self, sysctl: &Sysctl, recorded: &[Setting]) -> Result<Option<(String, u32)>, Error> {
        Ok(match sysctl {
            Sysctl::Namespace(name) => Some(((*name).into(), 1)),
            Sysctl::SourceValidMark(port) => {
                self.resolve(port)?.map(|port| (format!("net/ipv4/conf/{port}/src_valid_mark"), 1))
            }
            Sysctl::LooseReversePath(port) => match self.resolve(port)? {
                None => None,
                Some(port) => {
                    let name = format!("net/ipv4/conf/{port}/rp_filter");
                    let value = sysctl::read(&name)?;
                    // The effective value is the larger of the two (networking/ip-sysctl.rst).
                    let is_strict = value.max(sysctl::read("net/ipv4/conf/all/rp_filter")?) == Some(1);
                    let is_loosened = value == Some(2) && recorded.iter().any(|setting| setting.name == name);
                    (is_strict || is_loosened).then_some((name, 2))
                }
            },
        })
    }

    fn resolve(&mut self, port: &Port) -> Result<Option<String>, Error> {
        Ok(match port {
            Port::Named(name) => Some(name.as_str().into()),
            Port::Towards(gateway) => self.routing.port_towards(*gateway)?.map(|name| name.as_str().into()),
        })
    }

    fn change(
        &mut self,
        plan: &Plan,
        before: &Observed,
        target: &Observed,
        needed: &Settings,
    ) -> Result<(), Error> {
        let ways = Transition::new(&before.ways, &target.ways);
        // Until the last of them is put back, the table remembers all that was ever changed.
        let everything: Vec<Setting> = needed.record.iter().chain(&needed.returns).cloned().collect();
        let whole = with_record(plan, &everything);
        if !needed.changes.is_empty() {
            // What a setting was is remembered before it changes. On an update the chains stay as they are.
            let remembered = before.table.with_record_of(&whole);
            self.act(Act::Table { from: before.table.clone(), to: remembered })?;
        }
        for Change { name, from, to } in &needed.changes {
            self.act(Act::Sysctl { name: name.clone(), from: *from, to: *to })?;
        }
        for step in ways.before {
            self.act(Act::Way(step))?;
        }
        let from = self.table(before);
        if whole.difference(&from).is_some() {
            self.act(Act::Table { from, to: whole })?;
        }
        for step in ways.after {
            self.act(Act::Way(step))?;
        }
        if !needed.returns.is_empty() {
            self.put_back(&needed.returns)?;
            let from = self.table(before);
            self.act(Act::Table { from, to: target.table.clone() })?;
        }
        match target.difference(&self.observe()?.0) {
            None => Ok(()),
            Some(line) => Err(Error::new(format!(
                "read back: {line}; another program changed it at the same time, stop that one and try again"
            ))),
        }
    }

    fn take_out(&mut self, before: &Observed) -> Result<(), Error> {
        let nothing = Ways::default();
        let ways = Transition::new(&before.ways, &nothing);
        if !before.table.is_empty() {
            // The marks go first. The record stays until every setting is back.
            let record = before.table.only_record();
            self.act(Act::Table { from: before.table.clone(), to: record })?;
        }
        for step in ways.before.into_iter().chain(ways.after) {
            self.act(Act::Way(step))?;
        }
        let recorded: Vec<Setting> = before.table.record().filter_map(Setting::parse).collect();
        self.put_back(&recorded)?;
        let from = self.table(before);
        self.act(Act::Table { from, to: Ruleset::default() })?;
        let (there, _) = self.observe()?;
        match there.table.is_empty() && there.ways == nothing {
            true => Ok(()),
            false => Err(Error::new(
                "read back: something of ours came back; stop the program that restores it and try again"
                    .into(),
            )),
        }
    }

    /// Puts settings back, but for those that somebody else has changed since.
    fn put_back(&mut self, settings: &[Setting]) -> Result<(), Error> {
        for Setting { name, before } in settings {
            let ours = if name.ends_with("/rp_filter") { 2 } else { 1 };
            match sysctl::read(name)? {
                Some(value) if value == ours => {
                    self.act(Act::Sysctl { name: name.clone(), from: value, to: *before })?
                }
                Some(value) if value == *before => {}
                Some(value) => log::warn!("/proc/sys/{name}: {value} is not what returnpath set; it stays"),
                None => {} // its port is gone, and its settings with it
            }
        }
        Ok(())
    }

    /// The table as it is after what has been done so far.
    fn table(&self, before: &Observed) -> Ruleset {
        let last = self.done.iter().rev().find_map(|act| match act {
            Act::Table { to, .. } => Some(to.clone()),
            _ => None,
        });
        last.unwrap_or_else(|| before.table.clone())
    }

    fn act(&mut self, act: Act) -> Result<(), Error> {
        match &act {
            Act::Way(step) => self.routing.take(step)?,
            Act::Table { from, to } => self.nftables.replace(from, to)?,
            Act::Sysctl { name, to, .. } => sysctl::write(name, *to)?,
        }
        self.done.push(act);
        Ok(())
    }

    /// Undoes what has been done, the last first. Returns the reason, and what could not be undone.
    fn undo(&mut self, mut reason: Error) -> Error {
        while let Some(act) = self.done.pop() {
            let undone = match &act {
                Act::Way(step) => self.routing.take(&step.inverse()),
                Act::Table { from, to } => self.nftables.replace(to, from),
                Act::Sysctl { name, from, .. } => sysctl::write(name, *from),
            };
            if let Err(error) = undone {
                reason = Error::new(format!("{reason} (and this could not be undone: {error})"));
            }
        }
        reason
    }
}

fn with_record(plan: &Plan, record: &[Setting]) -> Ruleset {
    let record: Vec<(String, u32)> = record.iter().map(|s| (s.name.clone(), s.before)).collect();
    encode::ruleset(&plan.table.clone().with_record(plan.mark_mask, &record))
}

/// Drops the routes that open sockets remember. Linux has had no IPv4 route cache since 3.6, but sockets keep
/// the route that they last used.
fn flush_route_cache() {
    for name in ["net/ipv4/route/flush", "net/ipv6/route/flush"] {
        if let Err(error) = sysctl::write(name, 1) {
            log::debug!("{error}");
        }
    }
}

//! Everything or nothing: from what the kernel holds to what the plan says.
//!
//! rtnetlink has no transaction, nftables has one. So: ways first, since nobody looks them up yet; then one
//! nftables batch, which is the moment of truth; then what no chain leads to any more. Each step knows how to
//! undo itself, and after a failure they are undone in reverse. A process that is killed in between leaves
//! something inert, and the next run makes it whole.

use super::differences::Difference;
use super::differences::compare;
use super::journal::{Act, Journal};
use super::lock::{Lock, is_guarded};
use super::preflight::{Early, Finding};
use super::ruleset::Ruleset;
use super::sysctl::{self, Change, Needs, Setting};
use super::ways::{ForeignRule, Routing};
use super::{Error, encode, macs, names, preflight};
use crate::plan::Plan;
use crate::plan::chains::rules_of_record;
use crate::plan::nft::Table;
use crate::plan::transition::{Step, Transition};
use crate::plan::ways::{Family, Next, Ways};
use crate::policy::{Name, Policy};
use core::mem::discriminant;
use std::rc::Rc;

/// What an `apply` or a `remove` did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The kernel was in the state asked for; nothing was sent that changes anything.
    Unchanged,
    /// It is now.
    Changed,
}

/// What the kernel holds of ours, or shall hold.
pub(super) struct State {
    pub ways: Ways,
    pub table: Rc<Ruleset>,
}

/// What an installation found, and what it had to leave out.
#[derive(Default)]
pub struct Installed {
    /// Each difference between the kernel and the policy that there was: it is made good.
    pub differences: Vec<Difference>,
    /// What can not be used yet, one line each.
    pub awaited: Vec<String>,
    /// The ports that the planned routes lead through, and those that have settings of ours, by their indexes.
    pub ports: Vec<u32>,
    /// Settings that the policy depends on, by their paths under `/proc/sys`.
    pub settings: Vec<String>,
    /// What the settings were before us.
    pub(super) record: Vec<Setting>,
}

impl Installed {
    /// Whether there was something to do.
    pub fn outcome(&self) -> Outcome {
        if self.differences.is_empty() { Outcome::Unchanged } else { Outcome::Changed }
    }
}

/// What [`keep`] found in the kernel.
pub enum Found {
    /// The policy, now as a whole but for what is awaited.
    Ours(Installed),
    /// Another policy, or what somebody else has made of this one. Nothing was touched.
    Other,
}

/// Installs a policy that has passed [`Policy::check`], reads it back and compares.
///
/// # Errors
/// The line that says what was refused, why, and what to do. The kernel is then as it was before.
pub fn apply(policy: &Policy) -> Result<Outcome, Error> {
    Ok(match install(policy, Early::Refuse, None)? {
        Found::Ours(installed) => installed.outcome(),
        Found::Other => Outcome::Unchanged, // not reachable, as below
    })
}

/// Refuses a policy of which [`check`] would warn, unless it is in force already.
///
/// # Errors
/// The first finding.
pub fn insist(policy: &Policy) -> Result<(), Error> {
    match compare(policy)?.differences.is_empty() {
        true => Ok(()),
        false => preflight::heed(check(policy), true).map(drop),
    }
}

/// Looks for what is in the way of a policy, and changes nothing.
pub fn check(policy: &Policy) -> Vec<Finding> {
    let examine = || {
        let mut journal = Journal::open()?;
        let (there, foreign) = observe(&mut journal)?;
        let mut plan = plan(policy, &there.ways, &mut journal.routing)?;
        let unknown = macs::look(&mut plan, &there.table, Early::Refuse, &mut journal.routing)?;
        let mut findings = preflight::foresee(policy, &plan, &foreign, &mut journal.routing)?;
        findings.extend(preflight::look(policy, &plan, there.table.is_empty(), &foreign, &mut journal));
        findings.extend(unknown.iter().map(|gateway| {
            preflight::warning(
                "mac-unknown",
                format!("{gateway}; `apply` asks it, and is refused if it stays so"),
            )
        }));
        Ok(findings)
    };
    examine().unwrap_or_else(|error: Error| vec![preflight::refusal("refused", error.to_string())])
}

/// As [`apply`], at a time when ports and addresses may still come: what can not be used yet is left out, and returned
/// as one line each. All else of its path is there, so its replies are refused (or take the main table, by the
/// path's `when_down`) until the policy is applied again.
///
/// # Errors
/// As [`apply`], for everything that waiting does not mend.
pub fn apply_early(policy: &Policy) -> Result<Installed, Error> {
    match install(policy, Early::Await, None)? {
        Found::Ours(installed) => Ok(installed),
        Found::Other => Ok(Installed::default()), // only `keep` and `complete` ask whose it is
    }
}

/// Adds what [`apply_early`] has left out, as far as it can be used by now, and returns what is still awaited. `None`:
/// somebody has changed more than that since, by another `apply` or by hand, and nothing was touched.
///
/// # Errors
/// As [`apply_early`].
pub fn complete(policy: &Policy) -> Result<Option<Vec<String>>, Error> {
    Ok(match install(policy, Early::Complete, None)? {
        Found::Ours(installed) => Some(installed.awaited),
        Found::Other => None,
    })
}

/// Puts back what has gone or changed since `last`, unless another policy has been installed meanwhile.
///
/// # Errors
/// As [`apply_early`].
pub fn keep(policy: &Policy, last: &Installed) -> Result<Found, Error> {
    install(policy, Early::Keep, Some(&last.record))
}

/// What [`install_by`] shall do.
pub(super) struct Order<'a> {
    pub early: Early,
    /// The line that the table shall have about a trial ([`super::trial`]).
    pub trial: Option<&'a str>,
    /// What the settings were before us, should the table be lost.
    pub record: Option<&'a [Setting]>,
}

fn install(policy: &Policy, early: Early, record: Option<&[Setting]>) -> Result<Found, Error> {
    let _lock = Lock::take()?;
    let mut journal = Journal::open()?;
    let (before, foreign) = observe(&mut journal)?;
    let trial = match early {
        Early::Refuse | Early::Await => None, // an order puts an end to it
        Early::Complete | Early::Keep => before.table.trial().map(String::from),
    };
    install_by(&mut journal, policy, &Order { early, trial: trial.as_deref(), record }, &before, &foreign)
}

/// The installation itself, for whoever holds the lock and has read what there is.
pub(super) fn install_by(
    journal: &mut Journal,
    policy: &Policy,
    &Order { early, trial, record }: &Order,
    before: &State,
    foreign: &[ForeignRule],
) -> Result<Found, Error> {
    journal.routing.only_connected = early != Early::Refuse;
    let mut plan = plan(policy, &before.ways, &mut journal.routing)?;
    let is_other = match early {
        Early::Refuse | Early::Await => false,
        Early::Complete => !is_incomplete(before, &plan),
        Early::Keep => before.table.digest().is_some_and(|digest| digest != plan.digest),
    };
    if is_other {
        return Ok(Found::Other);
    }
    preflight::check_ownership(&plan, foreign, &mut journal.routing)?;
    let ports = plan.ways.ports(); // also of what is awaited
    let mut awaited = preflight::check_ports(&mut plan, early, &mut journal.routing)?;
    awaited.extend(macs::learn(&mut plan, &before.table, early, &mut journal.routing)?);

    let recorded = match record.filter(|_| before.table.is_empty()) {
        Some(record) => record.to_vec(),
        None => recorded(before, &plan, &mut journal.routing)?,
    };
    let needs = Needs::new(&plan, recorded, &mut journal.routing)?;
    for name in &needs.absent {
        match early {
            Early::Refuse => log::warn!(
                "/proc/sys/{name}: not there, its port is missing; run `returnpath apply` again once it is"
            ),
            _ => awaited.push(format!("/proc/sys/{name}: its port is not there")),
        }
    }
    // What is there as it should be is not made once more.
    let table = match is_recorded(&before.table, &plan, &needs.record, trial) {
        true => before.table.clone(),
        false => with_record(&plan, &needs.record, trial).into(),
    };
    let mut target = State { ways: plan.ways.clone(), table };
    let mut differences = target.differences(before);
    differences.extend(needs.differences());
    if !differences.is_empty() {
        let warnings = preflight::before(early, policy, &plan, foreign, journal)?;
        // Until the last of them is put back, the table remembers all that was ever changed.
        let whole = match needs.returns.is_empty() {
            true => target.table.clone(),
            false => {
                let everything: Vec<Setting> = needs.record.iter().chain(&needs.returns).cloned().collect();
                with_record(&plan, &everything, trial).into()
            }
        };
        plan.table = Table::default(); // the memory is wanted for what is sent and read back
        match change(journal, before, &mut target, whole, &needs, early) {
            Ok(late) if late.is_empty() => {}
            Ok(late) => {
                awaited.extend(late);
                differences = target.differences(before); // without what could not be had
                differences.extend(needs.differences());
            }
            Err(error) => {
                let said = error.line.clone();
                let mut error = journal.undo(error, &before.ways);
                // A table of ours that was there has shown that the kernel takes one. And what could not be undone is
                // what has to be known first.
                let is_first = early == Early::Refuse && before.table.is_empty() && !error.is_lost;
                if is_first && error.line == said {
                    error.line = preflight::lacking(policy, &mut journal.nftables.socket).unwrap_or(said);
                }
                return Err(error);
            }
        }
        flush_route_cache(&target.ways, journal);
        preflight::log(&warnings);
        warn_of_new_marks(&before.table, &target.table);
        for Change { name, from, to } in &needs.changes {
            log::info!("{name}: {from} → {to}, until `remove`");
        }
    }
    if matches!(early, Early::Refuse | Early::Await) {
        names::write(&plan.table_names);
    }
    let settings = sysctl::read_by(&plan, &mut journal.routing)?;
    let ports = ports.iter().map(Name::as_str);
    Ok(Found::Ours(Installed {
        differences,
        awaited,
        // Without them a flap is taken for a theft, no more: what has been done stays done.
        ports: journal.routing.indexes_of(ports.chain(sysctl::ports_of(&settings))).unwrap_or_default(),
        settings,
        record: needs.record,
    }))
}

/// Takes out everything that returnpath ever installed, and nothing else.
///
/// # Errors
/// As [`apply`].
pub fn remove() -> Result<Outcome, Error> {
    if is_guarded() {
        return Err(Error::new(
            "a `returnpath guard` is at work, and would put it back; stop that one first".into(),
        ));
    }
    let _lock = Lock::take()?;
    let mut journal = Journal::open()?;
    let (before, _) = observe(&mut journal)?;
    let outcome = match before.table.is_empty() && before.ways == Ways::default() {
        true => Outcome::Unchanged,
        false => {
            if let Err(error) = take_out(&mut journal, &before) {
                return Err(journal.undo(error, &before.ways));
            }
            flush_route_cache(&Ways::default(), &mut journal);
            Outcome::Changed
        }
    };
    names::remove();
    Ok(outcome)
}

/// Whether the kernel holds a plan but for some routes, some MACs of gateways and the settings of some ports.
fn is_incomplete(there: &State, plan: &Plan) -> bool {
    let plan = &macs::as_learned(plan, &there.table);
    let ways = Transition::new(&there.ways, &plan.ways);
    there.table.digest() == Some(plan.digest)
        && ways.before.iter().all(|step| matches!(step, Step::AddRoute(_)))
        && ways.after.is_empty()
        && is_recorded(&there.table, plan, &record_of(&there.table), there.table.trial())
}

/// The plan, with the port of each gateway for which the policy names none: as the kernel would find it now, or else
/// as it did when it took the route that is there.
pub(super) fn plan(policy: &Policy, there: &Ways, routing: &mut Routing) -> Result<Plan, Error> {
    let mut plan = Plan::new(policy);
    for route in &mut plan.ways.routes {
        if let Next::Gateway { address, device: device @ None, .. } = &mut route.next {
            *device = match routing.port_towards(*address)? {
                None => there.port_of(route.family, route.table, *address),
                found => found,
            };
        }
    }
    Ok(plan)
}

pub(super) fn observe(journal: &mut Journal) -> Result<(State, Vec<ForeignRule>), Error> {
    let table = journal.nftables.read()?;
    let routes = journal.routing.routes()?;
    let (rules, foreign) = journal.routing.rules()?;
    Ok((State { ways: Ways { routes, rules }, table: table.into() }, foreign))
}

fn record_of(table: &Ruleset) -> Vec<Setting> {
    table.record().filter_map(Setting::parse).collect()
}

/// What the settings were before us. Routes and rules without a table tell that somebody has flushed it.
pub(super) fn recorded(there: &State, plan: &Plan, routing: &mut Routing) -> Result<Vec<Setting>, Error> {
    match there.table.is_empty() && there.ways != Ways::default() {
        true => sysctl::presume(plan, routing),
        false => Ok(record_of(&there.table)),
    }
}

/// The planned table, with the record of settings from before and what follows from it.
pub(super) fn with_record(plan: &Plan, record: &[Setting], trial: Option<&str>) -> Ruleset {
    encode::ruleset(&plan.table, &rules_of_record(plan.mark_mask, &pairs(record), trial))
}

/// Whether a table that was read is the planned one with a record.
fn is_recorded(there: &Ruleset, plan: &Plan, record: &[Setting], trial: Option<&str>) -> bool {
    there.is(&plan.table, &rules_of_record(plan.mark_mask, &pairs(record), trial))
}

/// A record as the plan has it.
pub(super) fn pairs(record: &[Setting]) -> Vec<(String, u32)> {
    record.iter().map(|s| (s.name.clone(), s.before)).collect()
}

fn change(
    journal: &mut Journal,
    before: &State,
    target: &mut State,
    whole: Rc<Ruleset>,
    needs: &Needs,
    early: Early,
) -> Result<Vec<String>, Error> {
    let mut awaited = Vec::new();
    let ways = Transition::new(&before.ways, &target.ways);
    if !needs.changes.is_empty() {
        // What a setting was is remembered before it changes. On an update the other chains stay as they are.
        replace_table(journal, before, before.table.with_record_of(&whole).into())?;
    }
    for Change { name, from, to } in &needs.changes {
        journal.act(Act::Sysctl { name: name.clone(), from: *from, to: *to })?;
    }
    for steps in ways.before.chunk_by(are_alike) {
        for (result, step) in journal.act_all(steps).into_iter().zip(steps) {
            match (result, step) {
                // Once the policy is in force, one route that the kernel takes for wrong does not undo the others.
                (Err(error), Step::AddRoute(route))
                    if early == Early::Await && error.is_early
                        || matches!(early, Early::Complete | Early::Keep) && !error.is_lost =>
                {
                    // A connection that is moved through a spare table has to have its way there.
                    let Some(at) = target.ways.routes.iter().position(|wanted| wanted == route) else {
                        return Err(error);
                    };
                    target.ways.routes.remove(at);
                    awaited.push(error.to_string());
                }
                (result, _) => result?,
            }
        }
    }
    if whole.differs(journal.table().unwrap_or(&before.table)) {
        replace_table(journal, before, whole)?;
    }
    take(journal, &ways.after)?;
    if !needs.returns.is_empty() {
        put_back(journal, &needs.returns)?;
        replace_table(journal, before, target.table.clone())?;
    }
    let (mut there, _) = observe(journal)?;
    if journal.arrange(there.ways.rules.clone(), &target.ways.rules)? {
        (there.ways.rules, _) = journal.routing.rules()?;
    }
    match target.differences(&there).first() {
        None => Ok(awaited),
        Some(Difference { line, .. }) => Err(Error::new(format!(
            "read back: {line}; another program changed it at the same time, stop that one and try again"
        ))),
    }
}

/// Whether two steps may be sent together: the kernel takes them in order, and goes on where it refuses one. A route that is
/// replaced has packets on it.
fn are_alike(one: &Step, other: &Step) -> bool {
    discriminant(one) == discriminant(other) && !matches!(one, Step::ReplaceRoute { .. })
}

/// Takes steps in their order, as many at a time as belong together.
fn take(journal: &mut Journal, steps: &[Step]) -> Result<(), Error> {
    steps.chunk_by(are_alike).flat_map(|some| journal.act_all(some)).collect()
}

fn take_out(journal: &mut Journal, before: &State) -> Result<(), Error> {
    let nothing = Ways::default();
    let ways = Transition::new(&before.ways, &nothing);
    // The marks go first. The record stays until every setting is back.
    replace_table(journal, before, before.table.only_record().into())?;
    take(journal, &ways.before)?;
    take(journal, &ways.after)?;
    put_back(journal, &record_of(&before.table))?;
    replace_table(journal, before, Rc::default())?;
    let (there, _) = observe(journal)?;
    match there.table.is_empty() && there.ways == nothing {
        true => Ok(()),
        false => Err(Error::new(
            "read back: something of ours came back; stop the program that restores it and try again".into(),
        )),
    }
}

fn replace_table(journal: &mut Journal, before: &State, to: Rc<Ruleset>) -> Result<(), Error> {
    let from = journal.table().unwrap_or(&before.table).clone();
    match from.is_empty() && to.is_empty() {
        true => Ok(()),
        false => journal.act(Act::Table { from, to }),
    }
}

/// Puts settings back, but for those that somebody else has changed since.
fn put_back(journal: &mut Journal, settings: &[Setting]) -> Result<(), Error> {
    for Setting { name, before } in settings {
        match sysctl::read(name)? {
            Some(value) if value == *before => {}
            Some(value) if value == sysctl::ours(name) => {
                journal.act(Act::Sysctl { name: name.clone(), from: value, to: *before })?
            }
            Some(value) => log::warn!("/proc/sys/{name}: {value} is not what returnpath set; it stays"),
            None => {} // its port is gone, and its settings with it
        }
    }
    Ok(())
}

/// The mark is all that a connection remembers of its path. With another one it is forgotten.
fn warn_of_new_marks(before: &Ruleset, after: &Ruleset) {
    let after = after.marks();
    for (old, chain) in before.marks() {
        if let Some((new, _)) = after.iter().find(|(new, other)| *other == chain && *new != old) {
            let path = chain.trim_start_matches("mark_");
            log::warn!(
                "path {path}: its mark was {old:#x} and is {new:#x}; its open connections are forgotten"
            );
        }
    }
}

/// Drops the routes that open sockets remember: Linux has had no route cache since 3.6, but sockets keep the route that
/// they last used. An IPv6 socket looks again only when the table has changed that its route came from, or a rule
/// (`net.ipv6.route.flush` collects garbage, no more): so our last one is made again, behind itself.
fn flush_route_cache(ways: &Ways, journal: &mut Journal) {
    if let Err(error) = sysctl::write("net/ipv4/route/flush", 1) {
        log::debug!("{error}");
    }
    let last6 = ways.rules.iter().rfind(|rule| rule.family == Family::V6);
    if let Some(Err(error)) = last6.map(|rule| journal.routing.requeue(rule)) {
        log::debug!("{error}");
        // The rule may be there twice.
        let rules = journal.routing.rules();
        if let Err(error) = rules.and_then(|(there, _)| journal.arrange(there, &ways.rules)) {
            log::warn!("{error}; `returnpath apply` makes it good");
        }
    }
}

//! A policy on trial: it is taken back unless somebody confirms it in time.
//!
//! That it is on trial is a line in the table, beside the settings of before. To confirm is to take that line out; so
//! whoever waits for it, whoever confirms and whoever else installs something need not know of one another.

use super::commit::{Found, Order, Outcome, install_by, observe};
use super::differences::compare;
use super::journal::{Act, Journal};
use super::lock::Lock;
use super::preflight::Early;
use super::{Error, names};
use crate::plan::nft::TRIAL;
use crate::plan::ways::Ways;
use crate::policy::Policy;
use rustix::thread::{ClockId, Timespec, clock_nanosleep_absolute};
use rustix::time::clock_gettime;
use std::process::id;
use std::thread::sleep;
use std::time::Duration;

/// Between an attempt to take a policy back and the next one.
const RETRY: Duration = Duration::from_secs(1);

/// What it takes to go back.
pub struct Trial {
    journal: Journal,
    before: Ways,
    names: Option<String>,
    line: String,
    until: Timespec,
}

/// How a trial has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It was confirmed, or something else was installed or removed meanwhile.
    Stays,
    /// It was taken back.
    TakenBack,
}

impl Trial {
    /// Installs a policy for so long, as [`apply`](super::commit::apply) does. `None`: it is in force already, and not on trial.
    ///
    /// # Errors
    /// As [`apply`](super::commit::apply); another policy is on trial.
    pub fn begin(policy: &Policy, period: Duration) -> Result<Option<Trial>, Error> {
        let _lock = Lock::take()?;
        let mut journal = Journal::open()?;
        let (before, foreign) = observe(&mut journal)?;
        if let Some(seconds) = before.table.trial().and_then(seconds_left) {
            return Err(Error::new(format!(
                "another policy is on trial for {seconds} s more; run `returnpath confirm`, or wait until it is taken back"
            )));
        }
        let mut until = clock_gettime(ClockId::Boottime);
        until.tv_sec += period.as_secs() as i64;
        // Whose trial it is, and until when on the clock that does not stop while the machine sleeps.
        let line = format!("{TRIAL}until {} by {}", until.tv_sec, id());
        let names = names::read();
        if compare(policy)?.differences.is_empty() {
            return Ok(None);
        }
        let order = Order { early: Early::Refuse, trial: Some(&line), record: None };
        match install_by(&mut journal, policy, &order, &before, &foreign)? {
            Found::Ours(installed) if installed.outcome() == Outcome::Changed => {
                Ok(Some(Trial { journal, before: before.ways, names, line, until }))
            }
            _ => Ok(None),
        }
    }

    /// Sleeps until the time is up, and takes the policy back if it is still on trial.
    ///
    /// # Errors
    /// What could not be taken back.
    pub fn end(mut self) -> Result<Verdict, Error> {
        while clock_nanosleep_absolute(ClockId::Boottime, &self.until).is_err() {} // interrupted by a signal
        // Until it has begun to go back, a failure (another returnpath at work, no memory) is no reason to let it be.
        let (_lock, is_on_trial) = loop {
            match self.is_on_trial() {
                Ok(found) => break found,
                Err(_) => sleep(RETRY),
            }
        };
        if !is_on_trial {
            return Ok(Verdict::Stays);
        }
        self.journal.take_back(&self.before, true)?;
        names::restore(self.names.as_deref());
        Ok(Verdict::TakenBack)
    }
}

impl Trial {
    /// Whether it is still on trial, and that nobody changes this now.
    fn is_on_trial(&self) -> Result<(Lock, bool), Error> {
        let lock = Lock::take()?;
        let (there, _) = observe(&mut Journal::open()?)?;
        Ok((lock, there.table.trial() == Some(&self.line)))
    }
}

/// Ends the trial of the policy in force: it stays.
///
/// # Errors
/// None is on trial; the kernel refuses.
pub fn confirm() -> Result<(), Error> {
    let _lock = Lock::take()?;
    let mut journal = Journal::open()?;
    let (there, _) = observe(&mut journal)?;
    if there.table.trial().is_none() {
        return Err(Error::new(
            "no policy is on trial: it has been confirmed or taken back; see `returnpath status`".into(),
        ));
    }
    let to = there.table.without_trial().into();
    journal.act(Act::Table { from: there.table, to })
}

/// How long a trial still lasts, by its line; `None`: it is over, as when nobody was left to take it back.
pub(super) fn seconds_left(line: &str) -> Option<u32> {
    let until: i64 = line.strip_prefix(TRIAL)?.strip_prefix("until ")?.split(' ').next()?.parse().ok()?;
    let left = until.checked_sub(clock_gettime(ClockId::Boottime).tv_sec)?;
    u32::try_from(left).ok().filter(|left| *left > 0)
}

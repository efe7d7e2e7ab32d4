//! What has been done so far, and how to undo it.

use super::Error;
use super::ruleset::Ruleset;
use super::sysctl;
use super::table::Nftables;
use super::ways::Routing;
use crate::plan::transition::{Step, misplaced};
use crate::plan::ways::{Rule, Ways};
use std::rc::Rc;

/// One thing to do, with all that undoing it takes.
pub enum Act {
    /// A route or a rule.
    Way(Step),
    /// Our nftables table, as a whole.
    Table {
        /// As it is.
        from: Rc<Ruleset>,
        /// As it shall be; empty: gone.
        to: Rc<Ruleset>,
    },
    /// A setting.
    Sysctl {
        /// Its path under `/proc/sys`.
        name: String,
        /// Its value.
        from: u32,
        /// Its new value.
        to: u32,
    },
}

/// Both netlink sockets, and what has been done through them.
pub struct Journal {
    /// Routes, rules and ports.
    pub routing: Routing,
    /// Our nftables table.
    pub nftables: Nftables,
    done: Vec<Act>,
}

impl Journal {
    /// Opens the sockets.
    pub fn open() -> Result<Journal, Error> {
        Ok(Journal { nftables: Nftables::open()?, routing: Routing::open()?, done: Vec::new() })
    }

    /// Does one thing and remembers it: also when the kernel's answer is lost, since it may be done; and a table always,
    /// since it is changed in more than one step.
    pub fn act(&mut self, act: Act) -> Result<(), Error> {
        let result = match &act {
            Act::Way(step) => self.routing.take(step),
            Act::Table { from, to } => self.nftables.replace(from, to),
            Act::Sysctl { name, to, .. } => sysctl::write(name, *to),
        };
        let may_be_done = result.as_ref().err().is_none_or(|error| error.is_lost);
        if may_be_done || matches!(act, Act::Table { .. }) {
            self.done.push(act);
        }
        result
    }

    /// Does several things of the same kind at a time, and remembers them in the same way.
    pub fn act_all(&mut self, steps: &[Step]) -> Vec<Result<(), Error>> {
        let results = self.routing.take_all(steps);
        let may_be_done = |(result, _): &(&Result<(), Error>, &Step)| {
            result.as_ref().err().is_none_or(|error| error.is_lost)
        };
        let done = results.iter().zip(steps).filter(may_be_done);
        self.done.extend(done.map(|(_, step)| Act::Way(step.clone())));
        results
    }

    /// Our table as the last act has left it.
    pub fn table(&self) -> Option<&Rc<Ruleset>> {
        self.done.iter().rev().find_map(|act| match act {
            Act::Table { to, .. } => Some(to),
            _ => None,
        })
    }

    /// Brings rules of the same priority into this order, from that in which they are; returns whether there was anything
    /// to do. A moved rule is doubled first: it is never away.
    pub fn arrange(&mut self, mut there: Vec<Rule>, wanted: &[Rule]) -> Result<bool, Error> {
        let count = there.len();
        // Doubles are what an arrangement that broke off has left; the kernel deletes the first of them.
        while let Some(at) = (0..there.len()).find(|at| there[at + 1..].contains(&there[*at])) {
            self.routing.take(&Step::DelRule(there.remove(at)))?;
        }
        let misplaced = misplaced(&there, wanted);
        misplaced.iter().try_for_each(|rule| self.routing.requeue(rule))?;
        Ok(there.len() != count || !misplaced.is_empty())
    }

    /// Undoes everything after a failure, back to `before`. Returns the reason, and what could not be undone.
    pub fn undo(&mut self, mut reason: Error, before: &Ways) -> Error {
        if let Err(error) = self.take_back(before, reason.is_lost) {
            reason.line = format!("{} (and this could not be undone: {error})", reason.line);
        }
        reason
    }

    /// Undoes everything, the last first, back to `before`; with new sockets where the old ones are `stale`. Goes on where
    /// something can not be undone, and names it then.
    pub fn take_back(&mut self, before: &Ways, stale: bool) -> Result<(), Error> {
        // Answers that were lost may still come in, and a dump that was not read to its end blocks the next one.
        if let (true, Ok(routing), Ok(nftables)) = (stale, Routing::open(), Nftables::open()) {
            (self.routing, self.nftables) = (routing, nftables);
        }
        let mut failures = Vec::new();
        let mut failed = |result: Result<(), Error>| failures.extend(result.err().map(|error| error.line));
        while let Some(act) = self.done.pop() {
            failed(match &act {
                Act::Way(step) => self.routing.take_back(step),
                // Whatever is there now: after a lost answer nobody knows.
                Act::Table { from, .. } => self.nftables.restore(from),
                Act::Sysctl { name, from, .. } => sysctl::write(name, *from),
            });
        }
        let rules = self.routing.rules();
        failed(rules.and_then(|(there, _)| self.arrange(there, &before.rules)).map(drop));
        match failures.is_empty() {
            true => Ok(()),
            false => Err(Error::new(failures.join("; "))),
        }
    }
}

//! A policy whose ports or addresses are not all there yet: what can be used is in force, the rest follows as it comes.

use crate::kernel::Error;
use crate::kernel::commit::{apply_early, complete};
use crate::kernel::descriptors::let_go_of_input;
use crate::kernel::events::Changes;
use crate::lines::Progress;
use crate::policy::Policy;
use log::Level;
use std::thread::sleep;
use std::time::Duration;

/// A storm of changes is one.
const STORM: Duration = Duration::from_millis(10);
/// What is said when nothing is awaited any more.
pub const COMPLETE: &str = "complete: all that was waited for is there";
/// Between an attempt that failed and the next one.
const PAUSE: Duration = Duration::from_secs(5);
/// What a policy in force still awaits.
pub struct Waiting {
    changes: Changes,
    /// One line each.
    awaited: Vec<String>,
    has_failed: bool,
    progress: Progress,
}

impl Waiting {
    /// Installs a policy as far as it can be used already, once it has been made ready for.
    ///
    /// # Errors
    /// As [`apply_early`].
    pub fn install(name: &str, policy: &Policy, prepare: impl FnOnce(&Policy)) -> Result<Waiting, Error> {
        // Before the kernel is looked at, so that nothing that comes after that is missed.
        let changes = Changes::listen(policy.has_auto_macs())?;
        prepare(policy);
        let awaited = apply_early(policy)?.awaited;
        let mut waiting = Waiting { changes, awaited, has_failed: false, progress: Progress::default() };
        waiting.progress.say(Level::Info, &format!("{name}: {}; in force", policy.count()));
        Ok(waiting)
    }

    /// Whether the policy is in force as a whole.
    pub fn is_over(&self) -> bool {
        self.awaited.is_empty()
    }

    /// Says what is awaited: by the policy, and beside it.
    pub fn say_what(&mut self, beside: &[String]) {
        let level = match (self.has_failed, beside.is_empty()) {
            (true, _) => Level::Error,
            (false, false) => Level::Warn,
            (false, true) => Level::Info,
        };
        let lacks = [beside, &self.awaited].concat();
        self.progress.say(level, &format!("waiting for {}", lacks.join(", and ")));
    }

    /// Sleeps until the kernel tells of a change. Where there is a `limit`, somebody else waits as well, and there is
    /// no time to let a storm pass.
    ///
    /// # Errors
    /// The kernel does not tell.
    pub fn sleep(&mut self, limit: Option<Duration>) -> Result<(), Error> {
        if self.has_failed && limit.is_none() {
            sleep(PAUSE); // what was undone is a change, too
        }
        self.changes.wait(limit)?;
        if limit.is_none() {
            sleep(STORM);
        }
        Ok(())
    }

    /// Adds what has come. False: somebody else has changed what was in force, and nothing is awaited any more.
    pub fn go_on(&mut self, policy: &Policy) -> bool {
        let result = complete(policy);
        self.has_failed = result.is_err();
        self.awaited = match result {
            Ok(Some(rest)) => rest,
            Ok(None) => {
                let line = "another program, or another `apply`, has changed what was in force; nothing is waited for any \
                            more: see `returnpath status`, and run `returnpath apply` if it shall be as it was";
                self.progress.say(Level::Warn, line);
                return false;
            }
            Err(error) => vec![format!("another attempt: {error}")],
        };
        true
    }

    /// Says that nothing is awaited any more.
    pub fn end(&mut self) {
        self.progress.say(Level::Info, COMPLETE);
    }

    /// Tells the service manager that the policy is in force, and stays until nothing is awaited, or somebody else has
    /// changed what was in force.
    ///
    /// # Errors
    /// The kernel does not tell of changes.
    pub fn stay(mut self, policy: &Policy) -> Result<(), Error> {
        if !self.is_over() {
            let_go_of_input();
            self.say_what(&[]);
        }
        self.progress.ready();
        while !self.is_over() {
            self.sleep(None)?;
            if !self.go_on(policy) {
                return Ok(());
            }
            match self.is_over() {
                true => self.end(),
                false => self.say_what(&[]),
            }
        }
        Ok(())
    }
}

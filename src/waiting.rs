//! A policy whose ports or addresses are not all there yet: what can be used is in force, the rest follows as it comes.

use crate::exit::{self, Failure};
use crate::kernel::Error;
use crate::kernel::commit::{apply_early, complete};
use crate::kernel::descriptors::let_go_of_input;
use crate::kernel::events::Changes;
use crate::kernel::notify::notify;
use crate::lines::{cut, one_line};
use crate::policy::Policy;
use crate::source::{Slots, Source};
use log::Level;
use std::thread::sleep;
use std::time::Duration;

/// A storm of changes is one.
const STORM: Duration = Duration::from_millis(10);
/// Between an attempt that failed and the next one.
const PAUSE: Duration = Duration::from_secs(5);
/// Longest status, in bytes: the service manager takes no message over 4096 (`NOTIFY_BUFFER_MAX`, systemd).
const LONGEST: usize = 4000;

/// What a policy in force still awaits.
pub struct Waiting {
    changes: Changes,
    /// One line each.
    awaited: Vec<String>,
    has_failed: bool,
    /// The last line of the log.
    said: String,
    /// Somebody may be told that line, too.
    is_service: bool,
}

impl Waiting {
    /// Installs the policy of a source as far as it can be used already; of a board the newest one that the kernel takes.
    ///
    /// # Errors
    /// [`exit::NO_POLICY`], [`exit::NO_BOARD`], [`exit::REFUSED`].
    pub fn begin(source: &Source, policy: &mut Policy) -> Result<Waiting, Failure> {
        let slots = match source {
            Source::Board(board) => Slots::of(board)?,
            Source::BoardInput => Slots::of_input()?,
            Source::File(_) | Source::Input => {
                let name = source.load(policy)?;
                return Ok(Waiting::install(&name, policy, |_| ())?);
            }
        };
        Waiting::of_slots(slots, policy, |_| ())
    }

    /// Takes the slots of a board, the newest first, until the kernel accepts one; `prepare` is called before each.
    ///
    /// # Errors
    /// [`exit::NO_POLICY`], [`exit::REFUSED`].
    pub fn of_slots(
        mut slots: Slots,
        policy: &mut Policy,
        mut prepare: impl FnMut(&Policy),
    ) -> Result<Waiting, Failure> {
        let mut refusal = None;
        while let Some(name) = slots.next(policy) {
            if let Some(line) = refusal.take() {
                log::error!("{line}");
            }
            match Waiting::install(&name, policy, &mut prepare) {
                Ok(waiting) => return Ok(waiting),
                Err(error) => refusal = Some(format!("{name}: {error}")),
            }
        }
        Err(refusal.map_or_else(|| slots.exhausted(), |line| Failure::new(exit::REFUSED, line)))
    }

    fn install(name: &str, policy: &Policy, prepare: impl FnOnce(&Policy)) -> Result<Waiting, Error> {
        // Before the kernel is looked at, so that nothing that comes after that is missed.
        let changes = Changes::listen()?;
        prepare(policy);
        let awaited = apply_early(policy)?;
        let mut waiting =
            Waiting { changes, awaited, has_failed: false, said: String::new(), is_service: false };
        waiting.say(Level::Info, format!("{name}: {}; in force", policy.count()));
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
        self.say(level, format!("waiting for {}", lacks.join(", and ")));
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
                self.say(Level::Warn, line.into());
                return false;
            }
            Err(error) => vec![format!("another attempt: {error}")],
        };
        true
    }

    /// Says that nothing is awaited any more.
    pub fn end(&mut self) {
        self.say(Level::Info, "complete: all that was waited for is there".into());
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
        self.tell("READY=1\n");
        self.is_service = true;
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

    /// One line in the log, unless it is the last one again.
    fn say(&mut self, level: Level, line: String) {
        let line = one_line(&line);
        if line != self.said {
            log::log!(level, "{line}");
            self.said = line;
            if self.is_service {
                self.tell("");
            }
        }
    }

    fn tell(&self, state: &str) {
        notify(&format!("{state}STATUS={}", cut(&self.said, LONGEST)));
    }
}

//! The service manager's watchdog (`man 3 sd_watchdog_enabled`): the only thing for which an idle guard wakes, and only
//! where it was asked for.

use crate::kernel::notify::mention;
use std::env::var;
use std::process::id;
use std::time::{Duration, Instant};

/// When to give a sign of life.
pub struct Watchdog(Option<(Duration, Instant)>);

impl Watchdog {
    /// As the service manager asks for it: twice in the time that it grants.
    pub fn of_environment(now: Instant) -> Watchdog {
        let number = |name| var(name).ok().and_then(|value| value.parse::<u64>().ok());
        let is_for_us = number("WATCHDOG_PID").is_none_or(|process| process == id().into());
        let granted = number("WATCHDOG_USEC").filter(|microseconds| *microseconds > 0 && is_for_us);
        Watchdog(granted.map(|microseconds| (Duration::from_micros(microseconds) / 2, now)))
    }

    /// When the next one is due.
    pub fn next(&self) -> Option<Instant> {
        self.0.map(|(_, next)| next)
    }

    /// Gives one, if it is due.
    pub fn ping(&mut self) {
        if let Some((interval, next)) = &mut self.0
            && *next <= Instant::now()
        {
            mention("WATCHDOG=1");
            *next = Instant::now() + *interval;
        }
    }
}

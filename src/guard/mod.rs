//! Stays, and puts back what a port that goes down, a firewall that restarts or another program has taken away.
//!
//! It sleeps until the kernel tells of something that the policy depends on. Then it compares, and repairs the
//! difference. It does not fight: whoever goes on taking the same away is named and left more and more time, and another
//! policy that somebody has applied meanwhile stays.

mod patience;
mod watchdog;

use crate::exit::{self, Failure};
use crate::kernel::Error;
use crate::kernel::commit::{Found, Installed, apply_early, keep};
use crate::kernel::differences::{Cause, Difference};
use crate::kernel::lock::Presence;
use crate::kernel::news::{Heard, News};
use crate::kernel::notify::notify;
use crate::kernel::signals::Signal;
use crate::lines::Progress;
use crate::policy::{Policy, wire};
use crate::source::Source;
use crate::waiting::COMPLETE;
use log::Level;
use patience::Patience;
use rustix::time::{ClockId, clock_gettime};
use std::time::{Duration, Instant};
use watchdog::Watchdog;

/// The next comparison comes so long after the last one, at the earliest: what comes meanwhile is one with it.
const FOLD: Duration = Duration::from_millis(10);
/// And a storm may take one part in so many of the processor.
const SHARE: u32 = 5;

/// Installs the policy of a source, as far as it can be used already, and keeps it in force until the process is asked to
/// end. It stays in force then.
///
/// # Errors
/// There is a guard already; the first installation's; the kernel does not tell of changes.
pub fn run(source: &Source) -> Result<(), Failure> {
    let presence = Some(Presence::take()?);
    // Before the kernel is looked at, so that nothing that comes after that is missed.
    let mut guard = Guard::new(source, News::listen()?, presence);
    guard.install()?;
    guard.progress.ready();
    loop {
        guard.sleep()?;
        while let Some(signal) = guard.news.signal() {
            match signal {
                Signal::End => return Ok(()),
                Signal::Reload => guard.reload(),
            }
        }
        guard.listen();
        if guard.due.is_some_and(|due| due <= Instant::now()) {
            guard.compare();
        }
    }
}

struct Guard<'a> {
    source: &'a Source,
    /// The policy, in its wire form: that is a hundredth of the [`Policy`], which is there only while it is needed.
    image: Vec<u8>,
    news: News,
    /// Heard since the last comparison.
    heard: Heard,
    /// When to compare; `None`: nothing has happened.
    due: Option<Instant>,
    /// No comparison is due before.
    not_before: Instant,
    /// Nor one for what others take away.
    paused_until: Instant,
    patience: Patience,
    /// What was said when the policy was put in force.
    in_force: String,
    /// Something has gone wrong since, or another policy is in force.
    is_troubled: bool,
    /// What was found and left out the last time, but for the differences.
    last: Installed,
    /// `None`: another policy is in force, and this guard stands aside.
    presence: Option<Presence>,
    watchdog: Watchdog,
    progress: Progress,
}

impl Guard<'_> {
    fn new(source: &Source, news: News, presence: Option<Presence>) -> Guard<'_> {
        let now = Instant::now();
        Guard {
            source,
            image: Vec::new(),
            news,
            heard: Heard::default(),
            due: None,
            not_before: now,
            paused_until: now,
            patience: Patience::new(now),
            in_force: String::new(),
            is_troubled: false,
            last: Installed::default(),
            presence,
            watchdog: Watchdog::of_environment(now),
            progress: Progress::default(),
        }
    }

    /// Installs the newest policy of the source that the kernel takes, whatever is in force.
    fn install(&mut self) -> Result<(), Failure> {
        let mut policy = Box::new(Policy::new());
        let news = &mut self.news;
        let (line, installed) = self.source.first(&mut policy, |name, policy| {
            news.attend(policy); // first, so that no MAC changes unheard
            Ok((in_force(name, policy), apply_early(policy)?))
        })?;
        self.image = image(&policy);
        self.adopt(line, installed);
        Ok(())
    }

    /// From now on this policy is the one to be kept.
    fn adopt(&mut self, line: String, installed: Installed) {
        self.watch(&installed);
        self.progress.say(Level::Info, &line);
        (self.in_force, self.is_troubled) = (line, false);
        self.last = Installed::default();
        self.be_present();
        self.wait_for(installed, true);
    }

    /// Reads the source again. The policy of before stays if there is none that can be used.
    fn reload(&mut self) {
        reloading();
        if let Err(failure) = self.install() {
            let policy = decoded(&self.image);
            self.news.attend(&policy);
            self.trouble(Level::Error, &format!("{}; the policy of before stays in force", failure.line));
            self.in_force = in_force("the policy of before", &policy);
        }
        self.progress.ready();
    }

    fn sleep(&mut self) -> Result<(), Error> {
        self.news.wait(self.due.into_iter().chain(self.watchdog.next()).min())?;
        self.watchdog.ping();
        Ok(())
    }

    /// Takes what there is to hear, and says when to compare.
    fn listen(&mut self) {
        let heard = self.news.take();
        if heard.is_relevant {
            let earliest = match heard.is_flap {
                true => self.not_before,
                false => self.not_before.max(self.paused_until),
            };
            let due = earliest.max(Instant::now());
            self.due = Some(self.due.map_or(due, |before| before.min(due)));
        }
        self.heard.add(heard);
    }

    /// Compares, and repairs the difference.
    fn compare(&mut self) {
        let (began, used) = (Instant::now(), processor_time());
        self.due = None;
        let mut heard = core::mem::take(&mut self.heard);
        let found = keep(&decoded(&self.image), &self.last);
        // What has come meanwhile is of what was found, or else of the next comparison. Our own changes come as well.
        self.listen();
        if !matches!(&found, Ok(Found::Ours(installed)) if installed.differences.is_empty()) {
            heard.add(core::mem::take(&mut self.heard));
        }
        match found {
            Ok(Found::Ours(installed)) => {
                let was_troubled = core::mem::take(&mut self.is_troubled);
                if was_troubled {
                    self.progress.say(Level::Info, &self.in_force);
                    self.be_present();
                }
                if !installed.differences.is_empty() {
                    // What was awaited and has come was taken away by nobody.
                    heard.is_flap |= installed.awaited != self.last.awaited;
                    self.tell_of(&installed.differences, &heard);
                    self.watch(&installed);
                }
                self.wait_for(installed, was_troubled);
            }
            Ok(Found::Other) => self.stand_by(),
            // The port went down again while its route was being put back.
            Err(_) if heard.is_flap => self.due = Some(began),
            Err(error) => {
                let pause = self.give_way();
                let when = match pause.as_secs() {
                    0 => "at once".into(),
                    seconds => format!("in {seconds} s, since it fails again and again"),
                };
                self.trouble(Level::Error, &format!("{error}{}; another attempt {when}", by(&heard)));
                self.due = Some(Instant::now() + pause);
            }
        }
        self.not_before = Instant::now() + FOLD.max((processor_time() - used) * (SHARE - 1));
        self.due = self.due.map(|due| due.max(self.not_before));
    }

    /// Says what has been put back, and how long it has to wait the next time.
    fn tell_of(&mut self, differences: &[Difference], heard: &Heard) {
        // A new MAC is told of by its own line.
        if heard.is_flap && differences.iter().all(|one| one.cause == Cause::Neighbour) {
            return;
        }
        let is_taken = |one: &&Difference| !heard.is_flap || one.cause == Cause::Nothing;
        let Some(first) = differences.iter().find(is_taken).or(differences.first()) else { return };
        let what = match differences.len() - 1 {
            0 => first.line.clone(),
            more => format!("{}, and {more} more", first.line),
        };
        let is_taken = is_taken(&first);
        let level = if is_taken { Level::Warn } else { Level::Info };
        self.progress.say(level, &format!("put back: {what}{}", by(heard)));
        if !is_taken {
            return;
        }
        let pause = self.give_way();
        if !pause.is_zero() {
            let line = format!(
                "{what}: taken away again and again{}; it is left alone for {} s now; stop that program, or keep it off \
                 routes and rules of protocol 82 and off `table inet returnpath`",
                by(heard),
                pause.as_secs()
            );
            self.trouble(Level::Error, &line);
        }
    }

    fn trouble(&mut self, level: Level, line: &str) {
        self.progress.say(level, line);
        self.is_troubled = true;
    }

    /// Leaves others time before it puts something back once more, more and more of it.
    fn give_way(&mut self) -> Duration {
        let now = Instant::now();
        let pause = self.patience.put_back(now);
        self.paused_until = now + pause;
        pause
    }

    /// Says what can not be used yet, if that has changed or has to be said `again`.
    fn wait_for(&mut self, installed: Installed, again: bool) {
        let awaited = &installed.awaited;
        match awaited.is_empty() {
            true if !self.last.awaited.is_empty() => self.progress.say(Level::Info, COMPLETE),
            false if again || *awaited != self.last.awaited => {
                self.progress.say(Level::Warn, &format!("waiting for {}", awaited.join(", and ")));
            }
            _ => {}
        }
        self.news.lead_through(&installed.ports, installed.awaited.is_empty());
        self.last = installed;
    }

    /// Listens to the settings, and looks once more at what has become of them meanwhile.
    fn watch(&mut self, installed: &Installed) {
        if let Err(error) = self.news.watch_settings(&installed.settings) {
            self.trouble(Level::Error, &error.to_string());
        }
        self.due = Some(self.paused_until.max(Instant::now())); // it would put back all else as well
    }

    /// After it has stood aside.
    fn be_present(&mut self) {
        if self.presence.is_none() {
            match Presence::take() {
                Ok(presence) => self.presence = Some(presence),
                Err(error) => self.trouble(Level::Error, &error.to_string()),
            }
        }
    }

    /// Another policy is in force: it may be what the source has by now.
    fn stand_by(&mut self) {
        let mut policy = Box::new(Policy::new());
        let news = &mut self.news;
        let adopted = self.source.load(&mut policy).and_then(|name| {
            news.attend(&policy);
            match keep(&policy, &self.last)? {
                Found::Ours(installed) => Ok((name, installed)),
                Found::Other => Err(Failure::new(
                    exit::REFUSED,
                    format!(
                        "another policy than that of {name} has been applied, and is left as it is; write it there too, \
                         or send SIGHUP to put the one of {name} in force again"
                    ),
                )),
            }
        });
        match adopted {
            Ok((name, installed)) => {
                self.image = image(&policy);
                self.adopt(in_force(&name, &policy), installed);
            }
            Err(failure) => {
                self.presence = None; // whoever asks for a guard shall know
                self.news.attend(&decoded(&self.image));
                self.trouble(Level::Warn, &failure.line);
            }
        }
    }
}

/// What this process has used of the processor so far.
fn processor_time() -> Duration {
    let used = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(used.tv_sec as u64, used.tv_nsec as u32)
}

fn by(heard: &Heard) -> String {
    heard.who.as_ref().map_or_else(String::new, |who| format!("; it was {who}"))
}

fn in_force(name: &str, policy: &Policy) -> String {
    format!("{name}: {}; in force, and guarded", policy.count())
}

/// A policy, to be [`decoded`] when it is needed.
fn image(policy: &Policy) -> Vec<u8> {
    let mut image = vec![0; wire::MAX_ENCODED];
    let length = wire::encode(policy, &mut image).unwrap_or(0); // it has room for every policy
    image.truncate(length);
    image.shrink_to_fit();
    image
}

fn decoded(image: &[u8]) -> Box<Policy> {
    let mut policy = Box::new(Policy::new());
    if let Err(error) = wire::decode(image, &mut policy) {
        log::error!("{error}"); // not reachable: it was in force
    }
    policy
}

/// Tells the service manager that the source is being read again (`Type=notify-reload`, `man 5 systemd.service`).
fn reloading() {
    let now = clock_gettime(ClockId::Monotonic);
    notify(&format!("RELOADING=1\nMONOTONIC_USEC={}", now.tv_sec * 1_000_000 + now.tv_nsec / 1000));
}

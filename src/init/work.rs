//! What the stage's child does: modules, partition, ports, policy. It may fail, crash or hang: PID 1 goes on without it.

use super::options::Options;
use crate::exit::{self, Failure};
use crate::kernel::commit::{apply_early, complete};
use crate::kernel::descriptors::{close_inherited, let_go};
use crate::kernel::events::Changes;
use crate::kernel::partition::Board;
use crate::kernel::{Error, modules, ports};
use crate::policy::{Name, Policy};
use crate::source::{Slots, policy};
use log::Level;
use std::io::{Write, stdout};
use std::os::unix::process::parent_id;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// What the child tells PID 1: the policy is in force, and the child stays behind for what could not be used yet.
pub const WAITING: u8 = b'w';

/// How often the partition is looked for, and `/proc`.
const INTERVAL: Duration = Duration::from_millis(10);
/// How long the next init may take to mount `/proc`.
const PROC_PATIENCE: Duration = Duration::from_secs(60);
/// Between an attempt that failed and the next one.
const PAUSE: Duration = Duration::from_secs(5);

/// Does the work of the stage, for which PID 1 gives `limit`. Waiting for a partition or a port ends after seven tenths
/// of that, so that there is time left for what can be done.
///
/// # Errors
/// The line that says what went wrong; it is in the kernel log already.
pub fn run(limit: Duration) -> Result<(), Failure> {
    let until = Instant::now() + limit * 7 / 10;
    close_inherited();
    let (options, _) = Options::of_this_boot();
    super::kmsg::log_there(options.log, parent_id() != 1);
    let result = work(&options.board, until).inspect_err(|failure| log::error!("{}", failure.line));
    tell(result.as_ref().map_or_else(|failure| failure.code, |()| 0));
    result
}

fn work(board: &Board, until: Instant) -> Result<(), Failure> {
    if let Err(error) = modules::load() {
        log::error!("{error}"); // where it is needed, the commit is refused and says for what
    }
    let mut slots = await_board(board, until)?;
    // Before the kernel is looked at, so that nothing that comes after that is missed.
    let changes = Changes::listen().map_err(refused)?;
    let mut policy = policy();
    let mut is_refused = false;
    while let Some(name) = slots.next(&mut policy) {
        let mut ports = Ports::of(&policy);
        ports.bring_up();
        match apply_early(&policy) {
            Ok(awaited) => {
                drop(slots); // and with them the device
                log::info!("{name}: {}; in force", policy.count());
                return attend(&policy, ports, &changes, awaited, until).map_err(refused);
            }
            Err(error) => log::error!("{name}: {error}"),
        }
        is_refused = true;
    }
    Err(match is_refused {
        true => Failure::new(
            exit::REFUSED,
            format!("{board}: the kernel takes none of its policies; see the lines above"),
        ),
        false => slots.exhausted(),
    })
}

fn refused(error: Error) -> Failure {
    Failure::new(exit::REFUSED, error.to_string())
}

fn await_board(board: &Board, until: Instant) -> Result<Slots, Failure> {
    loop {
        match Slots::of(board) {
            Err(_) if Instant::now() < until => sleep(INTERVAL),
            result => return result,
        }
    }
}

/// Installs what could not be used yet, as it comes. PID 1 waits for the ports, until the time is up; not for addresses,
/// which only the next init will give them.
fn attend(
    policy: &Policy,
    mut ports: Ports,
    changes: &Changes,
    mut awaited: Vec<String>,
    until: Instant,
) -> Result<(), Error> {
    let mut said = String::new();
    let mut say = |level, line: String| {
        if line != said {
            log::log!(level, "{line}");
            said = line;
        }
    };
    let mut is_told = false;
    while !awaited.is_empty() || !ports.missing.is_empty() {
        let left = until.saturating_duration_since(Instant::now());
        let waits_for_ports = !ports.missing.is_empty() && !left.is_zero() && !is_told;
        if !waits_for_ports {
            let missing = ports.missing.iter().map(|port| format!("port {port}, which is not there"));
            let lacks: Vec<String> = missing.chain(awaited).collect();
            let level = if ports.missing.is_empty() { Level::Info } else { Level::Warn };
            say(level, format!("waiting for {}", lacks.join(", and ")));
            if !is_told {
                tell(WAITING);
                let_go();
                is_told = true;
            }
        }
        changes.wait(waits_for_ports.then_some(left))?;
        if is_told {
            sleep(INTERVAL); // a storm is one change
        }
        await_proc()?;
        ports.bring_up();
        awaited = match complete(policy) {
            Ok(Some(rest)) => rest,
            Ok(None) => {
                log::warn!(
                    "another program, or another `apply`, has changed what was in force; nothing is waited for any more: see \
                     `returnpath status`, and run `returnpath apply` if it shall be as it was"
                );
                return Ok(());
            }
            Err(error) => {
                log::error!("{error}");
                if is_told {
                    sleep(PAUSE); // what was undone is a change, too
                }
                vec!["another attempt".into()]
            }
        };
    }
    if is_told {
        log::info!("complete: all that was waited for is there");
    }
    Ok(())
}

/// Tells PID 1 one byte.
fn tell(word: u8) {
    let _ = stdout().write_all(&[word]).and_then(|()| stdout().flush()); // nobody there, nobody to tell
}

/// Settings of ports are below `/proc`, which PID 1 may have unmounted, and which the next init will mount soon.
fn await_proc() -> Result<(), Error> {
    let until = Instant::now() + PROC_PATIENCE;
    while !Path::new("/proc/sys/net").exists() {
        if Instant::now() > until {
            return Err(Error::no_proc());
        }
        sleep(INTERVAL);
    }
    Ok(())
}

/// The ports that a policy names, and which of them have not been seen yet.
struct Ports<'a> {
    missing: Vec<&'a str>,
}

impl<'a> Ports<'a> {
    fn of(policy: &'a Policy) -> Ports<'a> {
        let named = policy.paths.iter().flat_map(|path| path.ingress.iter().chain(&path.device));
        let mut missing: Vec<&str> = named.map(Name::as_str).collect();
        // Without it there is no local table, and no gateway that the kernel takes for on-link
        // (`inet_addr_type_dev_table`, net/ipv4/fib_frontend.c).
        missing.push("lo");
        missing.sort();
        missing.dedup();
        Ports { missing }
    }

    /// Brings up those that are there. Each one once: whoever takes a port down later has his reasons.
    fn bring_up(&mut self) {
        self.missing.retain(|port| match ports::bring_up(port) {
            Ok(is_there) => !is_there,
            Err(error) => {
                log::error!("{error}");
                false
            }
        });
    }
}

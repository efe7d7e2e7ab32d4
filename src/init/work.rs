//! What the stage's child does: modules, partition, ports, policy. It may fail, crash or hang: PID 1 goes on without it.

use super::options::Options;
use crate::exit::Failure;
use crate::kernel::descriptors::{close_inherited, let_go};
use crate::kernel::partition::Board;
use crate::kernel::{Error, modules, ports};
use crate::policy::{Name, Policy};
use crate::source::{Slots, policy};
use crate::waiting::Waiting;
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

/// Does the work of the stage, for which PID 1 gives `limit`. Waiting for a partition or a port ends after seven tenths
/// of that, so that there is time left for what can be done.
///
/// # Errors
/// The line that says what went wrong; it is in the kernel log already.
pub fn run(limit: Duration) -> Result<(), Failure> {
    let until = Instant::now() + limit * 7 / 10;
    close_inherited();
    let (options, _) = Options::of_this_boot();
    crate::kmsg::log_there(options.log, parent_id() != 1);
    let result = work(&options.board, until).inspect_err(|failure| log::error!("{}", failure.line));
    tell(result.as_ref().map_or_else(|failure| failure.code, |()| 0));
    result
}

fn work(board: &Board, until: Instant) -> Result<(), Failure> {
    if let Err(error) = modules::load() {
        log::error!("{error}"); // where it is needed, the commit is refused and says for what
    }
    let slots = await_board(board, until)?;
    let mut policy = policy();
    let mut ports = Ports::default();
    let waiting = slots.first(&mut policy, |name, policy| {
        Waiting::install(name, policy, |policy| {
            ports = Ports::of(policy);
            ports.bring_up();
        })
    })?;
    Ok(attend(waiting, &policy, ports, until)?)
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
fn attend(mut waiting: Waiting, policy: &Policy, mut ports: Ports, until: Instant) -> Result<(), Error> {
    let mut is_told = false;
    while !waiting.is_over() || !ports.missing.is_empty() {
        let left = until.saturating_duration_since(Instant::now());
        let waits_for_ports = !ports.missing.is_empty() && !left.is_zero() && !is_told;
        if !waits_for_ports {
            let missing = ports.missing.iter().map(|port| format!("port {port}, which is not there"));
            waiting.say_what(&missing.collect::<Vec<_>>());
            if !is_told {
                tell(WAITING);
                let_go();
                is_told = true;
            }
        }
        waiting.sleep(waits_for_ports.then_some(left))?;
        await_proc()?;
        ports.bring_up();
        if !waiting.go_on(policy) {
            return Ok(());
        }
    }
    if is_told {
        waiting.end();
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
#[derive(Default)]
struct Ports {
    missing: Vec<String>,
}

impl Ports {
    fn of(policy: &Policy) -> Ports {
        let named = policy.paths.iter().flat_map(|path| path.ingress.iter().chain(&path.device));
        let mut missing: Vec<String> = named.map(Name::to_string).collect();
        // Without it there is no local table, and no gateway that the kernel takes for on-link
        // (`inet_addr_type_dev_table`, net/ipv4/fib_frontend.c).
        missing.push("lo".into());
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

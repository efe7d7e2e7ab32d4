//! What takes each path, and whether the kernel is as the policy has it: `returnpath status`.

use crate::exit::{self, Failure};
use crate::json::{self, Object};
use crate::kernel::Error;
use crate::kernel::conntrack::{self, Traffic};
use crate::kernel::counters::counters;
use crate::kernel::differences::{Cause, Difference, compare};
use crate::kernel::lock::is_guarded;
use crate::kernel::neighbours::{Neighbour, NeighbourState};
use crate::kernel::ways::Routing;
use crate::plan::Plan;
use crate::plan::ways::{Family, Next};
use crate::policy::{Name, Path, Policy};
use core::fmt::{self, Display, Formatter};
use core::net::IpAddr;

/// Of the JSON object. Keys may be added to a version; with another meaning they make another one.
const VERSION: u32 = 1;

/// A policy, and what the kernel says about it.
pub struct Status<'a> {
    /// Where the policy comes from.
    pub source: &'a str,
    /// The policy.
    pub policy: &'a Policy,
    /// What is known of each path, in the order of the policy.
    pub paths: Vec<PathStatus>,
    /// Whether a `returnpath guard` is at work.
    pub is_guarded: bool,
    /// How long what is in force is still on trial, in seconds; `None`: it is not.
    pub seconds_left: Option<u32>,
    /// What else there is to say, one line each: what could not be read, and which gateways do not answer.
    pub notes: Vec<String>,
    /// Where the kernel differs from the policy.
    pub differences: Vec<Difference>,
}

/// What is known of a path; `None`: the kernel does not say.
pub struct PathStatus {
    /// Its next hops, one a family.
    pub next_hops: Vec<NextHop>,
    /// Connections that have been taken: their first packets.
    pub taken: Option<Traffic>,
    /// Connections with its mark that are tracked now.
    pub live: Option<u64>,
    /// Packets of these from the router.
    pub into: Option<Traffic>,
    /// Their answers that left by the next hop.
    pub back: Option<Traffic>,
    /// Their answers that left by another way.
    pub astray: Option<Traffic>,
}

/// A next hop of a path.
pub struct NextHop {
    /// Its family.
    pub family: Family,
    /// Its address; `None` where the port is point-to-point.
    pub gateway: Option<IpAddr>,
    /// Its port; `None` where the policy names none and the kernel finds none.
    pub device: Option<Name>,
    /// Its entry in the neighbour table.
    pub neighbour: Option<Neighbour>,
}

/// Prints the status of a policy that was read from `source`. Returns the exit code.
///
/// # Errors
/// [`exit::REFUSED`]: the kernel can not be compared with the policy.
pub fn run(source: &str, policy: &Policy, json: bool) -> Result<u8, Failure> {
    let status = Status::read(source, policy)?;
    crate::lines::print(&if json { status.json() } else { status.to_string() });
    Ok(if status.differences.is_empty() { 0 } else { exit::DIFFERS })
}

impl<'a> Status<'a> {
    /// Asks the kernel. What it does not tell is left out, and noted.
    fn read(source: &'a str, policy: &'a Policy) -> Result<Status<'a>, Error> {
        let comparison = compare(policy)?;
        // A gateway whose MAC is not known, so that its path takes nothing yet, is a difference.
        let is_told = comparison.differences.iter().any(|told| told.cause == Cause::Neighbour);
        let mut notes = Vec::new();
        let mut routing = Routing::open()?;
        let live = noted(conntrack::count(policy.mark_mask, policy.paths.iter().map(|p| p.mark)), &mut notes);
        let counters = noted(counters(), &mut notes).unwrap_or_default();
        let paths = policy.paths.iter().map(|path| {
            let counted = |what| {
                let name = format!("{what}_{}", path.name);
                let found = counters.iter().find(|counter| counter.name == name)?;
                Some(Traffic { packets: found.packets, bytes: found.bytes })
            };
            PathStatus {
                next_hops: next_hops(path, &comparison.plan, &mut routing, &mut notes, is_told),
                taken: counted("new"),
                live: live.as_ref().and_then(|counts| counts.get(&path.mark)).copied(),
                into: counted("in"),
                back: counted("back"),
                astray: counted("astray"),
            }
        });
        let paths = paths.collect();
        let (seconds_left, differences) = (comparison.seconds_left, comparison.differences);
        Ok(Status { source, policy, paths, is_guarded: is_guarded(), seconds_left, notes, differences })
    }

    /// As one JSON object; the manual page describes it.
    pub fn json(&self) -> String {
        json::object(|json| {
            json.number("version", VERSION);
            json.string("policy", self.source);
            json.flag("in_force", self.differences.is_empty());
            json.flag("guarded", self.is_guarded);
            json.number_or_null("seconds_on_trial", self.seconds_left);
            json.number("mark_mask", self.policy.mark_mask);
            json.objects("paths", self.policy.paths.iter().zip(&self.paths), |json, (path, status)| {
                json.string("name", &path.name);
                json.number("mark", path.mark);
                json.number("table", path.table);
                json.number("priority", path.priority);
                json.objects("next_hops", &status.next_hops, NextHop::json);
                json.number_or_null("connections_taken", status.taken.map(|count| count.packets));
                json.number_or_null("connections_live", status.live);
                traffic(json, "in", status.into);
                traffic(json, "back", status.back);
                traffic(json, "astray", status.astray);
            });
            json.objects("differences", &self.differences, |json, Difference { line, command, .. }| {
                json.string("line", line);
                json.string("command", command);
            });
            json.strings("notes", &self.notes);
        })
    }

    fn next_hops(&self) -> Table {
        let mut table = Table::new(&["PATH", "NEXT HOP", "DEVICE", "MAC", "STATE"], 5, 3);
        for (path, status) in self.policy.paths.iter().zip(&self.paths) {
            for (at, hop) in status.next_hops.iter().enumerate() {
                table.rows.push(vec![
                    if at == 0 { path.name.to_string() } else { String::new() },
                    or_dash(hop.gateway),
                    or_dash(hop.device.as_ref()),
                    or_dash(hop.neighbour.and_then(|neighbour| neighbour.mac)),
                    or_dash(hop.neighbour.map(|neighbour| neighbour.state)),
                ]);
            }
        }
        table
    }

    fn traffic(&self) -> Table {
        let heads =
            ["PATH", "MARK", "TABLE", "RULE", "TAKEN", "LIVE", "IN", "BYTES", "BACK", "BYTES", "ASTRAY"];
        let mut table = Table::new(&heads, 2, 6);
        for (path, status) in self.policy.paths.iter().zip(&self.paths) {
            let packets = |count: Option<Traffic>| or_dash(count.map(|count| short(count.packets)));
            let bytes = |count: Option<Traffic>| or_dash(count.map(|count| short(count.bytes)));
            table.rows.push(vec![
                path.name.to_string(),
                format!("{:#x}", path.mark),
                path.table.to_string(),
                path.priority.to_string(),
                packets(status.taken),
                or_dash(status.live.map(short)),
                packets(status.into),
                bytes(status.into),
                packets(status.back),
                bytes(status.back),
                packets(status.astray),
            ]);
        }
        table
    }
}

impl Display for Status<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if !self.paths.is_empty() {
            writeln!(f, "{}\n{}", self.next_hops(), self.traffic())?;
        }
        if self.is_guarded {
            writeln!(f, "a guard is at work")?;
        }
        if let Some(seconds) = self.seconds_left {
            writeln!(f, "on trial: it is taken back in {seconds} s; keep it with `returnpath confirm`")?;
        }
        self.notes.iter().try_for_each(|note| writeln!(f, "{note}"))?;
        self.differences.iter().try_for_each(|difference| writeln!(f, "{difference}"))?;
        let (source, paths) = (self.source, self.policy.count());
        match self.differences.len() {
            0 => write!(f, "the kernel is as {source} has it: {paths}"),
            count => {
                let plural = if count == 1 { "" } else { "s" };
                write!(f, "the kernel differs from {source}: in {count} respect{plural}")
            }
        }
    }
}

/// An amount of traffic, as far as it is known.
pub(crate) fn traffic(json: &mut Object, name: &str, traffic: Option<Traffic>) {
    json.object(name, |json| {
        json.number_or_null("packets", traffic.map(|traffic| traffic.packets));
        json.number_or_null("bytes", traffic.map(|traffic| traffic.bytes));
    });
}

impl NextHop {
    fn json(json: &mut Object, hop: &NextHop) {
        json.number("family", hop.family.digit().to_digit(10).unwrap_or_default());
        json.string_or_null("gateway", hop.gateway);
        json.string_or_null("device", hop.device.as_ref());
        json.string_or_null("mac", hop.neighbour.and_then(|neighbour| neighbour.mac));
        json.string_or_null("state", hop.neighbour.map(|neighbour| neighbour.state));
    }
}

/// The next hops of a path, as the plan has them. One that does not answer keeps its route, whatever `when_down` says:
/// that is noted, unless it `is_told` already.
fn next_hops(
    path: &Path,
    plan: &Plan,
    routing: &mut Routing,
    notes: &mut Vec<String>,
    is_told: bool,
) -> Vec<NextHop> {
    let routes = plan.ways.routes.iter().filter(|route| route.table == path.table);
    let hops = routes.filter_map(|route| {
        let (gateway, device) = match &route.next {
            Next::Gateway { address, device, .. } => (Some(*address), device.clone()),
            Next::Device(device) => (None, Some(device.clone())),
            Next::Unreachable => return None,
        };
        let neighbour = match (gateway, &device) {
            (Some(address), Some(port)) => noted(routing.neighbour(address, port), notes).flatten(),
            _ => None,
        };
        if let (Some(Neighbour { state: NeighbourState::Failed, .. }), Some(address), false) =
            (neighbour, gateway, is_told)
        {
            notes.push(format!(
                "path {}: gateway {address} does not answer; replies by it are lost",
                path.name
            ));
        }
        Some(NextHop { family: route.family, gateway, device, neighbour })
    });
    hops.collect()
}

/// What the kernel says; where it does not, that is noted.
fn noted<T>(answer: Result<T, Error>, notes: &mut Vec<String>) -> Option<T> {
    answer.map_err(|error| notes.push(error.to_string())).ok()
}

fn or_dash(value: Option<impl Display>) -> String {
    value.map_or_else(|| "-".into(), |value| value.to_string())
}

/// A number in five columns at most: `12345`, `123k`, `1.23M`.
fn short(number: u64) -> String {
    if number < 100_000 {
        return number.to_string();
    }
    let mut unit = 1;
    let mut letters = "kMGTPE".chars();
    let mut letter = letters.next();
    while number / unit >= 1_000_000 {
        unit *= 1000;
        letter = letters.next();
    }
    let thousandths = number / unit; // of the unit that the letter names
    let mut text = format!("{}.{:03}", thousandths / 1000, thousandths % 1000);
    text.truncate(4);
    format!("{}{}", text.trim_end_matches('.'), letter.unwrap_or('?'))
}

/// How wide a table is at most: a serial console.
const WIDTH: usize = 80;

/// Rows in columns that are as wide as they have to be. The first ones, `left` of them, are words, the others numbers.
/// Where that is too wide, the columns from `fold` on are on a second line.
struct Table {
    rows: Vec<Vec<String>>,
    left: usize,
    fold: usize,
}

impl Table {
    fn new(heads: &[&str], left: usize, fold: usize) -> Self {
        Self { rows: vec![heads.iter().map(|head| String::from(*head)).collect()], left, fold }
    }

    fn width(&self, at: usize) -> usize {
        self.rows.iter().filter_map(|row| row.get(at)).map(String::len).max().unwrap_or(0) + 2
    }
}

impl Display for Table {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let is_wide =
            (0..self.rows.first().map_or(0, Vec::len)).map(|at| self.width(at)).sum::<usize>() > WIDTH + 2;
        for row in &self.rows {
            let mut line = String::new();
            for (at, cell) in row.iter().enumerate() {
                if is_wide && at == self.fold {
                    writeln!(f, "{}", line.trim_end())?;
                    line = " ".repeat(self.width(0));
                }
                let width = self.width(at) - 2;
                line += &match at < self.left {
                    true => format!("{cell:width$}  "),
                    false => format!("{cell:>width$}  "),
                };
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

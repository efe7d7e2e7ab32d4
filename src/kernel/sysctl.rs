//! Settings under `/proc/sys`, and the record of what they were before, which lives in our nftables table: it
//! survives this process, needs no disk, and goes when the table goes.

use super::differences::{Cause, Difference};
use super::ways::Routing;
use super::{Error, files};
use crate::plan::nft::{FWMARK_ACCEPT, FWMARK_REFLECT4, FWMARK_REFLECT6};
use crate::plan::{Plan, Port, Sysctl};
use rustix::fs::OFlags;
use rustix::io::Errno;
use std::collections::BTreeSet;
use std::path::Path;

/// A setting that differs from what the policy needs, or did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// Its path under `/proc/sys`.
    pub name: String,
    /// Its value before.
    pub before: u32,
}

impl Setting {
    /// Reads a line of the record, `net/ipv4/tcp_fwmark_accept=0`. Only what we ourselves would change is taken from it.
    pub fn parse(line: &str) -> Option<Setting> {
        let (name, before) = line.split_once('=')?;
        let port = |setting| name.strip_prefix(CONF).and_then(|rest| rest.strip_suffix(setting));
        let is_port = |port: &str| !port.is_empty() && !port.contains('/') && port != "." && port != "..";
        let is_ours = [FWMARK_ACCEPT, FWMARK_REFLECT4, FWMARK_REFLECT6].contains(&name)
            || port("/src_valid_mark").or(port("/rp_filter")).is_some_and(is_port);
        is_ours.then_some(Setting { name: name.into(), before: before.parse().ok()? })
    }
}

/// The value of a setting; `None` where the kernel has no such setting.
pub fn read(name: &str) -> Result<Option<u32>, Error> {
    match files::read_line(path(name)) {
        Ok(line) => match line.parse() {
            Ok(value) => Ok(Some(value)),
            Err(_) => Err(Error::new(format!("/proc/sys/{name}: `{line}` is not a number; correct it"))),
        },
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(Error::new(format!("/proc/sys/{name}: {error}; mount /proc, and run it as root"))),
    }
}

/// Changes a setting.
pub fn write(name: &str, value: u32) -> Result<(), Error> {
    files::write(path(name), OFlags::empty(), &format!("{value}\n")).map_err(|error| {
        Error::new(format!("/proc/sys/{name}: cannot write {value}: {error}; /proc/sys has to be writable"))
    })
}

fn path(name: &str) -> String {
    format!("/proc/sys/{name}")
}

/// What a policy needs of the settings.
#[derive(Default)]
pub struct Needs {
    /// To be changed.
    pub changes: Vec<Change>,
    /// What the needed ones were before our first change.
    pub record: Vec<Setting>,
    /// No longer needed: to be put back.
    pub returns: Vec<Setting>,
    /// Needed, but their ports are missing.
    pub absent: Vec<String>,
}

/// A setting that has to change.
pub struct Change {
    /// Its path under `/proc/sys`.
    pub name: String,
    /// Its value.
    pub from: u32,
    /// Its new value.
    pub to: u32,
}

impl Needs {
    /// What `plan` needs, given the settings that have been `recorded` already.
    pub fn new(plan: &Plan, recorded: Vec<Setting>, routing: &mut Routing) -> Result<Needs, Error> {
        let mut needs = Needs::default();
        let (mut rest, mut seen) = (recorded, BTreeSet::new());
        let mut is_all_known = true;
        let mut values = Values::default();
        for sysctl in &plan.sysctls {
            let Some(name) = name(sysctl, routing)? else {
                is_all_known = false;
                continue;
            };
            if !seen.insert(name.clone()) {
                continue; // of a path by the same port
            }
            let Some(to) = wanted(sysctl, &name, &rest, &mut values)? else { continue };
            let at = rest.iter().position(|setting| setting.name == name);
            needs.record.extend(at.map(|at| rest.remove(at)));
            match (values.of(&name)?, sysctl) {
                // PID 1 has unmounted it, and the next init will mount it again.
                (None, _) if !Path::new(&path("net")).exists() => return Err(Error::no_proc()),
                (None, Sysctl::Namespace(_)) => {
                    log::warn!("/proc/sys/{name}: this kernel is without it; take one that has it");
                }
                (None, _) => needs.absent.push(name),
                (Some(from), _) if from == to => {}
                (Some(from), _) => {
                    if at.is_none() {
                        needs.record.push(Setting { name: name.clone(), before: from });
                    }
                    needs.changes.push(Change { name, from, to });
                }
            }
        }
        // A gateway's port that is down is not known. Its settings stay until it is up again.
        let (stay, returns) = rest.into_iter().partition(|s| !is_all_known && port_of(&s.name).is_some());
        needs.returns = returns;
        needs.record.extend::<Vec<Setting>>(stay);
        Ok(needs)
    }

    /// What is not as the policy needs it.
    pub fn differences(&self) -> Vec<Difference> {
        let of = |name: &str, line| Difference {
            line,
            command: format!("sysctl {name}"),
            cause: if port_of(name).is_some() { Cause::Port } else { Cause::Nothing },
        };
        let changes = self.changes.iter();
        let changes = changes.map(|c| of(&c.name, format!("{}: is {}, should be {}", c.name, c.from, c.to)));
        let returns = self.returns.iter();
        let returns = returns.map(|s| of(&s.name, format!("{}: no longer needed, was {}", s.name, s.before)));
        changes.chain(returns).collect()
    }
}

/// The value that a setting has to have; `None` where there is no need.
fn wanted(
    sysctl: &Sysctl,
    name: &str,
    recorded: &[Setting],
    values: &mut Values,
) -> Result<Option<u32>, Error> {
    let is_recorded = recorded.iter().any(|setting| setting.name == name);
    let is_needed = match sysctl {
        Sysctl::Namespace(_) => true,
        Sysctl::SourceValidMark(_) => is_recorded || reverse_path(name, values)? != Some(0),
        Sysctl::LooseReversePath(_) => {
            reverse_path(name, values)? == Some(1) || (is_recorded && values.of(name)? == Some(ours(name)))
        }
    };
    Ok(is_needed.then(|| ours(name)))
}

/// The path of a setting; `None` where the kernel knows no port for it.
fn name(sysctl: &Sysctl, routing: &mut Routing) -> Result<Option<String>, Error> {
    let (port, setting) = match sysctl {
        Sysctl::Namespace(name) => return Ok(Some((*name).into())),
        Sysctl::SourceValidMark(port) => (port, "src_valid_mark"),
        Sysctl::LooseReversePath(port) => (port, "rp_filter"),
    };
    let port = match port {
        Port::Named(name) => Some(name.clone()),
        Port::Towards(gateway) => routing.port_towards(*gateway)?,
    };
    Ok(port.map(|port| format!("{CONF}{port}/{setting}")))
}

/// All settings that a plan's needs are read from.
pub fn read_by(plan: &Plan, routing: &mut Routing) -> Result<Vec<String>, Error> {
    let mut names = vec![format!("{CONF}all/rp_filter")];
    for sysctl in &plan.sysctls {
        let Some(name) = name(sysctl, routing)? else { continue };
        names.extend(port_of(&name).map(|port| format!("{CONF}{port}/rp_filter")));
        names.push(name);
    }
    names.sort();
    names.dedup();
    Ok(names)
}

/// The ports of settings.
pub fn ports_of(settings: &[String]) -> impl Iterator<Item = &str> {
    settings.iter().filter_map(|name| port_of(name)).filter(|port| *port != "all")
}

const CONF: &str = "net/ipv4/conf/";

/// The port of a setting; `None` for one of the whole namespace.
fn port_of(setting: &str) -> Option<&str> {
    setting.strip_prefix(CONF)?.split('/').next()
}

/// The reverse-path filter that holds for the port of a setting: the larger of its own and that for all
/// (networking/ip-sysctl.rst). `None` where the port is missing.
fn reverse_path(setting: &str, values: &mut Values) -> Result<Option<u32>, Error> {
    let port = port_of(setting).unwrap_or_default();
    let own = values.of(&format!("{CONF}{port}/rp_filter"))?;
    Ok(own.max(values.of(&format!("{CONF}all/rp_filter"))?).filter(|_| own.is_some()))
}

/// Settings as they are now, each read once: several needs are read from one.
#[derive(Default)]
struct Values(Vec<(String, Option<u32>)>);

impl Values {
    fn of(&mut self, name: &str) -> Result<Option<u32>, Error> {
        if let Some((_, value)) = self.0.iter().find(|(read, _)| read == name) {
            return Ok(*value);
        }
        let value = read(name)?;
        self.0.push((name.into(), value));
        Ok(value)
    }
}

/// What the settings were, when somebody has flushed our table and the record with it: those that have our value
/// now are taken to have had the one that ports and namespaces are made with.
pub fn presume(plan: &Plan, routing: &mut Routing) -> Result<Vec<Setting>, Error> {
    let made_with = |setting: &str| read(&format!("{CONF}default/{setting}"));
    let (mut record, mut seen) = (Vec::new(), BTreeSet::new());
    for sysctl in &plan.sysctls {
        let Some(name) = name(sysctl, routing)?.filter(|name| seen.insert(name.clone())) else { continue };
        let before = match sysctl {
            Sysctl::Namespace(_) => Some(0),
            Sysctl::SourceValidMark(_) => made_with("src_valid_mark")?,
            Sysctl::LooseReversePath(_) => made_with("rp_filter")?,
        };
        let is_changed = read(&name)? == Some(ours(&name)) && before != Some(ours(&name));
        if let (true, Some(before)) = (is_changed, before) {
            log::warn!("{name}: our record of it is lost; taken to have been {before}");
            record.push(Setting { name, before });
        }
    }
    Ok(record)
}

/// The value that we give a setting.
pub fn ours(name: &str) -> u32 {
    if name.ends_with("/rp_filter") { 2 } else { 1 }
}

//! Settings under `/proc/sys`, and the record of what they were before, which lives in our nftables table: it
//! survives this process, needs no disk, and goes when the table goes.

use super::Error;
use super::ways::Routing;
use crate::plan::{Plan, Port, Sysctl};
use std::fs;
use std::io;

/// A setting that differs from what the policy needs, or did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// Its path under `/proc/sys`.
    pub name: String,
    /// Its value before.
    pub before: u32,
}

impl Setting {
    /// Reads a line of the record, `net/ipv4/tcp_fwmark_accept=0`. Nothing that could lead out of `/proc/sys/net` is taken from it.
    pub fn parse(line: &str) -> Option<Setting> {
        let (name, before) = line.split_once('=')?;
        let is_ours = name.starts_with("net/ipv4/") || name.starts_with("net/ipv6/");
        let is_plain = !name.split('/').any(|part| part.is_empty() || part == "..");
        (is_ours && is_plain).then_some(Setting { name: name.into(), before: before.parse().ok()? })
    }
}

/// The value of a setting; `None` where the kernel has no such setting.
pub fn read(name: &str) -> Result<Option<u32>, Error> {
    match fs::read_to_string(path(name)) {
        Ok(text) => match text.trim().parse() {
            Ok(value) => Ok(Some(value)),
            Err(_) => {
                Err(Error::new(format!("/proc/sys/{name}: `{}` is not a number; correct it", text.trim())))
            }
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::new(format!("/proc/sys/{name}: {error}; mount /proc, and run it as root"))),
    }
}

/// Changes a setting.
pub fn write(name: &str, value: u32) -> Result<(), Error> {
    fs::write(path(name), format!("{value}\n")).map_err(|error| {
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
        let mut rest = recorded;
        for sysctl in &plan.sysctls {
            let Some((name, to)) = wanted(sysctl, &rest, routing)? else { continue };
            if needs.record.iter().any(|setting| setting.name == name) {
                continue;
            }
            let at = rest.iter().position(|setting| setting.name == name);
            needs.record.extend(at.map(|at| rest.remove(at)));
            match read(&name)? {
                None => log::warn!(
                    "/proc/sys/{name}: not there (its port is missing, or the kernel is without it); \
                     run `returnpath apply` again once it is"
                ),
                Some(from) if from == to => {}
                Some(from) => {
                    if at.is_none() {
                        needs.record.push(Setting { name: name.clone(), before: from });
                    }
                    needs.changes.push(Change { name, from, to });
                }
            }
        }
        needs.returns = rest;
        Ok(needs)
    }

    /// Whether the settings are as the policy needs them.
    pub fn are_met(&self) -> bool {
        self.changes.is_empty() && self.returns.is_empty()
    }
}

/// A setting and the value that it has to have; `None` where there is no need.
fn wanted(
    sysctl: &Sysctl,
    recorded: &[Setting],
    routing: &mut Routing,
) -> Result<Option<(String, u32)>, Error> {
    let mut of_port = |port: &Port, setting: &str| -> Result<Option<String>, Error> {
        let port = match port {
            Port::Named(name) => Some(name.clone()),
            Port::Towards(gateway) => routing.port_towards(*gateway)?,
        };
        Ok(port.map(|port| format!("net/ipv4/conf/{port}/{setting}")))
    };
    Ok(match sysctl {
        Sysctl::Namespace(name) => Some(((*name).into(), 1)),
        Sysctl::SourceValidMark(port) => of_port(port, "src_valid_mark")?.map(|name| (name, 1)),
        Sysctl::LooseReversePath(port) => {
            let Some(name) = of_port(port, "rp_filter")? else { return Ok(None) };
            let value = read(&name)?;
            // The effective value is the larger of the two (networking/ip-sysctl.rst).
            let is_strict = value.max(read("net/ipv4/conf/all/rp_filter")?) == Some(1);
            let is_loosened = value == Some(2) && recorded.iter().any(|setting| setting.name == name);
            (is_strict || is_loosened).then_some((name, 2))
        }
    })
}

/// The value that we give a setting.
pub fn ours(name: &str) -> u32 {
    if name.ends_with("/rp_filter") { 2 } else { 1 }
}

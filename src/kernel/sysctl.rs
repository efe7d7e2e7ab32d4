//! Settings under `/proc/sys`, and the record of what they were before, which lives in our nftables table: it
//! survives this process, needs no disk, and goes when the table goes.

use super::Error;
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

//! A policy as canonical TOML.

use super::super::{DEFAULT_MARK_MASK, Key, Path, Policy};
use std::fmt::Display;
use std::net::IpAddr;

/// The canonical TOML of `policy`, which the caller has checked: keys in the order of the model, and
/// only those that differ from their default. It parses to the same policy.
pub fn render(policy: &Policy) -> String {
    let mut top = Table::default();
    if policy.mark_mask != DEFAULT_MARK_MASK {
        top.set(Key::MarkMask, format_args!("{:#x}", policy.mark_mask));
    }
    top.list(Key::LocalNetworks, &policy.local_networks);

    let mut tables = vec![top];
    tables.extend(policy.paths.iter().map(path));
    tables.retain(|table| !table.0.is_empty());
    tables.into_iter().map(|table| table.0).collect::<Vec<_>>().join("\n")
}

fn path(path: &Path) -> Table {
    let usual = Path::new(path.name.clone(), path.mark, path.table);
    let gateway4 = path.gateway4.map(IpAddr::V4);
    let gateway6 = path.gateway6.map(IpAddr::V6);
    let gateways = gateway4.into_iter().chain(gateway6).collect::<Vec<_>>();

    let mut table = Table(format!("[{}.{}]\n", Key::Paths, path.name));
    table.set(Key::Mark, format_args!("{:#x}", path.mark));
    table.set(Key::Table, path.table);
    table.list(Key::Gateway4, &gateways);
    table.list(Key::SourceMacs, &path.listed_macs().collect::<Vec<_>>());
    table.list(Key::Ingress, &path.ingress);
    table.list(Key::Services, &path.services);
    table.list(Key::Destinations, &path.destinations);
    if let Some(device) = &path.device {
        table.set(Key::Device, Quoted(device));
    }
    if path.onlink != usual.onlink {
        table.set(Key::Onlink, path.onlink);
    }
    if path.scope != usual.scope {
        table.set(Key::Scope, Quoted(path.scope));
    }
    if path.when_down != usual.when_down {
        table.set(Key::WhenDown, Quoted(path.when_down));
    }
    if path.priority != usual.priority {
        table.set(Key::Priority, path.priority);
    }
    if path.log != usual.log {
        table.set(Key::Log, path.log);
    }
    table
}

/// A TOML table, line by line.
#[derive(Default)]
struct Table(String);

impl Table {
    fn set(&mut self, key: Key, value: impl Display) {
        self.0 += &format!("{key} = {value}\n");
    }

    /// A list of strings; an empty one is the default everywhere.
    fn list<T: Display>(&mut self, key: Key, items: &[T]) {
        if !items.is_empty() {
            let items = items.iter().map(|item| Quoted(item).to_string());
            self.set(key, format_args!("[{}]", items.collect::<Vec<_>>().join(", ")));
        }
    }
}

/// A TOML string. Nothing in a checked policy needs an escape.
struct Quoted<T>(T);

impl<T: Display> Display for Quoted<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "\"{}\"", self.0)
    }
}

//! What the kernel shall hold for a policy. Pure: no sockets, no files, no clock.
//!
//! [`Plan`] is the only idea of the rules that there is: the kernel room installs it, reads the kernel
//! back and compares with it, and [`text`] prints it for people.

pub mod chains;
pub mod macs;
pub mod nft;
pub mod simulate;
pub mod text;
pub mod transition;
pub mod ways;
pub mod why;

use crate::policy::{Name, Path, Policy, Scope, WhenDown, wire};
use core::net::IpAddr;
use ways::{Family, Next, Route, Rule, Ways};

/// Everything that the kernel shall hold for a policy.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// Which policy it is for: the CRC-32 of its image, as in the last four bytes of `POLICY.bin`.
    pub digest: u32,
    /// Our bits of the marks.
    pub mark_mask: u32,
    /// Routes and rules.
    pub ways: Ways,
    /// The nftables table, without the record of earlier sysctl values, which only the kernel knows.
    pub table: nft::Table,
    /// Kernel settings without which the packets do not come back.
    pub sysctls: Vec<Sysctl>,
    /// Paths that take the MACs of their gateways, which only the kernel knows.
    pub followers: Vec<macs::Follower>,
    /// Names of the routing tables, for `/etc/iproute2`.
    pub table_names: Vec<(u32, Name)>,
}

/// A kernel setting that the policy needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sysctl {
    /// A setting of the network namespace, by its path under `/proc/sys`: it has to be 1.
    Namespace(&'static str),
    /// `src_valid_mark` of a port: the reverse-path filter looks the source up with the mark. It has to be 1.
    SourceValidMark(Port),
    /// `rp_filter` of a port: where it is strict (1, for the port or for all), it has to be loose (2), since
    /// a connection that is forwarded comes in without a mark, by a port that is not the default one.
    LooseReversePath(Port),
}

/// A port whose settings matter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Port {
    /// Named in the policy.
    Named(Name),
    /// The one on which the kernel finds this gateway.
    Towards(IpAddr),
}

impl Plan {
    /// The plan for a policy that has passed [`Policy::check`].
    pub fn new(policy: &Policy) -> Plan {
        let digest = wire::digest(policy);
        Plan {
            digest,
            mark_mask: policy.mark_mask,
            ways: Ways {
                routes: policy.paths.iter().flat_map(routes).collect(),
                rules: policy.paths.iter().flat_map(|path| rules(path, policy.mark_mask)).collect(),
            },
            table: nft::Table::new(policy, digest),
            sysctls: sysctls(policy),
            followers: macs::Follower::all(policy),
            table_names: policy.paths.iter().map(|path| (path.table, path.name.clone())).collect(),
        }
    }
}

fn families(path: &Path) -> impl Iterator<Item = Family> {
    [(Family::V4, path.has_v4()), (Family::V6, path.has_v6())]
        .into_iter()
        .filter_map(|(f, has)| has.then_some(f))
}

/// The default route of each family, and beneath it what holds while that one is gone.
fn routes(path: &Path) -> Vec<Route> {
    let next = |family| {
        let address = match family {
            Family::V4 => path.gateway4.map(IpAddr::V4),
            Family::V6 => path.gateway6.map(IpAddr::V6),
        };
        match (address, &path.device) {
            (Some(address), device) => Next::Gateway { address, device: device.clone(), onlink: path.onlink },
            (None, Some(device)) => Next::Device(device.clone()),
            (None, None) => Next::Unreachable, // not reachable: Policy::check asks for one of the two
        }
    };
    families(path)
        .flat_map(|family| {
            let route = |next| Route { family, table: path.table, next };
            let fallback = (path.when_down == WhenDown::Unreachable).then_some(Next::Unreachable);
            core::iter::once(route(next(family))).chain(fallback.map(route))
        })
        .collect()
}

fn rules(path: &Path, mask: u32) -> impl Iterator<Item = Rule> {
    families(path).map(move |family| Rule {
        family,
        priority: path.priority,
        mark: path.mark,
        mask,
        table: path.table,
    })
}

fn sysctls(policy: &Policy) -> Vec<Sysctl> {
    let answers_here = |path: &Path| path.scope != Scope::Forward;
    let (mut here4, mut here6) = (false, false);
    for path in policy.paths.iter().filter(|path| answers_here(path)) {
        here4 |= path.has_v4();
        here6 |= path.has_v6();
    }
    let mut list = Vec::new();
    let namespace = [
        (here4 || here6, nft::FWMARK_ACCEPT), // also read for IPv6: inet_request_mark(), include/net/inet_sock.h
        (here4, nft::FWMARK_REFLECT4),
        (here6, nft::FWMARK_REFLECT6),
    ];
    list.extend(namespace.into_iter().filter_map(|(needed, name)| needed.then_some(Sysctl::Namespace(name))));
    for path in policy.paths.iter().filter(|path| path.has_v4()) {
        for port in ports(path) {
            list.push(Sysctl::SourceValidMark(port.clone()));
            if path.scope != Scope::Local {
                list.push(Sysctl::LooseReversePath(port));
            }
        }
    }
    let mut seen: Vec<Sysctl> = Vec::new();
    list.retain(|sysctl| {
        !seen.contains(sysctl) && {
            seen.push(sysctl.clone());
            true
        }
    });
    list
}

/// The ports by which a path's frames come in: those declared, else the one where its gateway is.
fn ports(path: &Path) -> Vec<Port> {
    match (path.ingress.is_empty(), &path.device, path.gateway4) {
        (false, _, _) => path.ingress.iter().cloned().map(Port::Named).collect(),
        (true, Some(device), _) => vec![Port::Named(device.clone())],
        (true, None, Some(gateway)) => vec![Port::Towards(gateway.into())],
        (true, None, None) => Vec::new(),
    }
}

//! MACs that no policy names: a path with `auto` among its source MACs takes those of its gateways. What they are, only
//! the kernel knows; so the plan says who takes whose, and takes them up.

use super::Plan;
use super::chains::FROM;
use super::nft::{Elements, MACS, PORTS_AND_MACS, Set, TABLE, Table};
use super::ways::{Family, Ways};
use crate::policy::{Mac, Name, Path, Policy};
use core::fmt::{self, Formatter};
use core::net::IpAddr;

/// A path that takes the MACs of its gateways.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Follower {
    /// Its name.
    pub path: Name,
    /// Its gateways.
    pub gateways: Vec<IpAddr>,
    table: u32,
    pub(super) ingress: Vec<Name>,
}

impl Follower {
    /// Those of a policy.
    pub(super) fn all(policy: &Policy) -> Vec<Follower> {
        let follower = |path: &Path| Follower {
            path: path.name.clone(),
            gateways: path
                .gateway4
                .map(IpAddr::V4)
                .into_iter()
                .chain(path.gateway6.map(IpAddr::V6))
                .collect(),
            table: path.table,
            ingress: path.ingress.to_vec(),
        };
        policy.paths.iter().filter(|path| path.auto_macs).map(follower).collect()
    }

    /// Its gateways, each with the port that it is on, where that is known.
    pub fn neighbours(&self, ways: &Ways) -> impl Iterator<Item = (IpAddr, Option<Name>)> {
        self.gateways.iter().map(|gateway| {
            let family = if gateway.is_ipv4() { Family::V4 } else { Family::V6 };
            (*gateway, ways.port_of(family, self.table, *gateway))
        })
    }

    /// The chain to which its frames go.
    pub fn chain(&self) -> String {
        format!("{FROM}{}", self.path)
    }
}

impl Plan {
    /// Takes frames from a MAC for those of a path.
    ///
    /// # Errors
    /// They are those of another path already; its name.
    pub fn learn(&mut self, follower: &Follower, mac: Mac) -> Result<(), String> {
        self.table.learn(follower, mac)
    }

    /// The MACs that a path has: those of the policy, and what it has learned.
    pub fn macs_of(&self, follower: &Follower) -> Vec<Mac> {
        let chain = follower.chain();
        let of_set = |set: &Set| match &set.elements {
            Elements::Macs(list) => list.iter().filter(|(_, to)| *to == chain).map(|(mac, _)| *mac).collect(),
            Elements::PortsAndMacs(list) => {
                list.iter().filter(|(_, to)| *to == chain).map(|((_, mac), _)| *mac).collect()
            }
            _ => Vec::new(),
        };
        self.table.sets.iter().flat_map(of_set).collect()
    }

    /// As commands, like the rest of the plan.
    pub(super) fn fmt_macs(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if !self.followers.is_empty() {
            f.write_str(MAC_FUNCTION)?;
        }
        for follower in &self.followers {
            let (map, chain) =
                (if follower.ingress.is_empty() { MACS } else { PORTS_AND_MACS }, follower.chain());
            for (gateway, port) in follower.neighbours(&self.ways) {
                let port = port.map(|port| format!(" dev {port}")).unwrap_or_default();
                write!(f, "mac=$(mac_of {gateway}{port})\nnft add element inet {TABLE} {map} \"{{ ")?;
                match follower.ingress.as_slice() {
                    [] => write!(f, "$mac : goto {chain}")?,
                    ports => ports.iter().enumerate().try_for_each(|(i, port)| {
                        let comma = if i == 0 { "" } else { ", " };
                        write!(f, "{comma}\\\"{port}\\\" . $mac : goto {chain}")
                    })?,
                }
                writeln!(f, " }}\"")?;
            }
        }
        Ok(())
    }
}

const MAC_FUNCTION: &str = r"
# MACs of gateways, as the neighbour table has them.
mac_of() {
    ip neigh show to $* | sed -n 's/.* lladdr \([^ ]*\) .*/\1/p'
}
";

impl Table {
    fn learn(&mut self, follower: &Follower, mac: Mac) -> Result<(), String> {
        let chain = follower.chain();
        for set in &mut self.sets {
            match &mut set.elements {
                Elements::Macs(list) if follower.ingress.is_empty() => add(list, &[mac], &chain)?,
                Elements::PortsAndMacs(list) if !follower.ingress.is_empty() => {
                    let keys: Vec<_> = follower.ingress.iter().map(|port| (port.clone(), mac)).collect();
                    add(list, &keys, &chain)?;
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// Adds all of the keys, or none where one leads to another chain: the name of its path.
fn add<K: Ord + Clone>(list: &mut Vec<(K, String)>, keys: &[K], chain: &str) -> Result<(), String> {
    if let Some((_, other)) = list.iter().find(|(key, other)| other != chain && keys.contains(key)) {
        return Err(other.strip_prefix(FROM).unwrap_or(other).into());
    }
    list.retain(|(key, _)| !keys.contains(key));
    list.extend(keys.iter().map(|key| (key.clone(), chain.into())));
    list.sort();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::wire;

    const NEW: Mac = Mac([2, 0, 0, 0, 0, 9]);

    /// Paths `alone` (by MAC), `listed` (the same, with an address and no `auto`), `pair` (by port and MAC).
    fn plan() -> Plan {
        let mut policy = Box::new(Policy::new());
        wire::decode(include_bytes!("../../tests/golden/policy/auto.bin"), &mut policy).unwrap();
        Plan::new(&policy)
    }

    #[test]
    fn each_follower_learns_for_itself() {
        let mut plan = plan();
        let [alone, pair] = plan.followers.clone().try_into().unwrap();
        assert_eq!(plan.macs_of(&alone), []);
        plan.learn(&alone, NEW).unwrap();
        plan.learn(&alone, NEW).unwrap();
        plan.learn(&pair, NEW).unwrap(); // a port and a MAC are more specific
        assert_eq!(plan.macs_of(&alone), [NEW]);
        let elements =
            |name: &str| plan.table.sets.iter().find(|set| set.name == name).unwrap().elements.to_string();
        assert_eq!(elements(MACS).lines().count(), 2, "one is listed");
        assert_eq!(elements(PORTS_AND_MACS).lines().count(), 6, "three on each of two ports");
    }

    #[test]
    fn frames_of_another_path_stay_there() {
        let mut plan = plan();
        let [alone, pair] = plan.followers.clone().try_into().unwrap();
        let before = plan.clone();
        let listed = Mac([0x52, 0x54, 0, 0xc2, 0xa5, 0x43]);
        assert_eq!(plan.learn(&alone, listed), Err("listed".into()));
        let other = Follower {
            path: "other".try_into().unwrap(),
            ingress: vec!["eth0".try_into().unwrap(), "eth2".try_into().unwrap()],
            ..pair
        };
        assert_eq!(plan.learn(&other, Mac([0x52, 0x54, 0, 0, 0, 3])), Err("pair".into()));
        assert_eq!(plan, before, "not by a part of the ports either");
    }
}

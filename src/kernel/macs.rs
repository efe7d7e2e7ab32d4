//! MACs of gateways, for the paths that take them from the neighbour table (`source_macs = ["auto"]`).
//!
//! What has been learned is in our nftables table and nowhere else. A gateway that the neighbour table has forgotten, or
//! that does not answer, keeps the MAC that it has there.

use super::Error;
use super::events::Changes;
use super::neighbours::{Neighbour, NeighbourState};
use super::preflight::Early;
use super::ruleset::Ruleset;
use super::ways::Routing;
use crate::plan::Plan;
use crate::plan::macs::Follower;
use crate::policy::{Mac, Name};
use core::fmt::{self, Display, Formatter};
use core::net::IpAddr;
use std::time::{Duration, Instant};

/// How long `apply` waits for gateways to answer. The kernel asks once a second (`retrans_time_ms`).
const PATIENCE: Duration = Duration::from_millis(1500);

/// A gateway whose MAC a path takes.
pub struct Gateway {
    path: Name,
    address: IpAddr,
    port: Name,
}

impl Display for Gateway {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "MAC of gateway {}: it does not answer on {}", self.address, self.port)
    }
}

impl Gateway {
    /// Those of a path that are on a port.
    fn all(plan: &Plan, follower: &Follower) -> Vec<Gateway> {
        let on_port = |(address, port): (_, Option<Name>)| {
            Some(Gateway { path: follower.path.clone(), address, port: port? })
        };
        follower.neighbours(&plan.ways).filter_map(on_port).collect()
    }

    /// What the neighbour table has for it.
    fn mac(&self, routing: &mut Routing) -> Result<Option<Mac>, Error> {
        let entry = routing.neighbour(self.address, &self.port)?.filter(Neighbour::is_resolved);
        Ok(entry.filter(|entry| entry.state != NeighbourState::NoArp).and_then(|entry| entry.mac))
    }
}

/// Gives a plan the MACs of its gateways. Returns one line for each that is awaited; the kernel asks for it.
///
/// # Errors
/// The kernel does not tell; or, by [`Early::Refuse`], a gateway does not answer, and its path has no MAC from earlier.
pub fn learn(
    plan: &mut Plan,
    there: &Ruleset,
    early: Early,
    routing: &mut Routing,
) -> Result<Vec<String>, Error> {
    if early == Early::Refuse {
        ask(plan, routing)?;
    }
    let (unknown, learned) = find(plan, there, early, routing)?;
    learned.iter().for_each(|line| log::info!("{line}"));
    match unknown.first() {
        Some(gateway) if early == Early::Refuse => Err(Error::new(format!(
            "path {}: {gateway}; see that the router is there, name its MAC in `source_macs`, or let \
             `returnpath apply --wait` wait for it",
            gateway.path
        ))),
        _ => {
            unknown.iter().try_for_each(|gateway| routing.solicit(gateway.address, &gateway.port))?;
            Ok(unknown.iter().map(Gateway::to_string).collect())
        }
    }
}

/// Gives a plan the MACs of its gateways: what the neighbour table has, else what `there`, our table, has. Returns the
/// gateways for which there is none.
///
/// # Errors
/// The kernel does not tell.
pub fn look(
    plan: &mut Plan,
    there: &Ruleset,
    early: Early,
    routing: &mut Routing,
) -> Result<Vec<Gateway>, Error> {
    Ok(find(plan, there, early, routing)?.0)
}

/// As [`look`]; and a line for each MAC that is not in `there` yet.
fn find(
    plan: &mut Plan,
    there: &Ruleset,
    early: Early,
    routing: &mut Routing,
) -> Result<(Vec<Gateway>, Vec<String>), Error> {
    let table = there.macs();
    let (mut paths, mut learned) = (Vec::new(), Vec::new());
    // What is so now comes before what once was, whichever path it is of.
    for follower in plan.followers.clone() {
        let (named, earlier) = (plan.macs_of(&follower), earlier(plan, &follower, &table));
        let (mut lacking, mut silent) = (follower.gateways.len(), Vec::new());
        for gateway in Gateway::all(plan, &follower) {
            let Some(mac) = gateway.mac(routing)? else {
                silent.push(gateway);
                continue;
            };
            lacking -= 1;
            match take_up(plan, &follower, &gateway, mac, routing)? {
                Some(reason) if matches!(early, Early::Refuse | Early::Await) => log::warn!(
                    "path {}: MAC {mac} of gateway {}: {reason}, so auto does not take it; see `ip neigh`, and name its \
                     MAC in `source_macs`, or tell it apart by `ingress`",
                    follower.path,
                    gateway.address
                ),
                None if !named.contains(&mac) && !earlier.contains(&mac) => {
                    learned.push(format!("path {}: gateway {} has MAC {mac}", follower.path, gateway.address))
                }
                _ => {}
            }
        }
        paths.push((follower, named, earlier, lacking, silent));
    }
    let mut unknown = Vec::new();
    for (follower, named, earlier, lacking, silent) in paths {
        let has = plan.macs_of(&follower);
        let kept = earlier.iter().filter(|mac| !has.contains(mac)).take(lacking);
        let kept = kept.filter(|mac| plan.learn(&follower, **mac).is_ok()).count();
        // Mostly the gateways of a path are one router. Where nobody waits, one that works is not refused again because
        // one of its two addresses has been forgotten.
        let works = !earlier.is_empty() && plan.macs_of(&follower) != named;
        if early != Early::Refuse || !works {
            unknown.extend(silent.into_iter().skip(kept));
        }
    }
    Ok((unknown, learned))
}

/// A plan with the MACs that our table has.
pub fn as_learned(plan: &Plan, there: &Ruleset) -> Plan {
    let mut plan = plan.clone();
    let table = there.macs();
    for follower in plan.followers.clone() {
        for mac in earlier(&plan, &follower, &table) {
            let _ = plan.learn(&follower, mac); // it fails where somebody has changed the table: that shall differ
        }
    }
    plan
}

/// The MACs that our table has for a path, beside those of the policy.
fn earlier(plan: &Plan, follower: &Follower, table: &[(Mac, &str)]) -> Vec<Mac> {
    let (chain, named) = (follower.chain(), plan.macs_of(follower));
    let of_path = table.iter().filter(|(_, to)| *to == chain).map(|(mac, _)| *mac);
    of_path.filter(|mac| !named.contains(mac)).collect()
}

/// Gives the plan one MAC, or says why not.
fn take_up(
    plan: &mut Plan,
    follower: &Follower,
    gateway: &Gateway,
    mac: Mac,
    routing: &mut Routing,
) -> Result<Option<String>, Error> {
    if !mac.sends() {
        return Ok(Some("no frames come from it".into()));
    }
    if routing.link(&gateway.port)?.and_then(|link| link.mac) == Some(mac) {
        return Ok(Some(format!("it is that of {} itself", gateway.port)));
    }
    let taken = plan.learn(follower, mac);
    Ok(taken.err().map(|other| format!("its frames belong to path {other} already")))
}

/// Has the kernel ask for the gateways that it does not know, and waits a while for their answers.
fn ask(plan: &Plan, routing: &mut Routing) -> Result<(), Error> {
    let all = plan.followers.iter().flat_map(|follower| Gateway::all(plan, follower));
    let mut open = silent(all.collect(), routing)?;
    if open.is_empty() {
        return Ok(());
    }
    let changes = Changes::listen(true)?; // before it asks, so that no answer is missed
    open.iter().try_for_each(|gateway| routing.solicit(gateway.address, &gateway.port))?;
    let until = Instant::now() + PATIENCE;
    while !open.is_empty() {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        changes.wait(Some(left))?;
        open = silent(open, routing)?;
    }
    Ok(())
}

/// Those that the neighbour table has no MAC for.
fn silent(gateways: Vec<Gateway>, routing: &mut Routing) -> Result<Vec<Gateway>, Error> {
    let mut silent = Vec::new();
    for gateway in gateways {
        if gateway.mac(routing)?.is_none() {
            silent.push(gateway);
        }
    }
    Ok(silent)
}

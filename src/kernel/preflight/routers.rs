//! Whether routers can be told from one another by their MACs, as far as the neighbour table knows these.

use super::{Finding, warning};
use crate::kernel::Error;
use crate::kernel::neighbours::Known;
use crate::kernel::ways::Routing;
use crate::plan::Plan;
use crate::plan::ways::{Family, Next};
use crate::policy::{Mac, Path, Policy};
use core::net::IpAddr;

/// A gateway with another MAC than the policy says, a MAC that two routers have, and one that is behind two ports.
pub fn findings(policy: &Policy, plan: &Plan, routing: &mut Routing) -> Result<Vec<Finding>, Error> {
    let is_used = |family: &Family| match family {
        Family::V4 => policy.paths.iter().any(Path::has_v4),
        Family::V6 => policy.paths.iter().any(Path::has_v6),
    };
    let families = Family::BOTH.into_iter().filter(is_used);
    let defaults = families.filter_map(|family| routing.default_way(family));
    let defaults: Vec<(IpAddr, u32)> = defaults.filter_map(|way| Some((way.gateway?, way.port))).collect();
    let counts = |neighbour: &Known| {
        let is_of = |path: &Path| path.source_macs.contains(&neighbour.mac) || has(path, neighbour.address);
        policy.paths.iter().any(is_of)
    };
    let known = routing.neighbours(counts)?;

    let mut findings = Vec::new();
    for path in policy.paths.iter().filter(|path| !path.source_macs.is_empty()) {
        findings.extend(another_mac(path, plan, &known, routing)?);
        let mut ports = Vec::new();
        for port in &path.ingress {
            ports.extend(routing.link(port)?.map(|link| link.index));
        }
        for mac in &path.source_macs {
            let counts = |neighbour: &&Known| {
                neighbour.mac == *mac && (path.ingress.is_empty() || ports.contains(&neighbour.port))
            };
            let of_mac: Vec<&Known> = known.iter().filter(counts).collect();
            let is_its_own = known.iter().any(|one| one.mac == *mac && has(path, one.address));
            let is_other_router = |neighbour: &&&Known| {
                let address = neighbour.address;
                let is_default = defaults.contains(&(address, neighbour.port));
                let is_of_path = policy.paths.iter().any(|path| has(path, address));
                let counts = match address {
                    IpAddr::V4(_) => path.has_v4(),
                    // A router has such an address beside the one that the policy names.
                    IpAddr::V6(address) => path.has_v6() && !(address.is_unicast_link_local() && is_its_own),
                };
                counts && (is_default || is_of_path) && !has(path, address)
            };
            findings.extend(of_mac.iter().find(is_other_router).map(|other| shared(path, *mac, other)));
            if let [first, rest @ ..] = of_mac.as_slice()
                && let Some(second) = rest.iter().find(|other| other.port != first.port)
                && let (Some(one), Some(other)) =
                    (routing.link_at(first.port)?, routing.link_at(second.port)?)
            {
                findings.push(warning(
                    "mac-two-ports",
                    format!(
                        "path {}: its MAC {mac} is behind {} and behind {}, and frames by either count; name the right port \
                         in `ingress`",
                        path.name, one.name, other.name
                    ),
                ));
            }
        }
    }
    Ok(findings)
}

fn has(path: &Path, gateway: IpAddr) -> bool {
    path.gateway4.map(IpAddr::V4) == Some(gateway) || path.gateway6.map(IpAddr::V6) == Some(gateway)
}

fn another_mac(
    path: &Path,
    plan: &Plan,
    known: &[Known],
    routing: &mut Routing,
) -> Result<Vec<Finding>, Error> {
    let mut findings = Vec::new();
    if path.auto_macs {
        return Ok(findings); // whichever it has is the right one
    }
    for route in plan.ways.routes.iter().filter(|route| route.table == path.table) {
        let Next::Gateway { address, device: Some(device), .. } = &route.next else { continue };
        let Some(port) = routing.link(device)?.map(|link| link.index) else { continue };
        let is_it = |neighbour: &&Known| (neighbour.address, neighbour.port) == (*address, port);
        let other = known.iter().find(is_it).filter(|neighbour| !path.source_macs.contains(&neighbour.mac));
        findings.extend(other.map(|neighbour| {
            let line = format!(
                "path {}: its gateway {address} has the MAC {}, which is none of its source_macs; add it, unless the router \
                 sends by another",
                path.name, neighbour.mac
            );
            warning("mac-other", line)
        }));
    }
    Ok(findings)
}

fn shared(path: &Path, mac: Mac, other: &Known) -> Finding {
    let line = format!(
        "path {}: router {} has its MAC {mac} as well, so what comes in by that one goes back by this path; tell them apart by \
         `ingress`",
        path.name, other.address
    );
    warning("mac-shared", line)
}

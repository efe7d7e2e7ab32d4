//! Routes and rules of ours that can be refused before anything has been changed.

use super::{Finding, refusal, warning};
use crate::kernel::Error;
use crate::kernel::differences::{Cause, Difference};
use crate::kernel::ways::{ForeignRule, Routing};
use crate::plan::Plan;
use crate::plan::ways::{Next, PROTOCOL, Route, Rule};
use crate::policy::Policy;

/// What is done about a next hop or a port that can not be used yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Early {
    /// Nothing is installed.
    Refuse,
    /// It is left out, and named.
    Await,
    /// The same, if nobody has touched the rest since; else nothing is done at all.
    Complete,
    /// The same, whatever has been touched, unless another policy has been installed since.
    Keep,
}

/// Refuses to share a routing table, or a rule's place, with another program.
pub fn check_ownership(plan: &Plan, foreign: &[ForeignRule], routing: &mut Routing) -> Result<(), Error> {
    match taken(plan, foreign, routing)?.first() {
        None => Ok(()),
        Some(difference) => Err(Error::new(difference.to_string())),
    }
}

/// The routing tables and the places of rules that another program has.
pub fn taken(plan: &Plan, foreign: &[ForeignRule], routing: &mut Routing) -> Result<Vec<Difference>, Error> {
    let mut taken = Vec::new();
    for other in foreign {
        let Some(rule) = collides(plan, other) else { continue };
        let what = match rule.table == other.table {
            true => format!("looks up table {}, which is the policy's", rule.table),
            false => format!("stands where mark {:#x} shall have its own", rule.mark),
        };
        let (family, priority) = (rule.family.digit(), other.priority);
        taken.push(Difference {
            line: format!(
                "ip -{family} rule {priority}: it is none of ours (protocol {PROTOCOL} and no other selector), and \
                 {what}; delete it, or choose another `table` and `priority`"
            ),
            command: format!("ip -{family} rule"),
            cause: Cause::Nothing,
        });
    }
    let mut tables = Vec::new();
    for table in plan.ways.routes.iter().map(|route| route.table) {
        if tables.contains(&table) {
            continue;
        }
        tables.push(table);
        taken.extend(routing.foreign_routes(table)?.into_iter().map(|family| Difference {
            line: format!("table {table}: another program has routes in it; choose another `table`"),
            command: format!("ip -{} route show table {table}", family.digit()),
            cause: Cause::Nothing,
        }));
    }
    Ok(taken)
}

/// The rule of ours that another program's would share the place or the table with.
pub(super) fn collides<'a>(plan: &'a Plan, other: &ForeignRule) -> Option<&'a Rule> {
    plan.ways.rules.iter().find(|rule| {
        let same_place =
            (rule.priority, rule.mark, rule.mask) == (other.priority, other.mark.0, other.mark.1);
        rule.family == other.family && (rule.table == other.table || same_place)
    })
}

/// Ports that routes name have to be there and up; without a gateway, with one far end. A route that has to be
/// awaited is taken out of the plan.
///
/// Returns one line for each of those.
pub fn check_ports(plan: &mut Plan, early: Early, routing: &mut Routing) -> Result<Vec<String>, Error> {
    let mut awaited = Vec::new();
    for route in std::mem::take(&mut plan.ways.routes) {
        match check_port(&route, early, routing) {
            Err(error) if error.is_early && early != Early::Refuse => {
                awaited.push(format!("{route}: {error}"))
            }
            result => {
                result?;
                plan.ways.routes.push(route);
            }
        }
    }
    Ok(awaited)
}

/// What `apply` would be refused for, or would have to wait for.
pub fn foresee(
    policy: &Policy,
    plan: &Plan,
    foreign: &[ForeignRule],
    routing: &mut Routing,
) -> Result<Vec<Finding>, Error> {
    let taken = taken(plan, foreign, routing)?;
    let mut findings: Vec<_> = taken.iter().map(|taken| refusal("taken", taken.to_string())).collect();
    for route in &plan.ways.routes {
        let result = check_port(route, Early::Refuse, routing).and_then(|()| check_gateway(route, routing));
        if let Err(Error { line, .. }) = result
            // Both families of a path may lack the same port.
            && !findings.iter().any(|found| found.line == line)
        {
            findings.push(refusal("next-hop", line));
        }
    }
    for port in policy.paths.iter().flat_map(|path| &path.ingress) {
        let of_port = format!("port {port}: ");
        if routing.link(port)?.is_none() && !findings.iter().any(|found| found.line.starts_with(&of_port)) {
            let line = of_port + "it is not there; run `returnpath apply` again once it is";
            findings.push(warning("port-missing", line));
        }
    }
    Ok(findings)
}

/// A next hop has to be somebody else, and on a link. The kernel asks the same when it is given the route.
fn check_gateway(route: &Route, routing: &mut Routing) -> Result<(), Error> {
    let Next::Gateway { address, device, onlink } = &route.next else { return Ok(()) };
    let port = match device {
        Some(device) => routing.link(device)?.map(|link| link.index),
        None => None,
    };
    let reason = match routing.way_to(*address, port) {
        Some(way) if way.is_local() => "it is an address of this host; name the router's",
        // A route to this very address by another router counts less than the port's own network.
        Some(way) if *onlink || way.gateway.is_none() || way.is_host => return Ok(()),
        None if *onlink => return Ok(()),
        _ => {
            "it is not on a link; bring its port up with an address that covers it, or set `device` and `onlink`"
        }
    };
    Err(Error::new(format!("gateway {address}: {reason}")))
}

fn check_port(route: &Route, early: Early, routing: &mut Routing) -> Result<(), Error> {
    let too_early = |line| Err(Error { is_early: true, ..Error::new(line) });
    let (device, needs_gateway) = match &route.next {
        Next::Gateway { device: Some(device), .. } => (device, false),
        Next::Device(device) => (device, true),
        // If the address came between this look and the kernel's, the route would be another than the planned one.
        Next::Gateway { .. } if early != Early::Refuse => {
            return too_early("no port has an address for it".into());
        }
        _ => return Ok(()),
    };
    match routing.link(device)? {
        None => {
            too_early(format!("port {device}: it does not exist; correct `device`, or make the port first"))
        }
        Some(link) if !link.is_up => too_early(format!(
            "port {device}: it is down, and the kernel takes no route by it; bring it up first"
        )),
        Some(link) if needs_gateway && !link.is_point_to_point => Err(Error::new(format!(
            "port {device}: it is not point-to-point, so table {} needs a next hop; give its path a gateway",
            route.table
        ))),
        Some(_) => Ok(()),
    }
}

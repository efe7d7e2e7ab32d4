//! Reverse-path filters of other programs. The kernel's own is the plan's business; one of nftables or iptables knows no
//! marks where it runs before our chain, and drops what comes in by another port than the default route's.

use super::foreign::{self, Effect};
use super::tables::{Base, Chain, Place};
use super::{Finding, warning};
use crate::kernel::Error;
use crate::kernel::netlink::{Message, Socket, put};
use crate::kernel::ruleset::{GETRULE, GETSETELEM, OBJECT_OWNER, OBJECT_TABLE};
use crate::kernel::ways::Routing;
use crate::plan::Plan;
use crate::plan::ways::{Family, Next};
use crate::policy::{Path, Policy, Scope};

/// A warning for each path whose frames such a filter drops. One whose rules name the router, by MAC or port, is taken
/// to let it pass.
pub fn findings(
    policy: &Policy,
    plan: &Plan,
    chains: &[Chain],
    routing: &mut Routing,
) -> Result<Vec<Finding>, Error> {
    let mut findings = Vec::new();
    for chain in chains.iter().filter(|chain| chain.filters_ways_back()) {
        let mut named = None;
        for path in &policy.paths {
            if !is_dropped(chain, path, plan, routing)? {
                continue;
            }
            let named = named.get_or_insert_with(|| bytes_of(&chain.place));
            let macs = path.source_macs.iter().any(|mac| contains(named, &mac.0));
            let ports =
                path.ingress.iter().any(|port| contains(named, &[&[0], port.as_bytes(), &[0]].concat()));
            if !macs && !ports {
                let line = format!(
                    "{}: it drops frames of path {}, whose way back is by another port until they are marked; let them pass \
                     before that, by the router's MAC or port",
                    chain.place, path.name
                );
                findings.push(warning("reverse-path", line));
            }
        }
    }
    Ok(findings)
}

/// Whether a filter drops what comes in by a path.
fn is_dropped(chain: &Chain, path: &Path, plan: &Plan, routing: &mut Routing) -> Result<bool, Error> {
    for (family, number, has) in
        [(Family::V4, libc::NFPROTO_IPV4, path.has_v4()), (Family::V6, libc::NFPROTO_IPV6, path.has_v6())]
    {
        let is_of = |of: u8| i32::from(of) == number || i32::from(of) == libc::NFPROTO_INET;
        let mut tests =
            chain.rules.iter().filter(|rule| rule.family.is_none_or(is_of)).flat_map(|rule| &rule.effects);
        let hits = |effect: &Effect| match effect {
            Effect::ReversePath { with_mark, .. } => {
                chain.bases.is_empty()
                    || chain.bases.iter().any(|base| does_not_know(base, *with_mark, path.scope))
            }
            _ => false,
        };
        if has && is_of(chain.place.family) && tests.any(hits) {
            let default = routing.default_way(family).map(|way| way.port);
            if arrivals(path, plan, routing)?.into_iter().any(|port| Some(port) != default) {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// Whether a test at a hook sees packets of a path, and not the way that they have by their mark: what is for this host
/// has a mark from our chain in prerouting on, what is to be forwarded has none.
fn does_not_know(base: &Base, with_mark: bool, scope: Scope) -> bool {
    match base.hook as i32 {
        libc::NF_INET_PRE_ROUTING => !with_mark || base.is_ahead() || scope != Scope::Local,
        libc::NF_INET_LOCAL_IN => !with_mark && scope != Scope::Forward,
        libc::NF_INET_FORWARD => scope != Scope::Local,
        _ => false,
    }
}

/// The ports by which a path's frames come in, by their numbers: those declared, else those of its next hops.
fn arrivals(path: &Path, plan: &Plan, routing: &mut Routing) -> Result<Vec<u32>, Error> {
    let of_path = plan.ways.routes.iter().filter(|route| route.table == path.table);
    let next_hops = of_path.filter_map(|route| match &route.next {
        Next::Gateway { device, .. } => device.as_ref(),
        Next::Device(device) => Some(device),
        Next::Unreachable => None,
    });
    let mut ports = Vec::new();
    for port in path.ingress.iter().chain(next_hops.filter(|_| path.ingress.is_empty())) {
        ports.extend(routing.link(port)?.map(|link| link.index));
    }
    Ok(ports)
}

/// The bytes of a chain's rules, of those to which it leads, and of the sets that they ask. Nothing where they can not
/// be read.
fn bytes_of(place: &Place) -> Vec<u8> {
    let Ok(mut socket) = Socket::open(mnl::Bus::Netfilter) else { return Vec::new() };
    let (mut bytes, mut chains, mut sets) = (Vec::new(), vec![place.chain.clone()], Vec::new());
    let mut read = |kind, name: &str, each: &mut dyn FnMut(&[u8])| {
        let mut payload = vec![place.family, 0, 0, 0]; // struct nfgenmsg
        put(&mut payload, OBJECT_TABLE, &[place.table.as_bytes(), &[0]].concat());
        put(&mut payload, OBJECT_OWNER, &[name.as_bytes(), &[0]].concat());
        if let Err(refusal) = socket.stream(&Message { kind, flags: 0, payload }, each) {
            log::debug!("{place}: cannot list {name}: {refusal}");
        }
    };
    let mut at = 0;
    while let Some(chain) = chains.get(at).cloned() {
        read(GETRULE, &chain, &mut |message| {
            let rule = message.get(4..).unwrap_or_default();
            let next = foreign::rule(rule).leads_to.filter(|next| at == 0 && !chains.contains(next));
            chains.extend(next);
            sets.extend(foreign::sets(rule));
            bytes.extend(message);
        });
        at += 1;
    }
    sets.iter().for_each(|set| read(GETSETELEM, set, &mut |message| bytes.extend(message)));
    bytes
}

fn contains(bytes: &[u8], wanted: &[u8]) -> bool {
    bytes.windows(wanted.len()).any(|window| window == wanted)
}

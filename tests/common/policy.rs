//! Policies for tests: any valid one, and the largest.

#![allow(dead_code, reason = "not every test uses both")]

use proptest::collection::{btree_set, vec};
use proptest::prelude::*;
use proptest::sample::select;
use returnpath::policy::*;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Any policy that passes its check; small ones mostly, with lists up to their limits.
pub fn any_policy() -> impl Strategy<Value = Box<Policy>> {
    (0usize..6).prop_flat_map(|paths| {
        (
            any::<u32>().prop_map(|mask| mask | 0x0010_0101),
            vec(any_network(), 0..=MAX_LOCAL_NETWORKS),
            btree_set("[a-z_-][a-z0-9_-]{2,14}".prop_filter("reserved", |name| free_name(name)), paths),
            btree_set(any::<u32>().prop_filter("reserved", free_table), paths),
            vec(any_path(), paths),
        )
            .prop_map(|(mask, local, names, tables, mut paths)| {
                let mut policy = Box::new(Policy::new());
                policy.mark_mask = mask;
                policy.local_networks = disjoint(local, Network::overlaps);
                for (number, (name, table)) in names.iter().zip(tables).enumerate() {
                    let mut path = paths.swap_remove(0);
                    path.name = name.as_str().try_into().unwrap();
                    path.mark = deposit(number as u32 + 1, mask);
                    path.table = table;
                    own_frames(&mut path, number as u8);
                    policy.paths.push(path).unwrap();
                }
                policy.check().expect("the strategy makes valid policies");
                policy
            })
    })
}

/// The policy with the longest image: every list full, every number as wide as it can be.
pub fn maximal() -> Box<Policy> {
    let mut policy = Box::new(Policy::new());
    policy.mark_mask = u32::MAX;
    let network = |high: u128, number: usize| Network {
        address: IpAddr::V6(Ipv6Addr::from_bits(high << 112 | number as u128)),
        prefix: 128,
    };
    policy.local_networks.extend((0..MAX_LOCAL_NETWORKS).map(|number| network(0xfd00, number)));
    for number in 0..MAX_PATHS {
        let name = format!("path-number-{number:03}");
        let wide = u32::MAX - number as u32;
        let mut path = Path::new(name.as_str().try_into().unwrap(), wide, wide);
        path.gateway4 = Some(Ipv4Addr::new(10, 0, 0, 2));
        path.gateway6 = Some(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 2));
        // Every path has these MACs, and ports of its own: the most work for the check, too.
        path.source_macs.extend((0..MAX_MACS).map(|mac| Mac([2, 0, 0, 0, 0, mac as u8])));
        for port in 0..MAX_PORTS {
            let port = format!("port-{number:03}-{port:06}");
            path.ingress.push(port.as_str().try_into().unwrap()).unwrap();
        }
        path.services.extend((0..MAX_SERVICES as u16).map(|service| {
            let first = 0x8000 + 2 * service;
            Service::Sctp(PortRange { first, last: first + 1 })
        }));
        path.destinations.extend((0..MAX_DESTINATIONS).map(|at| network(0x2001, at)));
        path.device = Some("eth0.4000-dmz.x".try_into().unwrap());
        path.onlink = true;
        path.scope = Scope::Forward;
        path.when_down = WhenDown::Main;
        path.priority = *PRIORITIES.end();
        path.log = true;
        policy.paths.push(path).unwrap();
    }
    policy
}

/// A path that is valid but for its name, mark, table and whose its frames are.
fn any_path() -> impl Strategy<Value = Path> {
    let way = (0usize..4, any::<(u32, u128, bool, bool)>(), any_port());
    let frames = (0usize..3, 1..=MAX_MACS, 1..=MAX_PORTS, any::<(bool, bool)>());
    let lists = (vec(any_service(), 0..=MAX_SERVICES), vec(any_network(), 0..=MAX_DESTINATIONS));
    let rest = (
        select(vec![Scope::Local, Scope::Forward, Scope::Both]),
        select(vec![WhenDown::Unreachable, WhenDown::Main]),
        PRIORITIES,
        any::<bool>(),
    );
    (way, frames, lists, rest).prop_map(|(way, frames, lists, rest)| {
        let mut path = Path::new(Name::new(), 0, 0);
        let (gateways, (v4, v6, link_local, onlink), device) = way;
        path.device = (gateways == 0 || link_local).then_some(device);
        // 11.0.0.0/8; fe80::/64 or 2001::/16.
        path.gateway4 = (gateways & 1 != 0).then(|| Ipv4Addr::from_bits(0x0b00_0000 | v4 >> 8));
        let high = if link_local { 0xfe80 } else { 0x2001 };
        path.gateway6 = (gateways & 2 != 0).then(|| Ipv6Addr::from_bits(high << 112 | v6 >> 64));
        path.onlink = onlink && gateways != 0 && path.device.is_some();

        let (way, macs, ports, (auto, alone)) = frames;
        if way != 1 {
            path.source_macs.extend((0..macs).map(|mac| Mac([2, 0, 0, 0, 0, mac as u8])));
        }
        path.auto_macs = auto && gateways != 0;
        if path.auto_macs {
            path.source_macs.truncate(if alone { 0 } else { MAX_MACS - 1 });
        }
        if way != 0 {
            for port in 0..ports {
                path.ingress.push(format!("p{port}").as_str().try_into().unwrap()).unwrap();
            }
        }

        let (services, mut networks) = lists;
        path.services = disjoint(services, Service::overlaps);
        networks.retain(|network| match network.address {
            IpAddr::V4(_) => path.has_v4(),
            IpAddr::V6(_) => path.has_v6(),
        });
        path.destinations = disjoint(networks, Network::overlaps);
        (path.scope, path.when_down, path.priority, path.log) = rest;
        path
    })
}

/// Makes the path's frames its own, in one of the ways that the contract allows.
fn own_frames(path: &mut Path, number: u8) {
    if path.ingress.is_empty() {
        path.source_macs.iter_mut().for_each(|mac| mac.0[4] = number);
        path.gateway4 =
            path.gateway4.map(|gateway| Ipv4Addr::from_bits(gateway.to_bits() & !0xff | u32::from(number)));
        path.gateway6 =
            path.gateway6.map(|gateway| Ipv6Addr::from_bits(gateway.to_bits() & !0xff | u128::from(number)));
    }
    for port in &mut path.ingress {
        port.push_str(&format!("-{number}")).unwrap();
    }
}

/// Spreads the low bits of `value` over the bits set in `mask`.
fn deposit(mut value: u32, mask: u32) -> u32 {
    let mut mark = 0;
    for bit in (0..u32::BITS).filter(|bit| mask >> bit & 1 == 1) {
        mark |= (value & 1) << bit;
        value >>= 1;
    }
    mark
}

/// Those of `list` that overlap none before them.
fn disjoint<T, const MAX: usize>(list: Vec<T>, overlap: impl Fn(&T, &T) -> bool) -> heapless::Vec<T, MAX> {
    let mut kept = heapless::Vec::new();
    for entry in list {
        if !kept.iter().any(|other| overlap(&entry, other)) {
            let _ = kept.push(entry);
        }
    }
    kept
}

fn any_network() -> impl Strategy<Value = Network> {
    let v4 = (any::<u32>(), 0u8..=32).prop_map(|(bits, prefix)| (Ipv4Addr::from_bits(bits).into(), prefix));
    let v6 = (any::<u128>(), 0u8..=128).prop_map(|(bits, prefix)| (Ipv6Addr::from_bits(bits).into(), prefix));
    prop_oneof![v4, v6].prop_map(|(address, prefix)| Network { address, prefix }.trimmed())
}

fn any_service() -> impl Strategy<Value = Service> {
    let ports = prop_oneof![
        1 => Just(PortRange::ALL),
        20 => any::<(u16, u8)>().prop_map(|(first, more)| {
            let first = first.max(1);
            PortRange { first, last: first.saturating_add(more.into()) }
        }),
    ];
    prop_oneof![
        Just(Service::Icmp),
        ports.clone().prop_map(Service::Tcp),
        ports.clone().prop_map(Service::Udp),
        ports.prop_map(Service::Sctp),
    ]
}

fn any_port() -> impl Strategy<Value = Name> {
    "[A-Za-z0-9_@-][A-Za-z0-9_.@-]{0,14}".prop_map(|name| name.as_str().try_into().unwrap())
}

fn free_name(name: &str) -> bool {
    !["main", "local", "default", "unspec", "all", "cache"].contains(&name)
}

fn free_table(table: &u32) -> bool {
    !matches!(table, 0 | 253..=255)
}

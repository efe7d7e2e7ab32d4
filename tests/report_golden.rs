//! What `status` and `watch` print. `UPDATE_GOLDEN=1 cargo test --test report_golden` writes it anew; read what comes.

#[path = "common/golden.rs"]
mod golden;

use returnpath::kernel::conntrack::{Connection, End, Event, Protocol, Traffic};
use returnpath::kernel::differences::{Cause, Difference};
use returnpath::kernel::neighbours::{Neighbour, NeighbourState};
use returnpath::plan::ways::Family;
use returnpath::policy::{Mac, Policy, toml};
use returnpath::status::{NextHop, PathStatus, Status};
use returnpath::watch::line;
use std::net::IpAddr;
use std::path::Path;

const POLICY: &str = r#"
[paths.router2]
mark = 0x2
table = 200
gateways = ["10.0.0.2", "fe80::5054:ff:fec2:a543"]
device = "eth0"
source_macs = ["52:54:00:c2:a5:43"]

[paths.tunnel]
mark = 0x30
table = 201
device = "wg0"
ingress = ["wg0"]
priority = 900
"#;

fn policy() -> Box<Policy> {
    toml::parse("policy.toml", POLICY).unwrap_or_else(|error| panic!("{error}"))
}

fn compare(name: &str, found: &str) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/report");
    golden::compare(&folder.join(name), found);
}

fn hop(
    family: Family,
    gateway: Option<&str>,
    device: Option<&str>,
    state: Option<NeighbourState>,
) -> NextHop {
    let mac =
        Some(Mac([0x52, 0x54, 0, 0xc2, 0xa5, 0x43])).filter(|_| state == Some(NeighbourState::Reachable));
    NextHop {
        family,
        gateway: gateway.map(|address| address.parse().unwrap()),
        device: device.map(|name| name.try_into().unwrap()),
        neighbour: state.map(|state| Neighbour { mac, state }),
    }
}

fn count(packets: u64, bytes: u64) -> Option<Traffic> {
    Some(Traffic { packets, bytes })
}

/// Where all is well and all is known: `first` are the next hops of the first path.
fn status<'a>(policy: &'a Policy, first: Vec<NextHop>) -> Status<'a> {
    let tunnel = [Family::V4, Family::V6].map(|family| hop(family, None, Some("wg0"), None));
    let paths = vec![
        PathStatus {
            next_hops: first,
            taken: count(99_999, 6_000_000),
            live: Some(12),
            into: count(100_000, 9_994_999_999),
            back: count(1_234_567, 12_345_678),
            astray: count(0, 0),
        },
        PathStatus {
            next_hops: tunnel.into(),
            taken: count(u64::MAX, u64::MAX),
            live: Some(0),
            into: count(0, 0),
            back: count(0, 0),
            astray: count(7, 420),
        },
    ];
    Status {
        source: "/dev/vda3 (slot A, serial 1)",
        policy,
        paths,
        is_guarded: true,
        seconds_left: Some(43),
        notes: vec![],
        differences: vec![],
    }
}

fn router2(state: Option<NeighbourState>) -> Vec<NextHop> {
    let gateways = [(Family::V4, "10.0.0.2"), (Family::V6, "fe80::5054:ff:fec2:a543")];
    gateways.map(|(family, gateway)| hop(family, Some(gateway), Some("eth0"), state)).into()
}

#[test]
fn all_is_well() {
    let policy = policy();
    let status = status(&policy, router2(Some(NeighbourState::Reachable)));
    let text = format!("{status}\n");
    compare("status.txt", &text);
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    compare("status.json", &format!("{}\n", status.json()));
}

/// With names and addresses as long as they may be, it still fits a console.
#[test]
fn what_is_too_wide_is_folded() {
    let long = POLICY.replace("router2", "router2-uplink1").replace("tunnel", "tunnel_berlin-2");
    let long = long.replace("201", "4294967294").replace("= 900", "= 32765");
    let policy = toml::parse(
        "policy.toml",
        &(String::from("mark_mask = 0xffffffff") + &long.replace("0x30", "0xf0000000")),
    );
    let policy = policy.unwrap_or_else(|error| panic!("{error}"));
    let gateways = [(Family::V4, "192.168.100.254"), (Family::V6, "2001:db8:1234:5678:9abc:def0:1234:5678")];
    let reachable = Some(NeighbourState::Reachable);
    let hops =
        gateways.map(|(family, gateway)| hop(family, Some(gateway), Some("enp0s31f6np1v42"), reachable));
    let mut status = status(&policy, hops.into());
    status.paths[1].into = count(100_000, 9_994_999_999);
    let text = format!("{status}\n");
    compare("status-wide.txt", &text);
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
}

#[test]
fn some_is_not_known_and_some_differs() {
    let policy = policy();
    let mut status = status(&policy, vec![hop(Family::V4, Some("10.0.0.2"), None, None)]);
    status.paths[0].next_hops.extend(router2(Some(NeighbourState::Failed)).pop());
    (status.is_guarded, status.seconds_left) = (false, None);
    status.paths[1] =
        PathStatus { taken: None, live: None, into: None, back: None, astray: None, next_hops: vec![] };
    status.notes =
        vec!["connections: cannot count them: Operation not permitted; run it with CAP_NET_ADMIN".into()];
    let rule = "missing: ip -4 rule add fwmark 0x2/0xff table 200 priority 1000 protocol 82";
    status.differences =
        vec![Difference { line: rule.into(), command: "ip -4 rule".into(), cause: Cause::Nothing }];
    compare("status-differs.txt", &format!("{status}\n"));
    compare("status-differs.json", &format!("{}\n", status.json()));
}

#[test]
fn without_a_path_there_is_no_table() {
    let policy = toml::parse("empty.toml", "").unwrap();
    let status = Status {
        source: "empty.bin",
        policy: &policy,
        paths: vec![],
        is_guarded: false,
        seconds_left: None,
        notes: vec![],
        differences: vec![],
    };
    assert_eq!(status.to_string(), "the kernel is as empty.bin has it: 0 paths");
}

fn end(address: &str, port: u16) -> End {
    let address: IpAddr = address.parse().unwrap();
    End { address, port: Some(port).filter(|port| *port != 0) }
}

#[test]
fn connections_that_come_and_go() {
    let policy = policy();
    let plain = Connection {
        mark: 0xab02, // bits of others are no matter
        protocol: Protocol(6),
        source: end("198.51.100.7", 40112),
        destination: end("10.0.0.10", 80),
        answering: end("10.0.0.10", 80),
        sent: None,
        answered: None,
    };
    let translated = Connection { answering: end("10.3.0.5", 8080), ..plain };
    let counted = Connection { sent: count(10, 1200), answered: count(8, 3300), ..translated };
    let (client, host) = (end("2001:db8::7", 0), end("fd00::10", 0));
    let echo = Connection { mark: 0x30, protocol: Protocol(58), source: client, destination: host, ..plain };
    let echo = Connection { answering: host, ..echo };
    let events = [
        Event::Taken(plain),
        Event::Taken(translated),
        Event::Ended(counted),
        Event::Ended(plain),
        Event::Taken(echo),
        Event::Ended(Connection { protocol: Protocol(47), ..echo }),
        Event::Lost(3),
        Event::Taken(Connection { mark: 0x31, ..plain }), // no path's
    ];
    for (name, json) in [("watch.txt", false), ("watch.json", true)] {
        let lines: Vec<String> = events.iter().filter_map(|event| line(event, &policy, json)).collect();
        assert_eq!(lines.len() + 1, events.len());
        compare(name, &format!("{}\n", lines.join("\n")));
    }
}

//! What `explain` says, policy by policy. `UPDATE_GOLDEN=1 cargo test --test explain_golden` writes it anew; read what
//! comes. What packets do is held against it in `tests/explain`.

#[path = "common/golden.rs"]
mod golden;

use returnpath::explain::{Question, Report};
use returnpath::kernel::answer::{Answer, Query};
use returnpath::plan::Plan;
use returnpath::plan::simulate::Flow;
use returnpath::policy::toml;
use std::fmt::Write;
use std::net::IpAddr;
use std::path::Path;

const MAC: &str = "--mac 52:54:00:c2:a5:43";

/// The report for a policy of `tests/golden/plan`, a command line, and a host that has the addresses that end in 10.
/// The kernel has not been asked.
fn report(policy: &str, words: &str) -> Report {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/plan");
    let source = std::fs::read_to_string(folder.join(policy).with_extension("toml")).unwrap();
    let plan = Plan::new(&toml::parse(policy, &source).unwrap());
    let words: Vec<&str> = words.split(' ').collect();
    let (question, rest) =
        Question::parse(&words).unwrap_or_else(|failure| panic!("{words:?}: {}", failure.line));
    assert!(rest.is_empty(), "{rest:?}");
    let Question { port, mac, source, destination, dnat, protocol, service, .. } = question;
    let server = dnat.unwrap_or(destination);
    let is_local = server.to_string().ends_with("10");
    let flow =
        Flow { port, mac, source, destination, server, protocol, service, is_local, is_elsewhere: true };
    Report { plan, flow, arriving: None, answering: None, differences: 0 }
}

fn compare(name: &str, found: &str) {
    golden::compare(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/explain").join(name), found);
}

/// Each line is what one command is asked.
fn says(policy: &str, lines: &[&str]) {
    let mut text = String::new();
    for line in lines {
        let line = line.replace("MAC", MAC);
        let report = report(policy, &line).to_string();
        // The connection is one line, however long.
        let wide = report.lines().skip(1).find(|line| line.chars().count() > 80);
        assert_eq!(wide, None, "wider than a console");
        writeln!(text, "$ returnpath explain {line}\n{report}\n").unwrap();
    }
    compare(&format!("{policy}.txt"), &text);
}

#[test]
fn one_router() {
    says(
        "seed",
        &[
            "--iif eth0 MAC --src 198.51.100.7 --dst 10.0.0.10 --proto tcp --dport 80",
            "--iif eth0 MAC --src 198.51.100.7 --dst 10.0.0.10 --proto tcp --dport 80 --dnat 10.20.0.2",
            "--iif eth0 MAC --src 198.51.100.7 --dst 10.0.0.10 --proto tcp --dport 23",
            "--iif eth0 MAC --src 10.0.0.7 --dst 10.0.0.10 --proto tcp --dport 80",
            "--iif eth0 MAC --src 2001:db8::7 --dst fd00::10 --proto tcp --dport 80",
            "--iif eth0 --mac 52:54:00:c2:a5:42 --src 198.51.100.7 --dst 10.0.0.10 --proto icmp",
        ],
    );
}

#[test]
fn the_most_specific_way_to_know_frames_decides_alone() {
    says(
        "ports",
        &[
            "--iif eth1 MAC --src 198.51.100.7 --dst 10.0.0.10 --proto 47",
            "--iif eth2 MAC --src 198.51.100.7 --dst 10.0.0.10 --proto 47",
            "--iif eth1 --mac 52:54:00:00:00:01 --src 198.51.100.7 --dst 10.0.0.10 --proto 47",
            "--iif eth2 --mac 52:54:00:00:00:01 --src 198.51.100.7 --dst 10.0.0.10 --proto 47",
        ],
    );
}

/// What somebody looks for whose MAC is right and whose port is not, or whose gateway nobody has asked yet.
#[test]
fn a_path_that_might_have_known_the_frames_is_named() {
    says(
        "auto",
        &[
            "--iif eth5 MAC --src 198.51.100.7 --dst 10.0.0.10 --proto icmp",
            "--iif eth5 --mac 52:54:00:00:00:09 --src 198.51.100.7 --dst 10.0.0.10 --proto icmp",
        ],
    );
}

#[test]
fn a_scope_is_about_who_answers() {
    says("forward", &["--iif eth1 MAC --src 2001:db8::7 --dst fd00::10 --proto icmp"]);
    says(
        "tunnel",
        &[
            "--iif wg0 --src 198.51.100.7 --dst 10.0.0.10 --proto udp --dport 53",
            "--iif wg0 --src 198.51.100.7 --dst 10.0.0.11 --proto udp --dport 53",
        ],
    );
}

#[test]
fn destinations_are_of_a_family() {
    let mac = "--mac 52:54:00:c2:a5:44";
    says(
        "destinations",
        &[
            "--iif eth0 MAC --src 192.0.2.7 --dst 203.0.113.8 --proto tcp --dport 80",
            &format!("--iif eth0 {mac} --src 2001:db8::7 --dst fd00::10 --proto tcp --dport 80"),
            &format!("--iif eth0 {mac} --src 192.0.2.7 --dst 198.51.100.10 --proto sctp --dport 5060"),
        ],
    );
}

/// A connection that router 2 brings, and what the kernel says.
fn asked(answer: Answer) -> Report {
    let mut report = report(
        "seed",
        "--iif eth0 --mac 52:54:00:c2:a5:43 --src 198.51.100.7 --dst 10.0.0.10 --proto tcp --dport 80",
    );
    let query = |destination: IpAddr, source, port: Option<&str>, ports| Query {
        destination,
        source: Some(source),
        port: port.map(|port| port.try_into().unwrap()),
        mark: 2,
        protocol: 6,
        ports,
    };
    let Flow { source, destination, .. } = report.flow;
    report.arriving = Some((query(destination, source, Some("eth0"), (None, Some(80))), Answer::Here));
    report.answering = Some((query(source, destination, None, (Some(80), None)), answer));
    report
}

#[test]
fn what_the_kernel_says_is_held_against_the_plan() {
    let on = |gateway: &str, table| Answer::On {
        gateway: Some(gateway.parse().unwrap()),
        port: Some("eth0".try_into().unwrap()),
        table,
    };
    let mut text = String::new();
    for (answer, differences, agrees) in [
        (on("10.0.0.2", 200), 0, true),
        (on("10.0.0.2", 200), 1, false),
        (on("10.0.0.2", 254), 0, false),
        (on("10.0.0.1", 200), 0, false),
        (Answer::Nowhere("unreachable".into()), 2, false),
    ] {
        let report = Report { differences, ..asked(answer) };
        assert_eq!(report.agrees(), agrees, "{report}");
        // From the kernel's part on; the rest is as it is in seed.txt.
        let report = report.to_string();
        writeln!(text, "{}\n", &report[report.find("kernel in").unwrap()..]).unwrap();
    }
    compare("kernel.txt", &text);
}

#[test]
fn for_machines() {
    let on = Answer::On { gateway: None, port: None, table: 254 };
    let lines = asked(on).json()
        + "\n"
        + &report("seed", "--iif eth9 --src ::1 --dst ::2 --proto icmp").json()
        + "\n";
    compare("json.txt", &lines);
}

/// Where a reverse-path filter was strict before a path loosened it, the table does its work for all else.
#[test]
fn what_the_strict_filter_would_drop_is_dropped() {
    let words =
        "--iif eth1 --mac 52:54:00:c2:a5:43 --src 198.51.100.7 --dst 10.20.0.2 --proto tcp --dport 23";
    let mut report = report("forward", words);
    let record = [("net/ipv4/conf/eth1/rp_filter".to_owned(), 1)];
    report.plan.table = report.plan.table.with_record(report.plan.mark_mask, &record, None);
    let text = report.to_string();
    assert!(text.contains("answered by nobody"), "{text}");
    compare("dropped.txt", &(text + "\n"));
    report.flow.is_elsewhere = false;
    assert!(report.to_string().contains("a host behind this one"), "{report}");
}

//! The TOML form: every kind of mistake has its line, its reason and its remedy, and what `render`
//! writes means the same policy.

#[path = "common/policy.rs"]
mod policy;

use policy::{any_policy, maximal};
use proptest::prelude::*;
use returnpath::policy::{
    DEFAULT_MARK_MASK, DEFAULT_PRIORITY, Mac, Network, PortRange, Scope, Service, WhenDown, toml,
};
use std::path::PathBuf;

/// Two valid paths. A test puts its lines where a `#` mark stands: a key given again there
/// takes the place of the one below it.
const BASE: &str = r#"#top
mark_mask = 0xff
local_networks = []

[paths.router1]
#1
mark = 0x1
table = 100
gateways = ["10.0.0.1"]
source_macs = ["52:54:00:00:00:01"]

[paths.router2]
#2
mark = 0x2
table = 200
gateways = ["10.0.0.2", "fd00::2"]
source_macs = ["52:54:00:c2:a5:43"]
"#;

/// The base with `line` in place of the mark, and of the key that it gives anew.
fn with(mark: &str, line: &str) -> String {
    let (before, after) = BASE.split_once(&format!("#{mark}\n")).unwrap();
    let key = line.split(" = ").next().unwrap();
    let (section, rest) = after.split_at(after.find("\n\n").unwrap_or(after.len()));
    let others = section.lines().filter(|old| !old.starts_with(&format!("{key} = ")));
    let section = others.map(|old| format!("{old}\n")).collect::<String>();
    format!("{before}{line}\n{section}{rest}")
}

fn error(text: &str) -> String {
    toml::parse("p.toml", text).expect_err("a mistake").to_string()
}

#[test]
fn each_mistake_in_a_path_has_its_line_reason_and_remedy() {
    let cases = [
        // Marks and tables.
        ("mark = 0", "mark: 0 is the mark of every other packet; choose a mark within the mask 0xff"),
        ("mark = 0x200", "mark: 0x200 is outside mark_mask 0xff; choose a mark within the mask"),
        ("mark = 0x1", "mark: 0x1 is the mark of path router1 too; choose another"),
        ("mark = -1", "mark: -1 is out of range; choose a number within 0-4294967295"),
        ("mark = 4294967296", "mark: 4294967296 is out of range; choose a number within 0-4294967295"),
        ("mark = \"2\"", "mark: found string, expected an integer; write it as in mark = 0x2"),
        ("mark = 2.0", "mark: found float, expected an integer; write it as in mark = 0x2"),
        ("table = 0", "table: 0 is one of the kernel's own tables, 0 and 253-255; choose another number"),
        ("table = 253", "table: 253 is one of the kernel's own tables, 0 and 253-255; choose another number"),
        ("table = 255", "table: 255 is one of the kernel's own tables, 0 and 253-255; choose another number"),
        ("table = 100", "table: 100 is the table of path router1 too; choose another"),
        ("table = \"main\"", "table: found string, expected an integer; write it as in table = 200"),
        // The way out.
        (
            "gateways = []",
            "device: missing, and without gateways a path needs one; add gateways, or the point-to-point port as device",
        ),
        (
            "gateways = \"10.0.0.2\"",
            "gateways: found string, expected an array of strings; write it as in gateways = [\"10.0.0.2\"]",
        ),
        (
            "gateways = [2]",
            "gateways: found integer, expected a string; write it as in gateways = [\"10.0.0.2\"]",
        ),
        (
            "gateways = [\"router\"]",
            "gateways: \"router\" is neither an IPv4 nor an IPv6 address; write it as in 10.0.0.2 or fd00::2",
        ),
        (
            "gateways = [\"10.0.0.2/24\"]",
            "gateways: \"10.0.0.2/24\" is neither an IPv4 nor an IPv6 address; write it as in 10.0.0.2 or fd00::2",
        ),
        (
            "gateways = [\"10.0.0.2\", \"10.0.0.3\"]",
            "gateways: 10.0.0.3 is the second of its family; make it another path",
        ),
        (
            "gateways = [\"fd00::2\", \"fd00::2\"]",
            "gateways: fd00::2 is the second of its family; make it another path",
        ),
        (
            "gateways = [\"0.0.0.0\"]",
            "gateways: 0.0.0.0 is the unspecified address; give the router's own address",
        ),
        ("gateways = [\"::\"]", "gateways: :: is the unspecified address; give the router's own address"),
        (
            "gateways = [\"127.0.0.1\"]",
            "gateways: 127.0.0.1 is a loopback address; give the router's own address",
        ),
        ("gateways = [\"::1\"]", "gateways: ::1 is a loopback address; give the router's own address"),
        (
            "gateways = [\"224.0.0.2\"]",
            "gateways: 224.0.0.2 is a multicast address; give the router's own address",
        ),
        (
            "gateways = [\"ff02::2\"]",
            "gateways: ff02::2 is a multicast address; give the router's own address",
        ),
        (
            "gateways = [\"255.255.255.255\"]",
            "gateways: 255.255.255.255 is the broadcast address; give the router's own address",
        ),
        (
            "gateways = [\"::ffff:10.0.0.2\"]",
            "gateways: ::ffff:10.0.0.2 is an IPv4 address in IPv6 notation; give the router's own address",
        ),
        ("gateways = [\"fe80::1\"]", "gateways: fe80::1 is link-local and could be on any port; add device"),
        ("device = \"\"", "device: '' is not a port's name; use 1-15 of A-Z, a-z, 0-9, _, ., @ and -"),
        ("device = \"a/b\"", "device: 'a/b' is not a port's name; use 1-15 of A-Z, a-z, 0-9, _, ., @ and -"),
        ("device = \"..\"", "device: '..' is not a port's name; use 1-15 of A-Z, a-z, 0-9, _, ., @ and -"),
        (
            "device = \"eth*\"",
            "device: 'eth*' is not a port's name; use 1-15 of A-Z, a-z, 0-9, _, ., @ and -",
        ),
        (
            "device = \"a\\nb\"",
            "device: 'a\\nb' is not a port's name; use 1-15 of A-Z, a-z, 0-9, _, ., @ and -",
        ),
        (
            "device = \"sixteen-letters.\"",
            "device: \"sixteen-letters.\" is 16 bytes long; a port's name has at most 15",
        ),
        ("device = [\"eth0\"]", "device: found array, expected a string; write it as in device = \"eth0\""),
        (
            "onlink = true",
            "onlink: it says that a gateway is on a port, and not both are given; add gateways and device, or remove onlink",
        ),
        ("onlink = 1", "onlink: found integer, expected true or false; write it as in onlink = true"),
        // Whose a frame is.
        (
            "source_macs = []",
            "source_macs: missing, and so is ingress: nothing tells the router's frames; add one of the two",
        ),
        (
            "source_macs = [\"52:54:00:c2:a5\"]",
            "source_macs: \"52:54:00:c2:a5\" is not a MAC address; write six pairs of hex digits, as in 52:54:00:c2:a5:43, or auto",
        ),
        (
            "source_macs = [\"52-54-00-c2-a5-43\"]",
            "source_macs: \"52-54-00-c2-a5-43\" is not a MAC address; write six pairs of hex digits, as in 52:54:00:c2:a5:43, or auto",
        ),
        (
            "source_macs = [\"+2:54:00:c2:a5:43\"]",
            "source_macs: \"+2:54:00:c2:a5:43\" is not a MAC address; write six pairs of hex digits, as in 52:54:00:c2:a5:43, or auto",
        ),
        (
            "source_macs = [\"52:54:00:c2:a5:43:00\"]",
            "source_macs: \"52:54:00:c2:a5:43:00\" is not a MAC address; write six pairs of hex digits, as in 52:54:00:c2:a5:43, or auto",
        ),
        (
            "source_macs = [\"00:00:00:00:00:00\"]",
            "source_macs: 00:00:00:00:00:00 sends no frames; give the address of the router's own port",
        ),
        (
            "source_macs = [\"ff:ff:ff:ff:ff:ff\"]",
            "source_macs: ff:ff:ff:ff:ff:ff sends no frames; give the address of the router's own port",
        ),
        (
            "source_macs = [\"01:00:5e:00:00:12\"]",
            "source_macs: 01:00:5e:00:00:12 sends no frames; give the address of the router's own port",
        ),
        (
            "source_macs = [\"52:54:00:C2:A5:43\", \"52:54:00:c2:a5:43\"]",
            "source_macs: 52:54:00:c2:a5:43 is listed twice; remove one",
        ),
        (
            "source_macs = [\"52:54:00:00:00:01\"]",
            "source_macs: frames from 52:54:00:00:00:01 belong to path router1 already; tell them apart by ingress, or join the paths",
        ),
        ("source_macs = [\"auto\", \"auto\"]", "source_macs: auto is listed twice; remove one"),
        (
            "source_macs = [\"Auto\"]",
            "source_macs: \"Auto\" is not a MAC address; write six pairs of hex digits, as in 52:54:00:c2:a5:43, or auto",
        ),
        ("ingress = [\"eth1\", \"eth1\"]", "ingress: eth1 is listed twice; remove one"),
        (
            "ingress = [\"eth 1\"]",
            "ingress: 'eth 1' is not a port's name; use 1-15 of A-Z, a-z, 0-9, _, ., @ and -",
        ),
        (
            "ingress = [\"sixteen-letters.\"]",
            "ingress: \"sixteen-letters.\" is 16 bytes long; a port's name has at most 15",
        ),
        // Services.
        (
            "services = [\"http\"]",
            "services: \"http\" is not a service; write tcp, udp or sctp, alone or with ports 1-65535 as in tcp/80 and udp/5000-5100, or icmp",
        ),
        (
            "services = [\"TCP/80\"]",
            "services: \"TCP/80\" is not a service; write tcp, udp or sctp, alone or with ports 1-65535 as in tcp/80 and udp/5000-5100, or icmp",
        ),
        (
            "services = [\"icmp/8\"]",
            "services: \"icmp/8\" is not a service; write tcp, udp or sctp, alone or with ports 1-65535 as in tcp/80 and udp/5000-5100, or icmp",
        ),
        (
            "services = [\"tcp/\"]",
            "services: \"tcp/\" is not a service; write tcp, udp or sctp, alone or with ports 1-65535 as in tcp/80 and udp/5000-5100, or icmp",
        ),
        (
            "services = [\"tcp/+80\"]",
            "services: \"tcp/+80\" is not a service; write tcp, udp or sctp, alone or with ports 1-65535 as in tcp/80 and udp/5000-5100, or icmp",
        ),
        (
            "services = [\"tcp/65536\"]",
            "services: \"tcp/65536\" is not a service; write tcp, udp or sctp, alone or with ports 1-65535 as in tcp/80 and udp/5000-5100, or icmp",
        ),
        (
            "services = [\"tcp/0\"]",
            "services: tcp/0 is not a range of ports; write ports 1-65535, the lower one first",
        ),
        (
            "services = [\"udp/200-100\"]",
            "services: udp/200-100 is not a range of ports; write ports 1-65535, the lower one first",
        ),
        ("services = [\"tcp/80\", \"tcp/80\"]", "services: tcp/80 overlaps tcp/80; list each port once"),
        (
            "services = [\"tcp/80-90\", \"udp/85\", \"tcp/90-99\"]",
            "services: tcp/90-99 overlaps tcp/80-90; list each port once",
        ),
        ("services = [\"sctp\", \"sctp/1\"]", "services: sctp/1 overlaps sctp; list each port once"),
        ("services = [\"icmp\", \"tcp\", \"icmp\"]", "services: icmp overlaps icmp; list each port once"),
        // Destinations.
        (
            "destinations = [\"192.0.2.1\"]",
            "destinations: \"192.0.2.1\" is not a network; write an address and a prefix length, as in 10.0.0.0/24 or fd00::/64",
        ),
        (
            "destinations = [\"192.0.2.0/+8\"]",
            "destinations: \"192.0.2.0/+8\" is not a network; write an address and a prefix length, as in 10.0.0.0/24 or fd00::/64",
        ),
        (
            "destinations = [\"192.0.2.0/33\"]",
            "destinations: 192.0.2.0/33 has a prefix longer than 32; shorten it",
        ),
        (
            "destinations = [\"2001:db8::/129\"]",
            "destinations: 2001:db8::/129 has a prefix longer than 128; shorten it",
        ),
        (
            "destinations = [\"192.0.2.1/24\"]",
            "destinations: 192.0.2.1/24 is an address within a network; write 192.0.2.0/24",
        ),
        (
            "destinations = [\"2001:db8::1/64\"]",
            "destinations: 2001:db8::1/64 is an address within a network; write 2001:db8::/64",
        ),
        (
            "destinations = [\"10.0.0.0/8\", \"10.1.0.0/16\"]",
            "destinations: 10.1.0.0/16 overlaps 10.0.0.0/8; remove the one within the other",
        ),
        (
            "destinations = [\"::/0\", \"0.0.0.0/0\", \"::/0\"]",
            "destinations: ::/0 overlaps ::/0; remove the one within the other",
        ),
        // The rest.
        ("scope = \"all\"", "scope: \"all\" is not a scope; write local, forward or both"),
        (
            "when_down = \"drop\"",
            "when_down: \"drop\" is neither of its two words; write unreachable or main",
        ),
        ("priority = 0", "priority: 0 is not between the kernel's own rules; choose 1-32765"),
        ("priority = 32766", "priority: 32766 is not between the kernel's own rules; choose 1-32765"),
        ("log = \"yes\"", "log: found string, expected true or false; write it as in log = true"),
        // Keys.
        ("gateway = \"10.0.0.2\"", "gateway: unknown key; did you mean gateways?"),
        ("whendown = \"main\"", "whendown: unknown key; did you mean when_down?"),
        ("mark_mask = 0xff", "mark_mask: is not a key of a path; move it above the first [paths.NAME]"),
        (
            "metric = 5",
            "metric: unknown key; remove it, or use one of mark, table, gateways, source_macs, ingress, services, destinations, device, onlink, scope, when_down, priority, log",
        ),
        (
            "\"a\\nb\" = 5",
            "a\\nb: unknown key; remove it, or use one of mark, table, gateways, source_macs, ingress, services, destinations, device, onlink, scope, when_down, priority, log",
        ),
    ];
    for (line, message) in cases {
        let text = with("2", line);
        // The line of the value; where there is none to blame, the path's header.
        let line = if message.starts_with("device: missing") { 12 } else { 13 };
        assert_eq!(error(&text), format!("p.toml:{line}: path router2: {message}"), "{text}");
    }
}

#[test]
fn each_mistake_at_the_top_has_its_line_reason_and_remedy() {
    let cases = [
        (
            "mark_mask = 0",
            "mark_mask: 0 leaves no bit for marks; give the bits that nobody else uses, such as 0xff",
        ),
        (
            "mark_mask = \"0xff\"",
            "mark_mask: found string, expected an integer; write it as in mark_mask = 0xff",
        ),
        (
            "mark_mask = 0x1_0000_0000",
            "mark_mask: 4294967296 is out of range; choose a number within 0-4294967295",
        ),
        (
            "mark_mask = 99999999999999999999",
            "99999999999999999999 is out of range; choose a number within 0-4294967295",
        ),
        (
            "local_networks = {}",
            "local_networks: found inline table, expected an array of strings; write it as in local_networks = [\"10.0.0.0/24\"]",
        ),
        (
            "local_networks = [\"10.0.0.1/24\"]",
            "local_networks: 10.0.0.1/24 is an address within a network; write 10.0.0.0/24",
        ),
        (
            "local_networks = [\"fd00::/64\", \"fd00::/64\"]",
            "local_networks: fd00::/64 overlaps fd00::/64; remove the one within the other",
        ),
        ("mark = 0x2", "mark: is a key of a path; move it below a header such as [paths.router2]"),
        ("local_network = []", "local_network: unknown key; did you mean local_networks?"),
        ("version = 1", "version: unknown key; remove it, or use one of mark_mask, local_networks, paths"),
        ("mark_mask", "not TOML: key with no value, expected `=`; correct it there"),
        ("mark_mask = ", "not TOML: string values must be quoted, expected literal string; correct it there"),
        ("x = \"10.0.0.0/24", "not TOML: invalid basic string, expected `\"`; correct it there"),
        ("\u{0}", "not TOML: key with no value, expected `=`; correct it there"),
    ];
    for (line, message) in cases {
        assert_eq!(error(&with("top", line)), format!("p.toml:1: {message}"), "{line}");
    }
}

#[test]
fn each_mistake_of_structure_has_its_line_reason_and_remedy() {
    let path = "mark = 0x2\ntable = 200\ngateways = [\"10.0.0.2\"]\ningress = [\"eth1\"]\n";
    let cases = [
        ("\nmark_mask = 1\n\nmark_mask = 2\n".to_owned(), "p.toml:4: mark_mask: given twice; remove one"),
        (format!("[paths.a]\n{path}mark = 0x2\n"), "p.toml:6: mark: given twice; remove one"),
        (format!("[paths.a]\n{path}[paths.a]\n{path}"), "p.toml:6: a: given twice; remove one"),
        (
            format!("[[paths]]\n{path}"),
            "p.toml:1: paths: found array of tables, expected a table; write it as in [paths.router2]",
        ),
        (
            "paths = 2\n".to_owned(),
            "p.toml:1: paths: found integer, expected a table; write it as in [paths.router2]",
        ),
        (
            "[paths]\na = 2\n".to_owned(),
            "p.toml:2: path a: name: found integer, expected a table; write it as in [paths.router2]",
        ),
        (
            "\n[paths.a]\ntable = 200\n".to_owned(),
            "p.toml:2: path a: mark: missing; add it, as in mark = 0x2",
        ),
        (
            "\n[paths.a]\nmark = 0x2\n".to_owned(),
            "p.toml:2: path a: table: missing; add it, as in table = 200",
        ),
        (
            format!("[paths.Router]\n{path}"),
            "p.toml:1: path Router: name: 'Router' is not a path's name; use 1-15 of a-z, 0-9, _ and -",
        ),
        (
            format!("[paths.\"\"]\n{path}"),
            "p.toml:1: path number 1: name: '' is not a path's name; use 1-15 of a-z, 0-9, _ and -",
        ),
        (
            format!("[paths.a.b]\n{path}"),
            "p.toml:1: path a: b: unknown key; remove it, or use one of mark, table, gateways, source_macs, ingress, services, destinations, device, onlink, scope, when_down, priority, log",
        ),
        (
            format!("[paths.sixteen-letters-]\n{path}"),
            "p.toml:1: path sixteen-letters-: name: \"sixteen-letters-\" is 16 bytes long; use 1-15 of a-z, 0-9, _ and -",
        ),
        (
            format!("[paths.main]\n{path}"),
            "p.toml:1: path main: name: main already means something as a table of ip(8); choose another name",
        ),
        (
            format!("[paths.all]\n{path}"),
            "p.toml:1: path all: name: all already means something as a table of ip(8); choose another name",
        ),
        (
            format!("[paths.200]\n{path}"),
            "p.toml:1: path 200: name: 200 already means something as a table of ip(8); choose another name",
        ),
        (
            format!("[paths.0xff]\n{path}"),
            "p.toml:1: path 0xff: name: 0xff already means something as a table of ip(8); choose another name",
        ),
        (
            format!("[paths.a]\n{path}destinations = [\"2001:db8::/32\"]"),
            "p.toml:6: path a: destinations: 2001:db8::/32 is of a family that no gateway of the path has; add such a gateway, or remove it",
        ),
        // Two paths that know a frame in the same way.
        (
            format!(
                "[paths.a]\n{path}[paths.b]\nmark = 1\ntable = 1\ngateways = [\"10.0.0.1\"]\ningress = [\"eth0\",\n  \"eth1\"]\n"
            ),
            "p.toml:11: path b: ingress: frames from eth1 belong to path a already; tell them apart by source_macs, or join the paths",
        ),
        (
            format!(
                "[paths.a]\n{path}source_macs = [\"52:54:00:00:00:01\"]\n[paths.b]\n{}source_macs = [\n\"52:54:00:00:00:02\",\n\"52:54:00:00:00:01\"]\n",
                path.replace("0x2", "1").replace("200", "100")
            ),
            "p.toml:14: path b: source_macs: frames from 52:54:00:00:00:01 belong to path a already; tell them apart by ingress, or join the paths",
        ),
        (
            format!("[paths.a]\n{path}source_macs = [\n\"52:54:00:00:00:01\",\n\"auto\"]\n")
                .replace("gateways = [\"10.0.0.2\"]", "device = \"wg0\""),
            "p.toml:8: path a: source_macs: auto takes the MAC of a gateway, and there is none; add gateways, or give the MACs",
        ),
        (
            format!(
                "[paths.a]\n{path}source_macs = [\"auto\"]\n[paths.b]\n{}source_macs = [\n\"52:54:00:00:00:02\",\n\"auto\"]\n",
                path.replace("0x2", "1").replace("200", "100")
            ),
            "p.toml:14: path b: source_macs: auto takes the MAC of 10.0.0.2, and so does path a; tell them apart by ingress, or join the paths",
        ),
    ];
    for (text, message) in cases {
        assert_eq!(error(&text), message);
    }
}

/// The MACs of one gateway may be told apart by the port, and on two ports one address is two gateways.
#[test]
fn auto_macs_of_one_address_may_be_two_gateways() {
    let path = |name: &str, number: u8, more: &str| {
        format!(
            "[paths.{name}]\nmark = {number}\ntable = {number}\ngateways = [\"fe80::1\"]\nsource_macs = [\"auto\"]\n{more}\n"
        )
    };
    let two = |a: &str, b: &str| toml::parse("p.toml", &(path("a", 1, a) + &path("b", 2, b)));
    two("device = \"eth0\"", "device = \"eth1\"").unwrap();
    let device = "device = \"eth0\"\ningress = ";
    two(&format!("{device}[\"eth0\"]"), &format!("{device}[\"eth1\"]")).unwrap();
    two(&format!("{device}[\"eth0\"]"), &format!("{device}[\"eth0\"]")).unwrap_err();
    two("device = \"eth0\"", "device = \"eth0\"").unwrap_err();
}

#[test]
fn each_limit_has_its_error_at_the_entry_past_it() {
    let list = |key: &str, entries: usize, entry: &dyn Fn(usize) -> String| {
        let entries = (0..entries).map(|at| format!("  \"{}\",\n", entry(at)));
        format!("{key} = [\n{}]", entries.collect::<String>())
    };
    let mac = |at| format!("02:00:00:00:00:{at:02x}");
    let port = |at| format!("eth{at}");
    let service = |at| format!("tcp/{}", 1 + at);
    let network = |at| format!("192.0.2.{at}/32");
    type Entry<'a> = &'a dyn Fn(usize) -> String;
    let or_auto = |at| if at == 3 { "auto".into() } else { mac(at) };
    let cases: [(&str, usize, Entry); 5] = [
        ("source_macs", 16, &mac),
        ("source_macs", 16, &or_auto),
        ("ingress", 16, &port),
        ("services", 64, &service),
        ("destinations", 16, &network),
    ];
    for (key, max, entry) in cases {
        toml::parse("", &with("2", &list(key, max, entry))).unwrap();
        let line = 13 + max + 1;
        assert_eq!(
            error(&with("2", &list(key, max + 1, entry))),
            format!("p.toml:{line}: path router2: {key}: more than {max} entries; shorten the list")
        );
    }
    toml::parse("", &with("top", &list("local_networks", 64, &network))).unwrap();
    assert_eq!(
        error(&with("top", &list("local_networks", 65, &network))),
        "p.toml:66: local_networks: more than 64 entries; shorten the list"
    );

    let paths = |count: usize| {
        let path = |at: usize| {
            let (mark, table) = (1 + at, 1000 + at);
            format!(
                "[paths.p{at}]\nmark = {mark}\ntable = {table}\ndevice = \"p{at}\"\ningress = [\"p{at}\"]\n"
            )
        };
        format!("mark_mask = 0xffff\n{}", (0..count).map(path).collect::<String>())
    };
    assert_eq!(toml::parse("", &paths(256)).unwrap().paths.len(), 256);
    assert_eq!(error(&paths(257)), "p.toml:1282: paths: more than 256 paths; join or remove some");
}

#[test]
fn bytes_that_are_not_text_have_their_line() {
    assert_eq!(
        toml::text("p.toml", b"mark_mask = 1\n# caf\xe9\n").unwrap_err().to_string(),
        "p.toml:2: not UTF-8 text; save the file as UTF-8"
    );
    assert_eq!(toml::text("p.toml", b"\n"), Ok("\n"));
}

#[test]
fn frames_known_in_different_ways_may_overlap() {
    // Port and MAC before MAC before port: each frame still has one path.
    let text = r#"
        [paths]
        a = { mark = 1, table = 1, gateways = ["10.0.0.1"], source_macs = ["52:54:00:00:00:01"] }
        b = { mark = 2, table = 2, gateways = ["10.0.0.2"], ingress = ["eth1"] }
        c = { mark = 3, table = 3, gateways = ["10.0.0.3"], ingress = ["eth1"], source_macs = ["52:54:00:00:00:01"] }
        d = { mark = 4, table = 4, gateways = ["10.0.0.4"], ingress = ["eth2"], source_macs = ["52:54:00:00:00:01"] }
        e = { mark = 5, table = 5, gateways = ["10.0.0.5"], ingress = ["eth1"], source_macs = ["52:54:00:00:00:02"] }
        f = { mark = 6, table = 6, gateways = ["10.0.0.6"], source_macs = ["52:54:00:00:00:02"] }
        g = { mark = 7, table = 7, gateways = ["10.0.0.7"], ingress = ["eth2"] }
    "#;
    let names = toml::parse("", text).unwrap().paths.iter().map(|path| path.name.clone()).collect::<Vec<_>>();
    assert_eq!(names, ["a", "b", "c", "d", "e", "f", "g"], "and the order is kept");
}

#[test]
fn services_may_touch_and_stand_in_any_order() {
    let services = r#"["udp/9-20", "tcp/10-19", "tcp/20", "tcp/9", "tcp/1", "sctp", "icmp"]"#;
    let policy = toml::parse("", &with("2", &format!("services = {services}"))).unwrap();
    let kept = policy.paths[1].services.iter().map(|service| format!("\"{service}\""));
    assert_eq!(format!("[{}]", kept.collect::<Vec<_>>().join(", ")), services);
}

#[test]
fn every_key_is_read_and_has_its_default() {
    let policy = toml::parse("", &golden("full.toml")).unwrap();
    assert_eq!(policy.mark_mask, 0xff00_0000);
    assert_eq!(policy.local_networks.len(), 4);
    let path = &policy.paths[0];
    assert_eq!((path.name.as_str(), path.mark, path.table), ("vrrp_pair-1", 0x100_0000, u32::MAX));
    assert_eq!(path.gateway4, Some("10.0.0.2".parse().unwrap()));
    assert_eq!(path.gateway6, Some("fe80::1".parse().unwrap()));
    assert_eq!(path.source_macs[0], Mac([0, 0, 0x5e, 0, 1, 1]));
    assert_eq!(path.ingress, ["eth1", "br-lan.100", "veth0@x"]);
    assert_eq!(
        path.services,
        [
            Service::Tcp(PortRange { first: 80, last: 80 }),
            Service::Tcp(PortRange { first: 8000, last: 8100 }),
            Service::Udp(PortRange::ALL),
            Service::Icmp,
            Service::Sctp(PortRange { first: 1, last: 65535 }),
        ]
    );
    assert_eq!(
        path.destinations,
        ["198.51.100.0/24".parse::<Network>().unwrap(), "2001:db8::/32".parse().unwrap()]
    );
    assert_eq!(path.device.as_deref(), Some("eth0"));
    assert_eq!((path.onlink, path.scope, path.when_down), (true, Scope::Local, WhenDown::Main));
    assert_eq!((path.priority, path.log), (32765, true));

    let policy = toml::parse("", &golden("seed.toml")).unwrap();
    let path = &policy.paths[0];
    assert_eq!(policy.mark_mask, DEFAULT_MARK_MASK);
    assert_eq!((&path.device, path.onlink, path.log), (&None, false, false));
    assert_eq!((path.scope, path.when_down), (Scope::Both, WhenDown::Unreachable));
    assert_eq!(path.priority, DEFAULT_PRIORITY);
    assert!(path.ingress.is_empty() && path.destinations.is_empty());
}

#[test]
fn canonical_toml_is_short_and_in_order() {
    let canonical = |name| toml::render(&toml::parse("", &golden(name)).unwrap());
    assert_eq!(canonical("empty.toml"), "");
    let (comment, seed) =
        golden("seed.toml").split_once('\n').map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
    assert!(comment.starts_with('#'));
    assert_eq!(canonical("seed.toml"), seed);
    assert_eq!(canonical("full.toml"), golden("full.canonical.toml"));
    assert_eq!(canonical("auto.toml"), golden("auto.canonical.toml"));
    assert_eq!(
        canonical("tunnel.toml"),
        "[paths.wg]\nmark = 0x1\ntable = 100\ningress = [\"wg0\"]\ndevice = \"wg0\"\n\n\
         [paths.ppp]\nmark = 0x2\ntable = 101\ningress = [\"ppp0\"]\ndevice = \"ppp0\"\n"
    );
    let largest = maximal();
    assert!(toml::parse("", &toml::render(&largest)).unwrap() == largest);
}

fn golden(name: &str) -> String {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/policy");
    std::fs::read_to_string(folder.join(name)).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn parsing_undoes_rendering(policy in any_policy()) {
        let text = toml::render(&policy);
        let parsed = toml::parse("rendered", &text).unwrap();
        prop_assert!(parsed == policy, "{text}");
        prop_assert_eq!(toml::render(&parsed), text);
    }

    /// A slip of the editor anywhere in a good file.
    #[test]
    fn any_edit_is_read_or_told_in_one_line(
        at in any::<prop::sample::Index>(),
        removed in 0usize..4,
        put in "[ -~\n\u{e9}]{0,3}",
    ) {
        let whole = golden("full.toml");
        let start = at.index(whole.len());
        let end = (start + removed).min(whole.len());
        let text = format!("{}{put}{}", &whole[..start], &whole[end..]);
        match toml::parse("p.toml", &text) {
            Ok(policy) => prop_assert_eq!(policy.check(), Ok(())),
            Err(error) => {
                let error = error.to_string();
                prop_assert!(error.starts_with("p.toml:") && error.lines().count() == 1, "{error}");
                prop_assert!(error.contains("; "), "{error}");
            }
        }
    }

    #[test]
    fn noise_is_told_in_one_line(text in "\\PC{0,200}") {
        if let Err(error) = toml::parse("p.toml", &text) {
            prop_assert_eq!(error.to_string().lines().count(), 1);
        }
    }
}

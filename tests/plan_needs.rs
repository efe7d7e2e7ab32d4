//! Which kernel settings a policy needs.

use returnpath::plan::nft::FWMARK_ACCEPT;
use returnpath::plan::{Plan, Port, Sysctl};
use returnpath::policy::{Name, Path, Policy, Scope};

fn name(text: &str) -> Name {
    text.try_into().unwrap()
}

/// `ns/…` of the namespace, `valid PORT` for `src_valid_mark`, `loose PORT` for `rp_filter`.
fn needs(paths: impl IntoIterator<Item = Path>) -> Vec<String> {
    let mut policy = Box::new(Policy::new());
    policy.mark_mask = 0xff;
    policy.paths.extend(paths);
    let port = |port: &Port| match port {
        Port::Named(name) => name.to_string(),
        Port::Towards(gateway) => format!("towards {gateway}"),
    };
    let plan = Plan::new(&policy);
    let show = |sysctl: &Sysctl| match sysctl {
        Sysctl::Namespace(FWMARK_ACCEPT) => "accept".into(),
        Sysctl::Namespace("net/ipv4/fwmark_reflect") => "reflect4".into(),
        Sysctl::Namespace("net/ipv6/fwmark_reflect") => "reflect6".into(),
        Sysctl::Namespace(other) => panic!("{other}"),
        Sysctl::SourceValidMark(of) => format!("valid {}", port(of)),
        Sysctl::LooseReversePath(of) => format!("loose {}", port(of)),
    };
    plan.sysctls.iter().map(show).collect()
}

/// `v4`, `v6`, both, or neither (a tunnel).
fn path(families: &str, scope: Scope, ingress: &[&str], device: Option<&str>) -> Path {
    let mut path = Path::new(name("p"), 1, 100);
    path.gateway4 = families.contains('4').then(|| "10.0.0.2".parse().unwrap());
    path.gateway6 = families.contains('6').then(|| "fd00::2".parse().unwrap());
    path.ingress.extend(ingress.iter().map(|port| name(port)));
    path.device = device.map(name);
    path.scope = scope;
    path
}

#[test]
fn settings_by_scope_family_and_port() {
    use Scope::{Both, Forward, Local};
    let cases = [
        // This host answers: its sockets and its errors inherit the mark.
        (path("4", Local, &["eth1"], None), "accept, reflect4, valid eth1"),
        (path("4", Both, &["eth1"], None), "accept, reflect4, valid eth1, loose eth1"),
        (path("4", Forward, &["eth1"], None), "valid eth1, loose eth1"),
        // IPv6 has no reverse-path filter, and its sockets heed the IPv4 setting.
        (path("6", Local, &["eth1"], None), "accept, reflect6"),
        (path("6", Both, &["eth1"], None), "accept, reflect6"),
        (path("6", Forward, &["eth1"], None), ""),
        (path("46", Local, &["eth1"], None), "accept, reflect4, reflect6, valid eth1"),
        (path("46", Forward, &["eth1"], None), "valid eth1, loose eth1"),
        (path("", Both, &["wg0"], Some("wg0")), "accept, reflect4, reflect6, valid wg0, loose wg0"),
        // The ports where frames come in; where none is declared, the one where the gateway is.
        (
            path("4", Both, &["eth1", "eth2"], Some("eth0")),
            "accept, reflect4, valid eth1, loose eth1, valid eth2, loose eth2",
        ),
        (path("4", Local, &[], Some("eth0")), "accept, reflect4, valid eth0"),
        (path("4", Local, &[], None), "accept, reflect4, valid towards 10.0.0.2"),
    ];
    for (path, expected) in cases {
        assert_eq!(needs([path.clone()]).join(", "), expected, "{path:?}");
    }
}

#[test]
fn each_setting_once_whatever_the_number_of_paths() {
    let (local4, both4) =
        (path("4", Scope::Local, &["eth1"], None), path("4", Scope::Both, &["eth1", "eth2"], None));
    assert_eq!(
        needs([local4, both4]).join(", "),
        "accept, reflect4, valid eth1, loose eth1, valid eth2, loose eth2"
    );
    // IPv6 answered here, IPv4 only forwarded: each family by itself.
    let paths = [path("6", Scope::Local, &["eth1"], None), path("4", Scope::Forward, &["eth1"], None)];
    assert_eq!(needs(paths).join(", "), "accept, reflect6, valid eth1, loose eth1");
    assert!(needs([]).is_empty());
}

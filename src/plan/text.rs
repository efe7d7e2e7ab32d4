//! The plan as a shell script of `ip`, `nft` and `sysctl` commands, for people and for review.
//!
//! Run by hand in an empty network namespace it leaves the kernel in the very state that `returnpath apply`
//! leaves it in; a test compares the two.

use super::chains::{forget_foreign_bits, strict_source};
use super::nft::{
    Base, Chain, Direction, Elements, INHERITED, Key, OWNER, ROOM, Set, State, Statement, TABLE, Table,
};
use super::transition::Step;
use super::ways::{Family, LAST_METRIC, Next, PROTOCOL, Route, Rule};
use super::{Plan, Port, Sysctl};
use crate::policy::{Mac, Network, PortRange};
use core::fmt::{self, Display, Formatter};
use core::net::IpAddr;

/// The whole script.
pub fn render(plan: &Plan) -> String {
    plan.to_string()
}

impl Display for Plan {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "#!/bin/sh\nset -e\n\n# Ways: one table a path; what is marked looks it up.")?;
        self.ways.routes.iter().try_for_each(|route| writeln!(f, "{route}"))?;
        self.ways.rules.iter().try_for_each(|rule| writeln!(f, "{rule}"))?;
        writeln!(f, "\n# Marks.\nnft -f - <<'EOF'\n{}EOF", self.table)?;
        self.fmt_macs(f)?;
        if !self.sysctls.is_empty() {
            self.fmt_sysctls(f)?;
        }
        write!(
            f,
            "\n# Drop the routes that open sockets remember.\nsysctl -qw net.ipv4.route.flush=1\nsysctl -qew net.ipv6.route.flush=1\n"
        )?;
        if !self.table_names.is_empty() {
            writeln!(f, "\n# Names of the tables; /etc/iproute2/rt_tables.d/returnpath.conf:")?;
            self.table_names.iter().try_for_each(|(table, name)| writeln!(f, "#   {table} {name}"))?;
        }
        Ok(())
    }
}

impl Plan {
    fn fmt_sysctls(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(SYSCTL_FUNCTIONS)?;
        let mut found = None; // the gateway that $port is for
        for sysctl in &self.sysctls {
            let port = match sysctl {
                Sysctl::Namespace(_) => "",
                Sysctl::SourceValidMark(Port::Named(port)) | Sysctl::LooseReversePath(Port::Named(port)) => {
                    port
                }
                Sysctl::SourceValidMark(Port::Towards(gateway))
                | Sysctl::LooseReversePath(Port::Towards(gateway)) => {
                    if found.replace(gateway) != Some(gateway) {
                        writeln!(f, "port=$(towards {gateway})")?;
                    }
                    "$port"
                }
            };
            match sysctl {
                Sysctl::Namespace(name) => {
                    write!(f, "need {name} 1")?;
                    if let Some(rule) = forget_foreign_bits(name, self.mark_mask) {
                        write!(f, " &&\n    nft add rule inet {TABLE} {INHERITED} '{}'", RuleText(&rule))?;
                    }
                    writeln!(f)?;
                }
                Sysctl::SourceValidMark(_) => writeln!(
                    f,
                    "[ \"$(reverse_path \"{port}\")\" != 0 ] && need \"net/ipv4/conf/{port}/src_valid_mark\" 1"
                )?,
                Sysctl::LooseReversePath(_) => {
                    let rule = RuleText(&strict_source(port)).to_string().replace('"', "\\\"");
                    writeln!(
                        f,
                        "[ \"$(reverse_path \"{port}\")\" = 1 ] && need \"net/ipv4/conf/{port}/rp_filter\" 2 &&"
                    )?;
                    writeln!(f, "    nft add rule inet {TABLE} prerouting \"{rule}\"")?;
                }
            }
        }
        Ok(())
    }
}

/// `need` remembers in the table what a setting was, then changes it: once, and only where it differs.
const SYSCTL_FUNCTIONS: &str = r#"
# Settings. What they were stays in the table, for `returnpath remove`.
set +e
need() {
    was=$(sysctl -n "$1") && [ "$was" != "$2" ] &&
        nft add rule inet returnpath sysctls return comment "\"$1=$was\"" &&
        sysctl -qw "$1=$2"
}
reverse_path() { # the filter that holds for a port: the larger of its own setting and that for all
    { sysctl -n net/ipv4/conf/all/rp_filter; sysctl -n "net/ipv4/conf/$1/rp_filter"; } | sort -n | tail -n 1
}
towards() { # the port on which a gateway is
    ip -o route get "$1" | sed -n 's/.* dev \([^ ]*\) .*/\1/p'
}
"#;

impl Display for Step {
    /// As a command of `ip`.
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Step::AddRoute(route) => route.fmt_as("add", f),
            Step::ReplaceRoute { new, .. } => new.fmt_as("replace", f),
            Step::DelRoute(route) => route.fmt_as("del", f),
            Step::AddRule(rule) => rule.fmt_as("add", f),
            Step::DelRule(rule) => rule.fmt_as("del", f),
        }
    }
}

impl Display for Route {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.fmt_as("add", f)
    }
}

impl Display for Rule {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.fmt_as("add", f)
    }
}

impl Route {
    fn fmt_as(&self, verb: &str, f: &mut Formatter<'_>) -> fmt::Result {
        let Route { family, table, next } = self;
        write!(f, "ip -{} route {verb} ", family.digit())?;
        match next {
            Next::Gateway { address, device, onlink } => {
                write!(f, "default via {address}")?;
                if let Some(device) = device {
                    write!(f, " dev {device}")?;
                }
                write!(f, " table {table} protocol {PROTOCOL}{}", if *onlink { " onlink" } else { "" })
            }
            Next::Device(device) => write!(f, "default dev {device} table {table} protocol {PROTOCOL}"),
            Next::Unreachable => {
                write!(f, "unreachable default table {table} protocol {PROTOCOL} metric {LAST_METRIC}")
            }
        }
    }
}

impl Rule {
    fn fmt_as(&self, verb: &str, f: &mut Formatter<'_>) -> fmt::Result {
        let Rule { family, priority, mark, mask, table } = self;
        let family = family.digit();
        write!(
            f,
            "ip -{family} rule {verb} fwmark {mark:#x}/{mask:#x} table {table} priority {priority} protocol {PROTOCOL}"
        )
    }
}

impl Display for Table {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "table inet {TABLE} {{\n\tcomment \"{OWNER}\"")?;
        if !self.counters.is_empty() {
            f.write_str(COUNTERS)?;
        }
        self.counters.iter().try_for_each(|name| writeln!(f, "\tcounter {name} {{ }}"))?;
        self.sets.iter().try_for_each(|set| write!(f, "\n{set}"))?;
        self.chains.iter().try_for_each(|chain| write!(f, "\n{chain}"))?;
        writeln!(f, "}}")
    }
}

const COUNTERS: &str = "
	# Of each path: connections taken, packets from its router, replies that left by it, and by another way.
";

impl Display for Set {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let is_map = self.elements.verdict_count().is_some();
        writeln!(f, "\t{} {} {{", if is_map { "map" } else { "set" }, self.name)?;
        writeln!(f, "\t\ttype {}", self.elements.types())?;
        if let Elements::Marks(_) = self.elements {
            writeln!(f, "\t\tsize {ROOM}")?;
        }
        if !is_map {
            writeln!(f, "\t\tflags constant,interval")?;
        }
        if self.elements.verdict_count() != Some(0) {
            writeln!(f, "\t\telements = {{ {} }}", self.elements)?;
        }
        writeln!(f, "\t}}")
    }
}

impl Elements {
    /// How many elements a map has; `None` for a set.
    fn verdict_count(&self) -> Option<usize> {
        match self {
            Elements::Services(_) | Elements::Networks(..) => None,
            Elements::PortsAndMacs(list) => Some(list.len()),
            Elements::Macs(list) => Some(list.len()),
            Elements::Ports(list) => Some(list.len()),
            Elements::Marks(list) => Some(list.len()),
        }
    }

    fn types(&self) -> &'static str {
        match self {
            Elements::Services(_) => "inet_service",
            Elements::Networks(Family::V4, _) => "ipv4_addr",
            Elements::Networks(Family::V6, _) => "ipv6_addr",
            Elements::PortsAndMacs(_) => "ifname . ether_addr : verdict",
            Elements::Macs(_) => "ether_addr : verdict",
            Elements::Ports(_) => "ifname : verdict",
            Elements::Marks(_) => "mark : verdict",
        }
    }
}

impl Display for Elements {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Elements::Services(list) => {
                list_of(f, list, |f, PortRange { first, last }| match first == last {
                    true => write!(f, "{first}"),
                    false => write!(f, "{first}-{last}"),
                })
            }
            Elements::Networks(_, list) => {
                list_of(f, list, |f, Network { address, prefix }| match (address, prefix) {
                    (IpAddr::V4(_), 32) | (IpAddr::V6(_), 128) => write!(f, "{address}"),
                    _ => write!(f, "{address}/{prefix}"),
                })
            }
            Elements::PortsAndMacs(list) => list_of(f, list, |f, ((port, mac), chain)| {
                write!(f, "\"{port}\" . {} : goto {chain}", MacText(*mac))
            }),
            Elements::Macs(list) => {
                list_of(f, list, |f, (mac, chain)| write!(f, "{} : goto {chain}", MacText(*mac)))
            }
            Elements::Ports(list) => {
                list_of(f, list, |f, (port, chain)| write!(f, "\"{port}\" : goto {chain}"))
            }
            Elements::Marks(list) => {
                list_of(f, list, |f, (mark, chain)| write!(f, "{mark:#x} : goto {chain}"))
            }
        }
    }
}

fn list_of<T>(
    f: &mut Formatter<'_>,
    list: &[T],
    one: impl Fn(&mut Formatter<'_>, &T) -> fmt::Result,
) -> fmt::Result {
    list.iter().enumerate().try_for_each(|(i, item)| {
        f.write_str(if i == 0 { "" } else { ",\n\t\t\t     " })?;
        one(f, item)
    })
}

struct MacText(Mac);

impl Display for MacText {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl Display for Chain {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "\tchain {} {{", self.name)?;
        if let Some(base) = self.base {
            let hook = match base {
                Base::Prerouting => "filter hook prerouting",
                Base::Output => "route hook output",
                Base::Input => "filter hook input",
                Base::Postrouting => "filter hook postrouting",
            };
            writeln!(f, "\t\ttype {hook} priority {}; policy accept;", base.priority())?;
        }
        self.rules.iter().try_for_each(|rule| writeln!(f, "\t\t{}", RuleText(rule)))?;
        writeln!(f, "\t}}")
    }
}

/// A rule as nft has it.
pub struct RuleText<'a>(pub &'a [Statement]);

impl Display for RuleText<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.0
            .iter()
            .enumerate()
            .try_for_each(|(i, statement)| write!(f, "{}{statement}", if i == 0 { "" } else { " " }))
    }
}

impl Display for Statement {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let ip = |family: &Family| match family {
            Family::V4 => "ip",
            Family::V6 => "ip6",
        };
        match self {
            Statement::CtMarkSet(mask) => write!(f, "ct mark & {mask:#x} != 0"),
            Statement::MetaMarkSet(mask) => write!(f, "meta mark & {mask:#x} != 0"),
            Statement::MetaMarkClear(mask) => write!(f, "meta mark & {mask:#x} == 0"),
            Statement::CtState(State::New) => f.write_str("ct state new"),
            Statement::CtState(State::Own) => f.write_str("ct state established,new"),
            Statement::CtState(State::Related) => f.write_str("ct state related"),
            Statement::CtExpected => f.write_str("ct status expected"),
            Statement::CtUnassured => f.write_str("ct status ! assured"),
            Statement::CtDirection(Direction::Original) => f.write_str("ct direction original"),
            Statement::CtDirection(Direction::Reply) => f.write_str("ct direction reply"),
            Statement::CtLabel(bit) => write!(f, "ct label {bit}"),
            Statement::L4Proto(protocol) => write!(f, "meta l4proto {protocol}"),
            Statement::NfProto(Family::V4) => f.write_str("meta nfproto ipv4"),
            Statement::NfProto(Family::V6) => f.write_str("meta nfproto ipv6"),
            Statement::FibLocal(true) => f.write_str("fib daddr type local"),
            Statement::FibLocal(false) => f.write_str("fib daddr type != local"),
            Statement::ArrivedBy(port) => write!(f, "iifname \"{port}\""),
            Statement::LeavesBy(port) => write!(f, "oifname \"{port}\""),
            Statement::NextHop(IpAddr::V4(address)) => write!(f, "rt ip nexthop {address}"),
            Statement::NextHop(IpAddr::V6(address)) => write!(f, "rt ip6 nexthop {address}"),
            Statement::SourceElsewhere => f.write_str("fib saddr . iif oif missing"),
            Statement::CtServiceIn(set) => write!(f, "ct original proto-dst @{set}"),
            Statement::SourceIn(family, set) => write!(f, "{} saddr @{set}", ip(family)),
            Statement::CtDestinationNotIn(family, set) => {
                write!(f, "ct original {} daddr != @{set}", ip(family))
            }
            Statement::Dispatch(Key::PortAndMac, map) => write!(f, "iifname . ether saddr vmap @{map}"),
            Statement::Dispatch(Key::Mac, map) => write!(f, "ether saddr vmap @{map}"),
            Statement::Dispatch(Key::Port, map) => write!(f, "iifname vmap @{map}"),
            Statement::Dispatch(Key::MetaMark(mask), map) => write!(f, "meta mark & {mask:#x} vmap @{map}"),
            Statement::Dispatch(Key::CtMark(mask), map) => write!(f, "ct mark & {mask:#x} vmap @{map}"),
            Statement::SetCtMark { mask, mark } => {
                write!(f, "ct mark set ct mark & {:#x} | {mark:#x}", !mask)
            }
            Statement::SetMetaMark { mask, mark: 0 } => write!(f, "meta mark set meta mark & {:#x}", !mask),
            Statement::SetMetaMark { mask, mark } => {
                write!(f, "meta mark set meta mark & {:#x} | {mark:#x}", !mask)
            }
            Statement::SetCtLabel(bit) => write!(f, "ct label set {bit}"),
            Statement::Count(counter) => write!(f, "counter name {counter}"),
            Statement::Limit => f.write_str("limit rate 10/minute"),
            Statement::Log(prefix) => write!(f, "log prefix \"{prefix}\""),
            Statement::Accept => f.write_str("accept"),
            Statement::Drop => f.write_str("drop"),
            Statement::Return => f.write_str("return"),
            Statement::Remember(line) => write!(f, "return comment \"{line}\""),
            Statement::Goto(chain) => write!(f, "goto {chain}"),
            Statement::Jump(chain) => write!(f, "jump {chain}"),
        }
    }
}

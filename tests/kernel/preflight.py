"""The cases of `check`, and of what `apply` looks at before it changes anything: beside the programs as they are."""

from __future__ import annotations

import errno
import json
import re
import tomllib
from pathlib import Path

import gate
import policies
from bad import HINDRANCES
from case import Bench, bystanders, case, one_line, require, unchanged
from machine import Machine, for_policy, snapshot
from policies import UPDATES

BASE = UPDATES["base"]
ROUTER2 = policies.path("router2", 2, 200, 2, services=None)  # its port is not that of the default route
MACS = '["52:54:00:c2:a5:43"]'
BY_MAC = policies.path("router2", 2, 200, 2, ingress=None, source_macs=MACS, services=None)

NIXOS_NAT = """
iptables-nft -t nat -N nixos-nat-pre
iptables-nft -t nat -A PREROUTING -j nixos-nat-pre
iptables-nft -t nat -A nixos-nat-pre -i eth2 -j MARK --set-mark 1
iptables-nft -t nat -N nixos-nat-post
iptables-nft -t nat -A POSTROUTING -j nixos-nat-post
iptables-nft -t nat -A nixos-nat-post -o eth0 -m mark --mark 1 -j MASQUERADE
"""


def nft(rules: str, hook: str = "type filter hook prerouting priority 0") -> str:
    return f"nft -f - <<END\ntable inet theirs {{\n chain c {{\n  {hook};\n  {rules}\n }}\n}}\nEND\n"


def check(bench: Bench, host: Machine, text: str, *switches: str, code: int = 0) -> list[dict[str, str]]:
    """What `check` finds; it changes nothing, and says the same to people."""
    image = bench.image(text)
    before = snapshot(host)
    args = [bench.programs.firmware, "check", "--policy", image, *switches]
    found, told = host.finish(*args, "--json"), host.finish(*args)
    unchanged(host, before, "check changed something")
    for done in (found, told):
        require(done.returncode == code, f"exit {done.returncode}, not {code}: {done.stdout}{done.stderr}")
        require(not done.stderr, f"it said beside: {done.stderr}")
    report = json.loads(found.stdout)
    require(report["version"] == 1 and set(report) == {"version", "findings"}, f"version 1 has other keys: {report}")
    lines = [f"{each['severity']}: {each['line']}" for each in report["findings"]]
    paths = len(tomllib.loads(text).get("paths", {}))
    expected = lines or [f"nothing is in the way of {image}: {paths} path{'s' * (paths != 1)}"]
    require(told.stdout.splitlines() == expected, f"told: {told.stdout}")
    return report["findings"]


def codes(findings: list[dict[str, str]]) -> list[str]:
    return [each["code"] for each in findings]


def none(findings: list[dict[str, str]], when: str) -> None:
    require(not findings, f"{when}: " + "\n".join(each["line"] for each in findings))


def one(findings: list[dict[str, str]], code: str, *words: str) -> str:
    """The line of the only finding."""
    require(codes(findings) == [code], f"not {code} alone: {findings}")
    require(findings[0]["severity"] == "warning", f"not a warning: {findings}")
    for word in words:
        require(word in findings[0]["line"], f"it does not say `{word}`: {findings[0]['line']}")
    return findings[0]["line"]


# 1. No false alarm


@case("preflight/silent")
def silent(bench: Bench) -> None:
    """Nothing is in the way on a host with nothing else on it, neither before our table is there nor after."""
    for name, text in policies.every().items():
        with for_policy(text) as host:
            none(check(bench, host, text), f"{name}, before")
            said = bench.apply(host, bench.image(text))
            require(": it " not in said, f"{name}: apply warned: {said}")
            none(check(bench, host, text, "--strict"), f"{name}, in force")


@case("preflight/bystanders")
def only_what_is_true(bench: Bench) -> None:
    with Machine() as host:
        bystanders(host)
        found = {each["code"]: each["line"] for each in check(bench, host, BASE)}
        require(found.keys() == {"rule-first", "mark-bits"}, f"{found}")
        require(found["rule-first"].startswith("ip -4 rule 1000: it comes first, and sends some replies"), f"{found}")
        require(
            found["mark-bits"].startswith("chain inet filter input: it looks for 0x2 of the connection"), f"{found}"
        )


# 2. Rules that come first

FIRST = {
    "all": ("table 400", "-4", "sends replies of path router2 to table 400"),
    "unmarked-by-others": ("fwmark 0/0xff0000 table 400", "-4", "sends replies"),
    "main": ("table main", "-4", "sends replies of path router2 to table main"),
    "from": ("from 10.9.0.0/16 table 400", "-4", "sends some replies"),
    "not-from": ("not from 10.9.0.0/16 table 400", "-6", "sends some replies"),
    "goto": ("goto 32766", "-4", "passes replies of path router2 by ours"),
    "blackhole": ("from 10.9.0.0/16 blackhole", "-6", "refuses some replies"),
}


def comes_first(bench: Bench, rule: str, family: str, words: str) -> None:
    rule = rule.replace("10.9.0.0/16", "10.9.0.0/16" if family == "-4" else "2001:db8::/32")
    with Machine() as host:
        host.run("ip", family, "rule", "add", *rule.split(), "priority", "900")
        line = one(check(bench, host, ROUTER2), "rule-first", f"ip {family} rule 900: ", words)
        above, below = map(int, re.findall(r"above (\d+), or ours a `priority` below (\d+)", line)[0])
        none(check(bench, host, ROUTER2 + f"priority = {below - 1}\n"), "with a lower priority")
        host.run("ip", family, "rule", "del", "priority", "900")
        host.run("ip", family, "rule", "add", *rule.split(), "priority", str(above + 1))
        none(check(bench, host, ROUTER2), "with a higher one of theirs")


for _name, _parameters in FIRST.items():
    case(f"preflight/rule-first/{_name}", *_parameters)(comes_first)


@case("preflight/rule-first/wg-quick")
def wg_quick(bench: Bench) -> None:
    """A rule without a priority goes before all others but the first: also before ours."""
    with Machine() as host:
        bench.apply(host, bench.image(ROUTER2))
        host.batch("rule add not fwmark 0xca00 table 51820", "rule add table main suppress_prefixlength 0")
        one(check(bench, host, ROUTER2), "rule-first", "rule 999", "table 51820")


# 3. Reverse-path filters

RPFILTER = """
nft -f - <<END
table inet nixos-fw {
  chain rpfilter {
    type filter hook prerouting priority mangle + 10; policy drop;
    meta nfproto ipv4 udp sport . udp dport { 67 . 68, 68 . 67 } accept
    fib saddr . mark . iif oif exists accept
    jump rpfilter-allow
  }
  chain rpfilter-allow { }
}
END
"""
RPFILTER_IPTABLES = """
iptables-nft -t mangle -N nixos-fw-rpfilter
iptables-nft -t mangle -A nixos-fw-rpfilter -m rpfilter --validmark -j RETURN
iptables-nft -t mangle -A nixos-fw-rpfilter -j DROP
iptables-nft -t mangle -A PREROUTING -j nixos-fw-rpfilter
"""
ALLOW = "nft add rule inet nixos-fw rpfilter-allow"
STRICT = "meta nfproto ipv6 fib saddr . mark . iif oif missing drop"  # firewalld's
FILTERS: dict[str, tuple[str, str, str]] = {
    "nixos": (RPFILTER, ROUTER2, f"{ALLOW} iifname eth1 accept"),
    "nixos-mac": (RPFILTER, BY_MAC, f"{ALLOW} ether saddr 52:54:00:c2:a5:43 ip saddr != 10.0.0.0/24 accept"),
    "nixos-sets": (RPFILTER, ROUTER2, f"{ALLOW} iifname {{ eth1, eth2 }} accept"),
    "iptables": (
        RPFILTER_IPTABLES,
        BY_MAC,
        "iptables-nft -t mangle -I nixos-fw-rpfilter -m mac --mac-source 52:54:00:c2:a5:43 -j RETURN",
    ),
    "iptables-port": (RPFILTER_IPTABLES, ROUTER2, "iptables-nft -t mangle -I nixos-fw-rpfilter -i eth1 -j RETURN"),
    "firewalld": (
        nft(STRICT, "type filter hook prerouting priority filter + 10"),
        ROUTER2,
        "nft insert rule inet theirs c iifname eth1 accept",
    ),
    "forward": (
        nft("fib saddr . mark . iif oif missing drop", "type filter hook forward priority 0"),
        ROUTER2,
        "nft insert rule inet theirs c iifname eth1 accept",
    ),
    "input": (
        nft("fib saddr . iif oif missing drop", "type filter hook input priority 0"),
        ROUTER2,
        "nft insert rule inet theirs c iifname eth1 accept",
    ),
    "nft": (
        nft("fib saddr . iif oif 0 drop", "type filter hook prerouting priority raw"),
        ROUTER2 + 'scope = "local"\n',
        "nft insert rule inet theirs c iifname eth1 accept",
    ),
}


def reverse_path(bench: Bench, setup: str, text: str, remedy: str) -> None:
    with Machine() as host:
        host.sh(setup)
        one(check(bench, host, text), "reverse-path", "it drops frames of path router2")
        same_port = text.replace("10.1.0.2", "10.0.0.2").replace("fd01", "fd00").replace("eth1", "eth0")
        none(check(bench, host, same_port), "by the default route's port")
        host.sh(remedy)
        none(check(bench, host, text), "with an exception")


for _name, _parameters in FILTERS.items():
    case(f"preflight/reverse-path/{_name}", *_parameters)(reverse_path)


@case("preflight/reverse-path/harmless")
def harmless_filters(bench: Bench) -> None:
    """One that is loose, that only counts, that is asked elsewhere, or that knows the mark."""
    late = "type filter hook prerouting priority 0"
    for rules, hook, text in [
        ("fib saddr . mark oif missing drop", late, ROUTER2),
        ("fib saddr . iif oif missing counter", late, ROUTER2),
        ("fib saddr . iif oif missing drop", "type filter hook forward priority 0", ROUTER2 + 'scope = "local"\n'),
        (STRICT, late, ROUTER2 + 'scope = "local"\n'),
        (STRICT, late, ROUTER2.replace('"10.1.0.2", "fd01::2"', '"10.1.0.2"')),
    ]:
        with Machine() as host:
            host.sh(nft(rules, hook))
            none(check(bench, host, text), f"{rules} ({hook})")


# 4. Routers and ports


@case("preflight/mac-other")
def other_mac(bench: Bench) -> None:
    with Machine() as host:
        host.batch("neigh add 10.1.0.2 dev eth1 lladdr 52:54:00:c2:a5:44")
        line = one(check(bench, host, BY_MAC), "mac-other", "10.1.0.2", "52:54:00:c2:a5:44")
        require(line.startswith("path router2: "), line)
        none(check(bench, host, BY_MAC.replace(MACS, MACS[:-1] + ', "52:54:00:c2:a5:44"]')), "with both")
        none(check(bench, host, ROUTER2), "by port")
        host.batch("neigh replace 10.1.0.2 dev eth1 lladdr 52:54:00:c2:a5:43")
        none(check(bench, host, BY_MAC), "with the right one")


@case("preflight/mac-shared")
def shared_mac(bench: Bench) -> None:
    """The default gateway has the MAC of a path, or another path's gateway has."""
    one_lan = policies.path("router2", 2, 200, 1, ingress=None, source_macs=MACS)
    with Machine() as host:
        host.batch("neigh add 10.0.0.1 dev eth0 lladdr 52:54:00:c2:a5:43")
        one(check(bench, host, one_lan), "mac-shared", "router 10.0.0.1", "path router2")
        host.batch("neigh replace 10.0.0.1 dev eth0 lladdr 52:54:00:c2:a5:01")
        none(check(bench, host, one_lan), "with one of its own")
        host.batch(
            "-6 route replace default via fe80::2 dev eth0", "-6 neigh add fe80::2 dev eth0 lladdr 52:54:00:c2:a5:43"
        )
        one(check(bench, host, one_lan), "mac-shared", "router fe80::2", "path router2")
        none(check(bench, host, one_lan.replace(', "fd00::2"', "")), "without IPv6")
        host.batch("-6 neigh add fd00::2 dev eth0 lladdr 52:54:00:c2:a5:43")
        none(check(bench, host, one_lan), "with two addresses of one router")
        two = one_lan + policies.path("b", 3, 201, 3, gateways='["10.0.0.3"]')
        host.batch("neigh add 10.0.0.3 dev eth0 lladdr 52:54:00:c2:a5:43")
        one(check(bench, host, two), "mac-shared", "router 10.0.0.3", "path router2")


@case("preflight/mac-two-ports")
def mac_behind_two_ports(bench: Bench) -> None:
    with Machine() as host:
        host.batch(*(f"neigh add 10.{n}.0.2 dev eth{n} lladdr 52:54:00:c2:a5:43" for n in (1, 2)))
        one(check(bench, host, BY_MAC), "mac-two-ports", "behind eth", "ingress")
        none(check(bench, host, BY_MAC + 'ingress = ["eth1"]\n'), "with its port named")


@case("preflight/ports")
def ports(bench: Bench) -> None:
    with Machine() as host:
        host.batch("link add br0 type bridge", "link set br0 up", "link set peer1 down")
        host.batch("link set eth2 master br0")
        enslaved = policies.path("router3", 3, 203, 2, ingress='["eth2"]')
        one(check(bench, host, enslaved), "port-enslaved", "eth2", "br0")
        bridge = Path("/proc/sys/net/bridge")
        with host.inside():
            settings = sorted(file.name for file in bridge.glob("bridge-nf-call-ip*"))
            for name in settings:  # only with the module br_netfilter
                (bridge / name).write_text("1\n")
        found = check(bench, host, enslaved.replace("eth2", "br0"))
        require(codes(found) == ["bridge-netfilter"] * len(settings), f"{settings}: {found}")
        with host.inside():
            for name in settings:
                (bridge / name).write_text("0\n")
        none(check(bench, host, enslaved.replace("eth2", "br0")), "with the bridge named, and its calls off")
        one(check(bench, host, enslaved.replace("eth2", "usb0")), "port-missing", "usb0")


# 5. What would be refused


def refusal(bench: Bench, text: str, preparation: tuple[str, ...], words: tuple[str, ...]) -> None:
    with Machine() as host:
        for line in preparation:
            host.sh(line)
        found = [each["line"] for each in check(bench, host, text, code=4) if each["severity"] == "refusal"]
        require(any(all(word in line for word in words) for line in found), f"nothing says {words}: {found}")


for _name, _parameters in HINDRANCES.items():
    case(f"preflight/refusal/{_name}", *_parameters)(refusal)


@case("preflight/refusal/own-address")
def own_address(bench: Bench) -> None:
    for device in (None, '"eth1"'):
        with Machine() as host:
            text = policies.path("a", 1, 101, 2, gateways='["10.1.0.10"]', device=device)
            found = check(bench, host, text, code=4)
            require("it is an address of this host" in found[0]["line"], f"{device}: {found}")


@case("preflight/told-once")
def told_once(bench: Bench) -> None:
    """A thing has one line, whatever it is in the way of."""
    with Machine() as host:
        usb = policies.path("a", 1, 101, 1, device='"usb0"', ingress='["usb0"]')
        found = check(bench, host, usb, code=4)
        require(codes(found) == ["next-hop"], f"a port that both families lack: {found}")
        two = policies.path("y", 3, 103, 1, ingress='["usb0"]', source_macs='["52:54:00:00:00:01"]')
        two += policies.path("z", 4, 104, 2, ingress='["usb0"]', source_macs='["52:54:00:00:00:02"]')
        found = check(bench, host, two)
        require(codes(found) == ["port-missing"], f"a port of two paths: {found}")
        host.sh("ip rule add fwmark 0x2/0xff table 102 priority 1000 protocol 4")
        host.sh("ip -6 route add 2001:db8::/64 via fd00::9 table 102")
        found = check(bench, host, BASE, code=4)
        require(codes(found) == ["taken"] * 2, f"a rule and a route in places of ours: {found}")
        require("protocol 82" in found[0]["line"] and found[0]["line"].endswith("; see `ip -4 rule`"), f"{found}")


# 6. The kernel's own means


def renaming(old: bytes, new: bytes, ends: list[gate.Call]):  # noqa: ANN201
    """Renames an expression in each batch under way, so that the kernel does not know it; keeps batches with an end."""

    def judge(call: gate.Call) -> None:
        if gate.is_batch(call):
            call.overwrite(call.args[1], call.data().replace(old + b"\0", new + b"\0"))
            if any(kind == gate.BATCH_END for kind, _ in gate.messages(call.data())):
                ends.append(call)

    return judge


@case("preflight/kernel-feature/limit", b"limit", b"limix", "CONFIG_NFT_LIMIT")
@case("preflight/kernel-feature/log", b"log", b"lox", "CONFIG_NFT_LOG")
@case("preflight/kernel-feature/ct", b"ct", b"cx", "CONFIG_NFT_CT")
def features(bench: Bench, old: bytes, new: bytes, option: str) -> None:
    """An expression that the kernel has not is named: by a batch that is not carried out, or that is refused."""
    image = bench.image(ROUTER2 + "log = true\n")
    ends: list[gate.Call] = []
    with Machine() as host:
        before = snapshot(host)
        firmware = bench.programs.firmware
        done = host.gated([firmware, "check", "--json", "--policy", image], ["sendto"], renaming(old, new, ends))
        found = json.loads(done.stdout)["findings"]
        require(done.code == 4 and codes(found) == ["kernel-feature"], f"exit {done.code}: {found}")
        require(found[0]["line"].startswith(f"{option}: the kernel is without it"), f"{option}: {found}")
        require(not ends, "`check` sent a batch whole")
        done = host.gated(bench.programs.apply(image), ["sendto"], renaming(old, new, ends))
        require(done.code == 4 and option in one_line(done.stderr), f"exit {done.code}: {done.stderr}")
        unchanged(host, before, "after the refusal")


@case("preflight/kernel-feature/ipv6")
def without_ipv6(bench: Bench) -> None:
    """As in a kernel without it: no settings, and no answers."""

    def judge(call: gate.Call) -> gate.Refuse | None:
        return gate.Refuse(errno.ENOENT) if "/net/ipv6/" in call.path() else None

    with Machine() as host:
        args = [bench.programs.firmware, "check", "--json", "--policy", bench.image(ROUTER2)]
        done = host.gated(args, ["open", "openat"], judge)
        found = json.loads(done.stdout)["findings"]
        require(done.code == 4 and found[0]["line"].startswith("IPv6: "), f"exit {done.code}: {found}")


# 7. Apply


@case("preflight/strict")
def strict(bench: Bench) -> None:
    image = bench.image(BASE)
    with Machine() as host:
        host.sh(NIXOS_NAT)
        bystanders(host)
        before = snapshot(host)
        for switches, code in ((["--strict"], 4), ([], 0)):
            check(bench, host, BASE, *switches, code=code)
        said = bench.firmware(host, "apply", "--policy", image, "--strict", code=4)
        require("refused by --strict, and nothing is changed: " in one_line(said), said)
        require("more: see `returnpath check`" in said, said)
        unchanged(host, before, "after apply --strict")
        warnings = [line for line in bench.apply(host, image).splitlines() if ": it " in line]
        require(len(warnings) == len(check(bench, host, BASE)), f"apply did not warn of each: {warnings}")
        said = bench.firmware(host, "apply", "--policy", image, "--strict")
        require(said.splitlines()[0].endswith("in force already"), f"it looks although nothing changes: {said}")
        host.sh("nft delete table ip nat; nft delete table inet filter; ip rule del from 10.9.0.0/16")
        host.run("ip", "rule", "del", "priority", "1000", "fwmark", "0x1/0xff")
        bench.firmware(host, "apply", "--policy", image, "--strict")


@case("preflight/strict-undoes-nothing")
def strict_update(bench: Bench) -> None:
    with Machine() as host:
        bench.apply(host, bench.image(BASE))
        bystanders(host)
        before = snapshot(host)
        bench.firmware(host, "apply", "--strict", "--policy", bench.image(UPDATES["tables-swapped"]), code=4)
        unchanged(host, before, "after apply --strict")


@case("preflight/wait")
def waiting(bench: Bench) -> None:
    """What starts before the network is told of warnings, and not refused for them."""
    with Machine() as host:
        bystanders(host)
        said = bench.firmware(host, "apply", "--wait", "--policy", bench.image(BASE))
        require("in force" in said and "chain inet filter input: " in said, said)


@case("preflight/usage")
def usage(bench: Bench) -> None:
    with Machine() as host:
        for args in (
            ["check", "--polisy", "x"],
            ["check", "x"],
            ["apply", "--json"],
            ["status", "--strict"],
            ["apply", "--wait", "--strict"],
            ["apply", "--strict", "--strict"],
            ["status", "--json", "--policy", "/nowhere", "--json"],
        ):
            bench.firmware(host, *args, code=2)
        bench.firmware(host, "check", "--policy", "/nowhere", code=3)
        bench.firmware(host, "check", code=6)

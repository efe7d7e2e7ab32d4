"""What is measured: rule sets, as functions that install them on a host."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable

from lab import ROUTER, ROUTER_MAC
from netns import Namespace

Install = Callable[[Namespace], None]
BASE = "conntrack alone"  # what all others are compared with
TRACKING = "table inet tracking { chain nowhere { ct state new; }; }"
PREROUTING, OUTPUT = "filter hook prerouting priority -95", "route hook output priority -150"
POSTROUTING, INPUT = "filter hook postrouting priority 1000", "filter hook input priority 1000"
OBJECTS = f"""
counter c {{ }}
map hit {{ type mark : verdict; elements = {{ 0 : continue, 1 : drop }}; }}
map hit_sized {{ type mark : verdict; size 512; elements = {{ 0 : continue, 1 : drop }}; }}
map miss_sized {{ type mark : verdict; size 512; elements = {{ 1 : drop }}; }}
map counters {{ type mark : counter; elements = {{ 0 : "c" }}; }}
set right {{ type mark . ipv4_addr; elements = {{ 0 . {ROUTER} }}; }}
chain empty {{ }}
"""


def policy(paths: int) -> str:
    """The path that is used is the last one; the others differ from it in mark, table, MAC and gateway."""
    text = 'mark_mask = 0xffff\nlocal_networks = ["10.0.0.0/24"]\n'
    for number in range(paths):
        used = number == paths - 1
        mac = ROUTER_MAC if used else f"02:00:00:01:{number >> 8:02x}:{number & 255:02x}"
        gateway = ROUTER if used else f"10.0.0.{11 + number % 200}"
        text += (
            f'[paths.p{number}]\nmark = {number + 1}\ntable = {1000 + number}\ngateways = ["{gateway}"]\n'
            f'source_macs = ["{mac}"]\nservices = ["tcp/80", "udp/80"]\n'
        )
    return text


class Plan:
    """The plan as the shell script that `returnpath-board plan` prints; what is in it can be exchanged."""

    def __init__(self, text: str) -> None:
        self.text = text

    @classmethod
    def of(cls, board: str, policy: str) -> Plan:
        run = subprocess.run((board, "plan", "/dev/stdin"), input=policy, capture_output=True, text=True, check=True)
        return cls(run.stdout)

    def without(self, chain: str) -> Plan:
        """Without a chain, and without what is added to it later."""
        text, found = re.subn(rf"\n\tchain {chain} {{\n.*?\t}}\n", "", self.text, flags=re.DOTALL)
        if not found:
            raise LookupError(f"no chain {chain}")
        return Plan(re.sub(rf" &&\n +nft add rule inet returnpath {chain} [^\n]*", "", text))

    def uncounted(self) -> Plan:
        return Plan(re.sub(r"counter name \w+ ?", "", self.text))

    def __call__(self, host: Namespace) -> None:
        host.run("sh", "-s", stdin=self.text)


def nft(text: str) -> Install:
    return lambda host: host.nft(text)


def hooks(*bases: str) -> Install:
    """Base chains without rules."""
    chains = "".join(f"chain c{n} {{ type {base}; }}\n" for n, base in enumerate(bases))
    return nft(f"{TRACKING}\ntable inet hooks {{\n{chains}}}")


def ways(host: Namespace) -> None:
    """Rule and table without marks: what any policy routing pays."""
    host.nft(TRACKING)
    host.ip(f"route add default via {ROUTER} table 1000", "rule add fwmark 1/0xffff lookup 1000 priority 1000")


def many(base: str, rule: str) -> Install:
    """The same rule ten times, in a hook of its own."""
    rules = "\n".join([rule] * 10)
    return nft(f"{TRACKING}\ntable inet many {{\n{OBJECTS}\nchain many {{ type {base};\n{rules}\n}}\n}}")


def recipe(paths: int = 1, tool: str = "iptables-nft") -> Install:
    """The classic recipe, as far as it has to be put right: restored first, so that what is saved is never 0."""

    def install(host: Namespace) -> None:
        lines = []
        for mark in range(1, paths + 1):
            lines += [
                f"route add 10.1.0.0/24 dev inner table {1000 + mark}",
                f"route add 10.0.0.0/24 dev outer table {1000 + mark}",
                f"route add default via {ROUTER} table {1000 + mark}",
                f"rule add fwmark {mark} lookup {1000 + mark}",
            ]
        host.ip(*lines)
        rules = ["*mangle", "-A PREROUTING -j CONNMARK --restore-mark"]
        for mark in range(1, paths + 1):
            mac = ROUTER_MAC if mark == paths else f"02:00:00:01:{mark >> 8:02x}:{mark & 255:02x}"
            for protocol in ("tcp", "udp"):
                rules.append(
                    f"-A PREROUTING -p {protocol} --dport 80 -m state --state NEW -m mac --mac-source {mac} "
                    f"! -s 10.0.0.0/24 -j MARK --set-mark {mark}"
                )
        rules += ["-A PREROUTING -j CONNMARK --save-mark", "-A OUTPUT -j CONNMARK --restore-mark", "COMMIT", ""]
        host.run(f"{tool}-restore", stdin="\n".join(rules))

    return install


def subjects(board: str, before: str | None) -> dict[str, Install]:
    """By name; `before` is another build of returnpath-board, to compare with."""
    one = Plan.of(board, policy(1))
    found: dict[str, Install] = {
        BASE: nft(TRACKING),
        f"{BASE}, again": nft(TRACKING),  # what is noise
        "ip rule and table alone": ways,
        "hooks: prerouting, output": hooks(PREROUTING, OUTPUT),
        "hooks: those, postrouting, input": hooks(PREROUTING, OUTPUT, POSTROUTING, INPUT),
        "recipe, iptables-nft": recipe(),
        "recipe, iptables-legacy": recipe(tool="iptables-legacy"),
        "returnpath": one,
        "returnpath, 255 paths": Plan.of(board, policy(255)),
        "returnpath without postrouting": one.without("postrouting"),
        "returnpath without counters": one.without("postrouting").uncounted(),
        "returnpath without input": one.without("input"),
    }
    if before:
        found["before"] = Plan.of(before, policy(1))
        found["before, 255 paths"] = Plan.of(before, policy(255))
    return found


def expressions() -> dict[str, Install]:
    """What a rule costs, ten times over, against its hook alone. No packet here has a mark."""
    found = {BASE: many(PREROUTING, ""), f"{BASE}, again": many(PREROUTING, "")}
    for rule in (
        "meta mark & 0xff != 0",
        "ct mark & 0xff != 0",
        "ct direction reply",
        "ct status expected",
        "ct state new",
        "ct label 82",
        "meta l4proto 1",
        "ct mark & 0xff vmap @hit",
        "ct mark & 0xff vmap @hit_sized",
        "ct mark & 0xff vmap @miss_sized",
        "counter",
        "counter name c",
        "counter name ct mark map @counters",
        "meta mark set meta mark & 0xffffff00 | 0x0",
        "jump empty",
    ):
        found[f"10 × {rule}"] = many(PREROUTING, rule)
    for rule in (f"rt ip nexthop {ROUTER}", "oifname lo", "oif lo", "ct mark . rt ip nexthop @right"):
        found[f"10 × {rule}"] = many(POSTROUTING, rule)
    return found

"""What is measured: rule sets, as functions that install them on a host."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from functools import partial

from lab import ROUTER, ROUTER_MAC, Install, Subject
from netns import Namespace
from peers import mwan3, other_mac, recipe, shorewall

BASE = "conntrack alone"  # what all others are compared with
NOISE = f"{BASE}, again"
WAYS = "ip rule and table alone"
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
        mac = ROUTER_MAC if used else other_mac(number)
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


def ways_alone(paths: int) -> Subject:
    """Rules and tables without marks: what any policy routing pays."""

    def install(host: Namespace) -> None:
        lines = []
        for path in range(1, paths + 1):
            lines.append(f"route add default via {ROUTER} table {1000 + path}")
            lines.append(f"rule add fwmark {path}/0xffff lookup {1000 + path} priority {1000 + path}")
        host.nft(TRACKING)
        host.ip(*lines)

    return Subject(WAYS, install, paths)


def many(base: str, rule: str) -> Install:
    """The same rule ten times, in a hook of its own."""
    rules = "\n".join([rule] * 10)
    return nft(f"{TRACKING}\ntable inet many {{\n{OBJECTS}\nchain many {{ type {base};\n{rules}\n}}\n}}")


def returnpath(board: str, paths: int, name: str = "returnpath") -> Subject:
    return Subject(name, Plan.of(board, policy(paths)), paths, mark=paths)


def base(name: str = BASE) -> Subject:
    return Subject(name, nft(TRACKING))


def subjects(board: str, path_counts: Sequence[int]) -> list[Subject]:
    """What the table is made of."""
    found = [base(), base(NOISE), *map(ways_alone, sorted({1, max(path_counts)}))]
    for make in (partial(returnpath, board), recipe, partial(recipe, tool="iptables-legacy"), mwan3, shorewall):
        found += [make(paths=paths) for paths in path_counts]
    return found


def details(board: str) -> list[Subject]:
    """Where the nanoseconds of one path go."""
    one = Plan.of(board, policy(1))
    return [
        Subject("hooks: prerouting, output", hooks(PREROUTING, OUTPUT)),
        Subject("hooks: those, postrouting, input", hooks(PREROUTING, OUTPUT, POSTROUTING, INPUT)),
        Subject("returnpath without postrouting", one.without("postrouting"), 1, mark=1),
        Subject("returnpath without counters", one.without("postrouting").uncounted(), 1, mark=1),
        Subject("returnpath without input", one.without("input"), 1, mark=1),
    ]


def expressions() -> list[Subject]:
    """What a rule costs, ten times over, against its hook alone. No packet here has a mark."""
    found = [Subject(name, many(PREROUTING, "")) for name in (BASE, NOISE)]
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
        found.append(Subject(f"10 × {rule}", many(PREROUTING, rule)))
    for rule in (f"rt ip nexthop {ROUTER}", "oifname lo", "oif lo", "ct mark . rt ip nexthop @right"):
        found.append(Subject(f"10 × {rule}", many(POSTROUTING, rule)))
    return found

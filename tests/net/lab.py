"""The networks: a client that owns one address behind several routers, and the host under test.

                         ┌── router 1 ──┐ default gateway
    client ─── world ────┼── router 2 ──┼─── host ─── backend
                         └── router 3 ──┘ at the place of router 1, for a second path

Each router forwards its own public address to the host (DNAT, as in the seed), so the client picks the
router by the address it calls, and a reply that takes another router's way never becomes an answer.
Counters stand in each router's first hook, on its inner port, by the client's address: before any
connection tracking or NAT of the router could hide a reply that went astray.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import ports
import wireguard
from addresses import (
    BACK,
    BACKEND,
    BRANCH,
    BRANCH_NETWORK,
    CLIENT,
    FAMILIES,
    HOST,
    LAN,
    MACS,
    OUTSIDE,
    PUBLIC,
    SECOND_LAN,
    TUNNEL,
    UNDERLAY,
    UPLINKS,
    WORLD,
    Dual,
    Family,
    Subnet,
    defaults,
)
from netns import Namespace, command
from policy import Path as PolicyPath
from policy import Policy

ROUTERS = (1, 2, 3)
WIREGUARD_PORT = 51820


@dataclass(frozen=True)
class Layout:
    """Where router 2 is, seen from the host, and what the host does with what comes through it."""

    name: str
    inside: Subnet  # the network that router 2 and the host share
    device: str  # the host's port towards router 2
    strict: bool = False  # strict reverse path on every port of the host
    gateway: bool = False  # the listed services are answered by the backend
    tunnel: bool = False

    @property
    def service(self) -> Dual:
        """The host's address that router 2 forwards to."""
        return self.inside.host(HOST)

    def path(self) -> PolicyPath:
        path = PolicyPath("router2", 0x2, 200, 1000, ports.LISTED, device=self.device)
        if self.tunnel:
            return replace(path, ingress=(self.device,))
        return replace(path, gateways=tuple(self.inside.host(2)), source_macs=(MACS[2],))

    def link_local_path(self) -> PolicyPath:
        """The same router by the address that IPv6 makes of its MAC."""
        first, *rest = (int(octet, 16) for octet in MACS[2].split(":"))
        a, b, c, d, e = rest
        link_local = f"fe80::{first ^ 2:02x}{a:02x}:{b:02x}ff:fe{c:02x}:{d:02x}{e:02x}"
        return replace(self.path(), gateways=(self.inside.host(2).ipv4, link_local))

    def second_path(self) -> PolicyPath:
        return PolicyPath("router3", 0x3, 201, 1001, ports.LISTED, tuple(LAN.host(3)), (MACS[3],), device="eth0")

    def policy(self, *more: PolicyPath, first: PolicyPath | None = None) -> Policy:
        local = (*LAN.network, *BRANCH_NETWORK)
        if self.inside is not LAN:
            local += tuple(self.inside.network)
        return Policy((first or self.path(), *more), local)


LAYOUTS = {
    layout.name: layout
    for layout in (
        Layout("lan", LAN, "eth0"),
        Layout("homed", SECOND_LAN, "eth1", strict=True),
        Layout("gateway", LAN, "eth0", gateway=True),
        Layout("tunnel", TUNNEL, "wg0", tunnel=True),
    )
}

# A fresh namespace takes IPv4 values from the first one of the machine: nothing is left to that.
COMMON_SYSCTLS = {
    "ipv4/conf/all/rp_filter": 0,
    "ipv4/conf/default/rp_filter": 0,
    "ipv4/conf/all/src_valid_mark": 0,
    "ipv4/conf/default/src_valid_mark": 0,
    "ipv4/conf/all/accept_redirects": 0,
    "ipv4/conf/default/accept_redirects": 0,
    "ipv4/conf/all/send_redirects": 0,
    "ipv4/conf/default/send_redirects": 0,
    "ipv4/tcp_fwmark_accept": 0,
    "ipv4/fwmark_reflect": 0,
    "ipv6/fwmark_reflect": 0,
    "ipv4/tcp_syncookies": 1,
    "ipv4/tcp_no_metrics_save": 1,
    "ipv4/icmp_ratelimit": 0,
    "ipv4/icmp_msgs_per_sec": 100000,
    "ipv4/icmp_msgs_burst": 10000,
    "ipv6/icmp/ratelimit": 0,
    "ipv6/conf/all/accept_redirects": 0,
    "ipv6/conf/default/accept_redirects": 0,
    "ipv6/conf/default/accept_dad": 0,
    "ipv6/conf/default/accept_ra": 0,
    "ipv6/conf/default/router_solicitations": 0,
}
FORWARDING = {"ipv4/ip_forward": 1, "ipv6/conf/all/forwarding": 1}
STRICT = {"ipv4/conf/all/rp_filter": 1, "ipv4/conf/default/rp_filter": 1}

PROTOCOLS = ("tcp", "udp", "icmp")


@dataclass(frozen=True)
class Count:
    packets: int = 0
    bytes: int = 0

    def __sub__(self, other: Count) -> Count:
        return Count(self.packets - other.packets, self.bytes - other.bytes)

    def __add__(self, other: Count) -> Count:
        return Count(self.packets + other.packets, self.bytes + other.bytes)


class Tally:
    """What each router forwarded for the client while a block ran; numbers are there after the block."""

    def __init__(self) -> None:
        self._counts: dict[tuple[int, str], Count] = {}

    def set(self, before: dict[tuple[int, str], Count], after: dict[tuple[int, str], Count]) -> None:
        self._counts = {key: after[key] - before[key] for key in after}

    def of(self, router: int, direction: str, protocol: str, family: Family) -> Count:
        return self._counts[router, f"{direction}_{protocol}{family.version}"]

    def replies(self, router: int, protocol: str, family: Family) -> Count:
        return self.of(router, "replies", protocol, family)

    def all(self, router: int, direction: str) -> int:
        """Packets of every protocol and family."""
        return sum(count.packets for (at, name), count in self._counts.items() if at == router and direction in name)

    def requests(self, router: int, protocol: str, family: Family) -> Count:
        return self.of(router, "requests", protocol, family)

    def too_big(self, router: int, family: Family) -> int:
        """ICMP errors that this router made: a packet did not fit its link."""
        return self._counts[router, f"too_big{family.version}"].packets

    def strays(self, *allowed: int) -> dict[str, int]:
        """Packets to the client, of any protocol and family, through routers other than those allowed."""
        return {
            f"router {router} {name}": count.packets
            for (router, name), count in self._counts.items()
            if router not in allowed and name.startswith("replies") and count.packets
        }

    def __str__(self) -> str:
        seen = [
            f"router {router} {name}: {count.packets} packets, {count.bytes} bytes"
            for (router, name), count in sorted(self._counts.items())
            if count.packets
        ]
        return "; ".join(seen) or "no router saw a packet"


def _router_tables(number: int, inner: str, service: Dual) -> str:
    names = [f"{way}_{protocol}" for way in ("replies", "requests") for protocol in PROTOCOLS] + ["too_big"]
    declared = "\n    ".join(f"counter {name}{family.version} {{ }}" for name in names for family in FAMILIES)

    def count(match: str, way: str, side: str) -> str:
        lines = []
        for family in FAMILIES:
            protocols = zip(("tcp", "udp", family.icmp), PROTOCOLS, strict=True)
            chosen = ", ".join(f'{protocol} : "{way}_{name}{family.version}"' for protocol, name in protocols)
            clients = f"{{ {CLIENT[family]}, {BRANCH[family]} }}"
            lines.append(f"{match} {family.nft} {side} {clients} counter name meta l4proto map {{ {chosen} }}")
        return "\n        ".join(lines)

    return f"""
table inet way {{
    {declared}
    chain from_host {{
        type filter hook prerouting priority raw
        {count(f"iifname {inner}", "replies", "daddr")}
    }}
    chain own_errors {{
        type filter hook output priority 300
        icmp type destination-unreachable icmp code frag-needed counter name too_big4
        icmpv6 type packet-too-big counter name too_big6
    }}
    chain to_host {{
        type filter hook postrouting priority 300
        {count(f"oifname {inner}", "requests", "saddr")}
    }}
}}
table inet edge {{
    ct helper ftp {{ type "ftp" protocol tcp; }}
    chain helpers {{
        type filter hook prerouting priority mangle
        tcp dport {ports.FTP} ct helper set "ftp"
    }}
    chain forward_public {{
        type nat hook prerouting priority dstnat
        ip daddr {PUBLIC[number].ipv4} dnat ip to {service.ipv4}
        ip6 daddr {PUBLIC[number].ipv6} dnat ip6 to {service.ipv6}
    }}
}}
"""


def _host_tables(layout: Layout) -> str:
    """The host's own NAT: two ports and the way out, always; the services too where it is a gateway."""
    rules = []
    for family in FAMILIES:
        nft, inner = family.nft, BACK.host(BACKEND)[family]
        bracket = f"[{inner}]" if family.version == 6 else inner
        echo = "icmp type" if family.version == 4 else "icmpv6 type"
        outer = f"{{ {LAN.host(HOST)[family]}, {layout.service[family]} }}"
        if layout.inside is LAN:
            outer = LAN.host(HOST)[family]
        match = f"{nft} daddr {outer}"
        rules.append(f"{match} tcp dport {ports.FORWARDED} dnat {nft} to {inner}")
        rules.append(f"{match} tcp dport {ports.REDIRECTED} redirect to :{ports.REDIRECTED_TO}")
        rules.append(f"{match} udp dport {ports.FORWARDED_UDP} dnat {nft} to {inner}")
        if layout.gateway:
            rules += [
                f"{match} tcp dport {ports.WEB} dnat {nft} to {bracket}:{ports.WEB_BEHIND}",
                f"{match} tcp dport {{ {ports.CLOSED}, {ports.FTP} }} dnat {nft} to {inner}",
                f"{match} udp dport {ports.UDP} dnat {nft} to {inner}",
                f"{match} {echo} echo-request dnat {nft} to {inner}",
            ]
    newline = "\n        "
    return f"""
table inet hostnat {{
    ct helper ftp {{ type "ftp" protocol tcp; }}
    chain helpers {{
        type filter hook prerouting priority mangle
        tcp dport {ports.FTP} ct helper set "ftp"
    }}
    chain forward_services {{
        type nat hook prerouting priority dstnat
        {newline.join(rules)}
    }}
    chain way_out {{
        type nat hook postrouting priority srcnat
        ip saddr {BACK.network.ipv4} oifname != back0 masquerade
        ip6 saddr {BACK.network.ipv6} oifname != back0 masquerade
    }}
}}
"""


class Lab:
    """One layout, built: namespaces, links, addresses, routers. Its `with` block takes all away again."""

    _made = 0
    apply: Callable[[Policy], None]  # makes the host obey a policy; what is under test does it

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        Lab._made += 1
        self.prefix = f"rp{os.getpid()}-{Lab._made}-"
        self._cleanup = contextlib.ExitStack()
        try:
            self._build()
        except BaseException:
            self._cleanup.close()
            raise

    def __enter__(self) -> Lab:
        return self

    def __exit__(self, *_: object) -> None:
        self._cleanup.close()

    def _namespace(self, name: str, **sysctls: object) -> Namespace:
        namespace = Namespace(self.prefix + name)
        self._cleanup.callback(namespace.delete)
        namespace.sysctl(COMMON_SYSCTLS)
        namespace.ip("link set lo up")
        return namespace

    def _build(self) -> None:
        layout = self.layout
        self.client = self._namespace("client")
        self.world = self._namespace("world")
        self.routers = {number: self._namespace(f"r{number}") for number in ROUTERS}
        self.switch = self._namespace("switch")
        self.host = self._namespace("host")
        self.backend = self._namespace("backend")
        for namespace in (self.world, *self.routers.values(), self.host):
            namespace.sysctl(FORWARDING)
        if layout.strict:
            self.host.sysctl(STRICT)
        self._links()
        self._outside()
        for number in ROUTERS:
            self._router(number)
        self._host()
        if layout.tunnel:
            self._tunnel()

    def _links(self) -> None:
        """All veth pairs. Router 2's inner port is where the layout says."""
        ends: list[tuple[str, str, str, str, str | None]] = [
            ("client", "eth0", "world", "client0", None),
            ("host", "back0", "backend", "eth0", None),
        ]
        for number in ROUTERS:
            ends.append(("world", f"r{number}", f"r{number}", "world0", None))
            if number != 2 or self.layout.inside is LAN:
                ends.append((f"r{number}", "lan0", "switch", f"r{number}", MACS[number]))
        ends.append(("host", "eth0", "switch", "host", None))
        if self.layout.inside is SECOND_LAN:
            ends.append(("r2", "lan0", "host", "eth1", MACS[2]))
        if self.layout.tunnel:
            ends.append(("r2", "under0", "r1", "under0", None))
        lines = []
        for left, device, right, peer, mac in ends:
            address = f"address {mac} " if mac else ""
            lines.append(
                f"link add {device} {address}netns {self.prefix}{left} type veth"
                f" peer name {peer} netns {self.prefix}{right}"
            )
        command("ip", "-batch", "-", stdin="\n".join(lines) + "\n")
        switched = [peer for _, _, right, peer, _ in ends if right == "switch"]
        self.switch.ip(
            "link add br0 type bridge",
            "link set br0 up",
            *(f"link set {port} master br0 up" for port in switched),
        )

    def _outside(self) -> None:
        self.client.ip(
            "link set eth0 up",
            *OUTSIDE.assign(100, "eth0"),
            f"address add {BRANCH.ipv4}/32 dev eth0",
            f"address add {BRANCH.ipv6}/128 dev eth0 nodad",
            *defaults(OUTSIDE.host(WORLD)),
        )
        lines = ["link set client0 up", *OUTSIDE.assign(WORLD, "client0")]
        lines += [f"route add {address} via {CLIENT[family]}" for address, family in zip(BRANCH, FAMILIES, strict=True)]
        for number in ROUTERS:
            lines += [f"link set r{number} up", *UPLINKS[number].assign(WORLD, f"r{number}")]
            router = UPLINKS[number].host(number)
            lines += [f"route add {PUBLIC[number][family]} via {router[family]}" for family in FAMILIES]
        self.world.ip(*lines)
        self._world_route("add", LAN.host(HOST), 1)
        if self.layout.inside is not LAN:
            self._world_route("add", self.layout.service, 1)
        for family in FAMILIES:  # the branch reaches the host through router 2
            self.world.run(
                "ip", f"-{family.version}", "rule", "add", "from", BRANCH[family], "to",
                self.layout.service[family], "lookup", "102",
            )  # fmt: skip
            via = UPLINKS[2].host(2)[family]
            self.world.ip(f"route add default via {via} table 102")

    def _world_route(self, verb: str, destination: Dual, router: int) -> None:
        via = UPLINKS[router].host(router)
        self.world.ip(*(f"route {verb} {destination[family]} via {via[family]}" for family in FAMILIES))

    def _router(self, number: int) -> None:
        layout, router = self.layout, self.routers[number]
        inside = layout.inside if number == 2 else LAN
        lines = ["link set world0 up", *UPLINKS[number].assign(number, "world0")]
        lines += [f"address add {address} dev lo" for address in PUBLIC[number]]
        if inside is not TUNNEL:
            lines += ["link set lan0 up", *inside.assign(number, "lan0")]
        if layout.tunnel and number < 3:
            lines += ["link set under0 up", *UNDERLAY.assign(number, "under0")]
        lines += defaults(UPLINKS[number].host(WORLD))
        router.ip(*lines)
        inner = "wg0" if inside is TUNNEL else "lan0"
        router.nft(_router_tables(number, inner, layout.service if number == 2 else LAN.host(HOST)))

    def _host(self) -> None:
        layout = self.layout
        lines = ["link set eth0 up", *LAN.assign(HOST, "eth0")]
        lines += ["link set back0 up", *BACK.assign(1, "back0")]
        if layout.inside is SECOND_LAN:
            lines += ["link set eth1 up", *SECOND_LAN.assign(HOST, "eth1")]
        if layout.tunnel:
            lines += [
                f"route add {network} via {via}" for network, via in zip(UNDERLAY.network, LAN.host(1), strict=True)
            ]
        self.host.ip(*lines, *defaults(LAN.host(1)))
        self.host.nft(_host_tables(layout))
        self.backend.ip("link set eth0 up", *BACK.assign(BACKEND, "eth0"), *defaults(BACK.host(1)))

    def _tunnel(self) -> None:
        router, host = self.routers[2], self.host
        back = zip(LAN.network, UNDERLAY.host(1), strict=True)
        router.ip(*(f"route add {network} via {via}" for network, via in back))
        far = wireguard.Port(router, "wg0")
        self._cleanup.callback(far.close)
        near = wireguard.Port(host, "wg0")
        self._cleanup.callback(near.close)
        far_keys, near_keys = wireguard.Keys.generate(), wireguard.Keys.generate()
        # The host calls and router 2 learns from where, so that two first messages never cross.
        far.peer(far_keys, near_keys, WIREGUARD_PORT, endpoint=None)
        near.peer(near_keys, far_keys, WIREGUARD_PORT, f"{UNDERLAY.host(2).ipv4}:{WIREGUARD_PORT}")
        router.ip("link set wg0 up", *TUNNEL.assign(2, "wg0"))
        host.ip("link set wg0 up", *TUNNEL.assign(HOST, "wg0"))
        with host.entered(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as caller:
            caller.sendto(b"", (TUNNEL.host(2).ipv4, 9))
        for port in (near, far):
            port.wait_for_handshake()

    # What the cells turn

    @property
    def server(self) -> Namespace:
        """Who answers the listed services."""
        return self.backend if self.layout.gateway else self.host

    @contextlib.contextmanager
    def watched(self) -> Iterator[Tally]:
        """Counts from here to the end of the block."""
        tally, before = Tally(), self._counts()
        try:
            yield tally
        finally:
            tally.set(before, self._counts())

    def _counts(self) -> dict[tuple[int, str], Count]:
        counts = {}
        for number, router in self.routers.items():
            for name, count in counters(router, "way").items():
                counts[number, name] = count
        return counts

    def carried(self, router: int) -> dict[str, Count]:
        """What the host's own counters say of the path through a router; empty where it has none."""
        tables = self.host.run("nft", "-j", "list", "tables")
        found = counters(self.host, "returnpath") if '"returnpath"' in tables else {}
        ours = f"_router{router}"
        return {name.removesuffix(ours): count for name, count in found.items() if name.endswith(ours)}

    def connection_marks(self, protocol: str, family: Family) -> list[int]:
        """The marks of the client's connections, as the host tracks them."""
        listed = self.host.run("conntrack", "-L", "-f", f"ipv{family.version}", "-p", protocol)
        wanted = [f"={address[family]} " for address in (CLIENT, BRANCH)]
        lines = [line for line in listed.splitlines() if any(address in line for address in wanted)]
        return [int(mark.group(1)) for line in lines if (mark := re.search(r"\bmark=(\d+)", line))]

    def drop_default_routes(self) -> None:
        self.host.ip(*(f"route del default via {via}" for via in LAN.host(1)))

    def route_client_answers(self, router: int) -> None:
        """From now on what the client sends to the host's first address takes that router, past its NAT."""
        self._world_route("replace", LAN.host(HOST), router)

    def far_side(self) -> tuple[tuple[Namespace, str], ...]:
        return (self.routers[2], "world0"), (self.world, "r2")

    def back_side(self) -> tuple[tuple[Namespace, str], ...]:
        return (self.host, "back0"), (self.backend, "eth0")


def counters(namespace: Namespace, table: str) -> dict[str, Count]:
    listed = json.loads(namespace.run("nft", "-j", "list", "counters", "table", "inet", table))["nftables"]
    found = (entry["counter"] for entry in listed if "counter" in entry)
    return {counter["name"]: Count(counter["packets"], counter["bytes"]) for counter in found}


def narrow(mtu: int, ends: tuple[tuple[Namespace, str], ...]) -> None:
    for namespace, device in ends:
        namespace.ip(f"link set {device} mtu {mtu}")


def sweep() -> None:
    """Takes away namespaces of runs that were killed: their process is gone."""
    for path in Path("/run/netns").glob("rp*-*-*"):
        owner = re.match(r"rp(\d+)-", path.name)
        if owner and not Path("/proc", owner.group(1)).exists():
            subprocess.run(["ip", "netns", "delete", path.name], check=False, timeout=5)

"""Random policies and connections, over one small set of ports, routers and addresses: they meet as often as can be."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from random import Random

PORTS = {"eth0": 0, "eth1": 1}  # where routers are; their networks are 10.N.0.0/24 and fd0N::/64
TUNNELS = ("wg0", "ppp0")
INSIDE = "eth2"  # where the host behind is
ROUTERS, NEIGHBOUR = (1, 2, 3), 7  # host numbers; router 1 of eth0 is everybody's default
SERVER = {4: "10.2.0.2", 6: "fd02::2"}
OWN = {4: ("10.0.0.10", "10.1.0.10"), 6: ("fd00::10", "fd01::10")}
# What this host's own DNAT gives to the server behind.
FORWARDED = (("tcp", 8080), ("udp", 5001))
SERVICES = {"tcp": (23, 80, 443, 444, 8080), "udp": (53, 5000, 5001, 6000), "icmp": (None,)}
STRANGER = "52:54:00:00:00:99"


def mac(port: str, number: int) -> str:
    return f"52:54:00:00:{PORTS.get(port, 2):02x}:{number:02x}"


def address(port: str, number: int, version: int) -> str:
    return f"10.{PORTS[port]}.0.{number}" if version == 4 else f"fd{PORTS[port]:02x}::{number}"


@dataclass(frozen=True)
class Connection:
    port: str
    mac: str  # empty on a tunnel
    source: str
    destination: str
    dnat: str  # empty without
    protocol: str
    service: int | None
    number: int  # its source port, or its identifier: no other one has it
    version: int

    def arguments(self) -> list[str]:
        words = ["--iif", self.port, "--src", self.source, "--dst", self.destination, "--proto", self.protocol]
        more = (("--mac", self.mac), ("--dnat", self.dnat), ("--dport", self.service))
        return words + [str(word) for option, value in more if value for word in (option, value)]


@dataclass(frozen=True)
class Policy:
    """`frames`: for each path, the ports and MACs that its frames may have."""

    toml: str
    frames: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...]


def some(random: Random, pool: tuple, most: int) -> list:
    return random.sample(pool, random.randint(1, min(most, len(pool))))


def quoted(values: list | tuple) -> str:
    return "[" + ", ".join(f'"{value}"' for value in values) + "]"


def policy(random: Random) -> Policy:
    """It may be invalid, as where two paths know the same frames: whoever compiles it tells."""
    shift, mask = random.choice(((0, 0xFF), (4, 0xF0), (8, 0xFF00)))
    locals_ = ("10.0.0.0/24", "10.8.0.0/16", "198.51.100.0/27", "fd00::/64", "fd08::/16", "2001:db8:64::/123")
    lines = [f"mark_mask = {mask:#x}", f"local_networks = {quoted(random.sample(locals_, random.randint(0, 2)))}"]
    routers = [(port, number) for port in PORTS for number in ROUTERS if (port, number) != ("eth0", 1)]
    frames = []
    for at, (port, number) in enumerate(some(random, (*routers, *((name, 0) for name in TUNNELS)), 4)):
        lines += ["", f"[paths.p{at}]", f"mark = {at + 1 << shift:#x}", f"table = {100 + at}"]
        if port in TUNNELS:
            ports, macs = (port,), ()
            lines.append(f'device = "{port}"')
        else:
            versions = random.choice(((4,), (6,), (4, 6), (4, 6), (4, 6)))
            lines.append(f"gateways = {quoted([address(port, number, version) for version in versions])}")
            if random.random() < 0.5:
                lines.append(f'device = "{port}"')
            macs = (mac(port, number), *random.sample((mac(port, 20 + at), mac(port, 2)), random.randint(0, 1)))
            ports = (port, *random.sample(tuple(PORTS), random.randint(0, 1)))
            known = random.choice(("macs", "ports", "both", "both"))
            macs, ports = macs if known != "ports" else (), tuple(dict.fromkeys(ports)) if known != "macs" else ()
            if random.random() < 0.3:
                lines.append('when_down = "main"')
        frames.append((ports, macs))
        lines += [f"{key} = {quoted(values)}" for key, values in (("ingress", ports), ("source_macs", macs)) if values]
        if random.random() < 0.5:
            words = ("tcp/80", "tcp/443-8080", "tcp", "udp/5000-5100", "udp/53", "udp", "icmp")
            lines.append(f"services = {quoted(some(random, words, 4))}")
        if random.random() < 0.3:
            networks = ("10.0.0.10/32", "10.1.0.0/24", "10.2.0.0/24", "fd00::/64", "fd01::10/128", "fd02::/64")
            lines.append(f"destinations = {quoted(some(random, networks, 4))}")
        lines.append(f'scope = "{random.choice(("local", "forward", "both", "both", "both"))}"')
        lines.append(f"priority = {random.choice((900, 1000, 1100))}")
    return Policy("\n".join(lines) + "\n", tuple(frames))


def mostly(random: Random, wanted: tuple, others: tuple) -> str:
    """One that is wanted; now and then another one, so that near misses are seen as well."""
    near = tuple(other for other in others if other not in wanted)
    return random.choice(wanted if wanted and random.random() < 0.8 else near or others)


def connections(random: Random, policy: Policy, count: int) -> list[Connection]:
    everywhere = (*PORTS, *TUNNELS)
    anybody = (*(mac(port, number) for port, number in itertools.product(PORTS, (*ROUTERS, NEIGHBOUR))), STRANGER)
    drawn = []
    for number in range(count):
        ports, macs = random.choice(policy.frames) if random.random() < 0.8 else ((), ())
        port = mostly(random, ports, tuple(PORTS) if macs else everywhere)
        version = random.choice((4, 6))
        remote = {4: f"198.51.100.{random.randint(1, 62)}", 6: f"2001:db8:64::{random.randint(1, 62):x}"}[version]
        neighbour = address(random.choice(tuple(PORTS)), NEIGHBOUR, version)
        source = random.choice((remote, remote, remote, {4: "10.8.0.50", 6: "fd08::50"}[version], neighbour))
        destination = random.choice((*OWN[version], SERVER[version]))
        protocol = random.choice(("tcp", "tcp", "udp", "icmp"))
        service = random.choice(SERVICES[protocol])
        is_forwarded = (protocol, service) in FORWARDED and destination in OWN[version]
        drawn.append(
            Connection(
                port,
                mostly(random, macs, anybody) if port in PORTS else "",
                source,
                destination,
                SERVER[version] if is_forwarded else "",
                protocol,
                service,
                20000 + number,
                version,
            )
        )
    return drawn

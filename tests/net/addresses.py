"""The address plan: every address twice, since every layout speaks IPv4 and IPv6 at once."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Family:
    version: int
    socket: socket.AddressFamily
    nft: str
    icmp: str
    iptables: str

    def __str__(self) -> str:
        return f"IPv{self.version}"


IPV4 = Family(4, socket.AF_INET, "ip", "icmp", "iptables")
IPV6 = Family(6, socket.AF_INET6, "ip6", "icmpv6", "ip6tables")
FAMILIES = (IPV4, IPV6)


@dataclass(frozen=True)
class Dual:
    """An address, or a network, in both families."""

    ipv4: str
    ipv6: str

    def __getitem__(self, family: Family) -> str:
        return self.ipv4 if family is IPV4 else self.ipv6

    def __iter__(self) -> Iterator[str]:
        return iter((self.ipv4, self.ipv6))


@dataclass(frozen=True)
class Subnet:
    """A /24 and a /64 whose hosts are numbered alike."""

    prefix4: str
    prefix6: str

    @property
    def network(self) -> Dual:
        return Dual(f"{self.prefix4}.0/24", f"{self.prefix6}::/64")

    def host(self, number: int) -> Dual:
        return Dual(f"{self.prefix4}.{number}", f"{self.prefix6}::{number}")

    def assign(self, number: int, device: str) -> list[str]:
        """The `ip` commands that give a device its address here."""
        address = self.host(number)
        return [
            f"address add {address.ipv4}/24 dev {device}",
            f"address add {address.ipv6}/64 dev {device} nodad",
        ]


LAN = Subnet("10.0.0", "fd00")  # the host's first port, as in the seed
SECOND_LAN = Subnet("10.0.1", "fd01")  # homed: the host's second port
TUNNEL = Subnet("10.9.0", "fd09")  # tunnel: inside WireGuard
UNDERLAY = Subnet("100.64.0", "fd64")  # tunnel: between the routers, below WireGuard
BACK = Subnet("10.20.0", "fd20")  # behind the host
OUTSIDE = Subnet("198.51.100", "2001:db8:64")  # the client's own network
UPLINKS = {number: Subnet(f"172.31.{number}", f"fd31:{number}") for number in (1, 2, 3)}

CLIENT = OUTSIDE.host(100)
BRANCH = Dual("10.8.0.50", "fd08::50")  # the client's second address, in a local network
BRANCH_NETWORK = Dual("10.8.0.0/24", "fd08::/64")
PUBLIC = {number: Dual(f"192.0.2.{number}", f"2001:db8::{number}") for number in (1, 2, 3)}

HOST, BACKEND, WORLD = 10, 2, 254  # host numbers; routers are numbered by themselves
MACS = {1: "52:54:00:c2:a5:42", 2: "52:54:00:c2:a5:43", 3: "52:54:00:c2:a5:44"}


def defaults(via: Dual) -> list[str]:
    return [f"route add default via {gateway}" for gateway in via]

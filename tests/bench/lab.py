"""A host with a router before it and a server behind it, each in a namespace of its own, as often as needed."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

from netns import Namespace

ROUTER_MAC, HOST, ROUTER = "02:00:00:00:01:02", "10.0.0.10", "10.0.0.2"
CLIENT = "198.51.100.7"  # the router's own address far away: it opens the connections
INSIDE, BEHIND = "10.1.0.1", "10.1.0.2"
SERVICE, OTHER = 80, 81  # the port of the path's service, and one that is nobody's


@dataclass(frozen=True)
class Traffic:
    """Transactions of one kind."""

    protocol: str
    is_forwarded: bool = False
    is_marked: bool = True

    def __str__(self) -> str:
        where = "forwarded" if self.is_forwarded else "local"
        return f"{self.protocol} {where}{'' if self.is_marked else ', unmarked'}"


class Lab:
    """The host's main table leads to the router as well, so every subject's packets take the same way."""

    def __init__(self, name: str) -> None:
        self._stack = contextlib.ExitStack()
        self.host, self.router, self.server = (self._namespace(f"{name}-{end}") for end in ("host", "router", "server"))
        self.host.ip(
            f"link add outer type veth peer name wire netns {self.router.name}",
            f"link add inner type veth peer name wire netns {self.server.name}",
            "link set lo up",
            f"address add {HOST}/24 dev outer",
            f"address add {INSIDE}/24 dev inner",
            "link set outer up",
            "link set inner up",
        )
        self.router.ip(
            f"link set wire address {ROUTER_MAC}",
            f"address add {ROUTER}/24 dev wire",
            f"address add {CLIENT}/32 dev wire",
            "link set wire up",
            f"route add 10.1.0.0/24 via {HOST}",
        )
        self.server.ip(f"address add {BEHIND}/24 dev wire", "link set wire up", f"route add default via {INSIDE}")
        self.host.ip(f"route add default via {ROUTER}")
        self.host.sysctl({"ipv4/ip_forward": 1})

    def _namespace(self, name: str) -> Namespace:
        made = Namespace(name)
        self._stack.callback(made.delete)
        return made

    def pair(self, traffic: Traffic) -> str:
        """The line of the measuring program's input."""
        far, address = (self.server, BEHIND) if traffic.is_forwarded else (self.host, HOST)
        port = SERVICE if traffic.is_marked else OTHER
        return f"{traffic.protocol} {self.router.name} {far.name} {CLIENT} {address} {port}\n"

    def close(self) -> None:
        self._stack.close()

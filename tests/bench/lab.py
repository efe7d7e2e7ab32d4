"""A host with a router before it and a server behind it, each in a namespace of its own, as often as needed."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from netns import Namespace

ROUTER_MAC, HOST, ROUTER = "02:00:00:00:01:02", "10.0.0.10", "10.0.0.2"
NOBODY = "10.0.0.99"
CLIENT = "198.51.100.7"  # the router's own address far away: it opens the connections
INSIDE, BEHIND = "10.1.0.1", "10.1.0.2"
SERVICE, OTHER = 80, 81  # the port of the path's service, and one that is nobody's


Install = Callable[[Namespace], None]


@dataclass(frozen=True)
class Subject:
    """A rule set. What it claims is seen to before it is measured: a rule set that does nothing is fast."""

    name: str
    install: Install
    paths: int = 0
    mark: int = 0  # what a connection of the path that is used has; 0: nothing marks
    mask: int = 0xFFFF
    takes_all: bool = False  # whatever comes by the path's interface: it has no unmarked connections
    fallback: str = "main"  # the table that leads to the router as well

    def __str__(self) -> str:
        return f"{self.name}, {self.paths} paths" if self.paths > 1 else self.name


@dataclass(frozen=True)
class Traffic:
    """Transactions of one kind; those of `tcp-new` have a connection each."""

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
        # Connections that were reset are gone from the table before there are many.
        self.host.sysctl({"ipv4/ip_forward": 1, "netfilter/nf_conntrack_tcp_timeout_close": 1})

    def _namespace(self, name: str) -> Namespace:
        made = Namespace(name)
        self._stack.callback(made.delete)
        return made

    def pair(self, traffic: Traffic) -> str:
        """The line of the measuring program's input."""
        far, address = (self.server, BEHIND) if traffic.is_forwarded else (self.host, HOST)
        port = SERVICE if traffic.is_marked else OTHER
        return f"{traffic.protocol} {self.router.name} {far.name} {CLIENT} {address} {port}\n"

    def connection_marks(self, traffic: Traffic) -> set[int]:
        """Those of the connections that are of this kind, as conntrack lists them."""
        protocol = traffic.protocol.partition("-")[0]
        to, port = (BEHIND if traffic.is_forwarded else HOST), (SERVICE if traffic.is_marked else OTHER)
        listed = self.host.run("conntrack", "-L", "-p", protocol, "--orig-dst", to, "--orig-port-dst", str(port))
        return {int(mark) for mark in re.findall(r" mark=(\d+)", listed)}

    @contextlib.contextmanager
    def no_way_but(self, subject: Subject) -> Iterator[None]:
        """The router is reached by the subject's own table only; the other one leads to nobody."""
        self.host.ip(f"route replace default via {NOBODY} table {subject.fallback}")
        try:
            yield
        finally:
            self.host.ip(f"route replace default via {ROUTER} table {subject.fallback}")

    def close(self) -> None:
        self._stack.close()

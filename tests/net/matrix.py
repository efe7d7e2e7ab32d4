"""The matrix: traffic by layout by family. A cell is a function that raises, with counters, when it fails.

A cell gets a lab of its own, freshly built, so no cell can help or hurt another.
"""

from __future__ import annotations

import contextlib
import functools
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import ftp
import ports
import subject
import traffic
from addresses import (
    BACK,
    BACKEND,
    BRANCH,
    CLIENT,
    FAMILIES,
    HOST,
    IPV6,
    LAN,
    MACS,
    PUBLIC,
    SECOND_LAN,
    Dual,
    Family,
)
from lab import LAYOUTS, Count, Lab, Layout, Tally, counters, narrow
from traffic import DATAGRAMS, EXCHANGES, FRAGMENTED, MEGABYTE, Endpoint, Stalled, Unreachable

Check = Callable[[Lab, Family], None]
Carried = dict[str, Count]
ALL = tuple(LAYOUTS)
NARROW = 1280  # the smallest MTU that IPv6 allows
OUR_BITS = 0xFF


@dataclass(frozen=True)
class Case:
    name: str
    section: str
    check: Check
    layouts: tuple[str, ...] = ALL
    families: tuple[Family, ...] = FAMILIES
    subject: subject.Subject | None = None  # in place of the one under test
    astray: int = 0  # replies that leave by a wrong way, as the host counts them


@dataclass(frozen=True)
class Cell:
    case: Case
    layout: Layout
    family: Family

    def run(self, under_test: subject.Subject) -> None:
        with Lab(self.layout) as lab:
            lab.apply = functools.partial((self.case.subject or under_test).apply, lab)
            lab.apply(self.layout.policy())
            self.case.check(lab, self.family)
            for router in (2, 3):
                _none_astray(lab, router, self.case.astray if router == 2 else 0)


CASES: list[Case] = []
THROUGH_ROUTER_2 = "through router 2"
KEYS = "keys of the policy"
AS_IT_WAS = "as it was"
HARNESS = "the harness can fail"


def case(
    name: str,
    section: str,
    layouts: tuple[str, ...] = ALL,
    families: tuple[Family, ...] = FAMILIES,
    subject: subject.Subject | None = None,
    astray: int = 0,
) -> Callable[[Check], Check]:
    def add(check: Check) -> Check:
        CASES.append(Case(name, section, check, layouts, families, subject, astray))
        return check

    return add


def cells() -> Iterator[Cell]:
    for name, layout in LAYOUTS.items():
        for each in CASES:
            if name in each.layouts:
                for family in each.families:
                    yield Cell(each, layout, family)


# Proofs


def to(lab: Lab, family: Family, port: int = 0, router: int = 2, source: str | None = None) -> Endpoint:
    """The client's call of a router's public address."""
    return Endpoint(lab.client, family, source or CLIENT[family], PUBLIC[router][family], port)


@contextlib.contextmanager
def counted(lab: Lab) -> Iterator[Tally]:
    """Counters on all routers around a block; a failure inside is told together with them."""
    tally: Tally | None = None
    try:
        with lab.watched() as tally:
            yield tally
    except Exception as failure:
        raise AssertionError(f"{type(failure).__name__}: {failure}; {tally}") from failure


@contextlib.contextmanager
def returned(
    lab: Lab,
    family: Family,
    protocol: str,
    packets: int,
    size: int = 0,
    router: int = 2,
    exactly: bool = False,
    marked: bool = True,
    tunnel: bool = False,
) -> Iterator[Tally]:
    """Proves that the replies of a block, so many at least, went through one router, and none elsewhere.

    The host's own counters have to agree, where the router has a path and the block's connections are marked.
    """
    before = lab.carried(router)
    with counted(lab) as tally:
        yield tally
    replies = tally.replies(router, protocol, family)
    enough = replies.packets == packets if exactly else replies.packets >= packets
    if not enough or replies.bytes < size:
        wanted = f"{packets} packets and {size} bytes of {protocol}"
        raise AssertionError(f"router {router} should have seen {wanted} go to the client; {tally}")
    if strays := tally.strays(router):
        raise AssertionError(f"replies went astray: {strays}; {tally}")
    if before:
        wanted = (packets, size, exactly) if marked else (0, 0, True)
        # A tunnel has its own idea of how TCP is cut into packets.
        _host_agrees(lab, router, before, tally, *wanted, is_same=marked and not (tunnel or lab.layout.tunnel))


def _host_agrees(
    lab: Lab, router: int, before: Carried, tally: Tally, packets: int, size: int, exactly: bool, is_same: bool
) -> None:
    def moved() -> Carried:
        return {name: count - before[name] for name, count in lab.carried(router).items()}

    def agrees(host: Carried) -> bool:
        enough = all(host[way].packets >= packets and host[way].bytes >= size for way in ("in", "back"))
        if exactly:
            enough = enough and host["back"].packets == packets
        if is_same:
            same = host["back"].packets == tally.all(router, "replies")
            enough = enough and same and host["in"].packets >= tally.all(router, "requests")
        return enough

    _until_host(moved, agrees, f"of router {router}, the host should have counted {packets} packets; {tally}")


def _none_astray(lab: Lab, router: int, allowed: int) -> None:
    if host := lab.carried(router):
        if host["astray"].packets != allowed:
            raise AssertionError(f"the host should have counted {allowed} replies that went astray: {host}")
        if host["back"].packets and not host["new"].packets:
            raise AssertionError(f"the host counted replies of no connection: {host}")


def _until_host(look: Callable[[], Carried], agrees: Callable[[Carried], bool], what: str) -> None:
    """Waits for what is under way."""
    deadline = time.monotonic() + traffic.SECONDS
    while not agrees(host := look()):
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}; it has {host}")
        time.sleep(0.01)


@contextlib.contextmanager
def unmarked(lab: Lab, family: Family, protocol: str) -> Iterator[None]:
    """Proves that the host tracked the client's connections of a block without our mark."""
    yield
    marks = lab.connection_marks(protocol, family)
    if not marks:
        raise AssertionError(f"the host tracked no {protocol} connection of the client")
    if ours := [mark for mark in marks if mark & OUR_BITS]:
        raise AssertionError(f"connection marks that nothing should have set: {ours}")


def behind(port: int, lab: Lab) -> int:
    """The port at the server for one called from outside."""
    return ports.WEB_BEHIND if lab.layout.gateway and port == ports.WEB else port


def web_through(lab: Lab, family: Family, router: int = 2, bulk: int = MEGABYTE) -> None:
    """One TCP connection, several exchanges and bulk each way, all of its replies through that router."""
    with (
        traffic.tcp_server(lab.server, family, behind(ports.WEB, lab)),
        returned(lab, family, "tcp", EXCHANGES + 2, bulk, router),
    ):
        traffic.converse(to(lab, family, ports.WEB, router), bulk)


def datagrams_through(
    lab: Lab, family: Family, router: int = 2, bound: bool = True, count: int = DATAGRAMS, size: int = 64
) -> None:
    server = lab.server
    address = _answering_address(lab, family, router) if bound else None
    with (
        traffic.udp_server(server, family, ports.UDP, address),
        returned(lab, family, "udp", count, count * size, router, exactly=True),
    ):
        traffic.datagrams(to(lab, family, ports.UDP, router), count, size)


def _answering_address(lab: Lab, family: Family, router: int) -> str:
    if lab.layout.gateway:
        return BACK.host(BACKEND)[family]
    return (lab.layout.service if router == 2 else LAN.host(HOST))[family]


def echoes_through(lab: Lab, family: Family, router: int = 2) -> None:
    with returned(lab, family, "icmp", 10, router=router, exactly=True):
        traffic.echoes(to(lab, family, router=router))


# Packets that must come back


@case("tcp", THROUGH_ROUTER_2)
def tcp(lab: Lab, family: Family) -> None:
    web_through(lab, family)


@case("udp", THROUGH_ROUTER_2)
def udp(lab: Lab, family: Family) -> None:
    datagrams_through(lab, family)


@case("udp-wildcard", THROUGH_ROUTER_2)
def udp_wildcard(lab: Lab, family: Family) -> None:
    """The server is bound to no address and answers from the one it was asked on (IP_PKTINFO)."""
    datagrams_through(lab, family, bound=False)


@case("echo", THROUGH_ROUTER_2)
def echo(lab: Lab, family: Family) -> None:
    echoes_through(lab, family)


@case("reset", THROUGH_ROUTER_2)
def reset(lab: Lab, family: Family) -> None:
    for _ in range(3):
        with returned(lab, family, "tcp", 1, exactly=True):
            traffic.refused(to(lab, family, ports.CLOSED))


@case("path-mtu", THROUGH_ROUTER_2)
def path_mtu(lab: Lab, family: Family) -> None:
    narrow(NARROW, lab.far_side())
    with (
        traffic.tcp_server(lab.server, family, behind(ports.WEB, lab)),
        returned(lab, family, "tcp", EXCHANGES + 2, MEGABYTE) as tally,
    ):
        traffic.converse(to(lab, family, ports.WEB))
    if not tally.too_big(2, family):
        raise AssertionError(f"router 2 had no packet to call too big: nothing was tried; {tally}")


@case("port-unreachable", THROUGH_ROUTER_2)
def port_unreachable(lab: Lab, family: Family) -> None:
    _icmp_error(lab, family, ports.UDP_CLOSED, traffic.PORT_UNREACHABLE[family.version])


@case("time-exceeded", THROUGH_ROUTER_2)
def time_exceeded(lab: Lab, family: Family) -> None:
    """The host forwards, and the hops end there: client, world and router 2 have used up two."""
    _icmp_error(lab, family, ports.FORWARDED_UDP, traffic.TIME_EXCEEDED[family.version], hops=3)


@case("frag-needed", THROUGH_ROUTER_2)
def fragmentation_needed(lab: Lab, family: Family) -> None:
    """The host forwards into a link that is too small."""
    narrow(NARROW, lab.back_side())
    size = 1350  # fits WireGuard's 1420 bytes
    found = _icmp_error(lab, family, ports.FORWARDED_UDP, traffic.TOO_BIG[family.version], size=size)
    if found.info != NARROW:
        raise AssertionError(f"the error tells an MTU of {found.info}, not {NARROW}")


def _icmp_error(
    lab: Lab,
    family: Family,
    port: int,
    expected: tuple[int, int, int],
    size: int = 32,
    hops: int | None = None,
) -> traffic.IcmpError:
    for _ in range(3):
        with returned(lab, family, "icmp", 1, exactly=True):
            found = traffic.provoke(to(lab, family, port), size, hops)
        if (found.number, found.type, found.code) != expected:
            raise AssertionError(f"another error came back: {found}")
    return found


@case("udp-fragments", THROUGH_ROUTER_2)
def udp_fragments(lab: Lab, family: Family) -> None:
    datagrams_through(lab, family, count=20, size=FRAGMENTED)


@case("no-default-route", THROUGH_ROUTER_2, ("lan", "homed", "tunnel"))
def no_default_route(lab: Lab, family: Family) -> None:
    lab.drop_default_routes()
    web_through(lab, family)


@case("ftp-passive", THROUGH_ROUTER_2)
def ftp_passive(lab: Lab, family: Family) -> None:
    with ftp.server(lab.server, family), returned(lab, family, "tcp", 10, ftp.SIZE):
        ftp.fetch_passive(to(lab, family, ports.FTP))
    _all_marked(lab, family)


@case("ftp-active", THROUGH_ROUTER_2)
def ftp_active(lab: Lab, family: Family) -> None:
    with ftp.server(lab.server, family), returned(lab, family, "tcp", 10, ftp.SIZE):
        ftp.fetch_active(to(lab, family, ports.FTP))
    _all_marked(lab, family)


def _all_marked(lab: Lab, family: Family) -> None:
    marks = lab.connection_marks("tcp", family)
    if marks != [2, 2]:
        raise AssertionError(f"control and data connection should both have mark 2: {marks}")


@case("forgotten", THROUGH_ROUTER_2, ("lan", "homed", "tunnel"))
def forgotten(lab: Lab, family: Family) -> None:
    """Connection tracking has lost the connection, and this host speaks first: its socket still has the mark."""
    listening = traffic.listen(lab.host, family, ports.WEB, socket.SOCK_STREAM)
    with listening, to(lab, family, ports.WEB).connect() as caller, listening.accept()[0] as server:
        server.settimeout(traffic.SECONDS)
        for _ in range(EXCHANGES):
            lab.host.run("conntrack", "-F")
            with returned(lab, family, "tcp", 1):
                traffic.send(server, b"first")
                if traffic.receive(caller, 5) != b"first":
                    raise AssertionError("garbled")
                traffic.send(caller, b"second")
                if traffic.receive(server, 6) != b"second":
                    raise AssertionError("garbled")


@case("no-default-echo", THROUGH_ROUTER_2, ("lan", "homed", "tunnel"))
def no_default_route_without_a_socket(lab: Lab, family: Family) -> None:
    """Echo replies and resets come from no socket that could remember a mark."""
    lab.drop_default_routes()
    echoes_through(lab, family)
    reset(lab, family)


@case("link-local", THROUGH_ROUTER_2, ("lan", "homed", "gateway"), (IPV6,))
def link_local_gateway(lab: Lab, family: Family) -> None:
    lab.apply(lab.layout.policy(first=lab.layout.link_local_path()))
    web_through(lab, family)
    datagrams_through(lab, family)


@case("redirected", THROUGH_ROUTER_2)
def redirected(lab: Lab, family: Family) -> None:
    """The host's own NAT changes the port; the policy lists the one that arrived."""
    with (
        traffic.tcp_server(lab.host, family, ports.REDIRECTED_TO),
        returned(lab, family, "tcp", EXCHANGES + 2, MEGABYTE),
    ):
        traffic.converse(to(lab, family, ports.REDIRECTED))


@case("error-inward", THROUGH_ROUTER_2)
def error_inward(lab: Lab, family: Family) -> None:
    """The host's error about a reply that it forwards goes to the backend, not after the reply."""
    with (
        traffic.short_lived_answer(lab.backend, family, ports.FORWARDED_UDP) as errors,
        counted(lab) as tally,
    ):
        try:
            traffic.datagrams(to(lab, family, ports.FORWARDED_UDP), 1)
        except Stalled:
            pass
        else:
            raise AssertionError("an answer with one hop to live passed the host")
        found = errors()
    if (found.number, found.type, found.code) != traffic.TIME_EXCEEDED[family.version]:
        raise AssertionError(f"another error came to the backend: {found}; {tally}")
    if strays := tally.strays():
        raise AssertionError(f"nothing should have left for the client: {strays}; {tally}")


@case("port-down", THROUGH_ROUTER_2, ("homed", "tunnel"))
def port_down(lab: Lab, family: Family) -> None:
    """The port to router 2 goes down under a connection: its replies go nowhere, not through router 1."""
    tally = _with_port_down(lab, family)
    if strays := tally.strays(2):
        raise AssertionError(f"with its port down, replies leaked: {strays}; {tally}")
    if tally.replies(2, "udp", family).packets != 1:
        raise AssertionError(f"router 2 should have seen the one reply from before; {tally}")


def _with_port_down(lab: Lab, family: Family) -> Tally:
    """One datagram answered; then the port to router 2 goes down, and some more answers to it are sent."""
    address = lab.layout.service[family]
    with (
        traffic.listen(lab.host, family, ports.UDP, socket.SOCK_DGRAM, address) as server,
        to(lab, family, ports.UDP).open(socket.SOCK_DGRAM) as caller,
        counted(lab) as tally,
    ):
        caller.connect((PUBLIC[2][family], ports.UDP))
        caller.send(b"question")
        question, peer = server.recvfrom(64)
        server.sendto(question, peer)
        caller.recv(64)
        lab.host.ip(f"link set {lab.layout.device} down")
        for _ in range(EXCHANGES):
            with contextlib.suppress(OSError):  # unreachable, where it should be
                server.sendto(question, peer)
    return tally


@case("wrong-exit", THROUGH_ROUTER_2, astray=EXCHANGES)
def wrong_exit(lab: Lab, family: Family) -> None:
    """Somebody else's rule, ahead of ours, takes the replies: the host counts them, and those alone."""
    datagrams_through(lab, family)
    before = lab.carried(2)
    if not before:
        raise AssertionError("nothing on the host counts replies")
    mark = f"{lab.layout.path().mark:#x}"
    lab.host.run("ip", f"-{family.version}", "rule", "add", "fwmark", mark, "lookup", "main", "priority", "10")
    with (
        traffic.udp_server(lab.server, family, ports.UDP, _answering_address(lab, family, 2)),
        counted(lab) as tally,
        to(lab, family, ports.UDP).open(socket.SOCK_DGRAM) as caller,
    ):
        caller.connect((PUBLIC[2][family], ports.UDP))
        for number in range(1, EXCHANGES + 1):
            caller.send(b"question")
            _until_host(
                lambda: lab.carried(2), lambda host: host["astray"].packets >= number, f"{number} should be astray"
            )
    if tally.replies(1, "udp", family).packets != EXCHANGES or tally.strays(1):
        raise AssertionError(f"router 1 should have seen {EXCHANGES} replies; {tally}")
    if lab.carried(2)["back"] != before["back"]:
        raise AssertionError(f"a reply was counted as gone by router 2: {before}, {lab.carried(2)}")


@case("from-before", THROUGH_ROUTER_2)
def from_before(lab: Lab, family: Family) -> None:
    """The rules were away when the connection began: its next packet is taken for its first."""
    lab.host.run("nft", "delete", "table", "inet", "returnpath")
    with (
        traffic.listen(lab.server, family, ports.UDP, socket.SOCK_DGRAM, _answering_address(lab, family, 2)) as server,
        to(lab, family, ports.UDP).open(socket.SOCK_DGRAM) as caller,
    ):
        caller.connect((PUBLIC[2][family], ports.UDP))
        caller.send(b"question")
        server.sendto(*server.recvfrom(64))  # by whichever way
        lab.apply(lab.layout.policy())
        with returned(lab, family, "udp", EXCHANGES, exactly=True):
            for number in range(EXCHANGES):
                question = f"question {number}".encode()
                caller.send(question)
                server.sendto(*server.recvfrom(64))
                while caller.recv(64) != question:
                    pass  # the answer to the first one


@case("syn-cookies", THROUGH_ROUTER_2, ("lan", "homed", "tunnel"))
def syn_cookies(lab: Lab, family: Family) -> None:
    """The socket is made from the client's acknowledgement: no request remembers the mark of the SYN."""
    lab.host.sysctl({"ipv4/tcp_syncookies": 2})
    web_through(lab, family)


@case("forwarded", THROUGH_ROUTER_2, ("lan", "homed", "tunnel"))
def forwarded(lab: Lab, family: Family) -> None:
    """A listed port that the host forwards, in a layout where it answers the others itself."""
    _forwarded_through(lab, family, 2)


def _forwarded_through(lab: Lab, family: Family, router: int) -> None:
    with (
        traffic.tcp_server(lab.backend, family, ports.FORWARDED),
        returned(lab, family, "tcp", EXCHANGES + 2, MEGABYTE, router),
    ):
        traffic.converse(to(lab, family, ports.FORWARDED, router))
    with (
        traffic.udp_server(lab.backend, family, ports.FORWARDED_UDP),
        returned(lab, family, "udp", DATAGRAMS, router=router, exactly=True),
    ):
        traffic.datagrams(to(lab, family, ports.FORWARDED_UDP, router))


@case("answered-here", THROUGH_ROUTER_2, ("gateway",))
def answered_here(lab: Lab, family: Family) -> None:
    """A listed port that the host answers itself, in the layout where it forwards the others."""
    _host_web_through(lab, family, 2)


def _host_web_through(lab: Lab, family: Family, router: int) -> None:
    with (
        traffic.tcp_server(lab.host, family, ports.HOST_WEB),
        returned(lab, family, "tcp", EXCHANGES + 2, MEGABYTE, router),
    ):
        traffic.converse(to(lab, family, ports.HOST_WEB, router))


# Keys of the policy


@case("scope-local", KEYS, ("homed",))
def scope_local(lab: Lab, family: Family) -> None:
    """This host's answers need no looser reverse path: strict as it is, it drops what is to be forwarded."""
    lab.apply(lab.layout.policy(first=replace(lab.layout.path(), scope="local")))
    if (filters := _reverse_path_filters(lab)) != ["1", "1"]:
        raise AssertionError(f"rp_filter should be as it was, 1 for all and for the port: {filters}")
    web_through(lab, family)
    datagrams_through(lab, family)
    echoes_through(lab, family)
    with traffic.tcp_server(lab.backend, family, ports.FORWARDED):
        tally = _not_answered(lab, lambda: to(lab, family, ports.FORWARDED).connect().close())
    astray = tally.replies(1, "tcp", family).packets
    if (family.version == 4) == bool(astray):
        raise AssertionError(f"forwarded traffic is not as it was; {tally}")


@case("scope-forward", KEYS, ("lan", "homed"))
def scope_forward(lab: Lab, family: Family) -> None:
    lab.apply(lab.layout.policy(first=replace(lab.layout.path(), scope="forward")))
    _forwarded_through(lab, family, 2)
    with traffic.tcp_server(lab.host, family, ports.WEB):
        tally = _not_answered(lab, lambda: to(lab, family, ports.WEB).connect().close())
    astray = tally.replies(1, "tcp", family).packets
    if (lab.layout.strict and family.version == 4) == bool(astray):
        raise AssertionError(f"what this host answers is not as it was; {tally}")


def _reverse_path_filters(lab: Lab) -> list[str]:
    keys = [f"net.ipv4.conf.{port}.rp_filter" for port in ("all", lab.layout.device)]
    return lab.host.run("sysctl", "-n", *keys).split()


@case("mac-and-port", KEYS, ("lan",))
def mac_and_port(lab: Lab, family: Family) -> None:
    """Given together, both must match: another port, or another MAC, is not the path's."""
    path = lab.layout.path()
    lab.apply(lab.layout.policy(first=replace(path, ingress=("eth0",))))
    web_through(lab, family)
    for other in (
        replace(path, ingress=("back0",)),
        replace(path, ingress=("eth0",), source_macs=(MACS[3],)),
    ):
        lab.apply(lab.layout.policy(first=other))
        _web_unmarked(lab, family)


@case("destinations", KEYS, ("lan", "gateway"))
def destinations(lab: Lab, family: Family) -> None:
    """As they arrive: the host's own address also where the host forwards to another."""

    def only(addresses: Dual) -> None:
        networks = (f"{addresses.ipv4}/32", f"{addresses.ipv6}/128", *SECOND_LAN.network)
        lab.apply(lab.layout.policy(first=replace(lab.layout.path(), destinations=networks)))

    only(lab.layout.service)
    web_through(lab, family)
    datagrams_through(lab, family)
    only(BACK.host(BACKEND))
    _web_unmarked(lab, family)


def _web_unmarked(lab: Lab, family: Family) -> None:
    lab.host.run("conntrack", "-D", "-s", CLIENT[family], "-f", f"ipv{family.version}")
    with traffic.tcp_server(lab.server, family, behind(ports.WEB, lab)), unmarked(lab, family, "tcp"):
        tally = _not_answered(lab, lambda: to(lab, family, ports.WEB).connect().close())
    if not tally.replies(1, "tcp", family).packets:
        raise AssertionError(f"the answer did not take the main route; {tally}")


# Another program's mark is what would be router 2's without `mark_mask`.
FOREIGN_2 = """
    chain before {
        meta mark set meta mark | 0x00000002
        ct mark set ct mark | 0x00000002
    }
    chain prerouting { type filter hook prerouting priority -160; jump before; }
    chain output { type filter hook output priority -160; jump before; }
"""


@case("mark-mask", KEYS, ("lan", "gateway"))
def mark_mask(lab: Lab, family: Family) -> None:
    first = replace(lab.layout.path(), mark=0x200)
    lab.apply(replace(lab.layout.policy(first=first), mark_mask=0xFF00))
    with lab.host.table("foreign", FOREIGN_2):
        web_through(lab, family, router=1)
        web_through(lab, family)
        datagrams_through(lab, family)
        echoes_through(lab, family)
    marks = sorted(lab.connection_marks("tcp", family))
    if marks != [0x002, 0x202]:
        raise AssertionError(f"the connections should have marks 0x002 and 0x202: {marks}")


@case("when-down-main", KEYS, ("homed", "tunnel"), astray=EXCHANGES)
def when_down_main(lab: Lab, family: Family) -> None:
    """The port to router 2 goes down under a connection: its replies take the main route."""
    lab.apply(lab.layout.policy(first=replace(lab.layout.path(), when_down="main")))
    tally = _with_port_down(lab, family)
    if strays := tally.strays(1, 2):
        raise AssertionError(f"with its port down, replies went astray: {strays}; {tally}")
    found = [tally.replies(router, "udp", family).packets for router in (2, 1)]
    if found != [1, EXCHANGES]:
        raise AssertionError(f"router 2 should have seen one reply, router 1 {EXCHANGES}; {tally}")


@case("256-paths", KEYS, ("lan",))
def many_paths(lab: Lab, family: Family) -> None:
    """As many as there may be, all by router 3; the one of router 2 is the last of them."""
    path = lab.layout.path()
    others = [
        replace(
            path,
            name=f"path{number}",
            mark=number,
            table=1000 + number,
            gateways=tuple(LAN.host(3)),
            source_macs=(f"02:00:00:00:{number >> 8:02x}:{number & 0xFF:02x}",),
        )
        for number in range(1, 256)
    ]
    last = replace(path, mark=0xFFFF, table=2000)
    lab.apply(replace(lab.layout.policy(*others[1:], last, first=others[0]), mark_mask=0xFFFF))
    web_through(lab, family)
    datagrams_through(lab, family)
    if (marks := lab.connection_marks("tcp", family)) != [0xFFFF]:
        raise AssertionError(f"the connection should have mark 0xffff: {marks}")
    web_through(lab, family, router=1)


@case("update", KEYS, ("lan", "gateway"))
def update(lab: Lab, family: Family) -> None:
    """Policies change under two connections that never pause: tables swapped, another mark beside, back."""
    layout = lab.layout
    two, three = layout.path(), layout.second_path()
    start = layout.policy(three)
    lab.apply(start)
    another = replace(three, name="another", mark=0x4, table=202, source_macs=("02:00:00:00:00:04",))
    changes = (
        layout.policy(replace(three, table=two.table), first=replace(two, table=three.table)),
        layout.policy(replace(three, priority=900), first=replace(two, table=300, services=("tcp", "udp"))),
        layout.policy(three, two, first=another),
        start,
    )
    with (
        traffic.tcp_server(lab.server, family, behind(ports.WEB, lab)),
        counted(lab) as tally,
        contextlib.ExitStack() as stack,
    ):
        talks = [stack.enter_context(Talk(to(lab, family, ports.WEB, router))) for router in (2, 3)]
        for policy in changes:
            lab.apply(policy)
            for talk in talks:
                talk.goes_on()
    if strays := tally.strays(2, 3):
        raise AssertionError(f"replies went astray: {strays}; {tally}")


@case("update-mark", KEYS, ("lan", "gateway"))
def update_mark(lab: Lab, family: Family) -> None:
    """Router 2 gets another mark under a connection through router 3, and its old one goes to router 4."""
    layout = lab.layout
    two, three = layout.path(), layout.second_path()
    four = replace(three, name="router4", mark=two.mark, table=202, source_macs=("02:00:00:00:00:04",))
    lab.apply(layout.policy(three))
    web_through(lab, family)
    with (
        traffic.tcp_server(lab.server, family, behind(ports.WEB, lab)),
        counted(lab) as tally,
        Talk(to(lab, family, ports.WEB, 3)) as talk,
    ):
        lab.apply(layout.policy(three, four, first=replace(two, mark=0x7)))
        talk.goes_on()
        traffic.converse(to(lab, family, ports.WEB))
    if strays := tally.strays(2, 3):
        raise AssertionError(f"replies went astray: {strays}; {tally}")
    if tally.replies(2, "tcp", family).bytes < MEGABYTE:
        raise AssertionError(f"router 2 should have carried a connection; {tally}")
    if (marks := sorted(lab.connection_marks("tcp", family))) != [2, 3, 7]:
        raise AssertionError(f"the connections should have marks 2, 3 and 7: {marks}")


class Talk:
    """A connection on which one exchange follows the other, without a pause, until the block ends."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._connection = endpoint.connect()
        self._done, self._stopping = 0, threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                traffic.exchange(self._connection, self._done)
                self._done += 1
            traffic.finish(self._connection)
        except BaseException as failure:
            self._failure = failure

    def goes_on(self) -> None:
        """Waits until exchanges that began after this call are answered."""
        wanted = self._done + 1 + EXCHANGES
        while self._done < wanted and not self._failure:
            time.sleep(0.001)
        if self._failure:
            raise self._failure

    def __enter__(self) -> Talk:
        self._thread.start()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._stopping.set()
        self._thread.join()
        self._connection.close()
        if self._failure and not kind:
            raise self._failure


# What must stay as it was


@case("router-1", AS_IT_WAS)
def router_1(lab: Lab, family: Family) -> None:
    with unmarked(lab, family, "tcp"):
        web_through(lab, family, router=1)
    with unmarked(lab, family, "udp"):
        datagrams_through(lab, family, router=1)
    echoes_through(lab, family, router=1)


@case("local-networks", AS_IT_WAS, ("lan", "gateway", "tunnel"))
def local_networks(lab: Lab, family: Family) -> None:
    """A local source comes in through router 2; the main table answers it, through router 1."""
    _branch(lab, family, 1)


@case("local-networks", AS_IT_WAS, ("homed",))
def local_networks_behind_second_port(lab: Lab, family: Family) -> None:
    """Strict reverse path lets in what the main table would send there: so it is router 2 that answers."""
    lab.host.ip(f"route add {BRANCH[family]} via {lab.layout.inside.host(2)[family]}")
    _branch(lab, family, 2)


def _branch(lab: Lab, family: Family, router: int) -> None:
    call = Endpoint(lab.client, family, BRANCH[family], lab.layout.service[family], ports.WEB)
    with (
        traffic.tcp_server(lab.server, family, behind(ports.WEB, lab)),
        unmarked(lab, family, "tcp"),
        returned(lab, family, "tcp", EXCHANGES + 2, MEGABYTE, router, marked=False) as tally,
    ):
        traffic.converse(call)
    if tally.requests(2, "tcp", family).packets < EXCHANGES:
        raise AssertionError(f"the local source did not come in through router 2; {tally}")


@case("inside-a-tunnel", AS_IT_WAS, ("lan",))
def inside_a_tunnel(lab: Lab, family: Family) -> None:
    """A VXLAN of the host's own comes through router 2: what it carries is none of the path's."""
    lab.apply(lab.layout.policy(first=replace(lab.layout.path(), services=())))
    inner = {lab.client: "10.77.0.1", lab.host: "10.77.0.2"}
    # The host learns the far end from the first packet: else it would speak first, through router 1.
    ends = {
        lab.client: f"local {CLIENT[family]} remote {PUBLIC[2][family]}",
        lab.host: f"local {LAN.host(HOST)[family]}",
    }
    for namespace, way in ends.items():
        # One source port, so that both ways are one connection, as with most other tunnels.
        namespace.ip(
            f"link add inner type vxlan id 5 {way} dstport 4789 srcport 4789 4790",
            f"address add {inner[namespace]}/24 dev inner",
            "link set inner up",
        )
    ipv4 = FAMILIES[0]
    call = Endpoint(lab.client, ipv4, inner[lab.client], inner[lab.host], ports.WEB)
    with (
        traffic.tcp_server(lab.host, ipv4, ports.WEB),
        returned(lab, family, "udp", EXCHANGES + 2, MEGABYTE, tunnel=True),
    ):
        traffic.converse(call)


@case("not-listed", AS_IT_WAS, ("lan", "gateway", "tunnel"))
def not_listed(lab: Lab, family: Family) -> None:
    """Answers to what is not listed still leave by the default gateway, wrong as that is for them."""
    with traffic.tcp_server(lab.host, family, ports.UNLISTED), unmarked(lab, family, "tcp"):
        tally = _not_answered(lab, lambda: to(lab, family, ports.UNLISTED).connect().close())
        if not tally.replies(1, "tcp", family).packets:
            raise AssertionError(f"the host's answer did not take the main route; {tally}")
    with traffic.udp_server(lab.host, family, ports.UNLISTED_UDP), unmarked(lab, family, "udp"):
        tally = _not_answered(lab, lambda: traffic.datagrams(to(lab, family, ports.UNLISTED_UDP), 1))
        if not tally.replies(1, "udp", family).packets:
            raise AssertionError(f"the host's answer did not take the main route; {tally}")


@case("not-listed", AS_IT_WAS, ("homed",))
def not_listed_strict(lab: Lab, family: Family) -> None:
    """IPv4's strict reverse path dropped these before they reached the host: it still does."""
    with traffic.tcp_server(lab.host, family, ports.UNLISTED):
        tally = _not_answered(lab, lambda: to(lab, family, ports.UNLISTED).connect().close())
    answers = tally.replies(1, "tcp", family).packets
    if family.version == 4 and answers:
        raise AssertionError(f"strict reverse path let in a service that is not listed; {tally}")
    if family.version == 6 and not answers:
        raise AssertionError(f"the host's answer did not take the main route; {tally}")


@case("flushed", AS_IT_WAS, ("homed",))
def flushed(lab: Lab, family: Family) -> None:
    """A firewall restart takes the table, and with it the memory that reverse path was strict."""
    lab.host.run("nft", "flush", "ruleset")
    lab.apply(lab.layout.policy())
    not_listed_strict(lab, family)
    web_through(lab, family)


def _not_answered(lab: Lab, call: Callable[[], None]) -> Tally:
    with lab.watched() as tally:
        try:
            call()
        except (Stalled, Unreachable):
            pass
        else:
            raise AssertionError("a service that is not listed was answered through router 2")
    if strays := tally.strays(1):
        raise AssertionError(f"answers took a router that they should not: {strays}; {tally}")
    return tally


@case("host-opened", AS_IT_WAS)
def host_opened(lab: Lab, family: Family) -> None:
    _host_calls(lab, family)


@case("host-opened-2", AS_IT_WAS, ("lan", "gateway"))
def host_opened_answered_through_router_2(lab: Lab, family: Family) -> None:
    """The host's connection leaves by router 1, and the answers come in by router 2: that marks nothing."""
    lab.route_client_answers(2)
    tally = _host_calls(lab, family)
    if tally.requests(2, "tcp", family).packets < EXCHANGES or tally.requests(1, "tcp", family).packets:
        raise AssertionError(f"the client's answers did not come in through router 2 alone; {tally}")


def _host_calls(lab: Lab, family: Family) -> Tally:
    """To ports that are in the policy's services: it is the direction that must keep these apart."""
    own = LAN.host(HOST)[family]
    with (
        traffic.tcp_server(lab.client, family, ports.WEB),
        unmarked(lab, family, "tcp"),
        returned(lab, family, "tcp", EXCHANGES + 2, MEGABYTE, router=1) as tally,
    ):
        traffic.converse(Endpoint(lab.host, family, own, CLIENT[family], ports.WEB))
    with (
        traffic.udp_server(lab.client, family, ports.UDP, CLIENT[family]),
        unmarked(lab, family, "udp"),
        returned(lab, family, "udp", DATAGRAMS, router=1, exactly=True),
    ):
        traffic.datagrams(Endpoint(lab.host, family, own, CLIENT[family], ports.UDP))
    with (
        unmarked(lab, family, "icmp" if family.version == 4 else "icmpv6"),
        returned(lab, family, "icmp", 10, router=1, exactly=True),
    ):
        traffic.echoes(Endpoint(lab.host, family, own, CLIENT[family]))
    return tally


# Two bits of the packet mark for each direction, one set at raw and one at mangle priority, and one bit of
# the connection mark for each. The client's address tells the direction, for local and for forwarded packets.
FOREIGN = """
    counter in_kept { }
    counter in_lost { }
    counter out_kept { }
    counter out_lost { }
    counter out_spread { }
    chain raw {
        FAMILY saddr CLIENT meta mark set meta mark | 0x00000100
        FAMILY daddr CLIENT meta mark set meta mark | 0x00010000
    }
    chain mangle {
        FAMILY saddr CLIENT meta mark set meta mark | 0x00000200
        FAMILY daddr CLIENT meta mark set meta mark | 0x00020000
        FAMILY saddr CLIENT ct mark set ct mark | 0x01000000
        FAMILY daddr CLIENT ct mark set ct mark | 0x02000000
    }
    chain judge {
        FAMILY saddr CLIENT meta mark & 0xff00ff00 == 0x00000300 ct mark & 0x01000000 != 0 \\
            counter name in_kept return
        FAMILY saddr CLIENT counter name in_lost
        FAMILY daddr CLIENT meta mark & 0x0000ff00 != 0 counter name out_spread
        FAMILY daddr CLIENT meta mark & 0xffff0000 == 0x00030000 ct mark & 0x03000000 == 0x03000000 \\
            counter name out_kept return
        FAMILY daddr CLIENT counter name out_lost
    }
    chain raw_prerouting { type filter hook prerouting priority -300; jump raw; }
    chain raw_output { type filter hook output priority -300; jump raw; }
    chain mangle_prerouting { type filter hook prerouting priority -150; jump mangle; }
    chain mangle_output { type filter hook output priority -150; jump mangle; }
    chain judge_input { type filter hook input priority 300; jump judge; }
    chain judge_forward { type filter hook forward priority 300; jump judge; }
    chain judge_output { type filter hook output priority 300; jump judge; }
"""


def _with_foreign_bits(lab: Lab, family: Family, router: int) -> dict[str, int]:
    body = FOREIGN.replace("FAMILY", family.nft).replace("CLIENT", CLIENT[family])
    with lab.host.table("foreign", body):
        web_through(lab, family, router)
        datagrams_through(lab, family, router)
        echoes_through(lab, family, router)
        _host_web_through(lab, family, router)
        found = {name: count.packets for name, count in counters(lab.host, "foreign").items()}
    least = DATAGRAMS + 10 + EXCHANGES
    if found["in_lost"] or found["out_lost"]:
        raise AssertionError(f"another table's bits were lost: {found}")
    if found["in_kept"] < least or found["out_kept"] < least:
        raise AssertionError(f"too few packets were judged: {found}")
    return found


@case("foreign-bits", AS_IT_WAS)
def foreign_bits(lab: Lab, family: Family) -> None:
    for router in (2, 1):
        _with_foreign_bits(lab, family, router)


@case("foreign-spread", AS_IT_WAS)
def foreign_bits_do_not_spread(lab: Lab, family: Family) -> None:
    """Bits that another table sets on what comes in alone do not turn up on what goes out."""
    for router in (2, 1):
        found = _with_foreign_bits(lab, family, router)
        if found["out_spread"]:
            raise AssertionError(f"through router {router}, incoming packets' bits are on outgoing ones: {found}")


@case("second-path", AS_IT_WAS)
def second_path(lab: Lab, family: Family) -> None:
    """A path comes beside the first while a connection is open; then three connections take three ways."""
    port = behind(ports.WEB, lab)
    with traffic.tcp_server(lab.server, family, port), to(lab, family, ports.WEB).connect() as first:
        with returned(lab, family, "tcp", 2):
            traffic.exchange(first, 0)
            lab.apply(lab.layout.policy(lab.layout.second_path()))
            traffic.exchange(first, 1)
            traffic.upload(first)
        connections = {2: first}
        with contextlib.ExitStack() as stack:
            with counted(lab) as tally:
                for router in (1, 3):
                    connections[router] = stack.enter_context(to(lab, family, ports.WEB, router).connect())
                for number in range(EXCHANGES):
                    for connection in connections.values():
                        traffic.exchange(connection, number)
                for connection in connections.values():
                    traffic.download(connection)
            for router in connections:
                replies = tally.replies(router, "tcp", family)
                if not MEGABYTE <= replies.bytes < 1.5 * MEGABYTE or replies.packets < EXCHANGES:
                    raise AssertionError(f"router {router} should carry one connection of three; {tally}")
            for connection in connections.values():
                traffic.finish(connection)
    marks = sorted(lab.connection_marks("tcp", family))
    if marks != [0, 2, 3]:
        raise AssertionError(f"three connections should have marks 0, 2, 3: {marks}")


@case("host-nat", AS_IT_WAS)
def host_nat(lab: Lab, family: Family) -> None:
    """The host's own NAT, of what router 1 brings and of what the backend opens, goes on by router 1."""
    _forwarded_through(lab, family, 1)
    inner = BACK.host(BACKEND)[family]
    with (
        traffic.tcp_server(lab.client, family, ports.WEB),
        unmarked(lab, family, "tcp"),
        returned(lab, family, "tcp", EXCHANGES + 2, MEGABYTE, router=1),
    ):
        traffic.converse(Endpoint(lab.backend, family, inner, CLIENT[family], ports.WEB))


# The harness can fail


@case("nothing-fails", HARNESS, subject=subject.Nothing())
def nothing_fails(lab: Lab, family: Family) -> None:
    """Without anything there is no handshake, since the answer leaves through router 1."""
    with traffic.tcp_server(lab.server, family, behind(ports.WEB, lab)), lab.watched() as tally:
        try:
            to(lab, family, ports.WEB).connect().close()
        except Unreachable:
            pass
        else:
            raise AssertionError("the handshake came about with nothing installed")
    dropped = lab.layout.strict and family.version == 4
    astray, returned_right = (tally.replies(router, "tcp", family).packets for router in (1, 2))
    if returned_right or bool(astray) == dropped:
        raise AssertionError(f"the answer should have left through router 1 alone; {tally}")


@case("seed-stalls", HARNESS, ("lan",), subject=subject.Seed())
def seed_stalls(lab: Lab, family: Family) -> None:
    """The classic recipe connects and then stalls: the save on the second packet takes the mark away."""
    with (
        traffic.tcp_server(lab.server, family, ports.WEB),
        lab.watched() as tally,
        to(lab, family, ports.WEB).connect() as connection,
    ):
        try:
            for number in range(EXCHANGES):
                traffic.exchange(connection, number)
        except Stalled:
            pass
        else:
            raise AssertionError("the classic recipe did not stall")
        marks = lab.connection_marks("tcp", family)
    if marks != [0]:
        raise AssertionError(f"the connection's mark should have been overwritten with 0: {marks}")
    right, astray = (tally.replies(router, "tcp", family).packets for router in (2, 1))
    if not right or not astray:
        raise AssertionError(f"only the handshake should have left through router 2; {tally}")

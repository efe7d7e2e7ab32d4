"""What the cases of the matrix prove, and the traffic that several of them share."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Iterator

import ports
import traffic
from addresses import BACK, BACKEND, CLIENT, HOST, LAN, PUBLIC, Family
from lab import Count, Lab, Tally
from traffic import DATAGRAMS, EXCHANGES, MEGABYTE, Endpoint, Stalled, Unreachable

Carried = dict[str, Count]
OUR_BITS = 0xFF


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

    until_host(moved, agrees, f"of router {router}, the host should have counted {packets} packets; {tally}")


def none_astray(lab: Lab, router: int, allowed: int) -> None:
    if host := lab.carried(router):
        if host["astray"].packets != allowed:
            raise AssertionError(f"the host should have counted {allowed} replies that went astray: {host}")
        if host["back"].packets and not host["new"].packets:
            raise AssertionError(f"the host counted replies of no connection: {host}")


def until_host(look: Callable[[], Carried], agrees: Callable[[Carried], bool], what: str) -> None:
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
    address = answering_address(lab, family, router) if bound else None
    with (
        traffic.udp_server(server, family, ports.UDP, address),
        returned(lab, family, "udp", count, count * size, router, exactly=True),
    ):
        traffic.datagrams(to(lab, family, ports.UDP, router), count, size)


def answering_address(lab: Lab, family: Family, router: int) -> str:
    if lab.layout.gateway:
        return BACK.host(BACKEND)[family]
    return (lab.layout.service if router == 2 else LAN.host(HOST))[family]


def echoes_through(lab: Lab, family: Family, router: int = 2) -> None:
    with returned(lab, family, "icmp", 10, router=router, exactly=True):
        traffic.echoes(to(lab, family, router=router))


def forwarded_through(lab: Lab, family: Family, router: int) -> None:
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


def host_web_through(lab: Lab, family: Family, router: int) -> None:
    with (
        traffic.tcp_server(lab.host, family, ports.HOST_WEB),
        returned(lab, family, "tcp", EXCHANGES + 2, MEGABYTE, router),
    ):
        traffic.converse(to(lab, family, ports.HOST_WEB, router))


def with_port_down(lab: Lab, family: Family) -> Tally:
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


def not_answered(lab: Lab, call: Callable[[], None]) -> Tally:
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

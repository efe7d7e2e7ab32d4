"""Cases of the matrix: packets that must come back through the router that brought the request."""

from __future__ import annotations

import select
import socket
import time

import ftp
import ports
import traffic
from addresses import CLIENT, HOST, IPV6, LAN, MACS, PUBLIC, Family
from lab import Lab, counters, narrow
from matrix import THROUGH_ROUTER_2, case
from proofs import (
    answering_address,
    behind,
    counted,
    datagrams_through,
    echoes_through,
    forwarded_through,
    host_web_through,
    returned,
    to,
    unmarked,
    until_host,
    web_through,
    with_port_down,
)
from traffic import EXCHANGES, FRAGMENTED, MEGABYTE, Stalled

NARROW = 1280  # the smallest MTU that IPv6 allows


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
    tally = with_port_down(lab, family)
    if strays := tally.strays(2):
        raise AssertionError(f"with its port down, replies leaked: {strays}; {tally}")
    if tally.replies(2, "udp", family).packets != 1:
        raise AssertionError(f"router 2 should have seen the one reply from before; {tally}")


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
        traffic.udp_server(lab.server, family, ports.UDP, answering_address(lab, family, 2)),
        counted(lab) as tally,
        to(lab, family, ports.UDP).open(socket.SOCK_DGRAM) as caller,
    ):
        caller.connect((PUBLIC[2][family], ports.UDP))
        for number in range(1, EXCHANGES + 1):
            caller.send(b"question")
            until_host(
                lambda: lab.carried(2), lambda host: host["astray"].packets >= number, f"{number} should be astray"
            )
    if tally.replies(1, "udp", family).packets != EXCHANGES or tally.strays(1):
        raise AssertionError(f"router 1 should have seen {EXCHANGES} replies; {tally}")
    if lab.carried(2)["back"] != before["back"]:
        raise AssertionError(f"a reply was counted as gone by router 2: {before}, {lab.carried(2)}")


@case("from-before", THROUGH_ROUTER_2, ("lan", "homed", "gateway"))
def from_before(lab: Lab, family: Family) -> None:
    """The rules were away when it began, and the answer was lost: the next SYN is taken for the first."""
    lab.host.run("nft", "delete", "table", "inet", "returnpath")
    lab.routers[1].nft("table inet gone { chain forward { type filter hook forward priority 0; policy drop; }; }")
    lab.server.sysctl({"ipv4/tcp_synack_retries": 0})  # the client tries again, and nobody else
    port = ports.WEB_BEHIND if lab.layout.gateway else ports.WEB
    with (
        traffic.listen(lab.server, family, port, socket.SOCK_STREAM) as server,
        to(lab, family, ports.WEB).open(socket.SOCK_STREAM) as caller,
    ):
        with lab.watched() as tally:
            caller.setblocking(False)
            caller.connect_ex((PUBLIC[2][family], ports.WEB))
            time.sleep(0.3)
        if not tally.replies(1, "tcp", family).packets:
            raise AssertionError(f"the answer should have gone by router 1; {tally}")
        lab.apply(lab.layout.policy())
        with returned(lab, family, "tcp", 3):
            caller.settimeout(traffic.SECONDS)
            select.select([], [caller], [], traffic.SECONDS)
            caller.send(b"question")
            answerer, _ = server.accept()
            with answerer:
                answerer.sendall(answerer.recv(64))
                if caller.recv(64) != b"question":
                    raise AssertionError("another answer")


@case("forged", THROUGH_ROUTER_2, ("lan",))
def forged(lab: Lab, family: Family) -> None:
    """One packet from router 2 with the addresses of an assured connection does not draw it over."""
    lab.host.nft(
        "table inet seen { counter forged { }; chain first { type filter hook prerouting priority -99; "
        f"ether saddr {MACS[2]} tcp dport {ports.WEB} ct state established counter name forged; }}; }}"
    )
    lab.host.sysctl({"netfilter/nf_conntrack_tcp_be_liberal": 1})  # as if its sequence number had been guessed
    with traffic.tcp_server(lab.server, family, ports.WEB), to(lab, family, ports.WEB, router=1).connect() as caller:
        with returned(lab, family, "tcp", 1, router=1, marked=False):
            traffic.exchange(caller, 1)
        ends = (CLIENT[family], LAN.host(HOST)[family])
        traffic.forge(lab.routers[2], family, *ends, (caller.getsockname()[1], ports.WEB))
        if counters(lab.host, "seen")["forged"].packets != 1:
            raise AssertionError("the forged packet is not one of that connection")
        with returned(lab, family, "tcp", 1, router=1, marked=False), unmarked(lab, family, "tcp"):
            traffic.exchange(caller, 2)


@case("syn-cookies", THROUGH_ROUTER_2, ("lan", "homed", "tunnel"))
def syn_cookies(lab: Lab, family: Family) -> None:
    """The socket is made from the client's acknowledgement: no request remembers the mark of the SYN."""
    lab.host.sysctl({"ipv4/tcp_syncookies": 2})
    web_through(lab, family)


@case("forwarded", THROUGH_ROUTER_2, ("lan", "homed", "tunnel"))
def forwarded(lab: Lab, family: Family) -> None:
    """A listed port that the host forwards, in a layout where it answers the others itself."""
    forwarded_through(lab, family, 2)


@case("answered-here", THROUGH_ROUTER_2, ("gateway",))
def answered_here(lab: Lab, family: Family) -> None:
    """A listed port that the host answers itself, in the layout where it forwards the others."""
    host_web_through(lab, family, 2)

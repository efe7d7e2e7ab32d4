"""Cases of the matrix: what must stay as it was, beside a policy that is in force."""

from __future__ import annotations

import contextlib
from dataclasses import replace

import ports
import traffic
from addresses import BACK, BACKEND, BRANCH, CLIENT, FAMILIES, HOST, LAN, PUBLIC, Family
from lab import Lab, Tally, counters
from matrix import AS_IT_WAS, case
from proofs import (
    behind,
    counted,
    datagrams_through,
    echoes_through,
    forwarded_through,
    host_web_through,
    not_answered,
    returned,
    to,
    unmarked,
    web_through,
)
from traffic import DATAGRAMS, EXCHANGES, MEGABYTE, Endpoint


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
        tally = not_answered(lab, lambda: to(lab, family, ports.UNLISTED).connect().close())
        if not tally.replies(1, "tcp", family).packets:
            raise AssertionError(f"the host's answer did not take the main route; {tally}")
    with traffic.udp_server(lab.host, family, ports.UNLISTED_UDP), unmarked(lab, family, "udp"):
        tally = not_answered(lab, lambda: traffic.datagrams(to(lab, family, ports.UNLISTED_UDP), 1))
        if not tally.replies(1, "udp", family).packets:
            raise AssertionError(f"the host's answer did not take the main route; {tally}")


@case("not-listed", AS_IT_WAS, ("homed",))
def not_listed_strict(lab: Lab, family: Family) -> None:
    """IPv4's strict reverse path dropped these before they reached the host: it still does."""
    with traffic.tcp_server(lab.host, family, ports.UNLISTED):
        tally = not_answered(lab, lambda: to(lab, family, ports.UNLISTED).connect().close())
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
        host_web_through(lab, family, router)
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
    forwarded_through(lab, family, 1)
    inner = BACK.host(BACKEND)[family]
    with (
        traffic.tcp_server(lab.client, family, ports.WEB),
        unmarked(lab, family, "tcp"),
        returned(lab, family, "tcp", EXCHANGES + 2, MEGABYTE, router=1),
    ):
        traffic.converse(Endpoint(lab.backend, family, inner, CLIENT[family], ports.WEB))

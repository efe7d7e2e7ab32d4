"""Cases of the matrix: what each key of the policy changes, and policies that change under traffic."""

from __future__ import annotations

import contextlib
import threading
import time
from dataclasses import replace

import ports
import traffic
from addresses import BACK, BACKEND, CLIENT, LAN, MACS, SECOND_LAN, Dual, Family
from lab import Lab
from matrix import KEYS, case
from proofs import (
    behind,
    counted,
    datagrams_through,
    echoes_through,
    forwarded_through,
    not_answered,
    to,
    unmarked,
    web_through,
    with_port_down,
)
from traffic import EXCHANGES, MEGABYTE, Endpoint


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
        tally = not_answered(lab, lambda: to(lab, family, ports.FORWARDED).connect().close())
    astray = tally.replies(1, "tcp", family).packets
    if (family.version == 4) == bool(astray):
        raise AssertionError(f"forwarded traffic is not as it was; {tally}")


@case("scope-forward", KEYS, ("lan", "homed"))
def scope_forward(lab: Lab, family: Family) -> None:
    lab.apply(lab.layout.policy(first=replace(lab.layout.path(), scope="forward")))
    forwarded_through(lab, family, 2)
    with traffic.tcp_server(lab.host, family, ports.WEB):
        tally = not_answered(lab, lambda: to(lab, family, ports.WEB).connect().close())
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
        tally = not_answered(lab, lambda: to(lab, family, ports.WEB).connect().close())
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
    tally = with_port_down(lab, family)
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

"""`source_macs = ["auto"]`: the MACs of gateways, as the neighbour table has them."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

from case import Bench, case, require, unchanged, until
from guard import guarded
from installing import silent_calls
from machine import Machine, snapshot
from service import place, service, waiting

PATH = """
[paths.router2]
mark = 0x2
table = 200
gateways = ["10.0.0.2"]
source_macs = ["auto"]
"""
BOTH = PATH.replace('"10.0.0.2"', '"10.0.0.2", "fd00::2"')
OTHER = PATH.replace("router2", "router3").replace("0x2", "0x3").replace("200", "300").replace("10.0.0.2", "10.0.0.3")
FIRST, SECOND = "52:54:00:00:00:01", "52:54:00:00:00:02"
CLIENT = "203.0.113.7"


@contextlib.contextmanager
def lan(*addresses: str, mac: str = FIRST) -> Iterator[tuple[Machine, Machine]]:
    """A host, and on its eth0 a router that has these addresses and is the client itself."""
    with Machine() as host, Machine(routers=False) as router:
        router.batch("link del eth0", "link del eth1", "link del eth2")
        file = f"/proc/{os.getpid()}/fd/{router.descriptor}"
        host.batch(f"link set peer0 netns {file}")
        router.batch(
            f"link set peer0 address {mac} up",
            *(f"addr add {address} dev peer0" for address in addresses),
            f"addr add {CLIENT}/32 dev lo",
        )
        yield host, router


def neighbour(host: Machine, address: str, mac: str) -> None:
    host.batch(f"neigh replace {address} lladdr {mac} dev eth0 nud reachable")


def macs(host: Machine, name: str = "macs") -> dict[str, str]:
    """What the map knows: the path of each MAC, or port and MAC."""
    listed = host.run("nft", "list", "map", "inet", "returnpath", name)
    return {key.replace('"', ""): path for key, path in re.findall(r"([^\s,{][^,{]*) : goto from_(\w+)", listed)}


def talk(router: Machine) -> None:
    with router.inside(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"", ("10.0.0.10", 9))


def nothing() -> None:
    pass


def exchange(
    host: Machine, router: Machine, rounds: int, between: Callable[[], object] = nothing, patience: float = 5
) -> None:
    """A connection of the client to the host, through the router: some words, and each comes back."""
    with host.inside():
        listener = socket.create_server(("0.0.0.0", 80))
    listener.settimeout(patience)
    with router.inside():
        client = socket.create_connection(("10.0.0.10", 80), patience, (CLIENT, 0))
    with listener, client:
        server, _ = listener.accept()
        with server:
            server.settimeout(patience)
            for number in range(rounds):
                for one, other in ((client, server), (server, client)):
                    one.sendall(b"%04d" % number)
                    require(other.recv(4) == b"%04d" % number, f"round {number}: other bytes")
                between()


@case("auto/connection-comes-back")
def comes_back(bench: Bench) -> None:
    """And goes on while the router's MAC changes, which `apply` follows."""
    image = bench.image(PATH)
    with lan("10.0.0.2/24") as (host, router):
        with contextlib.suppress(OSError):
            exchange(host, router, 1, patience=1)
            require(False, "a connection comes back without returnpath: this shows nothing")
        said = bench.apply(host, image)
        require(f"path router2: gateway 10.0.0.2 has MAC {FIRST}" in said, said)
        exchange(host, router, 3)

        def change() -> None:
            router.batch(f"link set peer0 address {SECOND}")
            neighbour(host, "10.0.0.2", SECOND)
            done = host.finish(*bench.programs.status(image))
            require(done.returncode == 5 and "content of map macs" in done.stdout, f"status: {done}")
            said = bench.apply(host, image)
            require(f"gateway 10.0.0.2 has MAC {SECOND}" in said and "in force\n" in said, said)
            require(macs(host) == {SECOND: "router2"}, f"{macs(host)}")

        changes = iter([change])
        exchange(host, router, 3, lambda: next(changes, nothing)())
        exchange(host, router, 3)
        bench.firmware(host, "status", "--policy", image)


@case("auto/again-is-silent")
def silent(bench: Bench) -> None:
    image = bench.image(BOTH + OTHER)
    with lan("10.0.0.2/24", "fd00::2/64") as (host, _):
        neighbour(host, "10.0.0.3", SECOND)
        bench.apply(host, image)
        require(macs(host) == {FIRST: "router2", SECOND: "router3"}, f"{macs(host)}")
        before = snapshot(host)
        written = silent_calls(host, bench, image)
        require(not written, f"the second apply sent what changes something: {written}")
        said = bench.apply(host, image)
        require(said.count("\n") == 1 and "in force already" in said, said)
        unchanged(host, before, "after the second apply")


@case("auto/asked-at-apply")
def asked(bench: Bench) -> None:
    """The neighbour table is empty, and the router is asked: by IPv4, and by IPv6."""
    with lan("10.0.0.2/24", "fd00::2/64") as (host, _):
        host.batch("neigh flush dev eth0", "-6 neigh flush dev eth0")
        bench.apply(host, bench.image(BOTH))
        require(macs(host) == {FIRST: "router2"}, f"{macs(host)}")


@case("auto/guard-follows")
def guard_follows(bench: Bench) -> None:
    """At once, and it is nobody's fault. What else happens to a gateway's entry is no news."""
    image = bench.image(PATH)
    with lan() as (host, router), guarded(host, bench, image) as guard:
        guard.says("waiting for MAC of gateway 10.0.0.2")
        router.batch("addr add 10.0.0.2/24 dev peer0")
        guard.says("complete")
        for mac in (SECOND, FIRST, SECOND, FIRST, SECOND):
            router.batch(f"link set peer0 address {mac}")
            talk(router)  # it has to ask for the host, and is heard
            until(lambda mac=mac: macs(host) == {mac: "router2"}, f"the guard to take {mac}", guard.hear)
            exchange(host, router, 2)
        bench.firmware(host, "status", "--policy", image)
        host.batch("neigh del 10.0.0.2 dev eth0")
        exchange(host, router, 2)
        require("again and again" not in guard.said and "it was" not in guard.said, guard.said)


@case("auto/guard-hears-neighbours-if-they-count")
def guard_hears(bench: Bench) -> None:
    """A link with thousands of hosts has much to tell. A new policy may be the first that wants to know, or not."""
    with lan() as (host, _):
        neighbour(host, "10.0.0.2", FIRST)
        file = bench.folder / "policy.bin"
        listed = Path(bench.image(PATH.replace('"auto"', f'"{FIRST}"'))).read_bytes()
        auto = Path(bench.image(PATH)).read_bytes()
        file.write_bytes(listed)
        with guarded(host, bench, str(file)) as guard:
            for image, hears in ((listed, False), (auto, True), (listed, False)):
                file.write_bytes(image)
                guard.process.send_signal(signal.SIGHUP)
                until(lambda hears=hears: hears == (groups(guard.process.pid) & 4 != 0), "it to change", guard.hear)


def groups(process: int) -> int:
    """The rtnetlink groups that a process listens to."""
    sockets = [line.split() for line in Path(f"/proc/{process}/net/netlink").read_text().splitlines()[1:]]
    return max(int(groups, 16) for _, protocol, port, groups, *_ in sockets if protocol == "0")


@case("auto/silent-gateway-is-refused")
def refused(bench: Bench) -> None:
    image = bench.image(PATH)
    with lan() as (host, router):
        before = snapshot(host)
        said = bench.apply(host, image, code=4)
        require("path router2: MAC of gateway 10.0.0.2: it does not answer on eth0; see that" in said, said)
        unchanged(host, before, "after it was refused")
        router.batch("addr add 10.0.0.2/24 dev peer0")
        bench.apply(host, image)


@case("auto/forgotten-gateway-keeps-its-mac")
def forgotten(bench: Bench) -> None:
    """The neighbour table forgets who is not talked to. For our table a gateway that is silent is where it was."""
    image, other = bench.image(BOTH), bench.image(BOTH + "priority = 900\n")
    with lan() as (host, _):
        neighbour(host, "10.0.0.2", FIRST)
        neighbour(host, "fd00::2", SECOND)
        bench.apply(host, image)
        for gateway in ("10.0.0.2", "fd00::2"):
            host.batch(f"neigh del {gateway} dev eth0")
            bench.firmware(host, "status", "--policy", image)
            require("in force already" in bench.apply(host, image), f"without {gateway}: apply changed something")
        bench.apply(host, other)
        require(macs(host) == {FIRST: "router2", SECOND: "router2"}, f"{macs(host)}")
        # What one gateway has now does not stand beside what it had.
        neighbour(host, "10.0.0.2", "52:54:00:00:00:03")
        neighbour(host, "fd00::2", SECOND)
        bench.apply(host, other)
        require(macs(host) == {"52:54:00:00:00:03": "router2", SECOND: "router2"}, f"{macs(host)}")


@case("auto/one-router-by-both-families")
def one_router(bench: Bench) -> None:
    """It is one MAC. That IPv6 has forgotten it is no difference, and no reason to refuse; who waits, waits for it."""
    image = bench.image(BOTH)
    with lan("10.0.0.2/24") as (host, _):
        neighbour(host, "fd00::2", FIRST)
        bench.apply(host, image)
        host.batch("neigh del fd00::2 dev eth0")
        bench.firmware(host, "status", "--policy", image)
        require("in force already" in bench.apply(host, image), "apply changed something")
        require(macs(host) == {FIRST: "router2"}, f"{macs(host)}")
        with service(host, *waiting(bench, BOTH), place=place(bench)) as running:
            running.tells("READY=1\nSTATUS=waiting for MAC of gateway fd00::2")
            neighbour(host, "fd00::2", FIRST)
            running.ends()


@case("auto/awaited")
def awaited(bench: Bench) -> None:
    """Both gateways, one after the other; the path is in force without."""
    args = waiting(bench, BOTH + OTHER.replace('"auto"', f'"{SECOND}"'))
    with lan() as (host, router), service(host, *args, place=place(bench)) as running:
        running.tells(
            "READY=1\nSTATUS=waiting for MAC of gateway 10.0.0.2: it does not answer on eth0, and MAC of gateway"
        )
        require(macs(host) == {SECOND: "router3"}, f"{macs(host)}")
        require("via 10.0.0.2 dev eth0" in host.run("ip", "route", "show", "table", "200"), "its route is not there")
        router.batch("addr add 10.0.0.2/24 dev peer0")
        running.tells("STATUS=waiting for MAC of gateway fd00::2: it does not answer on eth0")
        require(macs(host) == {FIRST: "router2", SECOND: "router3"}, f"{macs(host)}")
        exchange(host, router, 3)
        neighbour(host, "fd00::2", "52:54:00:00:00:03")
        running.tells("STATUS=complete")
        running.ends()
        require(macs(host)["52:54:00:00:00:03"] == "router2", f"{macs(host)}")
        bench.firmware(host, "status", "--policy", args[-1])


@case("auto/awaited-until-another-apply")
def taken_over(bench: Bench) -> None:
    with lan() as (host, _), service(host, *waiting(bench, PATH), place=place(bench)) as running:
        running.tells("waiting for MAC of gateway")
        bench.apply(host, bench.image(PATH.replace('"auto"', f'"{SECOND}"')))
        running.tells("has changed what was in force")
        running.ends()
        require(macs(host) == {SECOND: "router2"}, f"{macs(host)}")


@case("auto/awaited-behind-a-port-that-is-down")
def port_down(bench: Bench) -> None:
    with lan("10.0.0.2/24") as (host, _):
        host.batch("link set eth0 down")
        text = PATH + 'device = "eth0"\n'
        with service(host, *waiting(bench, text), place=place(bench)) as running:
            running.tells("READY=1\nSTATUS=waiting for ip -4 route add default via 10.0.0.2")
            require("MAC" not in running.said, running.said)
            host.batch("link set eth0 up")
            running.tells("STATUS=complete")
            running.ends()
        require(macs(host) == {FIRST: "router2"}, f"{macs(host)}")


@case("auto/shared-mac")
def shared(bench: Bench) -> None:
    """One router answers for both gateways: whose its frames are is told, and by whom they are not taken."""
    image = bench.image(PATH + OTHER)
    with lan("10.0.0.2/24", "10.0.0.3/24") as (host, _):
        said = bench.apply(host, image)
        line = f"path router3: MAC {FIRST} of gateway 10.0.0.3: its frames belong to path router2 already"
        require(line in said, said)
        require(macs(host) == {FIRST: "router2"}, f"{macs(host)}")
        bench.apply(host, bench.image(PATH + OTHER.replace('["auto"]', f'["{FIRST}"]')))
        require(macs(host) == {FIRST: "router3"}, "a learned MAC goes before one of the policy")


@case("auto/moves-to-another-path")
def moves(bench: Bench) -> None:
    """What a gateway has now counts more than what a silent one once had."""
    image = bench.image(PATH + OTHER)
    with lan() as (host, _):
        neighbour(host, "10.0.0.2", FIRST)
        neighbour(host, "10.0.0.3", SECOND)
        bench.apply(host, image)
        host.batch("neigh del 10.0.0.2 dev eth0")
        neighbour(host, "10.0.0.3", FIRST)
        done = host.finish(*bench.programs.status(image))
        require(done.returncode == 5, f"status: {done}")
        bench.apply(host, image, code=4)  # path router2 has none
        neighbour(host, "10.0.0.2", SECOND)
        bench.apply(host, image)
        require(macs(host) == {FIRST: "router3", SECOND: "router2"}, f"{macs(host)}")


@case("auto/not-a-routers")
def not_a_routers(bench: Bench) -> None:
    """A group's, and the host's own."""
    image = bench.image(PATH)
    with lan() as (host, _):
        for mac, reason in {
            "01:00:5e:00:00:01": "no frames come from it",
            "02:00:00:00:00:00": "it is that of eth0 itself",
        }.items():
            neighbour(host, "10.0.0.2", mac)
            said = bench.apply(host, image)
            require(f"path router2: MAC {mac} of gateway 10.0.0.2: {reason}, so auto does not take it" in said, said)
            require(not macs(host), f"{macs(host)}")


@case("auto/beside-others")
def beside(bench: Bench) -> None:
    """With an address, with ports; and one that an administrator has set is not asked for."""
    text = PATH.replace('"auto"', f'"{SECOND}", "auto"') + 'ingress = ["eth0", "eth1"]\n'
    with lan() as (host, _):
        host.batch(f"neigh add 10.0.0.2 lladdr {FIRST} dev eth0 nud permanent")
        bench.apply(host, bench.image(text))
        expected = {f"{port} . {mac}": "router2" for port in ("eth0", "eth1") for mac in (FIRST, SECOND)}
        require(macs(host, "ports_and_macs") == expected, f"{macs(host, 'ports_and_macs')}")
        require("PERMANENT" in host.run("ip", "neigh", "show", "10.0.0.2"), "the entry was changed")
        bench.apply(host, bench.image(text.replace("eth1", "eth2")))
        expected = {key.replace("eth1", "eth2"): path for key, path in expected.items()}
        require(macs(host, "ports_and_macs") == expected, f"{macs(host, 'ports_and_macs')}")

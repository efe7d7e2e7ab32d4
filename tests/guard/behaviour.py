"""What the guard does when it is told to, when it ends, and when the router is dead; all of it under traffic."""

from __future__ import annotations

import re
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

from bench import OURS, ROUTES, RULES, Bench, case, require
from change import OTHER_WAYS
from decay import SPARED, shell
from verdict import MEANWHILE, NONE, UNHEARD


@case("stays/suspended")
def suspended(bench: Bench) -> None:
    """What it sleeps through it puts back when it goes on. And the bench sees what is lost without it."""
    image = bench.compile(bench.policy())
    with bench.guard("--policy", image) as guard, bench.load():

        def act() -> None:
            guard.stop()
            strays = len(bench.witness.strays)
            bench.restart_firewall()
            shell(bench, "ip $family rule del table 200; ip $family route flush table 200", SPARED)()
            bench.witness.until(lambda: len(bench.witness.strays) > strays, "a reply by router 1 without a guard")
            guard.signal(signal.SIGCONT)

        bench.event("suspended", act, OURS, UNHEARD)
        bench.in_force(image)


@case("stays/ends-and-begins")
def ends_and_begins(bench: Bench) -> None:
    """Ended or killed, it leaves the policy in force; the next one finds nothing to do."""
    image = bench.compile(bench.policy())
    bench.returnpath("apply", "--policy", image)
    with bench.load() as load:
        began = time.monotonic()
        for number, code in ((signal.SIGTERM, 0), (signal.SIGINT, 0), (signal.SIGKILL, -signal.SIGKILL)) * 2:
            with bench.guard("--policy", image) as guard:
                bench.flows(load)
                guard.signal(number)
                guard.ends(code)
            bench.flows(load)
            bench.in_force(image)
        moved = [event for event in bench.witness.since(began) if event.key in OURS]
        require(not moved, f"something was touched: {moved[:3]}")


@case("stays/bad-policy")
def bad_policy(bench: Bench) -> None:
    """A file that is no policy, and one that the kernel refuses: it says why, and guards what it had."""
    image = bench.compile(bench.policy())
    refused = bench.compile(bench.policy(table=300), "refused")
    bench.host.ip("route add 203.0.113.0/24 via 10.0.0.1 table 300")
    source = bench.folder / "source.bin"
    shutil.copyfile(image, source)
    with bench.guard("--policy", str(source)) as guard, bench.load() as load:
        for content, words in ((b"no policy at all", str(source)), (Path(refused).read_bytes(), "table 300")):
            source.write_bytes(content)
            since = len(guard.said())
            guard.hang_up()
            line = guard.says("stays in force", since)
            require(words in line, f"it does not say why: {line}")
            bench.event("ip rule del", shell(bench, "ip $family rule del table 200"), RULES, MEANWHILE)
            bench.flows(load)
            bench.in_force(image)


@case("stays/another-policy-beside-it")
def another_policy(bench: Bench) -> None:
    """What an administrator applies is not undone, until SIGHUP."""
    image, other = bench.compile(bench.policy()), bench.compile(bench.policy(**OTHER_WAYS), "other")
    with bench.guard("--policy", image) as guard, bench.load() as load:
        since = len(guard.said())
        bench.returnpath("apply", "--policy", other)
        guard.says("another policy", since)
        bench.flows(load)
        bench.in_force(other)
        began = time.monotonic()
        guard.hang_up()
        bench.witness.until(lambda: all(bench.witness.is_back(began, key) for key in RULES | ROUTES), "its own policy")
        bench.flows(load)
        bench.in_force(image)


# A router that is gone


@case("down/flap-main", "homed")
def flap_main(bench: Bench) -> None:
    """when_down = "main": replies go by router 1 while the port is down, and by router 2 again afterwards."""
    image = bench.compile(bench.policy(when_down="main"))
    with bench.guard("--policy", image), bench.load() as load:
        for number in range(bench.options.times(100, 5)):

            def act() -> None:
                strays = len(bench.witness.strays)
                bench.link_down()
                bench.witness.until(lambda: len(bench.witness.strays) > strays, "a reply by router 1")
                bench.link_up()

            bench.event(f"flap {number + 1}", act, ROUTES, MEANWHILE)
            bench.flows(load)
        bench.in_force(image)


def mute(bench: Bench) -> Callable[[], None]:
    """Router 2 answers nobody who asks for its MAC. It sends on by itself: it knows the host's MAC for good."""
    device = bench.layout.device
    shown = bench.host.run("ip", "-o", "link", "show", "dev", device)
    found = re.search(r"link/ether (\S+)", shown)
    require(found, shown)
    mac = found[1] if found else ""
    bench.router2.ip(*(f"neigh replace {to} lladdr {mac} dev lan0 nud permanent" for to in bench.layout.service))
    bench.router2.nft("table arp mute { chain in { type filter hook input priority 0; policy drop; }; }")
    bench.router2.nft(
        "table ip6 mute { chain in { type filter hook input priority 0; icmpv6 type nd-neighbor-solicit drop; }; }"
    )
    return lambda: bench.router2.nft("delete table arp mute; delete table ip6 mute")


@case("down/dead-gateway", "lan", "homed")
def dead_gateway(bench: Bench) -> None:
    died(bench, "unreachable")


@case("down/dead-gateway-main", "homed")
def dead_gateway_main(bench: Bench) -> None:
    """Its route is there, so `when_down` does not come in: nothing leaves by another way."""
    died(bench, "main")


def died(bench: Bench, when_down: str) -> None:
    """The port is up, and nobody answers on it: replies fail, and come back with the router."""
    gateways = tuple(bench.layout.inside.host(2))
    image = bench.compile(bench.policy(when_down=when_down))
    with bench.guard("--policy", image), bench.load() as load:

        def act() -> None:
            unmute = mute(bench)
            bench.host.ip(*(f"neigh del {gateway} dev {bench.layout.device}" for gateway in gateways))
            asked = time.monotonic() + 1  # what it fails for before that is the deletion
            for gateway in gateways:
                failed = lambda: bench.witness.was_there(asked, ("neighbour", gateway, ""))  # noqa: B023, E731
                bench.witness.until(failed, f"{gateway} to be FAILED")
            unmute()

        for number in range(bench.options.times(10, 1)):
            bench.event(f"death {number + 1}", act, set(), NONE)
            bench.goes_on(load)
        bench.in_force(image)

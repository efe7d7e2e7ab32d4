"""What takes our state away, time and again, under traffic: it comes back, and replies go by router 2 alone."""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Callable

from addresses import HOST, MACS
from bench import BENEATH, ROUTES, RULES, TABLE, Bench, case
from netlink import Key
from verdict import MEANWHILE, NONE, UNHEARD

PATIENCE = 8  # takings-away that the guard puts back without a pause; 10 in truth
FORGIVEN = 1.1  # seconds after which it has forgotten one
SPARE_MAC = "52:54:00:c2:a5:4a"
DOWN = 0.03  # seconds that a port stays down: some connections meet it
# `ip -6 route flush` spares an unreachable default route of the last metric, as the kernel once had by itself.
SPARED = "ip -6 route del unreachable default table 200 metric 4294967295"


def again(
    bench: Bench, what: str, times: int, act: Callable[[], object], back: set[Key], harm: str, taken: int = 0
) -> None:
    """The event so many times, each with traffic before, in and after it.

    It takes something away up to so many times in a row: that is what the guard's patience counts.
    """
    image = bench.compile(bench.policy())
    pace = taken * FORGIVEN if taken * times > PATIENCE else 0.0
    with bench.guard("--policy", image) as guard, bench.load() as load:
        before = guard.cpu()
        for number in range(times):
            began = time.monotonic()
            bench.event(f"{what} {number + 1}", act, back, harm)
            bench.flows(load)
            time.sleep(max(0.0, began + pace - time.monotonic()))
        bench.in_force(image)
        bench.figures["guard ms per event"] = 1000 * (guard.cpu() - before) / times
        bench.figures["gave way"] = len(re.findall("left alone for|another attempt", guard.said()))
        bench.resident(guard)


def shell(bench: Bench, script: str, after: str = "") -> Callable[[], object]:
    """What somebody types on the host, for both families where it says $family."""
    if "$family" in script:
        script = f"for family in -4 -6; do {script}; done"
    return lambda: bench.host.run("sh", "-ec", f"{script}\n{after}")


def flap(bench: Bench) -> None:
    bench.link_down()
    time.sleep(DOWN)
    bench.link_up()


@case("decay/flap", "lan", "homed")
def flaps(bench: Bench) -> None:
    again(bench, "flap", bench.options.times(100, 10), lambda: flap(bench), ROUTES, NONE)


@case("decay/carrier", "homed")
def carrier(bench: Bench) -> None:
    """The router is switched off and on: the port stays up, and nothing is taken away."""
    address = bench.layout.inside.host(2).ipv6

    def off_and_on() -> None:
        bench.router2.ip("link set lan0 down")
        time.sleep(DOWN)
        bench.router2.ip("link set lan0 up", f"address add {address}/64 dev lan0 nodad")

    again(bench, "loss of carrier", bench.options.times(100, 10), off_and_on, set(), NONE)


@case("decay/firewall-restart", "lan", "homed")
def firewall_restart(bench: Bench) -> None:
    times = bench.options.times(100, 8)
    again(bench, "nft flush ruleset", times, bench.restart_firewall, TABLE, UNHEARD, taken=1)


@case("decay/table-of-nft-deleted")
def nft_table(bench: Bench) -> None:
    act = shell(bench, "nft delete table inet returnpath")
    again(bench, "nft delete table", bench.options.times(20, 3), act, TABLE, UNHEARD, taken=1)


@case("decay/rule-deleted", "lan")
def rule_deleted(bench: Bench) -> None:
    act = shell(bench, "ip $family rule del table 200")
    again(bench, "ip rule del", bench.options.times(100, 4), act, RULES, MEANWHILE, taken=2)


@case("decay/table-flushed", "lan", "homed")
def table_flushed(bench: Bench) -> None:
    act = shell(bench, "ip $family route flush table 200", SPARED)
    again(bench, "ip route flush table", bench.options.times(100, 2), act, ROUTES | BENEATH, MEANWHILE, taken=3)


@case("decay/route-deleted")
def route_deleted(bench: Bench) -> None:
    """The unreachable route stays, so replies wait for the other one."""
    act = shell(bench, "ip $family route del default table 200")
    again(bench, "ip route del", bench.options.times(100, 4), act, ROUTES, NONE, taken=2)


@case("decay/address-removed", "lan", "homed")
def address_removed(bench: Bench) -> None:
    device, service = bench.layout.device, bench.layout.service
    old = [f"address del {service.ipv4}/24 dev {device}", f"address del {service.ipv6}/64 dev {device}"]
    new = bench.layout.inside.assign(HOST, device)

    def act() -> None:
        bench.host.ip(*old)
        time.sleep(DOWN)
        bench.host.ip(*new, *bench.default_routes())

    # Of IPv6 a route stays without the address.
    back: set[Key] = {("route", 4, 200, "unicast")}
    again(bench, "address del, address add", bench.options.times(100, 6), act, back, NONE)


@case("decay/networkd", "homed")
def networkd(bench: Bench) -> None:
    """All rules and routes that are not the kernel's own or the manager's go, as with ManageForeignRoutes=yes."""
    act = shell(bench, "ip $family rule flush protocol 82; ip $family route flush table all proto 82", SPARED)
    back, times = RULES | ROUTES | BENEATH, bench.options.times(50, 2)
    again(bench, "all foreign rules and routes", times, act, back, MEANWHILE, taken=4)


@case("decay/rule-flush")
def rule_flush(bench: Bench) -> None:
    mend = "rule add lookup main priority 32766\\nrule add lookup default priority 32767\\n"
    # A rule that goes while it is listed makes it fail.
    flush = "until ip $family rule flush 2>/dev/null; do :; done"
    act = shell(bench, f"{flush}; printf '{mend}' | ip $family -batch -")
    again(bench, "ip rule flush", bench.options.times(50, 4), act, RULES, MEANWHILE, taken=2)


@case("decay/mac-changed", "lan", "homed")
def mac_changed(bench: Bench) -> None:
    """The router is replaced by another one, which announces itself: source_macs = ["auto"] follows it."""
    macs = itertools.cycle((SPARE_MAC, MACS[2]))
    bench.router2.sysctl({"ipv4/conf/lan0/arp_notify": 1, "ipv6/conf/lan0/ndisc_notify": 1})
    bench.host.run("ping", "-c1", "-W5", bench.layout.inside.host(2).ipv4)
    image = bench.compile(bench.policy(source_macs=("auto",)))
    with bench.guard("--policy", image) as guard, bench.load() as load:
        cpu, times = guard.cpu(), bench.options.times(100, 5)
        for number in range(times):
            mac = next(macs)
            act = lambda: bench.router2.ip(f"link set lan0 address {mac}")  # noqa: B023, E731
            bench.event(f"another MAC {number + 1}", act, {("element", "macs", mac)}, UNHEARD)
            bench.flows(load)
        bench.in_force(image)
        bench.figures["guard ms per event"] = 1000 * (guard.cpu() - cpu) / times
        bench.resident(guard)

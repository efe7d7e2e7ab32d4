"""What a case works with: a lab with its traffic, the guard, the witness, and the verdict on what was seen."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import ports
from addresses import CLIENT, FAMILIES, LAN, PUBLIC
from lab import LAYOUTS, Lab
from load import Load
from netlink import Event, Key
from netns import CommandFailed, command
from policy import Policy
from resident import Guard, until
from verdict import Verdict, Window
from witness import Witness

CASES: dict[str, Callable[[Bench], None]] = {}
SLOW = 1.0  # seconds of a repair about which the guard's log is worth a look
FLOWING = 8  # connections that have to be answered before the next event, and a datagram

# What the kernel holds for the path.
TABLE: set[Key] = {("table", "returnpath")}
RULES: set[Key] = {("rule", 4, 200, 1000), ("rule", 6, 200, 1000)}
ROUTES: set[Key] = {("route", 4, 200, "unicast"), ("route", 6, 200, "unicast")}
BENEATH: set[Key] = {("route", 4, 200, "unreachable"), ("route", 6, 200, "unreachable")}
OURS = TABLE | RULES | ROUTES | BENEATH

# As routers do: what belongs to no connection that this one has seen from its start is dropped. So a reply that goes
# astray is a lost packet, not the end of its connection. And nothing from the LAN is sent back there: what the host
# forwards while its address is gone would wait at router 1 for the address, and then be a connection through router 1.
STATEFUL = """table inet stateful { chain forward {
    type filter hook forward priority 0; ct state invalid drop; iifname lan0 oifname lan0 drop;
}; }"""
ONLY_WHOLE_CONNECTIONS = {"netfilter/nf_conntrack_tcp_loose": 0}


def case(name: str, *layouts: str) -> Callable[[Callable[[Bench], None]], Callable[[Bench], None]]:
    def register(function: Callable[[Bench], None]) -> Callable[[Bench], None]:
        for layout in layouts or ("lan",):
            CASES[f"{name}/{layout}"] = function
        return function

    return register


def require(good: object, what: str) -> None:
    if not good:
        raise AssertionError(what)


@dataclass(frozen=True)
class Options:
    firmware: str
    board: str
    full: bool
    soak: bool
    rate: float

    def times(self, full: int, short: int) -> int:
        return full if self.full else short


class Bench:
    """A lab, and what a case does with it. Its `with` block takes all away again."""

    def __init__(self, options: Options, layout: str) -> None:
        self.options, self.layout = options, LAYOUTS[layout]
        self.figures: dict[str, float] = {}  # what is reported of the case, in this order
        self.windows: list[Window] = []
        self._cleanup = contextlib.ExitStack()

    def __enter__(self) -> Bench:
        folder = self._cleanup.enter_context(tempfile.TemporaryDirectory(prefix="returnpath-guard-"))
        self.folder = Path(folder)
        self.lab = self._cleanup.enter_context(Lab(self.layout))
        self.host, self.router2 = self.lab.host, self.lab.routers[2]
        self.lab.routers[1].nft(STATEFUL)
        self.lab.routers[1].sysctl(ONLY_WHOLE_CONNECTIONS)
        self.tables = self.host.run("nft", "list", "ruleset")  # the host's own, as a firewall has them in a file
        self.witness = self._cleanup.enter_context(Witness(self.host, self.lab.routers[1], self.router2, CLIENT))
        return self

    def __exit__(self, *_: object) -> None:
        self._cleanup.close()

    # The policy

    def policy(self, **changes: object) -> Policy:
        """That of the layout; its path with these changes."""
        return self.layout.policy(first=replace(self.layout.path(), **changes))

    def compile(self, policy: Policy, name: str = "policy") -> str:
        source, image = self.folder / f"{name}.toml", self.folder / f"{name}.bin"
        source.write_text(policy.toml())
        command(self.options.board, "compile", str(source), "-o", str(image))
        return str(image)

    def returnpath(self, *args: str) -> str:
        return self.host.run(self.options.firmware, *args)

    def guard(self, *source: str, **environment: str) -> Guard:
        self._guard = Guard(self.host, self.folder, self.options.firmware, *source, **environment)
        return self._guard

    def resident(self, guard: Guard) -> None:
        """The limit is for what is shipped; a build for this machine is several times larger."""
        kilobytes = guard.resident()
        self.figures["resident kB"] = kilobytes
        with open(self.options.firmware, "rb") as program:
            is_static = b"/ld-" not in program.read(4096)
        require(kilobytes <= 1000 or not is_static, f"{kilobytes} kB are resident")

    def in_force(self, image: str) -> None:
        """Waits until `status` finds no difference: a guard may be at work still."""
        done = ""

        def is_so() -> bool:
            nonlocal done
            try:
                self.returnpath("status", "--policy", image)
            except CommandFailed as differs:
                done = str(differs)
                return False
            return True

        until(is_so, "the kernel to be as the policy has it", lambda: done)

    # The traffic

    @contextlib.contextmanager
    def load(self) -> Iterator[Load]:
        """New connections and datagrams through router 2 all along; at the end of the block they are judged."""
        servers = {ports.HOST_WEB: self.host, ports.FORWARDED: self.lab.backend}
        services = {ports.UDP: self.host, ports.FORWARDED_UDP: self.lab.backend}
        made = Load(self.lab.client, servers, services, PUBLIC[2], self.options.rate)
        with self.lab.watched() as tally, made as load:
            self.flows(load)
            yield load
            self.flows(load, len(load.endpoints) * 4)
            self.goes_on(load)
            load.stop()
        by_1, by_2, answers_by_1, answers_by_2 = (
            sum(tally.replies(router, protocol, family).packets for family in FAMILIES)
            for protocol in ("tcp", "udp")
            for router in (1, 2)
        )
        by_1, witness = by_1 + answers_by_1, self.witness
        witness.until(lambda: len(witness.strays) >= by_1, f"the {by_1} replies that router 1 counted to be seen")
        require(not witness.lost, "the witness has missed something")
        verdict = Verdict(load, witness, self.windows, self.layout.inside.host(2), self.layout.service)
        self.figures |= {"router 2": by_2, "datagrams by router 2": answers_by_2} | verdict.figures()
        require(not verdict.wrong(), verdict.wrong())
        asked, held = self.options.rate, self.figures["per second"]
        require(held > asked / 4, f"{asked:g} connections a second were to be opened, and {held:.1f} were")
        require(answers_by_2 >= load.heard, f"{load.heard} datagrams were answered, {answers_by_2} by router 2")

    def flows(self, load: Load, connections: int = FLOWING) -> None:
        """Waits until so many more connections have been answered, and one more datagram."""
        wanted, heard = load.answered + connections, load.heard
        said = lambda: f"{load.answered} of {load.opened}, and {load.heard} datagrams"  # noqa: E731
        flow = lambda: load.answered >= wanted and load.heard > heard  # noqa: E731
        until(flow, f"{connections} more answers, and one to a datagram", said)

    @staticmethod
    def goes_on(load: Load) -> None:
        """Waits until each lasting connection has moved: after a long silence TCP tries again late."""
        before = load.received()
        moves = lambda: all(now > was for was, now in zip(before, load.received(), strict=True))  # noqa: E731
        until(moves, "lasting connections to go on", lambda: f"bytes {before}, then {load.received()}", 60.0)

    # What happens

    def event(self, what: str, act: Callable[[], object], back: set[Key], harm: str) -> Window:
        """Something is taken away; waits until what belongs `back` has come, and nothing of ours is missing."""
        began, old = time.monotonic(), len(self._guard.said())
        act()
        acted, witness = time.monotonic(), self.witness

        def is_repaired() -> bool:
            gone = any(witness.has_gone(began, key) for key in OURS)
            return not gone and all(witness.is_back(began, key) for key in back)

        def missing() -> str:
            lacks = {key for key in back if not witness.is_back(began, key)}
            lacks |= {key for key in OURS if witness.has_gone(began, key)}
            return f"{lacks} after {what}; the guard said:\n{self._guard.said()}"

        witness.until(is_repaired, missing)
        last, longest = self._repair(began)
        if longest > SLOW:
            print(f"{what} took {longest:.3f} s to repair; the guard said:\n{self._guard.said()[old:]}")
        window = Window(what, began, last or acted, longest, harm)
        self.windows.append(window)
        return window

    def _repair(self, began: float) -> tuple[float, float]:
        """When the last thing had come back (0: nothing had gone), and the longest time that one took.

        It counts from when the kernel told that it has gone; of a route, from when its port was up and its address
        there, if that was later (before, no route could be had, and of IPv4 it does not tell that they have gone); of
        a MAC, from when the neighbour table had it.
        """
        causes: dict[Key, float] = {}
        last, longest = 0.0, 0.0
        for event in self.witness.since(began):
            if event.is_there and event.key in causes:
                last, longest = event.at, max(longest, event.at - causes.pop(event.key))
            for key in self._ask_for(event):
                causes[key] = event.at
        return last, longest

    def _ask_for(self, event: Event) -> Iterable[Key]:
        """What a guard has to see to from then on."""
        if event.key in OURS:
            return () if event.is_there else (event.key,)
        if not event.is_there:
            return ()
        addresses = zip((4, 6), self.layout.service, strict=True)
        return {
            ("link", self.layout.device): ROUTES,
            **{("address", address): [("route", version, 200, "unicast")] for version, address in addresses},
            ("neighbour", self.layout.inside.host(2).ipv4): [("element", "macs", event.key[-1])],
        }.get(event.key[:2], ())

    # Acts on the host

    def link_down(self) -> None:
        self.host.ip(f"link set {self.layout.device} down")

    def link_up(self) -> None:
        """With what whoever manages the port does then: IPv6 has lost its address, and main its default routes."""
        device, service = self.layout.device, self.layout.service
        lines = [f"link set {device} up", f"address add {service.ipv6}/64 dev {device} nodad"]
        self.host.ip(*lines, *self.default_routes())

    def default_routes(self) -> list[str]:
        """Those by router 1, where the port that is touched is theirs as well."""
        if self.layout.inside is not LAN:
            return []
        return [f"route replace default via {gateway}" for gateway in LAN.host(1)]

    def restart_firewall(self) -> None:
        """As a reload of nftables.service: one transaction."""
        self.host.nft(f"flush ruleset\n{self.tables}")

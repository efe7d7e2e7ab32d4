"""The verdict on a case: which replies went by router 1, whether they may have, and the figures."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from addresses import Dual
from load import DELAYED, Load, Record
from witness import Packet, Witness

NAMED = 5  # lost datagrams
UNDER_WAY = 0.05  # seconds that a packet which was routed before a repair may take to router 1

# What an event may do to replies until it is repaired.
NONE = "none"  # they get no answer, but never take the wrong way
MEANWHILE = "meanwhile"  # they go astray
# So do those of connections that began in the meantime, and have no mark, until their client is heard again.
UNHEARD = "unheard"


@dataclass(frozen=True)
class Window:
    """From before something was taken away until all of it was back."""

    what: str
    began: float
    ended: float
    repair: float  # seconds from the event to the repair, as the kernel told them; the worst of all that was taken away
    harm: str  # NONE, MEANWHILE or UNHEARD

    def holds(self, at: float) -> bool:
        return self.began <= at <= self.ended + UNDER_WAY

    def touches(self, record: Record) -> bool:
        return self.began - UNDER_WAY <= record.ended and record.began <= self.ended + UNDER_WAY


class Beginnings:
    """When the first packet of each connection, and each datagram, reached the host."""

    def __init__(self, records: list[Record], first: list[Packet]) -> None:
        self._opened: dict[tuple[str, int, int], list[float]] = {}
        self._first: dict[tuple[str, int, int], list[float]] = {}
        for record in records:
            self._opened.setdefault((record.protocol, record.family, record.port), []).append(record.began)
        for packet in first:
            self._first.setdefault((packet.protocol, packet.family, packet.port), []).append(packet.at)

    def of(self, packet: Packet) -> float:
        which = packet.protocol, packet.family, packet.port
        opened = max((at for at in self._opened.get(which, ()) if at <= packet.at), default=0.0)
        return min((at for at in self._first.get(which, ()) if at >= opened), default=0.0)

    def heard_between(self, packet: Packet, window: Window) -> bool:
        """Whether the client tried again after a window, and before a packet to it."""
        again = self._first.get((packet.family, packet.port), ())
        return any(window.ended + UNDER_WAY < at < packet.at - UNDER_WAY for at in again)


class Verdict:
    """What the witness has seen of a load, sorted by the windows in which it happened."""

    def __init__(self, load: Load, witness: Witness, windows: list[Window], router: Dual, host: Dual) -> None:
        """`router`, `host`: where they reach each other."""
        self._load, self._windows = load, windows
        self.meanwhile, self.later, self._wrong = 0, 0, []
        began = Beginnings([*load.lasting, *load.records, *load.datagrams], witness.first)
        for stray in witness.strays:
            opened = began.of(stray)
            if any(window.holds(stray.at) and window.harm != NONE for window in windows):
                self.meanwhile += 1
            elif any(
                window.harm == UNHEARD and window.holds(opened) and not began.heard_between(stray, window)
                for window in windows
            ):
                self.later += 1
            else:
                self._wrong.append(self._tell(stray, opened))
        self._failed = [record for record in load.records if record.failure]
        self._lost = [record for record in load.datagrams if record.failure]
        self._witness, self._neighbours = witness, {True: router, False: host}

    def _found_neighbour(self, lost: Record) -> bool:
        """A lost datagram had a next hop with a MAC: on its way back if it was answered, else on its way there."""
        to = self._neighbours[lost.ended > lost.began]
        return self._witness.knew(to.ipv4 if lost.family == 4 else to.ipv6, lost.ended)

    def _tell(self, stray: Packet, opened: float) -> str:
        before = max((w for w in self._windows if w.began <= stray.at), key=lambda w: w.began, default=None)
        when = f"{stray.at - before.ended:.3f} s after the repair of {before.what}" if before else "before any event"
        which = f"{stray.protocol} over IPv{stray.family} port {stray.port}"
        return f"{which}, {when}, of a connection {stray.at - opened:.3f} s old"

    def figures(self) -> dict[str, float]:
        found: dict[str, float] = {"events": len(self._windows)}
        repairs = [1000 * window.repair for window in self._windows]
        if any(repairs):
            found["repair median ms"] = statistics.median(repairs)
            found["repair worst ms"] = max(repairs)
        records = self._load.records
        found["connections"] = len(records)
        found["per second"] = len(records) / self._load.seconds
        found["failed"] = len(self._failed)
        found["delayed"] = sum(not record.failure and record.ended - record.began > DELAYED for record in records)
        found["datagrams"] = len(self._load.datagrams)
        found["datagrams lost"] = len(self._lost)
        found["astray meanwhile"] = self.meanwhile
        found["astray later"] = self.later
        return found

    def wrong(self) -> str:
        """What must not have been; empty: nothing."""
        if self._wrong:
            return f"{len(self._wrong)} replies left by router 1 although all was there; first: {self._wrong[0]}"
        if broken := [record.failure for record in self._load.lasting if record.failure]:
            return f"lasting connections ended: {broken}"
        touched = lambda record: any(window.touches(record) for window in self._windows)  # noqa: E731
        if outside := [record for record in self._failed if not touched(record)]:
            return f"{len(outside)} connections failed that nothing had touched; first: {outside[0]}"
        if outside := [lost for lost in self._lost if not touched(lost) and self._found_neighbour(lost)]:
            return f"{len(outside)} datagrams were lost that nothing had touched: {outside[:NAMED]}"
        return ""

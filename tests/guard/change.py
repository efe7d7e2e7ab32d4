"""Another policy, time and again, under traffic: no reply has neither its old way nor its new one."""

from __future__ import annotations

import os
import re
import shutil
import statistics
import time

import ports
from bench import Bench, case, require
from netns import command

# The same path in another table and place: a connection keeps its mark, and its way is another entry.
OTHER_WAYS = {"table": 201, "priority": 1001}
OTHER_SERVICES = {"services": (*ports.LISTED, "tcp/9000-9010", "udp/6000")}


def changes(bench: Bench, other: dict[str, object]) -> None:
    """Between two versions: twice by SIGHUP, twice by an `apply` beside the guard, and so on."""
    times = bench.options.times(1000, 48)
    versions = [Version(bench, "a"), Version(bench, "b", **other)]
    source = str(bench.folder / "source.bin")
    shutil.copyfile(versions[0].image, source)
    took: dict[str, list[float]] = {"SIGHUP": [], "apply": []}
    with bench.guard("--policy", source) as guard, bench.load() as load:
        ways = {"SIGHUP": guard.reload, "apply": lambda: bench.returnpath("apply", "--policy", source)}
        cpu = guard.cpu()
        for number in range(times):
            way, version = ("SIGHUP", "apply")[number % 4 // 2], versions[(number + 1) % 2]
            began = time.monotonic()
            shutil.copyfile(version.image, f"{source}.new")
            os.replace(f"{source}.new", source)  # at once, as whoever writes files does
            ways[way]()
            version.is_in_force(began)
            took[way].append(time.monotonic() - began)
        bench.flows(load)
        bench.in_force(versions[0].image)
        bench.figures["changes"] = times
        bench.figures["guard ms per change"] = 1000 * (guard.cpu() - cpu) / times
        bench.resident(guard)
    for way, seconds in took.items():
        bench.figures[f"{way} median ms"] = 1000 * statistics.median(seconds)
        bench.figures[f"{way} worst ms"] = 1000 * max(seconds)


class Version:
    """A policy, compiled, and the comment by which its table can be told."""

    def __init__(self, bench: Bench, name: str, **changes: object) -> None:
        self._witness = bench.witness
        self.image = bench.compile(bench.policy(**changes), name)
        found = re.search(r'comment "(policy 0x[0-9a-f]+)"', command(bench.options.board, "plan", self.image))
        require(found, "the plan has no digest")
        self._comment = found[1] if found else ""

    def is_in_force(self, since: float) -> None:
        self._witness.until(lambda: self._witness.is_back(since, ("comment", self._comment)), self._comment)


@case("change/ways", "lan", "homed")
def ways(bench: Bench) -> None:
    changes(bench, OTHER_WAYS)


@case("change/services", "lan", "homed")
def services(bench: Bench) -> None:
    """Connections that begin meanwhile are to a service of both."""
    changes(bench, OTHER_SERVICES)

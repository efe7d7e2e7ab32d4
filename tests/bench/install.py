"""What it costs to install a policy: returnpath, its peers and the limit, in fresh network namespaces.

**The clock** is stopwatch.c's: from before the first program is started until the last one has ended, in a namespace
that was entered before. Every measurement has a namespace of its own, all alike down to the port's number. A round
measures each subject with each size once, in random order (one path, where the programs' start matters most: three
times), and rounds follow one another until the time is up. Given are medians, and where 95 % of resampled ones are.

**Who is measured** (installers.py):
- `returnpath apply`, and the same again, which finds everything in force;
- `ip -batch` and `nft -f` with the plan's own text, less the settings, which a third program would have to write;
- the plan as `returnpath-board plan` prints it, by sh: `ip`, `nft` and `sysctl` one by one, settings and all;
- the classic recipe (put right: see subjects.py), a command a line as it is published, and by `iptables-restore`. The
  former only up to 128 rules, since each command reads all that is there;
- systemd-networkd, started as a daemon, with a RoutingPolicyRule and two Routes a path, while `nft -f` loads the table,
  as nftables.service does beside it: until all of it is there. It runs without systemd and udev, so what both of them
  need to start a service is not counted, nor is what D-Bus would take;
- the limit: a static program of C (replay.c) that sends the very bytes of the messages by which returnpath changes
  something, in as many sends, writes the same settings, and waits for every acknowledgement. It reads nothing, plans
  nothing, compares nothing. A second one also sends all that returnpath asks and rehearses, and takes the answers.
"""

from __future__ import annotations

import math
import os
import random
import subprocess
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import installers
import record
from installers import (
    AGAIN,
    BATCH,
    DEVICE,
    HOST,
    PLAN,
    RECIPE_LEGACY,
    RECIPE_NFT,
    REPLAY,
    RETURNPATH,
    Installer,
    Size,
    Tools,
)
from netns import Namespace
from spread import spread

HERE = Path(__file__).resolve().parent
PATHS, SERVICES = (1, 16, 64, 256), (1, 8, 64)
QUICK = (Size(1, 1), Size(1, 8), Size(16, 8), Size(64, 8), Size(256, 8), Size(256, 64))
SECONDS, QUICK_SECONDS = 210, 30
RARE_ROUNDS = 3  # of what takes seconds
RARE_SECONDS = 1.0
POOL = 12  # namespaces at a time: the kernel takes them down together, while nothing is measured
CALLED = {
    BATCH: "ip -batch and nft -f",
    PLAN: "ip, nft and sysctl, one by one",
    RECIPE_NFT: "the recipe by iptables-nft",
    RECIPE_LEGACY: "the recipe by iptables-legacy",
}
Samples = dict[tuple[str, Size], list[float]]


@contextmanager
def namespaces(count: int) -> Iterator[list[Namespace]]:
    """Some that are all alike. They are gone at the end: what the kernel does about that disturbs nobody."""
    far = Namespace(f"install{os.getpid()}-far")
    made: list[Namespace] = []
    try:
        for number in range(count):
            host = Namespace(f"install{os.getpid()}-{number}")
            made.append(host)
            host.ip(
                f"link add {DEVICE} index 10 type veth peer name w{number} netns {far.name}",
                f"link set {DEVICE} address 02:00:00:00:00:01 addrgenmode none",
                "link set lo up",
                f"address add {HOST} dev {DEVICE}",
                f"link set {DEVICE} up",
            )
            far.ip(f"link set w{number} addrgenmode none", f"link set w{number} up")
        yield made
    finally:
        for host in made:
            host.delete()
        while "veth" in far.run("ip", "-d", "link", "show"):
            time.sleep(0.01)
        far.delete()


def build(folder: Path) -> None:
    for name, flags in (("stopwatch", ()), ("replay", ("-static",))):
        subprocess.run(("cc", "-O2", *flags, "-o", folder / name, HERE / f"{name}.c"), check=True)


def prepare(tools: Tools, sizes: list[Size]) -> dict[tuple[str, Size], Installer]:
    """Writes the files of all subjects; records what returnpath sends."""
    found = {}
    with namespaces(len(sizes)) as hosts:
        for size, host in zip(sizes, hosts, strict=True):
            made = installers.installers(tools, size)
            apply = (str(tools.firmware), "apply", "--policy", str(tools.image(size)))
            sent = record.record(host, tools.folder / "strace", *apply)
            record.write(tools.folder / f"{size}.all", sent)
            record.write(tools.folder / f"{size}.changes", sent, record.Sent.changes)
            found.update({(name, size): installer for name, installer in made.items()})
    return found


def one_round(turns: list[tuple[str, Size]], subjects: dict[tuple[str, Size], Installer], samples: Samples) -> None:
    for start in range(0, len(turns), POOL):
        chunk = turns[start : start + POOL]
        with namespaces(len(chunk)) as hosts:
            for (name, size), host in zip(chunk, hosts, strict=True):
                samples[name, size].append(subjects[name, size].nanoseconds(host) / 1e6)
                if name == RETURNPATH:
                    samples[AGAIN, size].append(subjects[name, size].nanoseconds(host) / 1e6)


def sample(subjects: dict[tuple[str, Size], Installer], seconds: float, seed: int) -> Samples:
    draw, samples, end = random.Random(seed), defaultdict(list), time.monotonic() + seconds
    rounds = longest = 0.0
    while rounds < 2 or time.monotonic() + longest < end:
        began = time.monotonic()
        rare = {
            pair for pair, taken in samples.items() if median(taken) > RARE_SECONDS * 1000 and len(taken) >= RARE_ROUNDS
        }
        turns = [pair for pair in subjects if pair not in rare for _ in range(3 if pair[1].paths == 1 else 1)]
        draw.shuffle(turns)
        one_round(turns, subjects, samples)
        rounds, longest = rounds + 1, time.monotonic() - began
    return samples


def measure(firmware: Path, board: Path, folder: Path, quick: bool, seed: int = 1) -> tuple[list[dict], list[dict]]:
    """Rows (a subject, a size, milliseconds) and targets, for the driver."""
    began = time.monotonic()
    build(folder)
    sizes = list(QUICK) if quick else [Size(paths, services) for paths in PATHS for services in SERVICES]
    subjects = prepare(Tools(firmware, board, folder), sizes)
    seconds = QUICK_SECONDS if quick else SECONDS
    samples = sample(subjects, seconds - (time.monotonic() - began), seed)
    order = list(dict.fromkeys([RETURNPATH, AGAIN, *(name for name, _ in subjects)]))
    rows = [_row(name, size, taken) for name in order for size in sizes if (taken := samples.get((name, size)))]
    return rows, targets(rows)


def _row(name: str, size: Size, taken: list[float]) -> dict:
    middle = spread(taken)
    figures = {"median": middle.median, "low": middle.low, "high": middle.high}
    return {
        "part": "install", "subject": name, "paths": size.paths, "services": size.services,
        "what": "again" if name == AGAIN else "first", "unit": "ms",
        **{what: round(value, 3) for what, value in figures.items()}, "n": len(taken),
    }  # fmt: skip


def growth(rows: list[dict], services: int) -> float:
    """The exponent b of time = a × paths^b: the slope of a straight line through the logarithms, by least squares.

    From 16 paths on: with one path the start of the program is most of it, which would make the line flatter.
    """
    points = [
        (math.log(row["paths"]), math.log(row["median"]))
        for row in rows
        if row["subject"] == RETURNPATH and row["services"] == services and row["paths"] > 1
    ]
    x, y = (sum(values) / len(points) for values in zip(*points, strict=True))
    return sum((a - x) * (b - y) for a, b in points) / sum((a - x) ** 2 for a, _ in points)


def targets(rows: list[dict]) -> list[dict]:
    """What the project has set itself. `limit` is a least where the text says so, else a most."""
    medians = {(row["subject"], row["paths"], row["services"]): row["median"] for row in rows}
    few, many = (1, 1), (256, 64)
    found: list[dict] = []

    def ratio(size: tuple[int, int], over: str, under: str) -> float:
        return medians[over, *size] / medians[under, *size]

    def add(text: str, limit: float, measured: float, is_least: bool = False) -> None:
        met = measured >= limit if is_least else measured <= limit
        found.append({"part": "install", "target": text, "limit": limit, "measured": round(measured, 3), "met": met})

    def faster(size: tuple[int, int], than: str, times: float) -> None:
        where = "1 path" if size == few else "256 paths, 64 services"
        add(f"{where}: at least {times:g} times faster than {CALLED[than]}", times, ratio(size, than, RETURNPATH), True)

    faster(few, PLAN, 10)
    faster(few, BATCH, 10)
    faster(few, RECIPE_NFT, 15)
    faster(few, RECIPE_LEGACY, 15)
    add("1 path: at most 1.5 times the replay of its changes", 1.5, ratio(few, RETURNPATH, REPLAY))
    faster(many, BATCH, 5)
    add("256 paths, 64 services: at most 1.5 times the replay of its changes", 1.5, ratio(many, RETURNPATH, REPLAY))
    add("256 paths, 64 services: again, at most half of the first apply", 0.5, ratio(many, AGAIN, RETURNPATH))
    fits = {services: growth(rows, services) for services in SERVICES if (RETURNPATH, 16, services) in medians}
    worst = max(fits, key=lambda services: fits[services])
    add(f"time grows as paths^1 or less (fit over 16 paths and more, {worst} services)", 1.0, fits[worst])
    return found

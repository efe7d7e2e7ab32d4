"""What it costs to install a policy: returnpath, its peers and the limit, in fresh network namespaces.

**The clock** is stopwatch.c's: from before the first program is started until the last one has ended, in a namespace
that was entered before. Every measurement has a namespace of its own, all alike down to the port's number. A round
measures each subject with each size once, in random order (one path, where the programs' start matters most: three
times; a command at a time with many paths: in the first three rounds alone), and rounds follow one another until the
time is up. Given are medians, and where 95 % of resampled ones are.

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

import json
import math
import os
import random
import subprocess
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import linear_regression

import installers
import record
from installers import (
    AGAIN,
    BATCH,
    DEVICE,
    HOST,
    NETWORKD,
    PLAN,
    RECIPE_LEGACY,
    RECIPE_NFT,
    REPLAY,
    REPLAY_ALL,
    RETURNPATH,
    Installer,
    Size,
    Tools,
)  # fmt: skip
from netns import Namespace
from spread import spread

HERE = Path(__file__).resolve().parent
PATHS, SERVICES = (1, 16, 64, 256), (1, 8, 64)
QUICK = (Size(1, 1), Size(1, 8), Size(16, 8), Size(64, 8), Size(256, 8), Size(256, 64))
SECONDS, QUICK_SECONDS = 210, 30
RARE, RARE_ROUNDS = (PLAN, RECIPE_NFT, RECIPE_LEGACY), 3  # with many paths these take long, whatever the round
POOL = 12  # namespaces at a time: the kernel takes them down together, while nothing is measured
GONE_SECONDS = 20  # they are by then, or somebody else holds one of them
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
        ends = [f"w{number}" for number in range(count)]
        far.ip(*(f"link set {end} {how}" for end in ends for how in ("addrgenmode none", "up")))
        yield made
    finally:
        for host in made:
            host.delete()
        end = time.monotonic() + GONE_SECONDS
        while "veth" in far.run("ip", "-d", "link", "show") and time.monotonic() < end:
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
    prove(found, min(sizes, key=lambda size: abs(size.paths - 16)))
    return found


def prove(subjects: dict[tuple[str, Size], Installer], size: Size) -> None:
    """Those who are to install the plan install it, each of them the same."""
    names = (RETURNPATH, REPLAY, REPLAY_ALL, BATCH, PLAN, NETWORKD)
    with namespaces(len(names)) as hosts:
        states = []
        for name, host in zip(names, hosts, strict=True):
            subjects[name, size].nanoseconds(host)
            states.append(state(host))
    for name, found in zip(names, states, strict=True):
        for what, mine in found.items():
            if mine != states[0][what]:
                raise LookupError(f"{name} with {size} leaves other {what} than {names[0]}")


def state(host: Namespace) -> dict[str, object]:
    """In an order of its own, since the kernel's order is that of the commands; of rules without who made them."""

    def ordered(value: object) -> object:
        if isinstance(value, dict):
            return {key: ordered(each) for key, each in value.items() if key not in ("handle", "metainfo")}
        return sorted(map(ordered, value), key=json.dumps) if isinstance(value, list) else value

    rules = json.loads(host.run("ip", "-j", "rule", "show"))
    return {
        "tables": ordered(json.loads(host.run("nft", "-j", "-s", "list", "ruleset"))),
        "routes": ordered(json.loads(host.run("ip", "-j", "route", "show", "table", "all", "proto", "82"))),
        "rules": ordered([{key: each for key, each in rule.items() if key != "protocol"} for rule in rules]),
    }


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
        turns = [
            (name, size)
            for name, size in subjects
            if size.paths == 1 or name not in RARE or rounds < RARE_ROUNDS
            for _ in range(3 if size.paths == 1 else 1)
        ]
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


def growth(rows: list[dict], services: int) -> tuple[float, float]:
    """a and b of time = a × paths^b: a straight line through the logarithms, by least squares.

    From 16 paths on: with one path the start of the program is most of it, which would make the line flatter.
    """
    points = [
        (math.log(row["paths"]), math.log(row["median"]))
        for row in rows
        if row["subject"] == RETURNPATH and row["services"] == services and row["paths"] > 1
    ]
    slope, height = linear_regression(*zip(*points, strict=True))
    return math.exp(height), slope


def targets(rows: list[dict]) -> list[dict]:
    """What the project has set itself. `limit` is a least where the text says so, else a most."""
    return [*_speed(rows), *_shape(rows)]


def _target(text: str, limit: float, measured: float, is_least: bool = False) -> dict:
    met = measured >= limit if is_least else measured <= limit
    return {"part": "install", "target": text, "limit": limit, "measured": round(measured, 3), "met": met}


def _speed(rows: list[dict]) -> Iterator[dict]:
    """Beside others. What lies between the ends of both intervals is said as well."""
    found = {(row["subject"], row["paths"], row["services"]): row for row in rows}
    one, few, many = (1, 1), (1, 8), (256, 64)
    faster = (
        (few, PLAN, 10), (few, BATCH, 10), (one, RECIPE_NFT, 15), (one, RECIPE_LEGACY, 15),
        (few, RECIPE_NFT, 15), (few, RECIPE_LEGACY, 15), (many, BATCH, 5),
    )  # fmt: skip
    slower = ((few, RETURNPATH, REPLAY, 1.5), (many, RETURNPATH, REPLAY, 1.5), (many, AGAIN, RETURNPATH, 0.5))

    def ratio(size: tuple[int, int], over: str, under: str) -> tuple[str, float]:
        above, below = found[over, *size], found[under, *size]
        low, high = above["low"] / below["high"], above["high"] / below["low"]
        where = f"{_count(size[0], 'path')}, {_count(size[1], 'service')}"
        return f"{where}: {{}} ({low:.2f} to {high:.2f})", above["median"] / below["median"]

    for size, than, times in faster:
        text, measured = ratio(size, than, RETURNPATH)
        yield _target(text.format(f"at least {times} times faster than {CALLED[than]}"), times, measured, is_least=True)
    for size, who, than, times in slower:
        text, measured = ratio(size, who, than)
        what = "again, at most half of the first time" if who == AGAIN else f"at most {times} times the {than}"
        yield _target(text.format(what), times, measured)


def _shape(rows: list[dict]) -> Iterator[dict]:
    measured = {(row["paths"], row["services"]) for row in rows}
    fits = {services: growth(rows, services) for services in SERVICES if (16, services) in measured}
    for services, (factor, exponent) in fits.items():
        fit = f"from 16 paths on {factor:.2f} ms × paths^{exponent:.2f} (least squares)"
        yield _target(f"{_count(services, 'service')}: linear growth or less; {fit}", 1.0, exponent)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"

#!/usr/bin/env python3
"""What a packet pays: nanoseconds of a transaction, against connection tracking alone.

Every rule set has a host of its own, all of them there at once. One pinned thread holds both ends of every flow
(transactions.c), takes 10 ms of each in random order, round after round; differences and ratios are taken within a
round. `conntrack alone, again` is the base once more: what it shows is noise. Before anything is measured each rule set
has to show that it does what it is there for.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "net")]

from lab import Lab, Subject, Traffic  # noqa: E402
from packet_targets import Figures, targets  # noqa: E402
from spread import differences, spread  # noqa: E402
from subjects import BASE, base, details, expressions, returnpath, subjects  # noqa: E402

KINDS = tuple(
    Traffic(protocol, is_forwarded, is_marked)
    for protocol in ("tcp", "udp", "tcp-new")
    for is_forwarded in (False, True)
    for is_marked in (True, False)
    if is_marked or protocol != "tcp-new"
)
PATHS = (1, 16, 64, 255)  # 256 would need a wider mask in some of them
PROGRAMS = {"conntrack": "conntrack", "ipset": "ipset", "iptables-legacy-restore": "iptables", "cc": "gcc"}


@dataclass(frozen=True)
class Measuring:
    """How much and where."""

    rounds: int = 60
    milliseconds: float = 10.0  # of a slice
    seconds: int = 0  # no round begins after them; 0: any may
    processor: int = 1
    seed: int = 1


class Broken(Exception):
    """A rule set does not do what it is there for."""


def measure(board: str, quick: bool) -> tuple[list[dict], list[dict]]:
    """Rows and targets, for the driver. `board`: the program returnpath-board."""
    if quick:
        chosen = [
            each for each in subjects(board, (1, 255)) if (each.name, each.paths) != ("recipe, iptables-legacy", 255)
        ]
        measuring = Measuring(rounds=1000, milliseconds=4.0, seconds=28)
    else:
        chosen, measuring = subjects(board, PATHS), Measuring(rounds=1000, seconds=225)
    figures = run(chosen, KINDS, measuring)
    return rows(figures), targets(figures)


def run(chosen: Sequence[Subject], kinds: Sequence[Traffic], measuring: Measuring) -> Figures:
    """Each round's nanoseconds a transaction, by subject and kind."""
    missing = sorted({package for program, package in PROGRAMS.items() if not shutil.which(program)})
    if missing:
        raise Broken(f"the packet part needs more programs; install the packages {' '.join(missing)}")
    with ExitStack() as stack:
        program = f"{stack.enter_context(tempfile.TemporaryDirectory())}/transactions"
        subprocess.run(("cc", "-O2", "-o", program, str(HERE / "transactions.c")), check=True)
        labs = []
        for number, subject in enumerate(chosen):
            lab = Lab(f"bench{os.getpid()}-{number}")
            stack.callback(lab.close)
            subject.install(lab.host)
            if subject.mark:
                prove(program, subject, lab, [kind for kind in kinds if pertains(kind, subject)])
            labs.append((subject, lab))
        pairs = [(subject, lab, kind) for subject, lab in labs for kind in kinds if pertains(kind, subject)]
        lines = "".join(lab.pair(kind) for _, lab, kind in pairs)
        numbers = (measuring.processor, measuring.rounds, int(measuring.milliseconds * 1e6), measuring.seed)
        arguments = (program, *map(str, (*numbers, measuring.seconds)))
        done = subprocess.run(arguments, input=lines, stdout=subprocess.PIPE, text=True, check=True)
    rounds = [[float(figure) for figure in line.split()] for line in done.stdout.splitlines()]
    return {(subject, kind): [each[at] for each in rounds] for at, (subject, _, kind) in enumerate(pairs)}


def prove(program: str, subject: Subject, lab: Lab, kinds: Iterable[Traffic]) -> None:
    """The connections of the used path have its mark, and their answers need no way but its table; others have none."""
    for kind in kinds:
        with lab.no_way_but(subject) if kind.is_marked else nullcontext():
            arguments = (program, "0", "0", "1", "1", "0")
            done = subprocess.run(arguments, input=lab.pair(kind), capture_output=True, text=True, check=False)
        if done.returncode:
            raise Broken(
                f"{subject}: {kind}: no answer{' by its table' if kind.is_marked else ''}: {done.stderr.strip()}"
            )
        marks = {mark & subject.mask for mark in lab.connection_marks(kind)}
        right = subject.mark if kind.is_marked else 0
        if marks != {right}:
            raise Broken(f"{subject}: {kind}: connections have the marks {marks}, not {right}")


def pertains(kind: Traffic, subject: Subject) -> bool:
    return kind.is_marked or not subject.takes_all


def base_of(figures: Figures, kind: Traffic) -> list[float]:
    return next(values for (subject, at), values in figures.items() if at == kind and subject.name == BASE)


def rows(figures: Figures) -> list[dict]:
    """For each subject what it adds; for the base what a transaction takes at all."""
    found = []
    for (subject, kind), values in figures.items():
        is_base = subject.name == BASE
        what = f"{kind}, whole transaction" if is_base else str(kind)
        shown = spread(values) if is_base else differences(values, base_of(figures, kind))
        figure = {"median": shown.median, "low": shown.low, "high": shown.high}
        found.append({
            "part": "packet", "subject": subject.name, "paths": subject.paths, "what": what, "unit": "ns",
            **{name: round(value, 1) for name, value in figure.items()}, "n": len(values),
        })  # fmt: skip
    return found


def show(figures: Figures) -> None:
    for kind in dict.fromkeys(kind for _, kind in figures):
        base = base_of(figures, kind)
        print(f"\n{kind}: {BASE} takes {spread(base).median:.0f} ns, {len(base)} rounds")
        print(f"  {'ns a transaction more than that':<42} median [95 % of it] ± half the quartiles' distance")
        for (subject, at), values in figures.items():
            if at == kind and subject.name != BASE:
                print(f"  {subject!s:<42}{differences(values, base)}")
    for target in targets(figures):
        verdict = "met" if target["met"] else "NOT MET"
        print(f"{verdict:<8}{target['measured']:7.3f} <= {target['limit']}: {target['target']}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--board", default=os.environ.get("RETURNPATH_BOARD"), help="returnpath-board")
    parser.add_argument("--before", help="returnpath-board of another build, to be measured beside it")
    parser.add_argument("--details", action="store_true", help="also where the nanoseconds of one path go")
    parser.add_argument("--expressions", action="store_true", help="what single expressions of nftables cost, instead")
    parser.add_argument("--subject", default="*", help="only these (patterns, with semicolons), and always the base")
    parser.add_argument("--kind", default="*", help="only these kinds of traffic (patterns, with semicolons)")
    parser.add_argument("--paths", type=int, nargs="+", default=PATHS, metavar="N")
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--slice", type=float, default=10.0, help="milliseconds")
    parser.add_argument("--seconds", type=int, default=0, help="no round begins after so many")
    parser.add_argument("--processor", type=int, default=1)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--json", type=Path, help="every round's figures")
    options = parser.parse_args()

    if not options.board and not options.expressions:
        parser.error("--board, or RETURNPATH_BOARD: returnpath-board")
    every = expressions() if options.expressions else subjects(options.board, options.paths)
    if options.details:
        every += details(options.board)
    if options.before:
        every += [returnpath(options.before, paths, "before") for paths in options.paths]
    chosen = [each for each in every if each.name == BASE or matches(str(each), options.subject)]
    kinds = [kind for kind in KINDS if matches(str(kind), options.kind)]
    measuring = Measuring(options.rounds, options.slice, options.seconds, options.processor, options.seed)
    try:
        figures = run(chosen or [base()], kinds, measuring)
    except Broken as reason:
        print(f"packet.py: {reason}", file=sys.stderr)
        return 1
    if options.json:
        options.json.write_text(
            json.dumps([[str(each), str(kind), values] for (each, kind), values in figures.items()])
        )
    show(figures)
    return 0


def matches(name: str, patterns: str) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns.split(";"))


if __name__ == "__main__":
    sys.exit(main())

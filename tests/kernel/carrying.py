"""What the firmware takes of a machine for one path. These numbers do not depend on how busy it is."""

from __future__ import annotations

import sys
from pathlib import Path

import policies
from case import Bench, case, require
from machine import Machine

sys.path.append(str(Path(__file__).resolve().parents[1] / "bench"))

import process

# 30 is the goal. Above it are what reads the settings (12), looks for what is in the way (16) and reads back what was
# installed (28): without that nobody would know whether it works. ARCHITECTURE.md, "What it takes to carry".
FIRST_CALLS, SECOND_CALLS = 132, 86
KILOBYTES = 1000
ALLOCATIONS = 8_500
ONE_PATH = policies.path("a", 1, 101, 1, gateways='["10.0.0.2"]')


def is_static(program: str) -> bool:
    """Limits are for what is shipped; a build for this machine loads libraries first, and is several times larger."""
    return b"/ld-" not in Path(program).read_bytes()[:4096]


@case("carry/one-path")
def one_path(bench: Bench) -> None:
    command = bench.programs.apply(bench.image(ONE_PATH))
    with Machine() as host, host.inside():
        first, peak = process.run(command)
        second, _ = process.run(command)
    require(second < first, f"a second apply takes {second} system calls, the first one {first}")
    if is_static(command[0]):
        require(first <= FIRST_CALLS, f"the first apply takes {first} system calls, {FIRST_CALLS} are allowed")
        require(second <= SECOND_CALLS, f"a second apply takes {second} system calls, {SECOND_CALLS} are allowed")
        require(peak <= KILOBYTES, f"{peak} kB were resident, {KILOBYTES} are allowed")


@case("carry/heap")
def heap(bench: Bench) -> None:
    program, *rest = bench.programs.apply(bench.image(ONE_PATH))
    if not is_static(program):
        return
    with Machine() as host, host.inside():
        count = process.allocations(Path(f"{program}.debug"), rest)
    require(count > 0, "no breakpoint was reached")
    require(count <= ALLOCATIONS, f"an apply allocates {count} times, {ALLOCATIONS} are allowed")

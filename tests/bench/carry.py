#!/usr/bin/env -S python3 -B
"""What it costs to carry: bytes, memory, system calls and heap allocations, beside ip with nft, and busybox."""

from __future__ import annotations

import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import process

HERE = Path(__file__).resolve().parent
SIZES = HERE.parents[1] / "image/firmware/sizes"
PATHS = (1, 255)
ROUNDS = 3  # there is no spread to be expected, and this would show one
TARGETS = {"bytes": 600_000, "peak resident, 1 path": 1000, "system calls, 1 path": 30}
CRATES = 12  # the largest
# A host with a router's network; its own /etc/iproute2, since returnpath writes the names of its tables there.
ROOM = """set -e
mount -t tmpfs none /etc/iproute2
ip link set lo up
ip link add eth0 type veth peer name peer0
ip addr add 10.0.0.1/16 dev eth0
ip link set eth0 up
ip link set peer0 up
ip route add default via 10.0.0.2
exec "$@"
"""


def policy(paths: int) -> str:
    text = 'mark_mask = 0x1ff\nlocal_networks = ["10.0.0.0/16"]\n'
    for number in range(paths):
        mac = f"02:00:00:01:{number >> 8:02x}:{number & 255:02x}"
        text += (
            f'[paths.p{number}]\nmark = {number + 1}\ntable = {1000 + number}\ngateways = ["10.0.1.{number}"]\n'
            f'source_macs = ["{mac}"]\nservices = ["tcp/80"]\n'
        )
    return text


def in_room(*command: str) -> list:
    """Runs this file's `main` for a command in a namespace of its own, and returns what it has measured."""
    inner = (sys.executable, "-B", str(Path(__file__).resolve()), *command)
    done = subprocess.run(
        ("unshare", "--net", "--mount", "sh", "-c", ROOM, "room", *inner), capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
    return json.loads(done.stdout)


def files(*programs: str) -> int:
    """Bytes of programs and of all libraries that they load, each once."""
    found = {os.path.realpath(shutil.which(program) or program) for program in programs}
    for program in sorted(found):
        loads = subprocess.run(("ldd", program), capture_output=True, text=True, check=False)
        found |= {os.path.realpath(name) for name in re.findall(r"(/\S+) \(0x", loads.stdout)}
    return sum(os.path.getsize(name) for name in found)


def peers_input(script: str, folder: Path) -> tuple[Path, Path]:
    """The plan's own text as `ip -batch` and `nft -f` take it."""
    ways, table = folder / "ways", folder / "table"
    ways.write_text("".join(f"{line[6:]}\n" for line in script.splitlines() if line.startswith("ip -4 ")))
    table.write_text(re.search(r"^nft -f - <<'EOF'\n(.*?)^EOF$", script, re.MULTILINE | re.DOTALL)[1])
    return ways, table


class Rows(list):
    def add(self, subject: str, what: str, unit: str, values: Iterable[float]) -> float:
        values = list(values)
        middle = statistics.median(values)
        figures = {"median": middle, "low": min(values), "high": max(values), "n": len(values)}
        self.append({"part": "carry", "subject": subject, "what": what, "unit": unit} | figures)
        return middle


def sizes(symbolised: str) -> list[tuple[int, str]]:
    done = subprocess.run((str(SIZES), symbolised), capture_output=True, text=True, check=True)
    lines = (line.split(None, 1) for line in done.stdout.splitlines())
    return [(int(size), name) for size, name in lines]


def sections(program: str) -> list[tuple[int, str]]:
    done = subprocess.run(("size", "-A", "-d", program), capture_output=True, text=True, check=True)
    found = re.findall(r"^(\.[\w.]+)\s+(\d+)\s+\d+$", done.stdout, re.MULTILINE)
    return sorted(((int(size), name) for name, size in found if int(size) >= 512), reverse=True)


def measure(firmware: str, board: str) -> tuple[list[dict], list[dict]]:
    """Rows and targets. The symbolised copy lies beside the firmware."""
    rows, ours, symbolised = Rows(), "returnpath", f"{firmware}.debug"
    measured: dict[str, float] = {}
    what = "bytes of the program and its libraries"
    measured["bytes"] = rows.add(ours, what, "bytes", [files(str(firmware))])
    rows.add("ip + nft", what, "bytes", [files("ip", "nft")])
    for size, name in sections(str(firmware)):
        rows.add(ours, f"section {name}", "bytes", [size])
    for size, name in sizes(symbolised)[:CRATES]:
        rows.add(ours, f"crate {name}" if "(C)" not in name and " " not in name else name, "bytes", [size])
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for paths in PATHS:
            text, image = folder / f"{paths}.toml", str(folder / f"{paths}.bin")
            text.write_text(policy(paths))
            subprocess.run((str(board), "compile", str(text), "-o", image), capture_output=True, check=True)
            plan = subprocess.run((str(board), "plan", image), capture_output=True, text=True, check=True).stdout
            many = f"{paths} path{'s' if paths > 1 else ''}"
            ways, table = map(str, peers_input(plan, folder))
            seen = [in_room("apply", str(firmware), image) for _ in range(ROUNDS)]
            peers = [in_room("peers", ways, table) for _ in range(ROUNDS)]
            for subject, each in ((ours, seen), ("ip + nft", peers)):
                calls = rows.add(subject, f"system calls, {many}", "calls", [calls for calls, _ in each])
                peak = rows.add(subject, f"peak resident, {many}", "kB", [kilobytes for _, kilobytes in each])
                if subject == ours:
                    measured |= {f"system calls, {many}": calls, f"peak resident, {many}": peak}
            again = [in_room("again", str(firmware), image) for _ in range(ROUNDS)]
            rows.add(ours, f"system calls of a second apply, {many}", "calls", [calls for calls, _ in again])
            heap = in_room("heap", symbolised, image)
            rows.add(ours, f"heap allocations of an apply, {many}", "calls", heap)
    if busybox := shutil.which("busybox"):
        rows.add("busybox", what, "bytes", [files(busybox)])
        alone = [process.run([busybox, "true"]) for _ in range(ROUNDS)]
        rows.add("busybox", "peak resident, doing nothing", "kB", [kilobytes for _, kilobytes in alone])
    targets = [
        {"part": "carry", "target": f"{name}: at most {limit:,}", "limit": limit, "measured": measured[name]}
        | {"met": measured[name] <= limit}
        for name, limit in TARGETS.items()
    ]
    return list(rows), targets


# What runs in a room.


def apply(firmware: str, image: str) -> list:
    return list(process.run([firmware, "apply", "--policy", image]))


def again(firmware: str, image: str) -> list:
    apply(firmware, image)
    return apply(firmware, image)


def peers(ways: str, table: str) -> list:
    """Of both together: what they call, and what the larger one takes."""
    both = [process.run(["ip", "-batch", ways]), process.run(["nft", "-f", table])]
    return [sum(calls for calls, _ in both), max(kilobytes for _, kilobytes in both)]


def heap(symbolised: str, image: str) -> list:
    return [process.allocations(Path(symbolised), ["apply", "--policy", image])]


IN_ROOM: dict[str, Callable[..., list]] = {"apply": apply, "again": again, "peers": peers, "heap": heap}

if __name__ == "__main__":
    print(json.dumps(IN_ROOM[sys.argv[1]](*sys.argv[2:])))

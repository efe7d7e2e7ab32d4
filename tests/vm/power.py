"""Power is pulled while a policy is written: what the disk then holds boots, and is the old policy or the new one.

QEMU records each write and flush of the guest (its driver blklogwrites). A killed QEMU loses nothing, a disk that loses
power does: from the record this makes what such a disk may hold. All that was flushed is there; of what was not, any
part, cut at any sector. The moments between a write and its flush are short, so the time decides in every other round
only; in between, power goes after one of the requests, whichever.
"""

from __future__ import annotations

import random
import re
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import disk
import policies
import updates
from case import Bench, case, in_force, reached, require, settled, status
from guest import Guest
from hardware import Disk, Hardware

POLICIES = ((policies.SEED, 0x2, 200), (policies.OTHER, 0x3, 201))  # of even and of odd serials
LANES = 2  # cases side by side
LOG_MAGIC = 0x6A736677736872
FLUSH, FUA = 1, 2
SECTOR = disk.SECTOR


@dataclass(frozen=True)
class Entry:
    """One request, as the record has it (dm-log-writes, Documentation/admin-guide/device-mapper/log-writes.rst)."""

    offset: int
    data: bytes
    flags: int


def entries(log: Path) -> Iterator[Entry]:
    """What was recorded. The count in the superblock may be old, since QEMU was killed: zeros end it as well."""
    raw = log.read_bytes()
    magic, version, _, size = struct.unpack_from("<QQQI", raw)
    require((magic, version, size) == (LOG_MAGIC, 1, SECTOR), f"{log}: no record of writes")
    at = SECTOR
    while at + SECTOR <= len(raw):
        sector, count, flags, _ = struct.unpack_from("<QQQQ", raw, at)
        if not (count or flags):
            return
        data = raw[at + SECTOR : at + SECTOR + count * SECTOR]
        if len(data) < count * SECTOR:
            return
        yield Entry(sector * SECTOR, data, flags)
        at += SECTOR + len(data)


@dataclass
class Losses:
    flushed: int = 0
    pending: int = 0
    lost: int = 0

    def __add__(self, other: Losses) -> Losses:
        return Losses(self.flushed + other.flushed, self.pending + other.pending, self.lost + other.lost)


def after_power_cut(medium: Path, recorded: list[Entry], chance: random.Random) -> Losses:
    """Brings a disk to a state that a power cut at the end of the record may leave."""
    last_flush = max((index for index, entry in enumerate(recorded) if entry.flags & FLUSH), default=-1)
    place, losses = disk.partition(medium), Losses()
    with medium.open("r+b") as file:
        for index, entry in enumerate(recorded):
            inside = place.offset <= entry.offset and entry.offset + len(entry.data) <= place.offset + place.size
            require(inside or not entry.data, f"a write at {entry.offset}, outside the board partition")
            data = entry.data
            if data and index > last_flush and not entry.flags & FUA:
                kept = chance.choice((0, chance.randrange(len(data) // SECTOR + 1), len(data) // SECTOR)) * SECTOR
                losses += Losses(pending=1, lost=kept < len(data))
                data = data[:kept]
            losses.flushed += bool(data) and index <= last_flush
            file.seek(entry.offset)
            file.write(data)
    return losses


def boots(guest: Guest, serials: tuple[int, ...]) -> int:
    """The machine is up with the policy of one of these serials; returns which."""
    reached(guest)
    settled(guest)
    status(guest)
    listed = guest.run(f"returnpath-board read {updates.DEVICE}")
    found = max((int(number) for number in re.findall(r"serial (\d+)", listed)), default=0)
    require(found in serials, f"serial {found} boots, not one of {serials}:\n{listed}")
    _, mark, table = POLICIES[found % 2]
    in_force(guest, mark, table)
    return found


def pull(bench: Bench, lane: int) -> str:
    """Round after round: a boot, a whole write, and one that is cut short at another moment each time."""
    seed = bench.seed + lane
    rounds = bench.pulls // LANES + (lane < bench.pulls % LANES)
    print(f"      power/pull-{lane}: {rounds} rounds, --seed {bench.seed}", flush=True)
    chance = random.Random(seed)
    medium = bench.disk(bench.board(policies.OTHER).contents)  # serial 1
    live, log = bench.folder / "live.img", bench.folder / "writes.log"
    serials: tuple[int, ...] = (1,)
    losses, olds = Losses(), 0
    for number in range(rounds + 1):
        disk.copy(medium, live)
        log.write_bytes(b"")
        with bench.start(Hardware([Disk(live, log=log)]), bench.boot()) as guest:
            serial = boots(guest, serials)
            olds += number > 0 and serial == serials[0]
            paths = [updates.send(guest, policy, f"{index}.toml") for index, (policy, *_) in enumerate(POLICIES)]
            write = f"returnpath-board write {updates.DEVICE} "
            began = time.monotonic()
            guest.run(write + paths[(serial + 1) % 2])
            took = time.monotonic() - began
            if number == rounds:
                break
            safe = len(list(entries(log)))
            token = guest.begin(write + paths[serial % 2])
            if number % 2:
                guest.finish(token, write)
            else:
                time.sleep(1.2 * took * (number + chance.random()) / rounds)  # every part of the write has its turn
            guest.pull_power()
        recorded = list(entries(log))
        if number % 2:
            recorded = recorded[: chance.randint(safe, len(recorded))]
        losses += after_power_cut(medium, recorded, chance)
        serials = (serial + 1, serial + 2)
    require(losses.pending or rounds < 10, "the power was never pulled between a write and its flush")
    return (
        f"{rounds} pulls: {olds} old, {rounds - olds} new;"
        f" {losses.lost} of {losses.pending} unflushed writes lost or torn, {losses.flushed} flushed ones kept"
    )


for _lane in range(LANES):
    case(f"power/pull-{_lane}", _lane)(pull)

"""Boots that go wrong. Whatever is broken, the next init runs, and the kernel log says what it was."""

from __future__ import annotations

import policies
from case import (
    BOARD,
    BOUND,
    DEFAULT_BOUND,
    ERROR,
    INFO,
    STAGE_BEGINS,
    WARNING,
    Bench,
    addressed,
    bounded,
    case,
    in_force,
    messages,
    not_in_force,
    reached,
    require,
    said,
    settled,
    status,
)
from disk import BOARD_SIZE, HEADER, LENGTH_AT, MAGIC_AT, SLOTS, Board, board_only, partition
from hardware import Disk, Hardware
from network import Network

PAYLOAD_AT = HEADER + 20
TABLE_IN_USE = "ip link set lo up; ip route add blackhole 192.0.2.0/24 table 200;"  # somebody else's
# The child is told from PID 1 by its arguments; the brackets keep the pattern from finding itself.
SEGFAULT = "until kill -SEGV $(grep -l [-]-work /proc/[0-9]*/cmdline | tr -dc 0-9); do usleep 50000; done"
DEFECTS = {  # of slot B, which holds the newest policy, and a word that the warning has for it
    "magic": (lambda board: board.flip("B", MAGIC_AT), "begin as a slot"),
    "version": (lambda board: board.other_version("B"), "version"),
    "length": (lambda board: board.flip("B", LENGTH_AT + 3), "length"),
    "crc": (lambda board: board.flip("B", PAYLOAD_AT), "CRC"),
    "decode": (lambda board: board.undecodable("B"), ""),
}


def goes_on_without(bench: Bench, contents: bytes | None, *words: str, limit: int = BOUND, **boot: str) -> None:
    """The boot goes on without a policy, in time, and an error has these words."""
    with bench.booted(contents, boot=bench.boot(**boot)) as guest:
        said(guest, ERROR, *words)
        said(guest, ERROR, "without a policy")
        not_in_force(guest)
        bounded(guest, limit)


@case("failure/no-partition")
def no_partition(bench: Bench) -> None:
    goes_on_without(bench, None, "PARTLABEL=returnpath", limit=3, patience="returnpath.timeout=3")


@case("failure/no-partition-by-default")
def no_partition_by_default(bench: Bench) -> None:
    goes_on_without(bench, None, "PARTLABEL=returnpath", limit=DEFAULT_BOUND, patience="")


@case("failure/no-such-device")
def no_such_device(bench: Bench) -> None:
    options = "returnpath.board=/dev/nothing returnpath.timeout=3"
    goes_on_without(bench, bench.board(policies.SEED).contents, "/dev/nothing", limit=3, options=options)


@case("failure/not-a-board-partition")
def not_a_board(bench: Bench) -> None:
    """The label is right, and what is in the partition is something else."""
    with bench.booted(b"\xa5" * BOARD_SIZE) as guest:
        for slot in SLOTS:
            said(guest, WARNING, f"slot {slot}", "no board partition")
        said(guest, ERROR, "no slot has a usable policy")
        said(guest, ERROR, "without a policy")
        not_in_force(guest)
        bounded(guest)


@case("failure/both-empty")
def both_empty(bench: Bench) -> None:
    goes_on_without(bench, bench.board().contents, "no slot has a usable policy")


@case("failure/both-corrupt")
def both_corrupt(bench: Bench) -> None:
    board = bench.board(policies.OTHER, policies.SEED).flip("A", PAYLOAD_AT).flip("B", PAYLOAD_AT)
    with bench.booted(board.contents) as guest:
        for slot in SLOTS:
            said(guest, WARNING, f"slot {slot}", "CRC")
        said(guest, ERROR, "without a policy")
        not_in_force(guest)
        bounded(guest)
        addressed(guest)
        guest.run(f"returnpath status {BOARD}", code=3)


def newest_corrupt(bench: Bench, defect: str) -> None:
    """The older policy is in force, and a warning says what is wrong with which slot."""
    spoil, word = DEFECTS[defect]
    board: Board = spoil(bench.board(policies.SEED, policies.OTHER))
    with bench.booted(board.contents) as guest:
        said(guest, WARNING, "slot B", word)
        in_force(guest)
        bounded(guest)
        settled(guest)
        status(guest)


for _defect in DEFECTS:
    case(f"failure/newest-corrupt/{_defect}", _defect)(newest_corrupt)


@case("failure/newest-unreadable")
def newest_unreadable(bench: Bench) -> None:
    """A sector of the newest policy has gone bad: the older one is in force."""
    board = board_only(bench.board(policies.SEED, policies.OTHER).contents, bench.folder / "board-disk.img")
    bad = partition(board).offset + SLOTS["B"] + HEADER
    hardware = Hardware([Disk(bench.disk(None)), Disk(board, unreadable=bad)])
    with bench.start(hardware, bench.boot()) as guest:
        reached(guest)
        said(guest, WARNING, "slot B")
        in_force(guest)
        bounded(guest)
        settled(guest)
        status(guest)


@case("failure/newest-corrupt/packets")
def newest_corrupt_packets(bench: Bench) -> None:
    board = bench.board(policies.SEED, policies.OTHER).flip("B", PAYLOAD_AT)
    with Network() as network, bench.booted(board.contents, network.lab.switch) as guest:
        settled(guest)
        network.check(2)
        network.check(1)


@case("failure/newest-refused")
def newest_refused(bench: Bench) -> None:
    """The kernel side refuses the newest policy, since its table is somebody else's: the older one is in force."""
    contents = bench.board(policies.OTHER, policies.SEED).contents
    boot = bench.boot(before=TABLE_IN_USE)
    with Network() as network, bench.booted(contents, network.lab.switch, boot) as guest:
        said(guest, ERROR, "slot B", "table 200")
        in_force(guest, 0x3, 201)
        bounded(guest)
        settled(guest)
        network.check(2)


@case("failure/every-policy-refused")
def refused(bench: Bench) -> None:
    with bench.booted(bench.board(policies.SEED).contents, boot=bench.boot(before=TABLE_IN_USE)) as guest:
        said(guest, ERROR, "table 200")
        said(guest, ERROR, "without a policy")
        not_in_force(guest)
        bounded(guest)
        require("192.0.2.0/24" in guest.run("ip route show table 200"), "the other program's route is gone")


@case("failure/no-modules")
def no_modules(bench: Bench) -> None:
    """The kernel's modules are not there: what can be done without them is not enough, and that is said."""
    boot = bench.boot(before="mount -t tmpfs none /lib/modules;")
    with bench.start(Hardware([Disk(bench.disk(bench.board(policies.SEED).contents))]), boot) as guest:
        reached(guest, extra_mounts=("/lib/modules",))
        said(guest, INFO, "modules.dep: not there")
        said(guest, ERROR, "CONFIG_NF_TABLES")
        said(guest, ERROR, "without a policy")
        not_in_force(guest)
        bounded(guest)


@case("failure/crash")
def crash(bench: Bench) -> None:
    """Our own work dies by a signal, which reaches it while it waits for the partition."""
    boot = bench.boot(before=f"mount -t devtmpfs dev /dev; ({SEGFAULT}) 2>/dev/null &")
    with bench.booted(None, boot=boot) as guest:
        said(guest, ERROR, "signal 11")
        said(guest, ERROR, "without a policy")
        bounded(guest)


def hangs(bench: Bench, board: str, burst: int) -> None:
    """The board's disk answers no more: after so many bytes, but one a second."""
    limit = 5
    disk = board_only(bench.board(policies.large()).contents, bench.folder / "board-disk.img")
    throttle = f",throttling.bps-read=1,throttling.bps-read-max={burst}"
    hardware = Hardware([Disk(bench.disk(None)), Disk(disk, late=True, throttle=throttle)])
    boot = bench.boot(f"returnpath.timeout={limit} returnpath.board={board}")
    with bench.start(hardware, boot) as guest:
        guest.wait_for_console(STAGE_BEGINS)
        guest.plug_disk(1)
        reached(guest)
        said(guest, ERROR, f"stopped after {limit} s")
        said(guest, ERROR, "without a policy")
        not_in_force(guest)
        bounded(guest, limit)


case("failure/hang/at-once", "/dev/vdc", 1)(hangs)
case("failure/hang/in-the-policy", "PARTLABEL=returnpath", 64 << 10)(hangs)


@case("failure/next-init-missing")
def next_missing(bench: Bench) -> None:
    """The kernel panics, as it has to, and the line before says why. The machine does not hang: it starts again."""
    boot = bench.boot(next_init="/sbin/nowhere")
    with bench.start(Hardware([Disk(bench.disk(bench.board(policies.SEED).contents))]), boot) as guest:
        before, panic, _ = guest.wait_for_end().partition("Kernel panic - not syncing: Attempted to kill init!")
        require(panic, f"it ended without a panic: {before[-500:]}")
        *_, line, _ = before.splitlines()  # behind it the panic's own line begins
        require("returnpath: next init /sbin/nowhere" in line, f"the line before the panic is: {line}")


@case("failure/next-init-is-ourselves")
def next_is_ourselves(bench: Bench) -> None:
    """returnpath.next= names returnpath: a loop without an end would be worse than a panic."""
    boot = bench.boot(next_init="/usr/sbin/returnpath-init")
    with bench.start(Hardware([Disk(bench.disk(bench.board(policies.SEED).contents))]), boot) as guest:
        console = guest.wait_for_end()
        require("it is returnpath itself" in console, f"the reason is not told: {console[-500:]}")
        require("Kernel panic" in console, "it ended without a panic")


@case("failure/silent-log")
def silent(bench: Bench) -> None:
    """With returnpath.log=off nothing at all is said, and the boot goes on all the same."""
    with bench.booted(bench.board().contents, boot=bench.boot("returnpath.log=off")) as guest:
        require(not messages(guest), "something was said")
        not_in_force(guest)

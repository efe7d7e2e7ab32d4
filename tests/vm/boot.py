"""Boots that go well: the policy is in force, and packets take their way from the first one on."""

from __future__ import annotations

import re
import time

import policies
from addresses import CLIENT, HOST, IPV4, IPV6, LAN
from case import (
    HAS_ADDRESS,
    INFO,
    STAGE_BEGINS,
    WARNING,
    Bench,
    addressed,
    bounded,
    case,
    in_force,
    no_complaint,
    reached,
    require,
    said,
    settled,
    status,
)
from disk import board_only
from guest import BOOT_SECONDS
from hardware import Disk, Hardware
from network import SECONDS, Network, converse, dial, require_way

SHORT = 20  # seconds: enough for the rest on a loaded machine, when the waiting has taken its share
SECOND_ADDRESS = (
    "echo 0 >/proc/sys/net/ipv6/conf/eth0/accept_dad"
    " && ip -6 address add fd00::10/64 dev eth0 && ip -6 route add default via fd00::1"
)


@case("boot/seed")
def seed(bench: Bench) -> str:
    """The client calls all the time, from before power is on: no answer ever leaves by the wrong router."""
    disk = bench.disk(bench.board(policies.SEED).contents)
    with Network() as network, network.lab.watched() as tally:
        began = time.monotonic()
        with bench.start(Hardware([Disk(disk)], network.lab.switch), bench.boot()) as guest:
            with dial(network.through(2), began + BOOT_SECONDS) as connection:
                seconds = time.monotonic() - began
                converse(connection)
            reached(guest)
            settled(guest)
            status(guest)
            in_force(guest)
            no_complaint(guest)
            bounded(guest)
    require_way(tally, 2, IPV4)
    return f"first connection {seconds:.1f} s after power-on"


@case("boot/other-router")
def other_router(bench: Bench) -> None:
    """What comes in through router 1 goes back through router 1, before and after connections through router 2."""
    with Network() as network, bench.booted(bench.board(policies.SEED).contents, network.lab.switch) as guest:
        settled(guest)
        for router in (1, 2, 1):
            network.check(router)
        status(guest)


@case("boot/both-families-two-paths")
def both_families(bench: Bench) -> None:
    with Network() as network, bench.booted(bench.board(policies.TWO_PATHS).contents, network.lab.switch) as guest:
        addressed(guest)
        guest.run(SECOND_ADDRESS)
        settled(guest)
        for router in (2, 3, 1):
            for family in (IPV4, IPV6):
                network.check(router, family)
        status(guest)
        no_complaint(guest)
        bounded(guest)


@case("boot/log")
def log(bench: Bench) -> str:
    """`log = true`: a line in the kernel log for each connection that takes the path, and for no other.

    Here and not in a namespace: there the kernel logs nothing unless the whole machine is told to.
    """
    with Network() as network, bench.booted(bench.board(policies.LOGGED).contents, network.lab.switch) as guest:
        settled(guest)
        for router, count in ((1, 0), (2, 1), (2, 2)):
            network.check(router)
            lines = re.findall(r"(?<=\] )returnpath router2: .*", guest.run("dmesg"))
            require(len(lines) == count, f"{len(lines)} lines, not {count}, after router {router}: {lines}")
        wanted = ("IN=eth0", f"SRC={CLIENT.ipv4} ", f"DST={LAN.host(HOST).ipv4} ", "PROTO=TCP", "DPT=80 ", "SYN ")
        missing = [word for word in wanted if any(word not in line for line in lines)]
        require(not missing, f"not in each line: {missing}; {lines}")
        no_complaint(guest)
    return lines[0]


@case("boot/onlink")
def onlink(bench: Bench) -> None:
    """No address is needed for a gateway that is on the link by declaration: nobody stays behind."""
    with Network() as network, bench.booted(bench.board(policies.ONLINK).contents, network.lab.switch) as guest:
        require("waiting" not in guest.run("dmesg | grep returnpath:"), "something was waited for")
        settled(guest)
        require(f"via {LAN.host(2).ipv4}" in guest.run("ip route show table 200"), "the route through router 2 is gone")
        network.check(2)
        status(guest)
        no_complaint(guest)


@case("boot/read-only")
def read_only(bench: Bench) -> None:
    """Nothing of the machine can be written to."""
    disk = bench.disk(bench.board(policies.SEED).contents)
    with Network() as network:
        hardware = Hardware([Disk(disk, read_only=True)], network.lab.switch)
        with bench.start(hardware, bench.boot()) as guest:
            reached(guest)
            settled(guest)
            network.check(2)
            status(guest)
            no_complaint(guest)


@case("boot/partition-late")
def partition_late(bench: Bench) -> None:
    """The disk with the board partition is plugged in 3 s after the stage has begun."""
    board = board_only(bench.board(policies.SEED).contents, bench.folder / "board-disk.img")
    with Network() as network:
        hardware = Hardware([Disk(bench.disk(None)), Disk(board, late=True)], network.lab.switch)
        with bench.start(hardware, bench.boot()) as guest:
            guest.wait_for_console(STAGE_BEGINS)
            time.sleep(3)
            guest.plug_disk(1)
            reached(guest)
            settled(guest)
            network.check(2)
            status(guest)
            no_complaint(guest)


@case("boot/port-late")
def port_late(bench: Bench) -> None:
    """The port that the policy names is plugged in 2 s after the stage has begun, within its time."""
    disk = bench.disk(bench.board(policies.BY_PORT).contents)
    with Network() as network:
        hardware = Hardware([Disk(disk)], network.lab.switch, port_late=True)
        with bench.start(hardware, bench.boot()) as guest:
            guest.wait_for_console(STAGE_BEGINS)
            time.sleep(2)
            guest.plug_port()
            reached(guest)
            settled(guest)
            network.check(2)
            status(guest)
            no_complaint(guest)


@case("boot/port-after-the-time")
def port_too_late(bench: Bench) -> None:
    """The port comes after the boot has gone on without it: the path comes alive by itself all the same."""
    disk = bench.disk(bench.board(policies.BY_PORT).contents)
    with Network() as network:
        hardware = Hardware([Disk(disk)], network.lab.switch, port_late=True)
        with bench.start(hardware, bench.boot(f"returnpath.timeout={SHORT}")) as guest:
            reached(guest)
            bounded(guest, SHORT)
            said(guest, WARNING, "eth0")
            in_force(guest)
            guest.plug_port()
            guest.retry(f"{HAS_ADDRESS} || ifup -f eth0")
            settled(guest)
            network.check(2)
            status(guest)


@case("boot/port-missing")
def port_missing(bench: Bench) -> None:
    """One path names a port that this machine has not; the other path works."""
    with Network() as network:
        boot = bench.boot(f"returnpath.timeout={SHORT}")
        with bench.booted(bench.board(policies.ONE_PORT_MISSING).contents, network.lab.switch, boot) as guest:
            bounded(guest, SHORT)
            said(guest, WARNING, "eth9")
            addressed(guest)
            network.check(2)
            network.check(1)


@case("boot/from-image")
def from_image(bench: Bench) -> str:
    """The whole image, by its own boot loader, with its own command line, to the first answered connection."""
    disk = bench.disk(bench.board(policies.SEED).contents)
    with Network() as network, network.lab.watched() as tally:
        began = time.monotonic()
        with bench.start(Hardware([Disk(disk)], network.lab.switch), None) as guest:
            guest.wait_for_console(STAGE_BEGINS, 2 * BOOT_SECONDS)
            guest.call_hand()
            with dial(network.through(2), time.monotonic() + SECONDS) as connection:
                seconds = time.monotonic() - began
                converse(connection)
            require(guest.run("cat /proc/1/comm") == "init", "PID 1 is not the image's own init")
            settled(guest)
            status(guest)
            no_complaint(guest)
            said(guest, INFO, "in force")
    require_way(tally, 2, IPV4)
    return f"first connection {seconds:.1f} s after power-on"


@case("boot/not-first")
def not_first(bench: Bench) -> None:
    """Started by another init, the stage does its work, comes back with its exit code, and executes nothing."""
    wrapper = "STAGE=$(/usr/sbin/returnpath-init; echo $?); export STAGE; exec /bin/sh $@"
    for contents, code in ((bench.board(policies.SEED).contents, "0"), (bench.board().contents, "3")):
        boot = bench.boot("returnpath.next=/nowhere", wrapper=wrapper, next_init="")
        with bench.start(Hardware([Disk(bench.disk(contents))]), boot) as guest:
            reached(guest, {"STAGE": code})
            if code == "0":
                in_force(guest)


@case("boot/options")
def options(bench: Bench) -> None:
    """The board by its device, and nothing below an error in the log."""
    boot = bench.boot("returnpath.board=/dev/vdb3 returnpath.log=error")
    with bench.booted(bench.board(policies.SEED).contents, boot=boot) as guest:
        in_force(guest)
        said_nothing = guest.run("dmesg | sed -n '/returnpath: /p' | wc -l")
        require(said_nothing == "0", "the log is not silent below the level that it was told")


@case("boot/options-nonsense")
def options_nonsense(bench: Bench) -> None:
    """Options that make no sense are named and left aside; the defaults hold."""
    nonsense = ("returnpath.timeout=soon", "returnpath.log=loud", "returnpath.board=sda3", "returnpath.tiemout=3")
    boot = bench.boot(" ".join(nonsense))
    with bench.booted(bench.board(policies.SEED).contents, boot=boot) as guest:
        for option in nonsense:
            said(guest, WARNING, option)
        in_force(guest)


@case("boot/bare")
def bare(bench: Bench) -> None:
    """PID 1 without descriptors 0, 1 and 2, and nothing mounted: what a boot without a console gives it."""
    boot = bench.boot(before="exec <&- >&- 2>&-;")
    with bench.booted(bench.board(policies.SEED).contents, boot=boot) as guest:
        in_force(guest)
        no_complaint(guest)


@case("boot/small-stack")
def small_stack(bench: Bench) -> None:
    """64 KB of stack are enough, for PID 1 and for the work."""
    with bench.booted(bench.board(policies.TWO_PATHS).contents, boot=bench.boot(before="ulimit -s 64;")) as guest:
        in_force(guest)
        no_complaint(guest)

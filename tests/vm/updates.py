"""New policies on the running appliance."""

from __future__ import annotations

import policies
from case import BOARD, ERROR, WARNING, Bench, case, in_force, reached, require, said, settled, status
from disk import HEADER, SLOTS, partition
from guest import Guest
from hardware import Disk, Hardware
from network import Network

DEVICE = "--device PARTLABEL=returnpath"


def send(guest: Guest, policy: str, name: str = "policy.toml") -> str:
    """Puts a policy into the guest's memory; returns its path there."""
    path, lines = f"/run/{name}", " ".join(f"'{line}'" for line in policy.splitlines())
    guest.run(f"printf '%s\\n' {lines} >{path}")
    return path


def write(guest: Guest, policy: str) -> str:
    return guest.run(f"returnpath-board write {DEVICE} {send(guest, policy)}")


@case("update/apply-and-reboot")
def apply_and_reboot(bench: Bench) -> None:
    """Into the spare slot, in force at once, and still after the next boot."""
    disk = bench.disk(bench.board(policies.SEED).contents)
    with Network() as network:
        hardware = Hardware([Disk(disk)], network.lab.switch)
        with bench.start(hardware, bench.boot()) as guest:
            reached(guest)
            settled(guest)
            network.check(2)
            require("slot B" in write(guest, policies.OTHER), "the spare slot is B")
            guest.run(f"returnpath apply {BOARD}")
            in_force(guest, 0x3, 201)
            require("0x2/0xff" not in guest.run("ip rule show"), "the old policy's rule is still there")
            network.check(2)
            guest.begin("reboot -f")
            guest.wait_for_end()
        with bench.start(hardware, bench.boot()) as guest:
            reached(guest)
            settled(guest)
            in_force(guest, 0x3, 201)
            status(guest)
            network.check(2)
            require("slot A" in write(guest, policies.SEED), "the spare slot is A now")


@case("update/bad-one-falls-back")
def bad_falls_back(bench: Bench) -> None:
    """The new policy is damaged on the disk after it was written: the next boot takes the last good one."""
    disk = bench.disk(bench.board(policies.SEED).contents)
    hardware = Hardware([Disk(disk)])
    with bench.start(hardware, bench.boot()) as guest:
        reached(guest)
        settled(guest)
        write(guest, policies.OTHER)
    with disk.open("r+b") as file:
        file.seek(partition(disk).offset + SLOTS["B"] + HEADER)
        file.write(b"\xff" * 16)
    with bench.start(hardware, bench.boot()) as guest:
        reached(guest)
        said(guest, WARNING, "slot B", "CRC")
        in_force(guest)
        settled(guest)
        status(guest)
        require("slot B" in write(guest, policies.OTHER), "the damaged slot is the spare one")
        guest.run(f"returnpath apply {BOARD}")
        in_force(guest, 0x3, 201)


@case("update/refused-one-falls-back")
def refused_falls_back(bench: Bench) -> None:
    """The new policy's table is another program's: `apply` changes nothing, and at boot the last good one is taken."""
    disk = bench.disk(bench.board(policies.SEED).contents)
    hardware = Hardware([Disk(disk)])
    in_use = "ip link set lo up; ip route add blackhole 192.0.2.0/24 table 201;"
    with bench.start(hardware, bench.boot(before=in_use)) as guest:
        reached(guest)
        settled(guest)
        write(guest, policies.OTHER)
        guest.run(f"returnpath apply {BOARD}", code=4)
        in_force(guest)
    with bench.start(hardware, bench.boot(before=in_use)) as guest:
        reached(guest)
        said(guest, ERROR, "slot B", "table 201")
        in_force(guest)

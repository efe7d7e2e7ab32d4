"""What is under test, told apart from how it is tested: something that makes the host obey a policy."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from addresses import FAMILIES, IPV4, LAN, Family
from lab import Lab
from netns import command
from policy import Policy

ROOT = Path(__file__).resolve().parents[2]

# Table names are files that all namespaces of the machine share: each run gets a copy of its own.
OWN_TABLE_NAMES = """
set -e
mount -t tmpfs none /mnt
cp -a /etc/iproute2/. /mnt
mount --move /mnt /etc/iproute2
"""


@contextlib.contextmanager
def own_table_names() -> Iterator[None]:
    """The same for the length of a block, for a process that has a mount namespace of its own."""
    command("sh", "-c", OWN_TABLE_NAMES)
    try:
        yield
    finally:
        command("umount", "/etc/iproute2")


def _on_host(lab: Lab, script: str, *args: str) -> str:
    return lab.host.run("unshare", "--mount", "sh", "-c", OWN_TABLE_NAMES + script, "subject", *args)


class Subject(Protocol):
    def apply(self, lab: Lab, policy: Policy) -> None: ...


class Nothing:
    """The host as it is."""

    def apply(self, lab: Lab, policy: Policy) -> None:
        pass


class Seed:
    """The recipe of shared/seeds, as it is written there; the address of router 2 is the layout's.

    IPv6, which it leaves out, gets the same commands by `ip -6` and ip6tables. A tunnel has no MAC to match.
    """

    def apply(self, lab: Lab, policy: Policy) -> None:
        path = policy.paths[0]
        if not path.source_macs:
            raise AssertionError("the recipe matches a source MAC, and this port has none")
        pairs = zip(FAMILIES, path.gateways, strict=True)
        _on_host(lab, TABLE_NAME + "".join(recipe(family, gateway) for family, gateway in pairs))


TABLE_NAME = 'echo "200 router2" >> /etc/iproute2/rt_tables\n'


def recipe(family: Family, gateway: str) -> str:
    """What follows in the seed after the table has its name."""
    ip, tables = "ip" if family is IPV4 else "ip -6", f"{family.iptables} --table mangle --append"
    return f"""\
{ip} rule add fwmark 0x2 lookup router2
{ip} route add default via {gateway} table router2
{ip} route flush cache
{tables} INPUT \\
    --protocol tcp --dport 80 \\
    --match state --state NEW \\
    --match mac --mac-source 52:54:00:c2:a5:43 \\
    ! --source {LAN.network[family]} \\
    --jump MARK --set-mark 0x2
{tables} INPUT \\
    --jump CONNMARK --save-mark
{tables} INPUT \\
    --match state --state ESTABLISHED,RELATED \\
    --jump CONNMARK --restore-mark
{tables} OUTPUT \\
    --jump CONNMARK --restore-mark
"""


class Firmware:
    """The binary. RETURNPATH and RETURNPATH_BOARD name other builds than the release one."""

    def __init__(self) -> None:
        self.firmware = os.environ.get("RETURNPATH", str(ROOT / "target/firmware/returnpath"))
        self.board = os.environ.get("RETURNPATH_BOARD", str(ROOT / "target/release/returnpath-board"))
        for program in (self.firmware, self.board):
            if not os.access(program, os.X_OK):
                raise SystemExit(
                    f"{program}: not there; build it (make firmware), or name another in"
                    " RETURNPATH and RETURNPATH_BOARD"
                )

    def apply(self, lab: Lab, policy: Policy) -> None:
        with tempfile.TemporaryDirectory(prefix="returnpath-net-") as folder:
            source, image = Path(folder, "policy.toml"), Path(folder, "policy.bin")
            source.write_text(policy.toml())
            command(self.board, "compile", str(source), "-o", str(image))
            _on_host(lab, 'exec "$@"', self.firmware, "apply", "--policy", str(image))


class Program:
    """Any program that takes `apply POLICY.toml`: to try a rule set before the firmware can make it."""

    def __init__(self, program: str) -> None:
        self.program = program

    def apply(self, lab: Lab, policy: Policy) -> None:
        with tempfile.NamedTemporaryFile("w", prefix="returnpath-net-", suffix=".toml") as source:
            source.write(policy.toml())
            source.flush()
            _on_host(lab, 'exec "$@"', self.program, "apply", source.name)


def named(name: str) -> Subject:
    if "/" in name:
        return Program(name)
    if name == "none":
        return Nothing()
    if name == "seed":
        return Seed()
    if name == "firmware":
        return Firmware()
    raise SystemExit(f"--subject {name}: none, seed, firmware, or the path of a program")

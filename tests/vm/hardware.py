"""What a guest is made of, and how it starts: declared here, switched on in guest.py."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from netns import Namespace

SECTOR = 512
# What the next init is told to do: to read the hand's disk, which is plugged in before all others. Without a field
# separator an unquoted $@ keeps its words; the kernel takes every double quote away.
BECOME_HAND = "IFS=; mount -t devtmpfs dev /dev; exec sh /dev/vda $@"
ARGUMENTS = ["two words", "last=one"]  # that the next init is given besides
ENVIRONMENT = {"HOME": "/", "TERM": "linux", "vmtest": "left as it is"}  # the kernel's own two, and one from outside
STAGE = "exec /usr/sbin/returnpath-init $@"


@dataclass(frozen=True)
class Disk:
    """A drive of the guest. `late`: not there before `plug_disk`. `throttle`: options of QEMU's for a slow one.
    `unreadable`: a byte whose sector has gone bad. `log`: where every write and flush is recorded."""

    file: Path
    read_only: bool = False
    late: bool = False
    throttle: str = ""
    unreadable: int | None = None
    log: Path | None = None

    def nodes(self, name: str) -> list[str]:
        """The drive that a device named alike then shows to the guest."""
        if self.log:
            return [
                "-blockdev", f"driver=file,node-name={name}-file,filename={self.file}",
                "-blockdev", f"driver=file,node-name={name}-log,filename={self.log}",
                "-blockdev", f"driver=blklogwrites,node-name={name},file={name}-file,log={name}-log",
            ]  # fmt: skip
        if self.unreadable is not None:
            rule = {"event": "none", "iotype": "read", "sector": self.unreadable // SECTOR}
            bad = ",".join(f"inject-error.0.{key}={value}" for key, value in rule.items())
            return [
                "-blockdev", f"driver=file,node-name={name}-file,filename={self.file}",
                "-blockdev", f"driver=blkdebug,node-name={name},image={name}-file,{bad}",
            ]  # fmt: skip
        only = ",readonly=on" if self.read_only else ""
        return ["-drive", f"if=none,id={name},format=raw,file={self.file}{only}{self.throttle}"]


@dataclass(frozen=True)
class Boot:
    """How a guest starts: by its kernel with this command line, or, without one, by its own boot loader."""

    kernel: Path
    initrd: Path
    cmdline: str
    options: str = ""  # more of the kernel command line
    patience: str = "returnpath.timeout=60"  # a loaded machine without KVM is slow; cases that look at the limit say so
    before: str = ""  # runs ahead of the stage, as PID 1: a shell line with its `;` or `&`. The stage stays PID 1
    wrapper: str = STAGE  # and how it then starts the stage; $@ holds its arguments
    next_init: str = "/bin/sh"  # becomes the tests' hand, and then the image's own init

    @property
    def append(self) -> str:
        words = [self.cmdline, "panic=-1", f'vmtest="{ENVIRONMENT["vmtest"]}"', self.patience, self.options]
        if self.next_init:
            words.append(f"returnpath.next={self.next_init}")
        arguments = " ".join([f'-c "{BECOME_HAND}" sh', *(f'"{argument}"' for argument in ARGUMENTS)])
        if self.before or self.wrapper != STAGE:
            words.append("init=/bin/sh")
            arguments = f'-c "IFS=; {self.before} {self.wrapper}" sh {arguments}'
        return " ".join([*words, "--", arguments])


@dataclass
class Hardware:
    """What is in the machine. Without a switch its port is there, but leads nowhere."""

    disks: Sequence[Disk]
    switch: Namespace | None = None
    port_late: bool = False

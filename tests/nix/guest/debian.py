"""The machine under test: Debian in QEMU, with the units and files that NixOS would have."""

from __future__ import annotations

import json
import select
import shutil
import socket
import subprocess
import time
from pathlib import Path

import contents
import pack
from contents import Programs
from guest import accelerator
from lan import Switch
from machine import Machine, RequestFailed
from node import Node

BOOT_SECONDS = 180  # twelve on an idle machine without KVM
OFF_SECONDS = 60
CMDLINE = "console=ttyS0 root=/dev/vda rw quiet systemd.show_status=no net.ifnames=0 panic=-1 8250.nr_uarts=1"


class GuestMachine(Machine):
    def __init__(self, node: Node, switch: Switch, programs: Programs, image: Path, folder: Path) -> None:
        super().__init__(node.name)
        self._node, self._switch, self._image, self._folder = node, switch, image, folder
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: socket.socket | None = None
        self._received, self._is_ready = b"", False
        self.console_file = folder / "console.log"
        for number, port in enumerate(node.ports):
            switch.tap(port.vlan, f"{node.name}{number}")
        self._disks = [folder / "root.img"]
        for number, megabytes in enumerate(node.facts["disks"]):
            self._disks.append(folder / f"disk{number}.img")
            with self._disks[-1].open("wb") as disk:
                disk.truncate(megabytes << 20)
        self._fill(programs)

    def _fill(self, programs: Programs) -> None:
        """Its own copy of the guest's image, with what the node has besides."""
        subprocess.run(["cp", "--sparse=always", self._image / "root.img", self._disks[0]], check=True)
        files = self._folder / "files"
        files.mkdir()
        pack.into_image(contents.system(self._node, programs, files), self._disks[0], files)
        self._initrd = self._folder / "initrd.img"
        shutil.copy(self._image / "initrd.img", self._initrd)
        if tree := contents.stage1(self._node, programs, files):
            with self._initrd.open("ab") as initrd:
                initrd.write(pack.as_archive(tree))

    # Switching on and off

    def start(self, allow_reboot: bool = False) -> None:
        if self._process:
            return
        self._channel, theirs = socket.socketpair()
        reboot = [] if allow_reboot else ["-no-reboot"]
        # With setpriv it ends when this process does, however that ends.
        command = ["setpriv", "--pdeathsig", "KILL", "qemu-system-x86_64", *accelerator(), "-smp", "2", "-m", "512"]
        command += ["-nodefaults", "-display", "none", *reboot, "-serial", f"file:{self.console_file}"]
        command += ["-kernel", str(self._image / "vmlinuz"), "-initrd", str(self._initrd)]
        command += ["-append", " ".join([CMDLINE, *self._node.facts["kernelParams"]])]
        command += ["-device", "virtio-serial-pci", "-chardev", f"socket,id=agent,fd={theirs.fileno()}"]
        command += ["-device", "virtserialport,chardev=agent,name=agent", "-device", "virtio-rng-pci"]
        for number, disk in enumerate(self._disks):
            command += ["-drive", f"if=none,id=disk{number},format=raw,file={disk}"]
            command += ["-device", f"virtio-blk-pci,drive=disk{number},addr={number + 8:x}"]
        for number, port in enumerate(self._node.ports):
            command += ["-netdev", f"tap,id=port{number},ifname={self.name}{number},script=no,downscript=no"]
            command += ["-device", f"virtio-net-pci,netdev=port{number},mac={port.mac},romfile="]
        with self._switch.namespace.entered(), (self._folder / "qemu.log").open("ab") as complaints:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=complaints,
                stderr=subprocess.STDOUT,
                pass_fds=[theirs.fileno()],
            )
        theirs.close()

    def _off(self) -> None:
        if self._channel:
            self._channel.close()
        self._process, self._channel = None, None
        self._received, self._is_ready = b"", False

    def crash(self) -> None:
        if self._process:
            self._process.kill()
            self._process.wait()
            self._off()

    def shutdown(self) -> None:
        if not self._process:
            return
        self._ask("systemctl poweroff", OFF_SECONDS)  # the answer may come too late
        try:
            self._process.wait(OFF_SECONDS)
        except subprocess.TimeoutExpired:
            raise self._dead("it does not switch itself off") from None
        self._off()

    def reboot(self) -> None:
        """It has to have been started with `allow_reboot`."""
        self._ask("systemctl reboot", OFF_SECONDS)
        self._is_ready = False

    # Commands

    def _dead(self, what: str) -> RequestFailed:
        lines = self.console_file.read_text(errors="replace").splitlines() if self.console_file.exists() else []
        lines += (self._folder / "qemu.log").read_text(errors="replace").splitlines()
        return RequestFailed("\n  | ".join([f"{self.name}: {what}; the end of its console:", *lines[-25:]]))

    def _line(self, what: str, within: float) -> dict[str, object]:
        assert self._channel
        deadline = time.monotonic() + within
        while b"\n" not in self._received:
            if not select.select([self._channel], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise self._dead(f"{what}: no answer within {within:.0f} s")
            chunk = self._channel.recv(1 << 16)
            if not chunk:
                raise self._dead(f"{what}: the guest ended before")
            self._received += chunk
        line, _, self._received = self._received.partition(b"\n")
        return json.loads(line)

    def _connect(self) -> None:
        self.start()
        while not self._is_ready:
            self._is_ready = "ready" in self._line("its boot", BOOT_SECONDS)

    def _ask(self, command: str, timeout: float | None) -> None:
        self._connect()
        assert self._channel
        self._channel.sendall(json.dumps({"command": command, "timeout": timeout}).encode() + b"\n")

    def run(self, command: str, timeout: float | None) -> tuple[int, str]:
        self._ask(command, timeout)
        answer = self._line(f"`{command}`", (timeout or BOOT_SECONDS) + OFF_SECONDS)
        self.complaints = str(answer["complaints"])
        return int(str(answer["status"])), str(answer["output"])

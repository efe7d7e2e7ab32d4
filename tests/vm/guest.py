"""One guest: a QEMU process, its console, and a shell in it that the second serial port leads to."""

from __future__ import annotations

import base64
import contextlib
import ctypes
import re
import secrets
import select
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from hardware import SECTOR, Boot, Disk, Hardware
from qmp import Monitor

HERE = Path(__file__).resolve().parent
BOOT_SECONDS = 120  # a boot takes four; a loaded machine without KVM may be many times slower
COMMAND_SECONDS = 60
PR_SET_PDEATHSIG = 1
TAP = "guest0"
MAC = "52:54:00:c2:a5:0a"
FIRMWARE = Path("/usr/share/OVMF")
CALL_HAND, CALL_AGAIN_SECONDS = "mkdir /run/hand && sh /dev/vda", 5  # it runs once, however often it is called

_libc = ctypes.CDLL(None)


class GuestFailed(AssertionError):
    """The guest did not do what was waited for; the message ends with the tail of its console."""


def accelerator() -> list[str]:
    """KVM where the processor has it: /dev/kvm may be there and yet run nothing."""
    if re.search(r"^flags\b.*\b(svm|vmx)\b", Path("/proc/cpuinfo").read_text(), re.MULTILINE):
        return ["-machine", "q35,accel=kvm,usb=off", "-cpu", "host"]
    return ["-machine", "q35,accel=tcg,usb=off", "-cpu", "max"]


def _hand(folder: Path) -> Path:
    """The script as a disk: whole sectors of it."""
    script = (HERE / "guest.sh").read_bytes()
    disk = folder / "hand.img"
    disk.write_bytes(script + b"\n" * (-len(script) % SECTOR))
    return disk


def _die_with_parent() -> None:
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


@dataclass
class Greeting:
    """What the next init was given, and found."""

    arguments: list[str] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    mounts: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, line: str) -> Greeting:
        arguments, environment, mounts = (base64.b64decode(word).decode() for word in line.split()[1:])
        pairs = (pair.partition("=") for pair in environment.split("\0") if pair)
        return cls(
            arguments.split("\0")[2:-1],  # behind `sh /dev/vda`
            {name: value for name, _, value in pairs},
            [line.split()[1] for line in mounts.splitlines()],
        )


class Guest:
    """A machine that has been switched on. Its `with` block switches it off."""

    def __init__(self, folder: Path, hardware: Hardware, boot: Boot | None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.console_file = folder / "console.log"
        self.greeting = Greeting()
        self._cleanup = contextlib.ExitStack()
        self._received = b""
        self._folder, self._hardware = folder, hardware
        try:
            self._start(boot)
        except BaseException:
            self._cleanup.close()
            raise

    def __enter__(self) -> Guest:
        return self

    def __exit__(self, *_: object) -> None:
        self._cleanup.close()

    # Switching on and off

    def _start(self, boot: Boot | None) -> None:
        self._channel, their_channel = self._pair()
        monitor, their_monitor = self._pair()
        self._terminal, their_terminal = self._pair()
        theirs = (their_channel, their_monitor, their_terminal)
        command = ["qemu-system-x86_64", *accelerator(), "-m", "256", "-nodefaults", "-no-reboot", "-display", "none"]
        command += ["-chardev", f"socket,id=console,fd={their_terminal.fileno()},logfile={self.console_file}"]
        command += ["-chardev", f"socket,id=channel,fd={their_channel.fileno()}", "-serial", "chardev:console"]
        command += ["-serial", "chardev:channel", "-chardev", f"socket,id=qmp,fd={their_monitor.fileno()}"]
        command += ["-mon", "chardev=qmp,mode=control"]
        command += self._boot_options(boot) + self._devices()
        inside = self._hardware.switch.entered() if self._hardware.switch else contextlib.nullcontext()
        complaints = self._cleanup.enter_context((self._folder / "qemu.log").open("wb"))
        with inside:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=complaints,
                stderr=subprocess.STDOUT,
                pass_fds=[end.fileno() for end in theirs],
                preexec_fn=_die_with_parent,
            )
        self._cleanup.callback(self.pull_power)
        for end in theirs:
            end.close()
        threading.Thread(target=self._drain_terminal, daemon=True).start()
        try:
            self._monitor = Monitor(monitor)
        except (OSError, ValueError) as error:
            self.process.wait(COMMAND_SECONDS)
            said = (self._folder / "qemu.log").read_text().strip()
            raise GuestFailed(f"QEMU does not start: {said or error}") from None

    def _pair(self) -> tuple[socket.socket, socket.socket]:
        ours, theirs = socket.socketpair()
        self._cleanup.callback(ours.close)
        self._cleanup.callback(theirs.close)
        return ours, theirs

    def _drain_terminal(self) -> None:
        """QEMU has it in a file as well; if nobody took it here, the guest would wait."""
        with contextlib.suppress(OSError):
            while self._terminal.recv(1 << 16):
                pass

    def _boot_options(self, boot: Boot | None) -> list[str]:
        if boot:
            return ["-kernel", str(boot.kernel), "-initrd", str(boot.initrd), "-append", boot.append]
        code, variables = FIRMWARE / "OVMF_CODE_4M.fd", self._folder / "variables.fd"
        variables.write_bytes((FIRMWARE / "OVMF_VARS_4M.fd").read_bytes())
        return [
            "-drive", f"if=pflash,format=raw,readonly=on,file={code}",
            "-drive", f"if=pflash,format=raw,file={variables}",
        ]  # fmt: skip

    def _devices(self) -> list[str]:
        """Drives and ports; two slots stay free for what is plugged in later."""
        words = [
            *Disk(_hand(self._folder), read_only=True).nodes("hand"),
            "-device",
            "virtio-blk-pci,drive=hand,addr=2",
        ]
        for number, disk in enumerate(self._hardware.disks):
            words += disk.nodes(f"disk{number}")
            if not disk.late:
                words += ["-device", f"virtio-blk-pci,drive=disk{number},addr={number + 3:x}"]
        leads = f"tap,ifname={TAP},script=no,downscript=no" if self._hardware.switch else "hubport,hubid=0"
        words += ["-netdev", f"{leads},id=port"]
        if not self._hardware.port_late:
            words += ["-device", f"virtio-net-pci,netdev=port,mac={MAC},romfile=,addr=8"]
        for number in range(2):
            words += ["-device", f"pcie-root-port,id=slot{number},chassis={number + 1},addr={number + 9:x}"]
        return words

    def plug_disk(self, number: int) -> None:
        self._monitor.execute("device_add", driver="virtio-blk-pci", drive=f"disk{number}", bus="slot0")

    def plug_port(self) -> None:
        self._monitor.execute(
            "device_add", driver="virtio-net-pci", netdev="port", mac=MAC, romfile="", bus="slot1", id="eth"
        )

    def pull_power(self) -> None:
        self.process.kill()
        self.process.wait()

    # Waiting, always with a bound

    def console(self) -> str:
        return self.console_file.read_text(errors="replace") if self.console_file.exists() else ""

    def fail(self, what: str) -> GuestFailed:
        lines = self.console().splitlines()[-25:]
        return GuestFailed("\n".join([f"{what}; the end of its console:", *(f"  | {line.rstrip()}" for line in lines)]))

    def _until(self, true: Callable[[], bool], what: str, within: float) -> None:
        deadline = time.monotonic() + within
        while not true():
            if self.process.poll() is not None:
                if true():
                    return
                raise self.fail(f"{what}: the guest ended before")
            if time.monotonic() > deadline:
                raise self.fail(f"{what}: not within {within:.0f} s")
            time.sleep(0.02)

    def wait_for_console(self, text: str, within: float = BOOT_SECONDS) -> None:
        self._until(lambda: text in self.console(), f"{text!r} on the console", within)

    def wait_for_end(self, within: float = BOOT_SECONDS) -> str:
        """Until it has ended by itself; returns its console."""
        try:
            self.process.wait(within)
        except subprocess.TimeoutExpired:
            raise self.fail(f"it did not end by itself within {within:.0f} s") from None
        return self.console()

    def _line(self, deadline: float, what: str) -> str:
        while b"\n" not in self._received:
            left = max(0.0, deadline - time.monotonic())
            if not select.select([self._channel], [], [], left)[0]:
                raise self.fail(f"{what}: no answer in time")
            chunk = self._channel.recv(1 << 16)
            if not chunk:
                raise self.fail(f"{what}: the guest ended before")
            self._received += chunk
        line, _, self._received = self._received.partition(b"\n")
        return line.decode(errors="replace").rstrip("\r")

    def wait_for_hand(self, within: float = BOOT_SECONDS) -> None:
        """Until the next init runs, which is the tests' hand."""
        deadline = time.monotonic() + within
        while not (line := self._line(deadline, "the next init")).startswith("ready "):
            pass
        self.greeting = Greeting.read(line)

    def call_hand(self, within: float = BOOT_SECONDS) -> None:
        """Where the next init is the image's own: from the shell on its console, which may not listen yet."""
        deadline = time.monotonic() + within
        while True:
            self.type(CALL_HAND)
            try:
                return self.wait_for_hand(CALL_AGAIN_SECONDS)
            except GuestFailed:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    raise

    # Doing things in it

    def type(self, text: str) -> None:
        """On the console's keyboard."""
        self._terminal.sendall(text.encode() + b"\n")

    def begin(self, command: str) -> str:
        """Sends a shell line; what it returns is for `finish`."""
        token = secrets.token_hex(8)
        self._channel.sendall(f"{token} {command}\n".encode())
        return token

    def finish(self, token: str, what: str, within: float = COMMAND_SECONDS) -> tuple[int, str]:
        """The exit code and the output of what was begun."""
        deadline, lines = time.monotonic() + within, []
        while not (line := self._line(deadline, what)).startswith(f"{token} "):
            lines.append(line)
        return int(line.split()[1]), "\n".join(lines).strip("\n")

    def run(self, command: str, code: int = 0, within: float = COMMAND_SECONDS) -> str:
        """Runs a shell line; its exit code has to be `code`."""
        found, output = self.finish(self.begin(command), command, within)
        if found != code:
            raise self.fail(f"`{command}`: exit {found}, not {code}: {output or 'no output'}")
        return output

    def retry(self, command: str, within: float = COMMAND_SECONDS) -> str:
        """Runs a shell line until it succeeds."""
        deadline = time.monotonic() + within
        while True:
            found, output = self.finish(self.begin(command), command, within)
            if not found:
                return output
            if time.monotonic() > deadline:
                raise self.fail(f"`{command}`: still exit {found} after {within:.0f} s: {output}")
            time.sleep(0.05)

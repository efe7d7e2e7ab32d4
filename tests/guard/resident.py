"""The resident guard as a service manager runs it: its log, what it tells, what it takes of the machine."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

from netns import Namespace
from witness import SECONDS


def until(condition: Callable[[], object], what: str, said: Callable[[], object], seconds: float = SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds:.0f} s for {what}; it said:\n{said()}")
        time.sleep(0.005)


class Guard:
    """`returnpath guard` for the length of a block, from when it is ready; killed at the end if it is still there."""

    _made = 0

    def __init__(self, host: Namespace, folder: Path, program: str, *source: str, **environment: str) -> None:
        Guard._made += 1
        self._log, place = folder / f"guard{Guard._made}.log", str(folder / f"notify{Guard._made}")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(place)
        self.told: list[tuple[float, str]] = []  # what the service manager was told, and when
        threading.Thread(target=self._hear, daemon=True).start()
        with host.entered(), self._log.open("w") as log:
            self.process = subprocess.Popen(
                [program, "guard", *source],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=os.environ | {"NOTIFY_SOCKET": place} | environment,
            )

    def __enter__(self) -> Guard:
        try:
            until(lambda: self.is_ready() or self.process.poll() is not None, "READY=1", self.said)
            if self.process.poll() is not None:
                raise AssertionError(f"the guard ended with exit code {self.process.returncode}: {self.said()}")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._socket.shutdown(socket.SHUT_RD)  # wakes the thread that listens

    @property
    def pid(self) -> int:
        return self.process.pid

    def said(self) -> str:
        return self._log.read_text()

    def says(self, words: str, since: int = 0, seconds: float = SECONDS) -> str:
        """Waits for words in the log, of which the first `since` characters are old; returns the line."""
        until(lambda: words in self.said()[since:], f"`{words}` in the log", self.said, seconds)
        return next(line for line in self.said()[since:].splitlines() if words in line)

    def _hear(self) -> None:
        """As a service manager does: a queue that nobody empties would hold the guard up."""
        with self._socket:
            while state := self._socket.recv(1 << 16):
                self.told.append((time.monotonic(), state.decode()))

    def is_ready(self, since: int = 0) -> bool:
        return any("READY=1" in state.splitlines() for _, state in self.told[since:])

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def hang_up(self) -> None:
        self.signal(signal.SIGHUP)

    def reload(self) -> None:
        """SIGHUP, and waits until it is ready again."""
        before = len(self.told)
        self.hang_up()
        until(lambda: self.is_ready(before), "READY=1 after SIGHUP", self.said)

    def stop(self) -> None:
        """Suspends it, and waits until it is."""
        self.signal(signal.SIGSTOP)
        until(lambda: self._stat()[0] == "T", "the guard to be suspended", self.said)

    def ends(self, code: int) -> None:
        until(lambda: self.process.poll() is not None, "the guard to end", self.said)
        if self.process.returncode != code:
            raise AssertionError(f"exit {self.process.returncode}, not {code}: {self.said()}")

    def _stat(self) -> list[str]:
        return Path(f"/proc/{self.pid}/stat").read_text().rpartition(") ")[2].split()

    def cpu(self) -> float:
        """Seconds of processor time so far, its own and the kernel's for it."""
        ran, *_ = Path(f"/proc/{self.pid}/schedstat").read_text().split()
        return int(ran) / 1e9

    def resident(self) -> int:
        """VmRSS in kB."""
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))

    def drops(self) -> int:
        """Messages that did not fit into its netlink sockets."""
        lines = Path(f"/proc/{self.pid}/net/netlink").read_text().splitlines()[1:]
        inodes = set()
        for held in Path(f"/proc/{self.pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                inodes.add(os.readlink(held).removeprefix("socket:[").removesuffix("]"))
        return sum(int(fields[8]) for fields in map(str.split, lines) if fields[9] in inodes)

"""Network namespaces, entered by one thread at a time: what it opens or starts inside stays inside."""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

COMMAND_SECONDS = 15
CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


class CommandFailed(Exception):
    """A command ended with an error; the message holds the command and what it said."""


def command(*args: str, stdin: str | None = None) -> str:
    """Runs a command in the namespace of the calling thread and returns its standard output."""
    done = subprocess.run(args, input=stdin, capture_output=True, text=True, timeout=COMMAND_SECONDS, check=False)
    if done.returncode:
        said = (done.stderr or done.stdout).strip()
        raise CommandFailed(f"{' '.join(args[:4])}: exit {done.returncode}: {said}")
    return done.stdout


def _setns(descriptor: int) -> None:
    if _libc.setns(descriptor, CLONE_NEWNET):
        error = ctypes.get_errno()
        raise OSError(error, f"setns: {os.strerror(error)}")


class Namespace:
    """One named network namespace. `with ns:` moves the calling thread, not the process."""

    def __init__(self, name: str) -> None:
        self.name = name
        command("ip", "netns", "add", name)
        self._descriptor = os.open(f"/run/netns/{name}", os.O_RDONLY | os.O_CLOEXEC)

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        before = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            _setns(self._descriptor)
            try:
                yield
            finally:
                _setns(before)
        finally:
            os.close(before)

    def run(self, *args: str, stdin: str | None = None) -> str:
        with self.entered():
            return command(*args, stdin=stdin)

    def ip(self, *lines: str) -> None:
        """Runs `ip` commands, in order, in one process; stops at the first that fails."""
        self.run("ip", "-batch", "-", stdin="".join(f"{line}\n" for line in lines))

    def nft(self, script: str) -> None:
        self.run("nft", "-f", "-", stdin=script)

    def sysctl(self, values: Mapping[str, object]) -> dict[str, str]:
        """Writes sysctls below net/ and returns what they were."""
        before = {}
        with self.entered():
            for key, value in values.items():
                path = Path("/proc/sys/net", key)
                before[key] = path.read_text().strip()
                path.write_text(f"{value}\n")
        return before

    @contextlib.contextmanager
    def sysctls(self, values: Mapping[str, object]) -> Iterator[None]:
        before = self.sysctl(values)
        try:
            yield
        finally:
            self.sysctl(before)

    @contextlib.contextmanager
    def table(self, name: str, body: str) -> Iterator[None]:
        """An nft table of family inet that stands for the length of the block."""
        self.nft(f"table inet {name} {{\n{body}\n}}\n")
        try:
            yield
        finally:
            self.run("nft", "delete", "table", "inet", name)

    def delete(self) -> None:
        os.close(self._descriptor)
        command("ip", "netns", "delete", self.name)

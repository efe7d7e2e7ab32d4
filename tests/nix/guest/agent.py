"""Runs shell commands for the tests as NixOS's test driver does: in the guest, asked over a virtual port, or here.

In the guest it is a program of its own: each line that comes is {"command": …, "timeout": …}, each answer a line.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence


def execute(command: str, timeout: float | None, inside: Sequence[str] = ()) -> dict[str, object]:
    """The exit code and the standard output, waited for until nobody has it open; what it complained of besides.

    `inside`: a command that runs another one elsewhere, as `ip netns exec NAME`.
    """
    bound = ["timeout", str(timeout)] if timeout is not None else []
    with tempfile.TemporaryFile() as complaints:  # a pipe would be waited for, too
        done = subprocess.run(
            [*inside, *bound, "bash", "-c", f"set -euo pipefail; {command}"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=complaints,
            check=False,
        )
        complaints.seek(0)
        said = complaints.read().decode(errors="replace")
    return {"status": done.returncode, "output": done.stdout.decode(errors="replace"), "complaints": said}


def send(channel: io.RawIOBase, answer: object) -> None:
    """The device takes as much at a time as it likes."""
    left = memoryview(json.dumps(answer).encode() + b"\n")
    while left:
        left = left[channel.write(left) :]


def main(port: str) -> None:
    with open(port, "r+b", buffering=0) as channel:
        send(channel, {"ready": True})
        pending = b""
        while chunk := channel.read(1 << 16):
            pending += chunk
            while b"\n" in pending:
                line, _, pending = pending.partition(b"\n")
                asked = json.loads(line)
                send(channel, execute(asked["command"], asked["timeout"]))


if __name__ == "__main__":
    main(sys.argv[1])

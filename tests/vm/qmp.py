"""QEMU's machine protocol: as much of it as plugs a device in."""

from __future__ import annotations

import json
import socket
import time

SECONDS = 30


class Monitor:
    """The monitor of a running QEMU, over a connected socket."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._lines = connection.makefile("r")
        connection.settimeout(SECONDS)
        self._lines.readline()  # its greeting
        self.execute("qmp_capabilities")

    def execute(self, command: str, **arguments: object) -> object:
        """Runs a command and returns what it answers; events in between are not looked at."""
        self._connection.sendall(json.dumps({"execute": command, "arguments": arguments}).encode())
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            answer = json.loads(self._lines.readline())
            if "error" in answer:
                raise RuntimeError(f"QEMU: {command}: {answer['error']['desc']}")
            if "return" in answer:
                return answer["return"]
        raise TimeoutError(f"QEMU: {command}: no answer within {SECONDS} s")

    def close(self) -> None:
        self._lines.close()
        self._connection.close()

"""WireGuard ports made by wireguard-go, the implementation that needs no kernel module."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from dataclasses import dataclass

from netns import CommandFailed, Namespace, command

STARTS = 3
READY_SECONDS = 5
HANDSHAKE_SECONDS = 12


@dataclass(frozen=True)
class Keys:
    private: str
    public: str

    @classmethod
    def generate(cls) -> Keys:
        private = command("wg", "genkey").strip()
        return cls(private, command("wg", "pubkey", stdin=private).strip())


class Port:
    """One WireGuard port and the process behind it.

    The control socket is a file named after the port, so each process gets a /run/wireguard of its own.
    """

    def __init__(self, namespace: Namespace, device: str) -> None:
        self.device = device
        script = 'mkdir -p /run/wireguard && mount -t tmpfs none /run/wireguard && exec wireguard-go -f "$0"'
        inside = ["ip", "netns", "exec", namespace.name, "sh", "-c", script, device]
        self._command = ["setpriv", "--pdeathsig", "KILL", *inside]
        for _ in range(STARTS):
            if self._start():
                return
        raise AssertionError(f"wireguard-go does not start: {self._said.strip() or 'it says nothing'}")

    def _start(self) -> bool:
        """It is no part of what is tested, and on a busy machine it may end as it begins: then once more."""
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "LOG_LEVEL": "error"},
        )
        deadline = time.monotonic() + READY_SECONDS
        while self._process.poll() is None and time.monotonic() < deadline:
            with contextlib.suppress(CommandFailed):
                self._wg("show", self.device)
                return True
            time.sleep(0.01)
        self._process.kill()
        _, self._said = self._process.communicate()
        return False

    def _wg(self, *args: str, stdin: str | None = None) -> str:
        return command("nsenter", "-t", str(self._process.pid), "-m", "-n", "wg", *args, stdin=stdin)

    def peer(self, own: Keys, other: Keys, listen: int, endpoint: str | None) -> None:
        lines = ["[Interface]", f"PrivateKey = {own.private}", f"ListenPort = {listen}"]
        lines += ["[Peer]", f"PublicKey = {other.public}", "AllowedIPs = 0.0.0.0/0, ::/0"]
        if endpoint:
            lines.append(f"Endpoint = {endpoint}")
        self._wg("setconf", self.device, "/dev/stdin", stdin="\n".join(lines) + "\n")

    def wait_for_handshake(self) -> None:
        """A handshake that was lost is tried again by the initiator after five seconds."""
        deadline = time.monotonic() + HANDSHAKE_SECONDS
        while self._wg("show", self.device, "latest-handshakes").split()[1:] in ([], ["0"]):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self.device}: no WireGuard handshake within {HANDSHAKE_SECONDS} s")
            time.sleep(0.005)

    def close(self) -> None:
        self._process.kill()
        self._process.wait()

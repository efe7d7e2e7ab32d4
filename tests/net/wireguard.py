"""WireGuard ports made by wireguard-go, the implementation that needs no kernel module."""

from __future__ import annotations

import os
import subprocess
import time
from dataclasses import dataclass

from netns import CommandFailed, Namespace, command

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
        self._process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", *inside],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "LOG_LEVEL": "error"},
        )
        deadline = time.monotonic() + READY_SECONDS
        while True:
            try:
                self._wg("show", device)
                return
            except CommandFailed:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    self.close()
                    raise
                time.sleep(0.01)

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

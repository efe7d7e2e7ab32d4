"""A machine that is a network namespace here: for all nodes but the one under test."""

from __future__ import annotations

import os
from pathlib import Path

import agent
from lan import Switch, name_of, remove
from machine import Machine
from netns import Namespace
from node import Node

# A fresh namespace takes some of IPv4 from the first one of the machine: nothing is left to that.
COMMON = {
    "net.ipv4.conf.all.rp_filter": "0",
    "net.ipv4.conf.default.rp_filter": "0",
    "net.ipv4.conf.all.send_redirects": "0",
    "net.ipv4.conf.default.send_redirects": "0",
    "net.ipv6.conf.default.accept_dad": "0",
    "net.ipv6.conf.default.accept_ra": "0",
}


class NamespaceMachine(Machine):
    def __init__(self, node: Node, switch: Switch, programs: Path) -> None:
        super().__init__(node.name)
        self._node, self._switch, self._programs = node, switch, programs
        self._namespace: Namespace | None = None

    def start(self, allow_reboot: bool = False) -> None:
        if self._namespace:
            return
        self._namespace = Namespace(name_of(self.name))
        self._namespace.ip("link set lo up")
        self._sysctl(COMMON)
        for port in self._node.ports:
            self._switch.wire(port.vlan, port.name, port.mac, self._namespace)
        self._sysctl(self._node.sysctls())
        for port in self._node.ports:
            self._namespace.ip(*self._node.address_lines(port))
        self._namespace.nft(self._node.tables())

    def _sysctl(self, values: dict[str, str]) -> None:
        assert self._namespace
        self._namespace.sysctl({key.removeprefix("net.").replace(".", "/"): value for key, value in values.items()})

    def crash(self) -> None:
        if self._namespace:
            remove(self._namespace)
            self._namespace = None

    shutdown = crash

    def run(self, command: str, timeout: float | None) -> tuple[int, str]:
        self.start()
        path = f"PATH={self._programs}:{os.environ['PATH']}"
        done = agent.execute(command, timeout, ("ip", "netns", "exec", name_of(self.name), "env", path))
        self.complaints = str(done["complaints"])
        return int(str(done["status"])), str(done["output"])

    def systemctl(self, words: str) -> tuple[int, str]:
        raise self._failed(f"systemctl {words}: it has no systemd")

    def wait_for_unit(self, unit: str, timeout: float = 0) -> None:
        """All that it has is there when it has been started."""
        self.start()
        if unit not in ("network.target", "multi-user.target"):
            raise self._failed(f"there is no unit {unit}: it has no systemd")

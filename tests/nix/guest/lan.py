"""The virtual LANs: a bridge each, in a network namespace of their own that all ports lead to."""

from __future__ import annotations

import contextlib
import os
import signal
import time

from netns import Namespace, command

PREFIX = "rpnix"  # of all namespaces; with the process number of the scenario


class Switch:
    """Its `with` block takes it away again, with all that leads to it."""

    def __init__(self, vlans: set[int]) -> None:
        self.namespace = Namespace(name_of("switch"))
        self.namespace.ip("link set lo up", *(f"link add vlan{vlan} type bridge" for vlan in vlans))
        self.namespace.ip(*(f"link set vlan{vlan} up" for vlan in vlans))

    def __enter__(self) -> Switch:
        return self

    def __exit__(self, *_: object) -> None:
        remove(self.namespace)

    def tap(self, vlan: int, name: str) -> None:
        self.namespace.ip(f"tuntap add {name} mode tap", f"link set {name} master vlan{vlan} up")

    def wire(self, vlan: int, name: str, mac: str, other: Namespace) -> None:
        """A cable from the LAN to a new port of a namespace."""
        end = f"v{vlan}-{mac[-5:].replace(':', '')}-{os.urandom(2).hex()}"
        self.namespace.ip(
            f"link add {end} type veth peer name {name} address {mac} netns {other.name}",
            f"link set {end} master vlan{vlan} up",
        )


def name_of(machine: str) -> str:
    return f"{PREFIX}-{os.getpid()}-{machine}"


def end_processes(name: str, seconds: float = 10) -> None:
    """Whatever still runs in a namespace."""
    deadline = time.monotonic() + seconds
    while pids := command("ip", "netns", "pids", name):
        if time.monotonic() > deadline:
            raise TimeoutError(f"processes {pids.split()} in {name} do not end")
        for pid in pids.split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        time.sleep(0.02)


def remove(namespace: Namespace) -> None:
    end_processes(namespace.name)
    namespace.delete()


def remove_left_over(process: int) -> None:
    """The namespaces of a scenario that was killed, by its process number."""
    for line in command("ip", "netns", "list").splitlines():
        name = line.split()[0]
        if name.startswith(f"{PREFIX}-{process}-"):
            end_processes(name)
            command("ip", "netns", "delete", name)

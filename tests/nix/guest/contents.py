"""What a node's guest holds besides Debian: files for the root file system and, for stage 1, for the initrd."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import firewall
from node import Node

HERE = Path(__file__).resolve().parent
TRAFFIC = HERE.parents[2] / "nix/tests/traffic.py"

AGENT_UNIT = """[Unit]
Description=Commands from the tests
After=dev-virtio\\x2dports-agent.device
Wants=dev-virtio\\x2dports-agent.device

[Service]
ExecStart=/usr/bin/python3 /usr/local/lib/agent.py /dev/virtio-ports/agent
"""
# As NixOS's own for a port, by name and place: behind network-pre.target, when the port is there.
ADDRESSES_UNIT = """[Unit]
Description=Addresses and routes of {port}
After=network-pre.target sys-subsystem-net-devices-{port}.device
Requires=sys-subsystem-net-devices-{port}.device
Wants=network-pre.target network.target
Before=network.target

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/sbin/ip -batch /etc/guest/{port}
"""
NETWORKD = "systemd-networkd.service"


@dataclass(frozen=True)
class Programs:
    """The programs under test: on this machine, and able to run in the guest."""

    returnpath: Path
    board: Path


@dataclass
class Tree:
    """Files by absolute path: their bytes and mode, or where a symbolic link leads."""

    files: dict[str, tuple[bytes, int]] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)

    def text(self, path: str, text: str) -> None:
        self.files[path] = (text.encode(), 0o644)

    def static(self, name: str, data: bytes) -> None:
        """In /etc as on NixOS: a link to what nobody may change."""
        self.files[f"/etc/static/{name}"] = (data, 0o444)
        self.links[f"/etc/{name}"] = f"/etc/static/{name}"

    def copy(self, path: str, source: Path, mode: int = 0o755) -> None:
        self.files[path] = (source.read_bytes(), mode)

    def unit(self, name: str, text: str, wanted_by: tuple[str, ...] = (), required_by: tuple[str, ...] = ()) -> None:
        self.text(f"/etc/systemd/system/{name}", text)
        for target in wanted_by:
            self.links[f"/etc/systemd/system/{target}.wants/{name}"] = f"../{name}"
        for target in required_by:
            self.links[f"/etc/systemd/system/{target}.requires/{name}"] = f"../{name}"

    def units(self, units: Mapping[str, Any]) -> None:
        """As evaluated."""
        for name, unit in units.items():
            if unit["overrideStrategy"] == "asDropin":
                self.text(f"/etc/systemd/system/{name}.d/overrides.conf", unit["text"])
            else:
                self.unit(name, unit["text"], tuple(unit["wantedBy"]), tuple(unit["requiredBy"]))

    def directories(self) -> list[str]:
        """Each one before what is in it."""
        parents = {str(parent) for path in (*self.files, *self.links) for parent in Path(path).parents}
        return sorted(parents - {"/"})


def toml(settings: Mapping[str, Any]) -> str:
    """A policy in TOML, as the module writes it; JSON's values are TOML's."""

    def table(values: Mapping[str, Any]) -> str:
        return "".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items() if value is not None)

    top = {key: value for key, value in settings.items() if key != "paths"}
    return table(top) + "".join(
        f"[paths.{json.dumps(name)}]\n{table(path)}" for name, path in settings["paths"].items()
    )


def compile_policy(settings: Mapping[str, Any], programs: Programs, folder: Path) -> Path:
    source, compiled = folder / "policy.toml", folder / "policy.bin"
    source.write_text(toml(settings))
    done = subprocess.run(
        [programs.board, "compile", source, "-o", compiled], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise AssertionError(f"the evaluated policy does not compile: {done.stderr.strip()}")
    return compiled


def _common(node: Node, programs: Programs, policy: Path) -> Tree:
    """What stage 1 and the system both have: the store, and the names of the ports."""
    tree = Tree()
    tree.copy(f"{node.facts['package']}/bin/returnpath", programs.returnpath)
    tree.copy(node.facts["policy"]["path"], policy, 0o444)
    for port in node.ports:
        tree.text(
            f"/etc/systemd/network/10-{port.name}.link", f"[Match]\nMACAddress={port.mac}\n[Link]\nName={port.name}\n"
        )
    return tree


def system(node: Node, programs: Programs, folder: Path) -> Tree:
    policy = compile_policy(node.facts["policy"]["settings"], programs, folder)
    tree = _common(node, programs, policy)
    tree.units(node.facts["units"])
    for name, text in node.facts["etc"].items():
        tree.static(name, text.encode())
    for name in node.facts["policyEtc"]:
        tree.static(name, policy.with_name(Path(name).name).read_bytes())
    tree.copy("/usr/local/bin/returnpath", programs.returnpath)
    tree.copy("/usr/local/bin/returnpath-board", programs.board)
    tree.copy("/usr/local/bin/traffic", TRAFFIC)
    tree.copy("/usr/local/lib/agent.py", HERE / "agent.py")
    tree.unit("agent.service", AGENT_UNIT, ("multi-user.target",))

    _addresses(tree, node)
    tree.text("/etc/sysctl.d/60-nixos.conf", "".join(f"{key} = {value}\n" for key, value in node.sysctls().items()))
    tree.text("/etc/modules-load.d/nixos.conf", "".join(f"{name}\n" for name in node.facts["kernelModules"]))
    units, files = firewall.units(node)
    for name, text in units.items():
        tree.unit(name, text, ("multi-user.target",))
    for path, text in files.items():
        tree.text(path, text)
    return tree


def _addresses(tree: Tree, node: Node) -> None:
    if node.facts["networkd"]:
        tree.links[f"/etc/systemd/system/multi-user.target.wants/{NETWORKD}"] = f"/usr/lib/systemd/system/{NETWORKD}"
        for port in node.ports:
            tree.text(f"/etc/systemd/network/40-{port.name}.network", node.network_file(port))
        return
    for port in node.ports:
        tree.unit(
            f"network-addresses-{port.name}.service", ADDRESSES_UNIT.format(port=port.name), ("multi-user.target",)
        )
        tree.text(f"/etc/guest/{port.name}", "".join(f"{line}\n" for line in node.address_lines(port)))


def stage1(node: Node, programs: Programs, folder: Path) -> Tree | None:
    """Nothing where no unit of ours is in stage 1."""
    initrd = node.facts["initrd"]
    if not initrd.get("units"):
        return None
    tree = _common(node, programs, folder / "policy.bin")
    tree.units(initrd["units"])
    tree.text("/etc/modules-load.d/nixos.conf", "".join(f"{name}\n" for name in initrd["kernelModules"]))
    return tree

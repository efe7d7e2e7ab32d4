"""Policies in the TOML of the contract."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field


def _list(values: Sequence[str]) -> str:
    return "[" + ", ".join(f'"{value}"' for value in values) + "]"


@dataclass(frozen=True)
class Path:
    name: str
    mark: int
    table: int
    priority: int
    services: tuple[str, ...]
    gateways: tuple[str, ...] = ()
    source_macs: tuple[str, ...] = ()
    ingress: tuple[str, ...] = ()
    device: str = ""

    def toml(self) -> str:
        lines = [f"[paths.{self.name}]", f"mark = {self.mark:#x}", f"table = {self.table}"]
        for key in ("gateways", "source_macs", "ingress", "services"):
            if values := getattr(self, key):
                lines.append(f"{key} = {_list(values)}")
        if self.device:
            lines.append(f'device = "{self.device}"')
        lines.append(f"priority = {self.priority}")
        return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class Policy:
    paths: tuple[Path, ...]
    local_networks: tuple[str, ...] = field(default=())

    def toml(self) -> str:
        head = f"local_networks = {_list(self.local_networks)}\n"
        return "\n".join([head, *(path.toml() for path in self.paths)])

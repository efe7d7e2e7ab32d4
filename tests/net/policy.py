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
    destinations: tuple[str, ...] = ()
    scope: str = ""
    when_down: str = ""

    def toml(self) -> str:
        lines = [f"[paths.{self.name}]", f"mark = {self.mark:#x}", f"table = {self.table}"]
        for key in ("gateways", "source_macs", "ingress", "services", "destinations"):
            if values := getattr(self, key):
                lines.append(f"{key} = {_list(values)}")
        for key in ("device", "scope", "when_down"):
            if value := getattr(self, key):
                lines.append(f'{key} = "{value}"')
        lines.append(f"priority = {self.priority}")
        return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class Policy:
    paths: tuple[Path, ...]
    local_networks: tuple[str, ...] = field(default=())
    mark_mask: int = 0  # the default of the contract

    def toml(self) -> str:
        head = f"local_networks = {_list(self.local_networks)}\n"
        if self.mark_mask:
            head = f"mark_mask = {self.mark_mask:#x}\n{head}"
        return "\n".join([head, *(path.toml() for path in self.paths)])

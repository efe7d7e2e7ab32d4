"""Which pictures are made of which rows."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import plot
from installers import (
    AGAIN,
    BATCH,
    LEGACY_RESTORE,
    NETWORKD,
    NFT_RESTORE,
    PLAN,
    RECIPE_LEGACY,
    RECIPE_NFT,
    REPLAY,
    RETURNPATH,
)

INSTALL = (
    RETURNPATH, BATCH, NFT_RESTORE, LEGACY_RESTORE, NETWORKD, REPLAY, AGAIN, RECIPE_NFT, RECIPE_LEGACY, PLAN
)  # fmt: skip
KINDS = ("tcp local", "udp local", "udp forwarded")
UNWANTED = ("again", "without", "hooks")  # subjects that explain figures


def draw(folder: Path, rows: list[dict], caption: str) -> list[Path]:
    made = []
    for name, make in (("install", _install), ("packet", _packet), ("transaction", _transaction)):
        path = folder / f"{name}.svg"
        if make(path, rows, caption):
            made.append(path)
    return made


def _series(rows: Iterable[dict]) -> dict[str, list[plot.Point]]:
    found: dict[str, list[plot.Point]] = {}
    for row in rows:
        found.setdefault(row["subject"], []).append((row["paths"], row["median"], row["low"], row["high"]))
    return {name: sorted(points) for name, points in found.items()}


def _first(found: dict, name: str = RETURNPATH) -> dict:
    """With returnpath before all others, which gives it the first colour."""
    return {key: found[key] for key in sorted(found, key=lambda key: key != name)}


def _install(path: Path, rows: list[dict], caption: str) -> bool:
    mine = _series(row for row in rows if row["part"] == "install" and row["services"] == 8)
    series = {name: mine[name] for name in INSTALL if name in mine}
    if series:
        subtitle = "Milliseconds from start to end, policies with 8 services a path; medians, 95 % intervals"
        plot.lines(path, "What it takes to install a policy", subtitle, caption, series)
    return bool(series)


def _packet(path: Path, rows: list[dict], caption: str) -> bool:
    mine = [row for row in rows if row["part"] == "packet" and row["what"] == KINDS[0] and row["paths"]]
    series = {name: points for name, points in _first(_series(mine)).items() if len(points) > 1}
    if series:
        subtitle = (
            "Nanoseconds that a transaction (request and response, TCP, local) takes more than with conntrack alone"
        )
        plot.lines(path, "What a packet pays, with more paths", subtitle, caption, series, is_y_log=False)
    return bool(series)


def _transaction(path: Path, rows: list[dict], caption: str) -> bool:
    groups: dict[str, dict[str, tuple[float, float, float]]] = {}
    for row in rows:
        is_plain = not any(word in row["subject"] for word in UNWANTED)
        if row["part"] == "packet" and row["what"] in KINDS and row["paths"] in (0, 1) and is_plain:
            groups.setdefault(row["what"], {})[row["subject"]] = (row["median"], row["low"], row["high"])
    groups = {kind: _first(groups[kind]) for kind in KINDS if kind in groups}
    if groups:
        subtitle = "Nanoseconds more than with connection tracking alone, an established flow, 1 path; 95 % intervals"
        plot.bars(path, "What a transaction pays", subtitle, caption, groups)
    return bool(groups)

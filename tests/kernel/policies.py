"""Policies that the cases install: the golden ones, those in policies/, and a set to update between."""

from __future__ import annotations

import itertools
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
GATEWAYS = {1: ("10.0.0.2", "fd00::2"), 2: ("10.1.0.2", "fd01::2"), 3: ("10.2.0.2", "fd02::2")}


def path(name: str, mark: int, table: int, router: int, **keys: object) -> str:
    """A path through the router on the port of that number; keys as they are written in TOML."""
    written = {
        "mark": hex(mark),
        "table": table,
        "gateways": str(list(GATEWAYS[router])).replace("'", '"'),
        "ingress": f'["eth{router - 1}"]',
        "services": '["tcp/80"]',
    } | keys
    lines = [f"{key} = {value}" for key, value in written.items() if value is not None]
    return "\n".join([f"[paths.{name}]", *lines, ""])


def many(paths: int = 256, services: int = 20) -> str:
    """As many paths as a policy can have, each with many services."""
    text = 'mark_mask = 0xffff\nlocal_networks = ["10.0.0.0/24", "fd00::/64"]\n'
    for number in range(paths):
        ports = ", ".join(f'"tcp/{1000 + 3 * n}", "udp/{2000 + 3 * n}-{2001 + 3 * n}"' for n in range(services // 2))
        mac = f"02:00:00:01:{number >> 8:02x}:{number & 255:02x}"
        text += path(
            f"p{number}", number + 1, 1000 + number, 1, ingress=None, source_macs=f'["{mac}"]', services=f"[{ports}]"
        )
    return text


def every() -> dict[str, str]:
    """Every policy to be installed, by name."""
    found = {}
    for folder in (ROOT / "tests/golden/policy", ROOT / "tests/golden/plan", HERE / "policies"):
        for file in sorted(folder.glob("*.toml")):
            found[f"{folder.name}/{file.stem}"] = file.read_text()
    found["256-paths"] = many()
    return found


def updates() -> dict[str, str]:
    """Small policies between which every update is tried: each differs from `base` in one respect."""
    a, b = (1, 101, 1), (2, 102, 2)
    main = '"main"'
    return {
        "empty": "",
        "base": path("a", *a) + path("b", *b),
        "tables-swapped": path("a", 1, 102, 1) + path("b", 2, 101, 2),
        "marks-swapped": path("a", 2, 101, 1) + path("b", 1, 102, 2),
        "mask-elsewhere": "mark_mask = 0xff00\n" + path("a", 0x100, 101, 1) + path("b", 0x200, 102, 2),
        "mask-narrower": "mark_mask = 0xf\n" + path("a", *a) + path("b", *b),
        "gateways": path("a", *a, gateways='["10.0.0.3", "fd00::3"]') + path("b", *b, gateways='["10.1.0.3"]'),
        "scope": path("a", *a, scope='"forward"') + path("b", *b, scope='"local"'),
        "when-down": path("a", *a, when_down=main) + path("b", *b, when_down=main),
        "priority": path("a", *a, priority=2000) + path("b", *b, priority=500),
        "renamed": path("x", *a) + path("y", *b),
        "added-removed": path("a", *a) + path("c", 3, 103, 3),
        "rotated": path("a", 1, 102, 1) + path("b", 2, 103, 2) + path("c", 3, 101, 3),
        "tunnel": path("a", 1, 101, 1, gateways=None, device='"wg0"', ingress='["wg0"]') + path("b", *b),
    }


UPDATES = updates()


def circuit(names: list[str]) -> list[str]:
    """A walk that makes every step from one name to another exactly once, and ends where it began (Hierholzer)."""
    onward = {name: [other for other in reversed(names) if other != name] for name in names}
    stack, walk = [names[0]], []
    while stack:
        if onward[stack[-1]]:
            stack.append(onward[stack[-1]].pop())
        else:
            walk.append(stack.pop())
    walk.reverse()
    assert len(set(itertools.pairwise(walk))) == len(walk) - 1 == len(names) * (len(names) - 1)
    return walk

"""The units that an evaluated configuration has, judged by systemd-analyze."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

from evaluate import BIN, TARGET, NixError, run

THRESHOLD = 15  # tenths: an exposure of 1.5 and no more
FOLDER = TARGET / "units"
SYSTEM_UNITS = TARGET / "root/usr/lib/systemd/system"


def make_real(text: str) -> None:
    """Programs that were evaluated and not built: something executable in their place, in the store that is ours."""
    for program in re.findall(rf"{TARGET}/store/\S+/s?bin/\S+", text):
        path = Path(program)
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("#!/bin/sh\nexit 1\n")
            path.chmod(0o755)


def lay_out(name: str, units: dict[str, str]) -> Path:
    """A folder with the units of one configuration; what is not a whole unit is put in as the drop-in that it is."""
    folder = FOLDER / name
    shutil.rmtree(folder, ignore_errors=True)
    for unit, text in units.items():
        file = folder / unit if unit.endswith(".service") else folder / f"{unit}.d/overrides.conf"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        make_real(text)
    return folder


def plain(text: str) -> str:
    """Without what differs from one store, and one NixOS, to the next."""
    lines = [line for line in text.splitlines() if not line.startswith("Environment=")]
    return re.sub(r"/[^\s\"]*/store/[0-9a-z]{32}-", "/nix/store/", "\n".join(lines))


def describe(system: dict) -> str:
    """All that a configuration comes to, to be compared with the golden text."""
    found = {**system["units"], **{f"initrd: {name}": text for name, text in system["initrdUnits"].items()}}
    parts = [f"# {name}\n{plain(text).strip()}\n" for name, text in sorted(found.items())]
    rest = plain(json.dumps(system["rest"], indent=2, sort_keys=True))
    return "\n".join([*parts, f"# besides\n{rest}\n"])


def services(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.service"))


def verify(folder: Path) -> None:
    """Every key known, every program there, no cycle; a warning counts."""
    judged = run(
        BIN / "systemd-analyze", "verify", "--man=no", *services(folder),
        check=False, SYSTEMD_UNIT_PATH=f"{folder}:{SYSTEM_UNITS}",
    )  # fmt: skip
    if judged.returncode or judged.stderr.strip():
        raise NixError(judged.stderr.strip() or f"systemd-analyze verify: exit code {judged.returncode}")


def exposure(service: Path) -> str:
    judged = run(
        BIN / "systemd-analyze", "security", "--offline=true", f"--threshold={THRESHOLD}", "--no-pager", service,
        check=False, SYSTEMD_UNIT_PATH=f"{service.parent}:{SYSTEM_UNITS}",
    )  # fmt: skip
    found = re.search(r"Overall exposure level for \S+: (\S+)", judged.stdout)
    if judged.returncode or not found:
        bad = [line for line in judged.stdout.splitlines() if line.startswith("✗")]
        level = f"exposure {found[1] if found else 'unknown'}, {THRESHOLD / 10} is allowed"
        raise NixError("\n".join([*bad, judged.stderr.strip(), level]))
    return found[1]

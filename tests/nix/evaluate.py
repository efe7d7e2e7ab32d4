"""Nix as tests/nix/prepare leaves it: evaluating, building, and what it says when it fails."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
TARGET = ROOT / "target/nix"
BIN = TARGET / "bin"
SOURCE = TARGET / "source"
STAND_IN = TARGET / "nixpkgs"


class NixError(Exception):
    """What Nix wrote when it failed."""


def run(*command: str | Path, check: bool = True, **environment: str) -> subprocess.CompletedProcess[str]:
    result = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=SOURCE, env=os.environ | environment, timeout=1800
    )
    if check and result.returncode < 0:
        raise NixError(
            f"{command[0]} was ended by signal {-result.returncode}; 9: the kernel had no memory left for it"
        )
    if check and result.returncode:
        raise NixError(re.sub(r"\x1b\[[0-9;]*m", "", result.stdout + result.stderr).strip())
    return result


def clean_copy() -> None:
    """The files that git knows or would know, so that nothing else can help, and target/ is not copied to the store."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    shutil.rmtree(SOURCE, ignore_errors=True)
    SOURCE.mkdir(parents=True)
    for name in filter(None, listed.stdout.decode().split("\0")):
        original, copy = ROOT / name, SOURCE / name
        if original.exists():  # else deleted, and git is not told yet
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(original, copy, follow_symlinks=False)


@dataclass(frozen=True)
class Nix:
    """Nix with a tree of nixpkgs, the stand-in or a real one."""

    nixpkgs: Path

    @property
    def real(self) -> bool:
        return self.nixpkgs != STAND_IN

    def eval(self, file: str, attribute: str) -> Any:
        """An attribute of a file in tests/nix, as JSON gives it."""
        expression = f"(import {SOURCE}/tests/nix/{file} {{ nixpkgs = {self.nixpkgs}; }}).{attribute}"
        return json.loads(run(BIN / "nix", "eval", "--impure", "--json", "--expr", expression).stdout)

    def build(self, derivation: str) -> Path:
        return Path(run(BIN / "nix", "build", "--no-link", "--print-out-paths", f"{derivation}^out").stdout.strip())

    def flake_check(self) -> None:
        """Every output, evaluated. The lock file is neither asked nor changed.

        With a real nixpkgs of this system alone: that takes some 9 GB, and both systems more than most machines have.
        """
        # A tree in the store is not copied there each time.
        systems = [] if self.real else ["--all-systems"]
        tree = run(BIN / "nix", "store", "add", "--name", "source", self.nixpkgs).stdout.strip()
        run(
            BIN / "nix", "flake", "check", *systems, "--no-build", "--no-write-lock-file",
            "--override-input", "nixpkgs", f"path:{tree}", f"path:{SOURCE}",
        )  # fmt: skip


def message(error: str) -> str:
    """Of Nix's trace the message at its end, in one line."""
    text = re.split(r"^\s*error:", error, flags=re.MULTILINE)[-1]
    text = re.sub(r"\(stack trace truncated; [^)]*\)", "", text)
    return " ".join(text.split())

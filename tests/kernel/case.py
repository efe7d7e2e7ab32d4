"""What a case is, and what most of them do."""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from machine import Machine, Programs, command, difference, snapshot

CASES: dict[str, Callable[[Bench], None]] = {}
SECONDS = 20  # until something that is awaited has to be there
STATE = "what the kernel holds differs from before"


def case(name: str, *parameters: object) -> Callable:
    def register(function: Callable) -> Callable:
        CASES[name] = lambda bench: function(bench, *parameters)
        return function

    return register


class Failed(AssertionError):
    pass


def require(good: object, what: str) -> None:
    if not good:
        raise Failed(what)


def until(condition: Callable[[], object], what: str, said: Callable[[], object]) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        require(time.monotonic() < deadline, f"waited {SECONDS} s for {what}; it said:\n{said()}")
        time.sleep(0.01)


def one_line(said: str) -> str:
    lines = said.splitlines()
    require(len(lines) == 1, f"{len(lines)} lines on standard error, not 1:\n{said}")
    require(lines[0].startswith("returnpath: "), f"it does not begin with `returnpath: `: {said}")
    return lines[0]


@dataclass
class Bench:
    """What a case works with: the programs, and a folder of its own."""

    programs: Programs
    folder: Path

    def image(self, text: str) -> str:
        with tempfile.NamedTemporaryFile(dir=self.folder, suffix=".toml") as unique:
            return self.programs.compile(text, self.folder, Path(unique.name).stem)

    def board(self, *policies: str, name: str = "board.img") -> str:
        """A board partition with these policies written to it, the last one the newest."""
        file = str(self.folder / name)
        command(self.programs.board, "format", "--device", file)
        for text in policies:
            command(self.programs.board, "write", "--device", file, self.image(text))
        return file

    def for_everyone(self) -> str:
        """A copy of the firmware that every user can run; so far as they are there, the images can be read as well."""
        binary = self.folder / "returnpath"
        binary.write_bytes(Path(self.programs.firmware).read_bytes())
        for file in (self.folder, *self.folder.iterdir()):
            file.chmod(0o755)
        return str(binary)

    def firmware(self, host: Machine, *args: str, code: int = 0) -> str:
        """Runs the firmware; its exit code has to be `code`. Returns what it said on standard error."""
        done = host.finish(self.programs.firmware, *args)
        require(
            done.returncode == code,
            f"returnpath {args[0]}: exit {done.returncode}, not {code}: {done.stderr.strip() or done.stdout.strip()}",
        )
        return done.stderr

    def apply(self, host: Machine, image: str, code: int = 0) -> str:
        return self.firmware(host, "apply", "--policy", image, code=code)

    def remove(self, host: Machine, code: int = 0) -> str:
        return self.firmware(host, "remove", code=code)


def same(expected: dict[str, str], found: dict[str, str], what: str) -> None:
    changed = difference(expected, found)
    require(not changed, f"{what}:\n{changed}")


def unchanged(host: Machine, before: dict[str, str], what: str) -> None:
    same(before, snapshot(host), what)


def without_handles(state: dict[str, str]) -> dict[str, str]:
    """JSON numbers its objects; the numbers say nothing."""
    name = "nft -j list ruleset"
    return state | {name: re.sub(r'"handle": \d+(, )?', "", state.get(name, ""))}


def rules_in_any_order(state: dict[str, str]) -> dict[str, str]:
    """Rules of one priority do not compete: each asks for another mark."""

    def sort(text: str) -> str:
        lines = text.splitlines()
        count = next((i for i, line in enumerate(lines) if not re.match(r"\d+:", line)), len(lines))
        rules = sorted(lines[:count], key=lambda line: (int(line.split(":")[0]), line))
        return "\n".join(rules + sorted(lines[count:]))

    return {name: sort(text) if name.startswith("ip") else text for name, text in state.items()}


def as_after_an_update(state: dict[str, str]) -> dict[str, str]:
    """An update leaves in place what stays: chains, sets, counters are listed in another order than at first."""
    parts = re.split(r"\n(?=\t(?:chain|set|map|counter) |})", state["nft list ruleset"].replace("\n\n", "\n"))
    return rules_in_any_order(state) | {"nft list ruleset": "\n".join(sorted(parts))}


def bystanders(host: Machine) -> None:
    """Other programs' tables, rules, routes and settings."""
    host.batch(
        "rule add fwmark 0x10000/0xff0000 table 400 priority 900",
        "rule add from 10.9.0.0/16 table 401 priority 1000",
        "rule add fwmark 0x20000/0xff0000 table 400 priority 1000 protocol static",
        "route add default via 10.0.0.77 table 400",
        "route add 203.0.113.0/24 via 10.1.0.77 protocol 81",
        "route add unreachable 203.0.113.128/25 table 401 metric 4294967295",
        "-6 rule add fwmark 0x10000/0xff0000 table 400 priority 900",
        "-6 route add default via fd00::77 table 400",
    )
    host.run(
        "nft", "-f", "-",
        stdin="""
table inet filter {
  set trusted { type ipv4_addr; flags interval; elements = { 10.0.0.0/8 } }
  map ways { type ether_addr : verdict; elements = { 52:54:00:c2:a5:43 : accept } }
  chain input {
    type filter hook input priority 0; policy accept;
    ip saddr @trusted counter accept
    ct mark 0x2 counter
  }
  chain mangle {
    type filter hook prerouting priority -150;
    meta mark set meta mark & 0xff00ffff | 0x00010000
  }
}
table ip nat {
  chain prerouting {
    type nat hook prerouting priority -100;
    tcp dport 8080 dnat to 10.1.0.5:80
  }
}
table ip returnpath {
  chain forward { comment "of another family, and somebody else's"; }
}
table ip6 raw {
  chain output { type route hook output priority -300; }
}
""",
    )  # fmt: skip

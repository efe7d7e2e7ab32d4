"""What a case is, what it works with, and what every boot has to show."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import disk
from disk import Board, Image
from guest import Guest
from hardware import ARGUMENTS, ENVIRONMENT, Boot, Disk, Hardware
from netns import Namespace

CASES: dict[str, Callable[[Bench], str | None]] = {}
ERROR, WARNING, INFO = 3, 4, 6
BOARD = "--board PARTLABEL=returnpath"
BOUND = 60  # seconds: returnpath.timeout where a case does not say another
DEFAULT_BOUND = 10  # where the command line says nothing
HAS_ADDRESS = "ip -4 address show dev eth0 | grep -q 'inet 10.0.0.10/24'"
STAGE_BEGINS = "next is /"  # the initrd's last line
OF_THE_SHELL = ("PATH", "PWD", "OLDPWD", "SHLVL")  # busybox adds them


def case(name: str, *parameters: object) -> Callable:
    """Registers a function as a case. What it returns is shown beside its name."""

    def register(function: Callable) -> Callable:
        CASES[name] = lambda bench: function(bench, *parameters)
        return function

    return register


def require(good: object, what: str) -> None:
    if not good:
        raise AssertionError(what)


@dataclass(frozen=True)
class Message:
    """A line of ours in the kernel log."""

    level: int
    seconds: float
    text: str

    def __str__(self) -> str:
        return f"<{self.level}> {self.text}"


@dataclass
class Bench:
    """The image, the host tool, and a folder of its own; `pulls` and `seed` are the power cases'."""

    image: Image
    board_tool: str
    folder: Path
    pulls: int
    seed: int
    cmdline: str
    _made: int = 0

    def board(self, *policies: str) -> Board:
        return Board(self.board_tool, self.folder, *policies)

    def disk(self, contents: bytes | None) -> Path:
        """A copy of the image with this in its board partition; with None it has no such partition."""
        made = disk.copy(self.image.disk, self.folder / "disk.img")
        if contents is None:
            disk.rename(made, "unused")
        else:
            disk.replace(made, contents)
        return made

    def boot(self, options: str = "", **more: str) -> Boot:
        return Boot(self.image.kernel, self.image.initrd, self.cmdline, options, **more)

    def start(self, hardware: Hardware, boot: Boot | None) -> Guest:
        """Switches a guest on, and does not wait for it."""
        self._made += 1
        return Guest(self.folder / f"boot-{self._made}", hardware, boot)

    @contextmanager
    def booted(
        self, contents: bytes | None, switch: Namespace | None = None, boot: Boot | None = None
    ) -> Iterator[Guest]:
        """A guest with one disk, whose next init has been reached with all that it should be given."""
        hardware = Hardware([Disk(self.disk(contents))], switch)
        with self.start(hardware, boot or self.boot()) as guest:
            reached(guest)
            yield guest


def reached(guest: Guest, extra_environment: dict[str, str] | None = None, extra_mounts: tuple[str, ...] = ()) -> None:
    """The next init runs, its arguments and environment are untouched, and nothing of ours is left mounted."""
    guest.wait_for_hand()
    found = guest.greeting
    require(found.arguments == ARGUMENTS, f"the next init's arguments: {found.arguments}, not {ARGUMENTS}")
    environment = {name: value for name, value in found.environment.items() if name not in OF_THE_SHELL}
    expected = ENVIRONMENT | (extra_environment or {})
    require(environment == expected, f"the next init's environment: {environment}, not {expected}")
    mounts = sorted(place for place in found.mounts if place != "/")
    expected_mounts = sorted(["/dev", "/proc", *extra_mounts])  # the first two are the hand's own
    require(mounts == expected_mounts, f"mounted for the next init: {mounts}, not {expected_mounts}")


def messages(guest: Guest) -> list[Message]:
    """What the stage has told the kernel log in this boot."""
    lines = re.findall(r"^<(\d+)>\[ *([\d.]+)\] returnpath: (.*)$", guest.run("dmesg -r"), re.MULTILINE)
    return [Message(int(number) & 7, float(seconds), text) for number, seconds, text in lines]


def said(guest: Guest, level: int, *words: str) -> None:
    """One line of the kernel log, of this level, has all these words."""
    found = messages(guest)
    if not any(message.level == level and all(word in message.text for word in words) for message in found):
        listed = "\n".join(map(str, found)) or "(nothing)"
        raise AssertionError(f"no line of level {level} has {' and '.join(map(repr, words))}; there is:\n{listed}")


def no_complaint(guest: Guest) -> None:
    complaints = [str(message) for message in messages(guest) if message.level <= WARNING]
    require(not complaints, "the stage complains:\n" + "\n".join(complaints))


def stage_seconds(guest: Guest) -> float:
    """From the initrd's last line to the next init's first one, by the guest's clock."""
    log = guest.run("dmesg")
    times = re.findall(rf"^\[ *([\d.]+)\] (?:initrd: .*{STAGE_BEGINS}|vm: next init)", log, re.MULTILINE)
    require(len(times) == 2, "the kernel log has not both ends of the stage")
    return float(times[1]) - float(times[0])


def bounded(guest: Guest, limit: float = BOUND) -> None:
    """Twice the limit, since a loaded machine may not run the guest for a while."""
    seconds = stage_seconds(guest)
    require(seconds < 2 * limit + 5, f"the stage took {seconds:.1f} s, with a limit of {limit} s")


def in_force(guest: Guest, mark: int = 0x2, table: int = 200) -> None:
    """The kernel has the rule and the table of a path."""
    rules = guest.run("ip rule show")
    require(re.search(rf"fwmark {mark:#x}/0xff .*lookup {table}\b", rules), f"no rule for mark {mark:#x}: {rules}")
    routes = guest.run(f"ip route show table {table}")
    require("unreachable default" in routes, f"table {table} has no way to fail: {routes or 'empty'}")


def not_in_force(guest: Guest) -> None:
    rules = guest.run("ip rule show")
    require("fwmark" not in rules, f"a rule of ours is there: {rules}")


def addressed(guest: Guest) -> None:
    """The image's own init has given the port its address."""
    guest.retry(HAS_ADDRESS)


def settled(guest: Guest) -> None:
    """The same, and the process that waited for it has ended."""
    addressed(guest)
    guest.retry("! ls -l /proc/[0-9]*/exe 2>/dev/null | grep returnpath")


def status(guest: Guest) -> None:
    guest.run(f"returnpath status {BOARD}")

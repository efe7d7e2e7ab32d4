"""Disks: copies of the image, and what is in their board partition."""

from __future__ import annotations

import json
import os
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

from netns import command

SECTOR = 512
LABEL = "returnpath"
BOARD_SIZE = 1 << 20
SLOTS = {"A": 0, "B": 512 << 10}  # board/FORMAT.md
HEADER = 4096
MAGIC_AT, VERSION_AT, LENGTH_AT, CRC_AT = 0, 4, 12, 4092
MEBIBYTE = 1 << 20


@dataclass(frozen=True)
class Partition:
    offset: int
    size: int
    number: int


@dataclass(frozen=True)
class Image:
    """What `image/build` has made for a board."""

    folder: Path
    disk: Path

    @property
    def kernel(self) -> Path:
        return self.folder / "kernel"

    @property
    def initrd(self) -> Path:
        return self.folder / "initrd"

    def missing(self) -> list[Path]:
        return [path for path in (self.kernel, self.initrd, self.disk) if not path.exists()]


def copy(source: Path, to: Path) -> Path:
    """A copy that has the holes of its source."""
    command("cp", "--sparse=always", str(source), str(to))
    return to


def partition(disk: Path, label: str = LABEL) -> Partition:
    table = json.loads(command("sfdisk", "--json", str(disk)))["partitiontable"]
    for number, entry in enumerate(table["partitions"], 1):
        if entry.get("name") == label:
            return Partition(entry["start"] * SECTOR, entry["size"] * SECTOR, number)
    raise AssertionError(f"{disk}: no partition has the label {label}")


def rename(disk: Path, label: str) -> None:
    """Gives the board partition another label."""
    number = partition(disk).number
    command("sfdisk", "--quiet", "--no-tell-kernel", "--part-label", str(disk), str(number), label)


def replace(disk: Path, contents: bytes) -> None:
    """Puts bytes into the board partition."""
    place = partition(disk)
    if len(contents) > place.size:
        raise AssertionError(f"{len(contents)} bytes do not fit the board partition's {place.size}")
    with disk.open("r+b") as file:
        file.seek(place.offset)
        file.write(contents)


def board_only(contents: bytes, file: Path) -> Path:
    """A disk that has a board partition and nothing else."""
    with file.open("wb") as made:
        made.truncate(3 * MEBIBYTE)
    command("sfdisk", "--quiet", str(file), stdin=f"label: gpt\nstart=2048, size=2048, name={LABEL}\n")
    replace(file, contents)
    return file


class Board:
    """The contents of a board partition, made by the host tool; defects are put in byte by byte."""

    def __init__(self, tool: str, folder: Path, *policies: str) -> None:
        """The policies go into the slots in turn: the first into A, the second into B, and so on."""
        self._tool, self.file = tool, folder / "board.img"
        self.file.unlink(missing_ok=True)
        command(tool, "format", "--device", str(self.file))
        for policy in policies:
            self.write(policy)

    def write(self, policy: str) -> None:
        source = self.file.with_suffix(".toml")
        source.write_text(policy)
        command(self._tool, "write", "--device", str(self.file), str(source))

    @property
    def contents(self) -> bytes:
        return self.file.read_bytes()

    def _put(self, slot: str, at: int, data: bytes) -> None:
        with self.file.open("r+b") as file:
            file.seek(SLOTS[slot] + at)
            file.write(data)

    def flip(self, slot: str, at: int) -> Board:
        """Turns one bit of a slot."""
        self._put(slot, at, bytes([self.contents[SLOTS[slot] + at] ^ 1]))
        return self

    def undecodable(self, slot: str) -> Board:
        """A payload whose CRC is right and which is no policy."""
        start = SLOTS[slot]
        header = self.contents[start : start + CRC_AT]
        (length,) = struct.unpack_from("<I", header, LENGTH_AT)
        payload = os.urandom(length)
        self._put(slot, HEADER, payload)
        self._put(slot, CRC_AT, struct.pack("<I", zlib.crc32(header + payload)))
        return self

    def other_version(self, slot: str) -> Board:
        """A format that this version does not know, with the right CRC."""
        start = SLOTS[slot]
        header = bytearray(self.contents[start : start + CRC_AT])
        (length,) = struct.unpack_from("<I", header, LENGTH_AT)
        struct.pack_into("<H", header, VERSION_AT, 9)
        payload = self.contents[start + HEADER : start + HEADER + length]
        self._put(slot, 0, bytes(header) + struct.pack("<I", zlib.crc32(bytes(header) + payload)))
        return self

"""A tree of files on its way into a guest: into an ext4 image, unmounted, and as an archive that the kernel unpacks."""

from __future__ import annotations

import stat
import subprocess
from pathlib import Path

from contents import Tree


def into_image(tree: Tree, image: Path, folder: Path) -> None:
    """By debugfs, which does not end with an error when a command fails: so its words are looked at."""
    commands = [f"mkdir {path}" for path in tree.directories()]
    for number, (path, (data, mode)) in enumerate(tree.files.items()):
        source = folder / f"file{number}"
        source.write_bytes(data)
        commands += [f"rm {path}", f"write {source} {path}", f"sif {path} mode 0{stat.S_IFREG | mode:o}"]
    for path, target in tree.links.items():
        commands += [f"rm {path}", f"symlink {path} {target}"]
    done = subprocess.run(
        ["debugfs", "-w", "-f", "-", image], input="\n".join(commands), capture_output=True, text=True, check=True
    )
    expected = ("already exists", "File not found", "debugfs 1", "Allocated inode")
    wrong = [line for line in done.stderr.splitlines() if line and not any(words in line for words in expected)]
    if wrong:
        raise RuntimeError(f"debugfs: {'; '.join(wrong)}")


def _entry(number: int, name: str, mode: int, data: bytes) -> bytes:
    """Of the format `newc`; the name and the data each fill up to four bytes."""
    encoded = name.encode() + b"\0"
    fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(encoded), 0)
    head = b"070701" + b"".join(b"%08X" % field for field in fields) + encoded
    return head + bytes(-len(head) % 4) + data + bytes(-len(data) % 4)


def as_archive(tree: Tree) -> bytes:
    entries = [(path, stat.S_IFDIR | 0o755, b"") for path in tree.directories()]
    entries += [(path, stat.S_IFREG | mode, data) for path, (data, mode) in tree.files.items()]
    entries += [(path, stat.S_IFLNK | 0o777, target.encode()) for path, target in tree.links.items()]
    packed = b"".join(_entry(number, path[1:], mode, data) for number, (path, mode, data) in enumerate(entries, 1))
    return packed + _entry(0, "TRAILER!!!", 0, b"")

"""What returnpath sends, as strace sees it, in the form that replay.c reads."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from netns import Namespace

PROTOCOLS = {"NETLINK_ROUTE": 0, "NETLINK_NETFILTER": 12}
SETTING = 99
MAY_FAIL, ANY = 1, 2
ACK, DUMP = 0x4, 0x300
BATCH_BEGIN, BATCH_END = 0x10, 0x11
ROUTE_GETS = 2  # of rtnetlink's types, which come in fours (new, delete, get, set), the third one reads
NFTABLES, NFTABLES_GETS = 10, frozenset((1, 4, 7, 10, 13, 16, 19, 23))  # table, chain, rule, set, element, ...
HEADER = struct.Struct("=IHHII")
OPENED = re.compile(r'open(?:at)?\((?:AT_FDCWD, )?"([^"]*)".*\)\s+= (\d+)$')
SOCKET = re.compile(r"socket\(AF_NETLINK, [^,]*, (\w+)\)\s+= (\d+)$")
WRITTEN = re.compile(r"(?:write|writev|sendto|sendmsg|sendmmsg)\((\d+), .*\)\s+= \d+")
DUMPED = re.compile(r"^ \| [0-9a-f]+  ((?:[0-9a-f]{2} {1,2})+)")
# Names of tables are written to a folder of the machine: to one that nobody else sees.
ROOM = 'names=/etc/iproute2/rt_tables.d; [ ! -d $names ] || mount -t tmpfs none $names; exec "$@"'
CALLS = "trace=open,openat,socket,write,writev,sendto,sendmsg,sendmmsg"


@dataclass(frozen=True)
class Message:
    kind: int
    flags: int
    data: bytes


@dataclass(frozen=True)
class Sent:
    """One send, or one write to a setting."""

    kind: int
    data: bytes

    def messages(self) -> Iterator[Message]:
        at = 0
        while at + HEADER.size <= len(self.data):
            length, kind, flags, _, _ = HEADER.unpack_from(self.data, at)
            yield Message(kind, flags, self.data[at : at + length])
            at += (length + 3) // 4 * 4

    def changes(self) -> bool:
        """Whether anything is different afterwards; a batch without its end is only rehearsed."""
        if self.kind == SETTING:
            return True
        kinds = [message.kind for message in self.messages()]
        if BATCH_BEGIN in kinds:
            return BATCH_END in kinds
        return any(not _reads(self.kind, kind) for kind in kinds)

    def only_changes(self) -> Sent:
        """Without what is asked in the same send."""
        if self.kind == SETTING:
            return self
        kept = (
            m.data.ljust((len(m.data) + 3) // 4 * 4, b"\0") for m in self.messages() if not _reads(self.kind, m.kind)
        )
        return replace(self, data=b"".join(kept))

    def packed(self) -> bytes:
        messages = [] if self.kind == SETTING else list(self.messages())
        flags = MAY_FAIL if messages and not self.changes() else 0
        answers = sum(_is_answered(self.kind, m) for m in messages)
        if flags and not answers and BATCH_BEGIN not in {m.kind for m in messages}:
            flags, answers = flags | ANY, len(messages)  # each about one thing
        padding = b"\0" * (-len(self.data) % 4)
        return struct.pack("=IIII", self.kind, answers, flags, len(self.data)) + self.data + padding


def _reads(protocol: int, kind: int) -> bool:
    if protocol == PROTOCOLS["NETLINK_ROUTE"]:
        return kind % 4 == ROUTE_GETS
    return kind >> 8 == NFTABLES and kind & 0xFF in NFTABLES_GETS


def _is_answered(protocol: int, message: Message) -> bool:
    """By an acknowledgement or the end of a dump. What changes has other meanings for the bits of a dump."""
    return bool(message.flags & ACK or _reads(protocol, message.kind) and message.flags & DUMP)


def record(namespace: Namespace, log: Path, *command: str) -> list[Sent]:
    """Runs a command in a namespace, and returns what it has sent and set, in that order."""
    strace = ("strace", "-f", "-o", str(log), "-s", "0", "-e", CALLS, "-e", "write=all")
    namespace.run("unshare", "--mount", "sh", "-c", ROOM, "sh", *strace, *command)
    return list(_parsed(log.read_text()))


def _parsed(text: str) -> Iterator[Sent]:
    kinds: dict[str, int] = {}
    paths: dict[str, str] = {}
    number, data = "", bytearray()

    def sent() -> Iterator[Sent]:
        if number in kinds and data:
            yield Sent(kinds[number], bytes(data))
        elif number in paths and data:
            yield Sent(SETTING, paths[number].encode() + b"\0" + bytes(data))

    for line in text.splitlines():
        if found := DUMPED.match(line):
            data += bytes.fromhex(found[1])
            continue
        if line.startswith(" * ") and "vector" not in line:  # the next buffer of the same message
            continue
        yield from sent()
        data.clear()
        if found := WRITTEN.search(line):
            number = found[1]
        elif found := SOCKET.search(line):
            kinds[found[2]] = PROTOCOLS[found[1]]
            paths.pop(found[2], None)
        elif found := OPENED.search(line):
            kinds.pop(found[2], None)
            paths.pop(found[2], None)
            if found[1].startswith("/proc/sys/"):
                paths[found[2]] = found[1]
    yield from sent()


def write(path: Path, sent: list[Sent], keep: Callable[[Sent], bool] | None = None) -> Path:
    """Writes what the replay reads: everything, or the changes alone."""
    chosen = sent if keep is None else [each.only_changes() for each in sent if keep(each)]
    path.write_bytes(b"".join(each.packed() for each in chosen))
    return path

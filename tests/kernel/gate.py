"""Runs a program that stops before each of its system calls of a kind, so that a test can look, refuse or kill.

By seccomp's user notification (`man 2 seccomp_unotify`): no timing, no ptrace, and any binary, static or not.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import platform
import select
import signal
import struct
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field

_libc = ctypes.CDLL(None, use_errno=True)

# asm/unistd.h: seccomp, pidfd_open, pidfd_getfd, and the calls that tests care about.
NUMBERS = {
    "x86_64": {"seccomp": 317, "pidfd_open": 434, "pidfd_getfd": 438, "sendto": 44, "sendmsg": 46, "recvmsg": 47,
               "recvmmsg": 299, "recvfrom": 45, "socket": 41, "openat": 257, "open": 2, "write": 1},
    "aarch64": {"seccomp": 277, "pidfd_open": 434, "pidfd_getfd": 438, "sendto": 206, "sendmsg": 211, "recvmsg": 212,
                "recvmmsg": 243, "recvfrom": 207, "socket": 198, "openat": 56, "write": 64},
}[platform.machine()]  # fmt: skip
NAMES = {number: name for name, number in NUMBERS.items()}

# linux/seccomp.h, linux/filter.h, linux/prctl.h
SET_MODE_FILTER, FLAG_NEW_LISTENER = 1, 1 << 3
RET_ALLOW, RET_USER_NOTIF = 0x7FFF0000, 0x7FC00000
NOTIF_RECV, NOTIF_SEND, FLAG_CONTINUE = 0xC0502100, 0xC0182101, 1
LOAD_WORD, JUMP_EQUAL, RETURN = 0x20, 0x15, 0x06
PR_SET_PDEATHSIG = 1
NOTIFICATION, RESPONSE = "=QII iIQ 6Q", "=Qqi I"


def _syscall(name: str, *arguments: object) -> int:
    result = _libc.syscall(NUMBERS[name], *arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), name)
    return result


def die_with_parent() -> None:
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _install(calls: list[str]) -> int:
    numbers = [NUMBERS[name] for name in calls if name in NUMBERS]
    program = [(LOAD_WORD, 0, 0, 0)]
    for index, number in enumerate(numbers):
        program.append((JUMP_EQUAL, len(numbers) - index, 0, number))
    program += [(RETURN, 0, 0, RET_ALLOW), (RETURN, 0, 0, RET_USER_NOTIF)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *one) for one in program))
    fprog = ctypes.create_string_buffer(struct.pack("@HP", len(program), ctypes.addressof(code)))
    return _syscall("seccomp", SET_MODE_FILTER, FLAG_NEW_LISTENER, fprog)


@dataclass
class Call:
    """One system call that is about to happen."""

    index: int  # from 1, over all that were gated
    name: str
    pid: int
    args: tuple[int, ...]

    def memory(self, address: int, length: int) -> bytes:
        with open(f"/proc/{self.pid}/mem", "rb", buffering=0) as memory:
            return os.pread(memory.fileno(), length, address)

    def overwrite(self, address: int, data: bytes) -> None:
        with open(f"/proc/{self.pid}/mem", "r+b", buffering=0) as memory:
            os.pwrite(memory.fileno(), data, address)

    def text(self, address: int) -> str:
        page = 4096 - address % 4096  # a string may end just before memory that is not there
        found = self.memory(address, page)
        if b"\0" not in found:
            found += self.memory(address + page, 4096)
        return found.split(b"\0", 1)[0].decode(errors="replace")

    def path(self) -> str:
        """What an opening call opens."""
        return self.text(self.args[0] if self.name == "open" else self.args[1])

    def data(self) -> bytes:
        """What a sending call sends."""
        if self.name == "sendto":
            return self.memory(self.args[1], self.args[2])
        if self.name == "sendmsg":
            header = self.memory(self.args[1], 32)
            vector, count = struct.unpack_from("=QQ", header, 16)
            parts = self.memory(vector, 16 * count)
            return b"".join(self.memory(*struct.unpack_from("=QQ", parts, 16 * i)) for i in range(count))
        return b""


@dataclass
class Refuse:
    """The call fails with this error and does not happen."""

    error: int


class Kill:
    """The program dies before the call."""


@dataclass
class Done:
    code: int
    stdout: str
    stderr: str
    calls: list[Call] = field(default_factory=list)


def run(args: list[str], calls: list[str], judge: Callable[[Call], Refuse | Kill | None], seconds: float = 30) -> Done:
    """Runs a program; `judge` is asked before each of `calls`, and None lets it happen."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        told, tell = os.pipe()
        heard, hear = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                die_with_parent()
                os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
                os.dup2(out.fileno(), 1)
                os.dup2(err.fileno(), 2)
                listener = _install([name for name in calls if name != "write"])
                os.write(tell, struct.pack("=i", listener))
                os.read(heard, 1)
                os.execv(args[0], args)
            except BaseException as error:  # what follows is not for a copy of the test
                os.write(2, f"gate: {error}".encode())
            os._exit(127)
        os.close(tell)
        os.close(heard)
        listener, ended = -1, False
        try:
            number = os.read(told, 4)
            if len(number) == 4:
                pidfd = _syscall("pidfd_open", pid, 0)
                listener = _syscall("pidfd_getfd", pidfd, struct.unpack("=i", number)[0], 0)
                os.close(pidfd)
            os.write(hear, b"x")
            seen = _supervise(pid, listener, judge, time.monotonic() + seconds) if listener >= 0 else []
            _, status = os.waitpid(pid, 0)
            ended = True
        finally:
            for descriptor in (told, hear, listener):
                if descriptor >= 0:
                    os.close(descriptor)
            if not ended:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
        out.seek(0)
        err.seek(0)
        done = Done(os.waitstatus_to_exitcode(status), out.read().decode(), err.read().decode(), seen)
    if done.code == 127:
        raise RuntimeError(f"{args[0]}: {done.stderr}")
    return done


def _supervise(pid: int, listener: int, judge: Callable, deadline: float) -> list[Call]:
    seen: list[Call] = []
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    while True:
        ready = poll.poll(max(0, deadline - time.monotonic()) * 1000)
        if not ready:
            raise TimeoutError("the gated program did not end in time")
        if not ready[0][1] & select.POLLIN:
            return seen  # the program ended
        notification = bytearray(struct.calcsize(NOTIFICATION))
        try:
            fcntl.ioctl(listener, NOTIF_RECV, notification)
        except OSError as error:
            if error.errno == errno.ENOENT:
                continue  # it was killed meanwhile
            raise
        cookie, caller, _, number, _, _, *arguments = struct.unpack(NOTIFICATION, notification)
        call = Call(len(seen) + 1, NAMES[number], caller, tuple(arguments))
        seen.append(call)
        verdict = judge(call)
        if isinstance(verdict, Kill):
            os.kill(pid, signal.SIGKILL)
            continue
        answer = (cookie, 0, -verdict.error, 0) if verdict else (cookie, 0, 0, FLAG_CONTINUE)
        try:
            fcntl.ioctl(listener, NOTIF_SEND, bytearray(struct.pack(RESPONSE, *answer)))
        except OSError as error:
            if error.errno != errno.ENOENT:
                raise


# Netlink messages, as far as telling what changes something from what asks.

READS = {
    "route": {18: "GETLINK", 22: "GETADDR", 26: "GETROUTE", 34: "GETRULE", 30: "GETNEIGH", 82: "GETNETCONF"},
    "nft": {1: "GETTABLE", 4: "GETCHAIN", 7: "GETRULE", 10: "GETSET", 13: "GETSETELEM", 16: "GETGEN", 19: "GETOBJ"},
}  # fmt: skip
BATCH_BEGIN, BATCH_END, NFTABLES = 16, 17, 10


def messages(data: bytes) -> list[tuple[int, bytes]]:
    """Type and payload of each netlink message in a datagram."""
    found = []
    while len(data) >= 16:
        length, kind = struct.unpack_from("=IH", data)
        if length < 16:
            break
        found.append((kind, data[16:length]))
        data = data[(length + 3) & ~3 :]
    return found


LOCK = "/proc/sys/net/ipv4/route/flush"  # opened by every run, so that one waits for the other


def changes(call: Call) -> bool:
    """Whether a system call asks the kernel to change something: a netlink message, or a file below /proc/sys."""
    if call.name in ("open", "openat"):
        flags = call.args[1] if call.name == "open" else call.args[2]
        writes = bool(flags & (os.O_WRONLY | os.O_RDWR)) and call.path().startswith("/proc/sys/")
        return writes and call.path() != LOCK
    if call.name not in ("sendto", "sendmsg"):
        return False
    return any(is_change(kind) for kind, _ in messages(call.data()))


def is_change(kind: int) -> bool:
    if kind >> 8 == NFTABLES:
        return kind & 0xFF not in READS["nft"]
    return kind not in READS["route"] and kind > 15


def is_batch(call: Call) -> bool:
    return call.name in ("sendto", "sendmsg") and any(kind == BATCH_BEGIN for kind, _ in messages(call.data()))

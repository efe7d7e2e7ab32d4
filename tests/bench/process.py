"""One run of a program, looked at from outside: its system calls, its memory at the end, its heap allocations.

By `man 2 ptrace`, for programs of one process; the numbers do not depend on how busy the machine is.
"""

from __future__ import annotations

import ctypes
import os
import platform
import re
import signal
import subprocess
from pathlib import Path

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.restype = ctypes.c_long
_libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]

# linux/ptrace.h, sys/user.h
TRACEME, PEEK, POKE, CONT, STEP, GETREGS, SETREGS, SYSCALL, SETOPTIONS = 0, 1, 4, 7, 9, 12, 13, 24, 0x4200
TRACE_EXIT, KILL_WITH_US, IS_SYSCALL = 0x40, 0x100000, 0x80
TRACESYSGOOD, EVENT_EXIT = 1, 6
REGISTERS, RIP = 27, 16
BREAK = 0xCC
HEAP = ("__libc_malloc_impl",)


def _ptrace(request: int, pid: int, address: int | None = None, data: object = None) -> int:
    ctypes.set_errno(0)
    result = _libc.ptrace(request, pid, address, data)
    if result == -1 and (error := ctypes.get_errno()):
        raise OSError(error, f"ptrace {request}")
    return result


def _start(command: list[str], stdin: Path | None) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            os.dup2(os.open(stdin or "/dev/null", os.O_RDONLY), 0)
            for number in (1, 2):
                os.dup2(os.open("/dev/null", os.O_WRONLY), number)
            os.closerange(3, 256)
            _ptrace(TRACEME, 0)
            os.execvp(command[0], command)
        finally:
            os._exit(127)
    _, status = os.waitpid(pid, 0)
    if not os.WIFSTOPPED(status):
        raise RuntimeError(f"{command[0]}: it can not be started")
    _ptrace(SETOPTIONS, pid, None, TRACE_EXIT | TRACESYSGOOD | KILL_WITH_US)
    return pid


def _resume(pid: int, how: int, number: int = 0) -> int:
    _ptrace(how, pid, None, number)
    _, status = os.waitpid(pid, 0)
    return status


def peak(pid: int) -> int:
    """Most memory that was resident so far, in kB: of this program, and not of what started it."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE)[1])


def run(command: list[str], stdin: Path | None = None) -> tuple[int, int]:
    """System calls after the start, the last one among them, and kilobytes at the peak."""
    pid = _start(command, stdin)
    calls, kilobytes, is_inside, signalled = 0, 0, True, 0  # it stops at the end of execve first
    while True:
        status = _resume(pid, SYSCALL, signalled)
        signalled = 0
        if os.WIFEXITED(status) or os.WIFSIGNALED(status):
            break
        number = os.WSTOPSIG(status)
        if status >> 16 == EVENT_EXIT:
            kilobytes = peak(pid)
        elif number == signal.SIGTRAP | IS_SYSCALL:
            is_inside = not is_inside
            calls += is_inside
        elif number != signal.SIGTRAP:
            signalled = number
    if status:
        raise RuntimeError(f"{' '.join(command)}: it ended with {os.waitstatus_to_exitcode(status)}")
    return calls, kilobytes


def allocations(program: Path, arguments: list[str]) -> int:
    """How often a static program asks musl's heap for memory: a breakpoint on the function for it."""
    if platform.machine() != "x86_64":
        raise RuntimeError("breakpoints are set on x86_64 only")
    names = subprocess.run(("nm", str(program)), capture_output=True, text=True, check=True).stdout
    places = [int(line.split()[0], 16) for line in names.splitlines() if line.split()[-1] in HEAP]
    if len(places) != len(HEAP):
        raise RuntimeError(f"{program}: without symbols of {', '.join(HEAP)}; name the symbolised copy")
    pid = _start([str(program), *arguments], None)
    maps = Path(f"/proc/{pid}/maps").read_text()
    base = min(int(line.split("-")[0], 16) for line in maps.splitlines() if line.endswith(program.name))
    words = {base + place: _ptrace(PEEK, pid, base + place) for place in places}

    def put(place: int, is_set: bool) -> None:
        _ptrace(
            POKE, pid, place, ctypes.c_void_p(words[place] & ~0xFF & (1 << 64) - 1 | BREAK if is_set else words[place])
        )

    for place in words:
        put(place, is_set=True)
    registers, count = (ctypes.c_ulonglong * REGISTERS)(), 0
    while True:
        status = _resume(pid, CONT)
        if os.WIFEXITED(status) or os.WIFSIGNALED(status):
            break
        if status >> 16 == EVENT_EXIT:
            continue
        if os.WSTOPSIG(status) != signal.SIGTRAP:
            raise RuntimeError(f"{program}: stopped by signal {os.WSTOPSIG(status)}")
        _ptrace(GETREGS, pid, None, ctypes.addressof(registers))
        place = registers[RIP] - 1
        count += 1
        registers[RIP] = place
        _ptrace(SETREGS, pid, None, ctypes.addressof(registers))
        put(place, is_set=False)
        _resume(pid, STEP)
        put(place, is_set=True)
    if status:
        raise RuntimeError(f"{program}: it ended with {os.waitstatus_to_exitcode(status)}")
    return count

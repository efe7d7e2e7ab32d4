"""The traffic: so many new connections a second, each with a few exchanges, and some that last.

Both ends are in one process with one loop, so that a connection costs little; its sockets are in two namespaces.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import multiprocessing
import select
import socket
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.sharedctypes import RawArray

import traffic
from addresses import CLIENT, FAMILIES, Dual, Family
from netns import Namespace
from traffic import Endpoint

EXCHANGES = 3
QUESTION = b"what time is it?"
PATIENCE = 8.0  # seconds that a connection may take: its SYN leaves again after 1, 3 and 7
DELAYED = 0.9  # seconds: longer means that a first packet, or two later ones, got no answer
BLOCK = bytes(1000)
AHEAD = 16 * len(BLOCK)  # bytes that a connection may have under way
TICK = 0.01  # seconds between two blocks of a lasting connection, each way
PORTS = range(10000, 65000)  # the client's, in turn: none comes again while the host may remember its last connection
LASTING_PORTS = 9000  # and up, for those that last
LATE = 0.5  # seconds behind its schedule after which the load gives up connections that it should have opened


@dataclass(frozen=True)
class Record:
    """One connection that is over."""

    began: float  # time.monotonic()
    ended: float
    family: int
    port: int  # the client's
    failure: str  # empty if all was answered


Result = tuple[list[Record], list[Record]]  # of the short connections, and of those that last


class _Answerer:
    """The server's end: gives back what it gets; on a connection that lasts, sends blocks of its own."""

    def __init__(self, loop: _Loop, connection: socket.socket) -> None:
        self._loop, self._connection, self._rest = loop, connection, b""
        connection.setblocking(False)
        loop.add(connection, self, select.EPOLLIN)

    def ready(self, _: int) -> None:
        try:
            if not self._rest:
                heard = self._connection.recv(1 << 16)
                if not heard:
                    return self.end()
                if heard[0] == BLOCK[0]:
                    return self._loop.streams.add(self)
                self._rest = heard
            self._rest = self._rest[self._connection.send(self._rest) :]
        except BlockingIOError:
            pass
        except OSError:  # the client is the one who tells
            return self.end()
        return self._loop.change(self._connection, select.EPOLLOUT if self._rest else select.EPOLLIN)

    def stream(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self._connection.send(BLOCK)

    def end(self, _: str = "") -> None:
        self._loop.streams.discard(self)
        self._loop.remove(self._connection)


class _Listener:
    def __init__(self, loop: _Loop, listening: socket.socket) -> None:
        self._loop, self._listening = loop, listening
        listening.listen(1024)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, AHEAD)
        listening.setblocking(False)
        loop.add(listening, self, select.EPOLLIN)

    def ready(self, _: int) -> None:
        try:
            while True:
                _Answerer(self._loop, self._listening.accept()[0])
        except (BlockingIOError, ConnectionAbortedError):
            pass


class _Caller:
    """The client's end of a connection."""

    def __init__(self, loop: _Loop, endpoint: Endpoint, port: int) -> None:
        self._loop, self._family, self._port = loop, endpoint.family.version, port
        self.connection = endpoint.open(socket.SOCK_STREAM, port=port)
        self.connection.setblocking(False)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, AHEAD)
        self._began = time.monotonic()
        self.failure = ""
        code = self.connection.connect_ex((endpoint.address, endpoint.port))
        loop.add(self.connection, self, select.EPOLLOUT)
        if code not in (0, errno.EINPROGRESS):
            self.end(errno.errorcode[code])

    def ready(self, happened: int) -> None:
        try:
            if happened & (select.EPOLLERR | select.EPOLLHUP):
                code = self.connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                self.end(errno.errorcode.get(code, "EPIPE"))
            elif happened & select.EPOLLOUT:
                self.writable()
            else:
                self.readable(self.connection.recv(1 << 16))
        except BlockingIOError:
            pass
        except OSError as error:
            self.end(errno.errorcode.get(error.errno or 0, str(error)))

    def writable(self) -> None: ...

    def readable(self, answer: bytes) -> None: ...

    def end(self, failure: str) -> None:
        self.failure = failure
        self._loop.remove(self.connection)

    def record(self) -> Record:
        return Record(self._began, time.monotonic(), self._family, self._port, self.failure)


class _Short(_Caller):
    """A few questions, each after the answer to the one before."""

    def __init__(self, loop: _Loop, endpoint: Endpoint) -> None:
        self._answers, self._heard, self.is_over = 0, 0, False
        super().__init__(loop, endpoint, next(loop.ports))

    def writable(self) -> None:
        self.connection.send(QUESTION)
        self._loop.change(self.connection, select.EPOLLIN)

    def readable(self, answer: bytes) -> None:
        if not answer:
            return self.end("the server hung up")
        self._heard += len(answer)
        if self._heard < len(QUESTION):
            return None
        self._answers, self._heard = self._answers + 1, 0
        return self.writable() if self._answers < EXCHANGES else self.end("")

    def end(self, failure: str) -> None:
        if not self.is_over:
            self.is_over = True
            super().end(failure)
            self._loop.over(self.record())


class _Lasting(_Caller):
    """Blocks under way each way, until the end of the test."""

    def __init__(self, loop: _Loop, endpoint: Endpoint, number: int) -> None:
        self._number = number
        super().__init__(loop, endpoint, LASTING_PORTS + number)

    def writable(self) -> None:
        self._loop.change(self.connection, select.EPOLLIN)
        self._loop.streams.add(self)

    def stream(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self.connection.send(BLOCK)

    def readable(self, answer: bytes) -> None:
        if not answer:
            return self.end("the server hung up")
        self._loop.shared[_LASTING + self._number] += len(answer)
        return None

    def end(self, failure: str) -> None:
        self._loop.streams.discard(self)
        super().end(failure)


_OPENED, _OVER, _FAILED, _STOP, _LASTING = range(5)  # places in the shared array


class _Loop:
    def __init__(self, shared: Sequence[int]) -> None:
        self.shared = shared
        self.records: list[Record] = []
        self.ports = itertools.cycle(PORTS)
        self.streams: set[_Answerer | _Lasting] = set()
        self._epoll = select.epoll()
        self._handlers: dict[int, tuple[socket.socket, _Answerer | _Listener | _Caller]] = {}

    def add(self, connection: socket.socket, handler: _Answerer | _Listener | _Caller, what: int) -> None:
        self._handlers[connection.fileno()] = connection, handler
        self._epoll.register(connection, what)

    def change(self, connection: socket.socket, what: int) -> None:
        self._epoll.modify(connection, what)

    def remove(self, connection: socket.socket) -> None:
        if self._handlers.pop(connection.fileno(), None):
            self._epoll.unregister(connection)
            connection.close()

    def over(self, record: Record) -> None:
        self.records.append(record)
        self.shared[_OVER] += 1
        self.shared[_FAILED] += bool(record.failure)

    def turn(self, seconds: float) -> None:
        for descriptor, happened in self._epoll.poll(max(0.0, seconds)):
            if found := self._handlers.get(descriptor):
                found[1].ready(happened)

    def _stream(self) -> None:
        for each in list(self.streams):
            try:
                each.stream()
            except OSError as error:
                each.end(errno.errorcode.get(error.errno or 0, str(error)))

    def run(self, endpoints: Sequence[Endpoint], lasting: Sequence[Endpoint], rate: float) -> Result:
        forever = [_Lasting(self, endpoint, number) for number, endpoint in enumerate(lasting)]
        pending: deque[tuple[float, _Short]] = deque()
        due = tick = time.monotonic()
        while not self.shared[_STOP] or pending:
            now = time.monotonic()
            if now - due > LATE:
                due = now
            while due <= now and not self.shared[_STOP]:
                pending.append((now + PATIENCE, _Short(self, endpoints[self.shared[_OPENED] % len(endpoints)])))
                self.shared[_OPENED] += 1
                due += 1 / rate
            if tick <= now:
                self._stream()
                tick = now + TICK
            while pending and (pending[0][1].is_over or pending[0][0] < now):
                pending.popleft()[1].end("no answer")
            self.turn(min(due, tick) - now)
        return self.records, [each.record() for each in forever]


class Load:
    """The traffic for the length of a block, in a process of its own; `records` are there after it."""

    def __init__(self, client: Namespace, servers: dict[int, Namespace], asked: Dual, rate: float) -> None:
        """`servers`: who answers at which port, each asked at the same address."""
        self._rate, self._servers = rate, servers
        self.endpoints = [
            Endpoint(client, family, CLIENT[family], asked[family], port) for port in servers for family in FAMILIES
        ]
        self._shared = RawArray("Q", _LASTING + len(self.endpoints))
        self.records: list[Record] = []
        self.lasting: list[Record] = []
        self._ours, self._theirs = multiprocessing.Pipe(duplex=False)
        self._process = multiprocessing.get_context("fork").Process(target=self._run, daemon=True)

    def _run(self) -> None:
        loop = _Loop(self._shared)
        for port, namespace in self._servers.items():
            for family in FAMILIES:
                _Listener(loop, _listening(namespace, family, port))
        self._theirs.send(None)
        self._theirs.send(loop.run(self.endpoints, self.endpoints, self._rate))

    def __enter__(self) -> Load:
        self._process.start()
        self._theirs.close()
        self._receive(10.0)
        self._began = time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.join()

    def _receive(self, seconds: float) -> object:
        if not self._ours.poll(seconds):
            raise TimeoutError(f"the load did not answer within {seconds} s")
        return self._ours.recv()

    def stop(self) -> None:
        """Opens no more, and waits until all that are open are over."""
        self.seconds = time.monotonic() - self._began
        self._shared[_STOP] = 1
        self.records, self.lasting = self._receive(PATIENCE + 10)

    @property
    def opened(self) -> int:
        return self._shared[_OPENED]

    @property
    def answered(self) -> int:
        return self._shared[_OVER] - self._shared[_FAILED]

    def received(self) -> list[int]:
        """Bytes that have come back on each lasting connection."""
        return list(self._shared[_LASTING:])


def _listening(namespace: Namespace, family: Family, port: int) -> socket.socket:
    return traffic.listen(namespace, family, port, socket.SOCK_STREAM)

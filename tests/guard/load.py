"""The traffic: so many new connections a second, each with a few exchanges, some that last, and datagrams.

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
from dataclasses import dataclass, replace
from multiprocessing.sharedctypes import RawArray

import traffic
from addresses import CLIENT, FAMILIES, Dual
from netns import Namespace
from traffic import Endpoint

EXCHANGES = 3
QUESTION = b"what time is it?"
PATIENCE = 8.0  # seconds that a connection may take: its SYN leaves again after 1, 3 and 7
EACH_ASKS = 5  # connections to one datagram that is to be answered
ANSWER_PATIENCE = 3.0  # seconds that its answer may take: nobody sends it again, but a neighbour may be asked for twice
DELAYED = 0.9  # seconds: longer means that a first packet, or two later ones, got no answer
BLOCK = bytes(1000)
AHEAD = 16 * len(BLOCK)  # bytes that a connection may have under way
TICK = 0.01  # seconds between two blocks of a lasting connection, each way
PORTS = range(10000, 65000)  # the client's, in turn: none comes again while the host may remember its last connection
LASTING_PORTS = 9000  # and up, for those that last
LATE = 0.5  # seconds behind its schedule after which the load gives up connections that it should have opened


@dataclass(frozen=True)
class Record:
    """One connection, or one exchange of datagrams, that is over."""

    began: float  # time.monotonic()
    ended: float
    protocol: str
    family: int
    port: int  # the client's
    failure: str  # empty if all was answered


Result = tuple[list[Record], list[Record], list[Record]]  # short connections, datagrams, connections that last


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


class _Service:
    """The server's end of datagrams: one answer to each."""

    def __init__(self, loop: _Loop, listening: socket.socket, family: int) -> None:
        self._loop, self._listening, self._family = loop, listening, family
        listening.setblocking(False)
        loop.add(listening, self, select.EPOLLIN)

    def ready(self, _: int) -> None:
        with contextlib.suppress(OSError):  # none is left, or there is no way to the client, which is the one who tells
            while True:
                question, client, source = traffic.asked(self._listening)
                self._loop.answered[self._family, client[1]] = time.monotonic()
                self._listening.sendmsg([question], source, 0, client)


class _Caller:
    """The client's end of a connection."""

    kind, protocol = socket.SOCK_STREAM, "tcp"

    def __init__(self, loop: _Loop, endpoint: Endpoint, port: int) -> None:
        self._loop, self._family, self._port = loop, endpoint.family.version, port
        self.connection = endpoint.open(self.kind, port=port)
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
        return Record(self._began, time.monotonic(), self.protocol, self._family, self._port, self.failure)


class _Short(_Caller):
    """A few questions, each after the answer to the one before."""

    exchanges, patience = EXCHANGES, PATIENCE

    def __init__(self, loop: _Loop, endpoint: Endpoint) -> None:
        self._answers, self._heard, self.is_over = 0, 0, False
        super().__init__(loop, endpoint, next(loop.ports[self.protocol]))
        self.until = self._began + self.patience

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
        return self.writable() if self._answers < self.exchanges else self.end("")

    def end(self, failure: str) -> None:
        if not self.is_over:
            self.is_over = True
            super().end(failure)
            self._loop.over(self.record())


class _Datagram(_Short):
    """One question, which is sent once."""

    kind, protocol = socket.SOCK_DGRAM, "udp"
    exchanges, patience = 1, ANSWER_PATIENCE

    def writable(self) -> None:
        self._began = time.monotonic()
        super().writable()

    def record(self) -> Record:
        """One that was lost was so on its way there, or on the way back since it was answered."""
        record = super().record()
        answered = self._loop.answered.get((self._family, self._port), 0.0)
        return replace(record, ended=max(self._began, answered)) if self.failure else record


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


_OPENED, _OVER, _FAILED, _HEARD, _STOP, _LASTING = range(6)  # places in the shared array


_Handler = _Answerer | _Listener | _Service | _Caller


class _Loop:
    def __init__(self, shared: Sequence[int]) -> None:
        self.shared = shared
        self.records: dict[str, list[Record]] = {"tcp": [], "udp": []}
        self.ports = {protocol: itertools.cycle(PORTS) for protocol in self.records}
        self.answered: dict[tuple[int, int], float] = {}  # when each datagram was, by family and port
        self.streams: set[_Answerer | _Lasting] = set()
        self._epoll = select.epoll()
        self._handlers: dict[int, tuple[socket.socket, _Handler]] = {}

    def add(self, connection: socket.socket, handler: _Handler, what: int) -> None:
        self._handlers[connection.fileno()] = connection, handler
        self._epoll.register(connection, what)

    def change(self, connection: socket.socket, what: int) -> None:
        self._epoll.modify(connection, what)

    def remove(self, connection: socket.socket) -> None:
        if self._handlers.pop(connection.fileno(), None):
            self._epoll.unregister(connection)
            connection.close()

    def over(self, record: Record) -> None:
        self.records[record.protocol].append(record)
        if record.protocol == "udp":
            self.shared[_HEARD] += not record.failure
        else:
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

    def run(self, endpoints: Sequence[Endpoint], services: Sequence[Endpoint], rate: float) -> Result:
        forever = [_Lasting(self, endpoint, number) for number, endpoint in enumerate(endpoints)]
        connections: deque[_Short] = deque()
        datagrams: deque[_Short] = deque()
        due = tick = time.monotonic()
        while not self.shared[_STOP] or connections or datagrams:
            now = time.monotonic()
            if now - due > LATE:
                due = now
            while due <= now and not self.shared[_STOP]:
                number = self.shared[_OPENED]
                connections.append(_Short(self, endpoints[number % len(endpoints)]))
                if number % EACH_ASKS == 0:
                    datagrams.append(_Datagram(self, services[number // EACH_ASKS % len(services)]))
                self.shared[_OPENED] += 1
                due += 1 / rate
            if tick <= now:
                self._stream()
                tick = now + TICK
            for pending in (connections, datagrams):
                while pending and (pending[0].is_over or pending[0].until < now):
                    pending.popleft().end("no answer")
            self.turn(min(due, tick) - now)
        return self.records["tcp"], self.records["udp"], [each.record() for each in forever]


Servers = dict[int, Namespace]


class Load:
    """The traffic for the length of a block, in a process of its own; `records` are there after it."""

    def __init__(self, client: Namespace, servers: Servers, services: Servers, asked: Dual, rate: float) -> None:
        """`servers`: who answers connections at which port; `services`: likewise datagrams; all at one address."""
        self._rate, self._servers, self._services = rate, servers, services
        self.endpoints, self.services = (
            [Endpoint(client, family, CLIENT[family], asked[family], port) for port in ports for family in FAMILIES]
            for ports in (servers, services)
        )
        self._shared = RawArray("Q", _LASTING + len(self.endpoints))
        self.records: list[Record] = []
        self.datagrams: list[Record] = []
        self.lasting: list[Record] = []
        self._ours, self._theirs = multiprocessing.Pipe(duplex=False)
        self._process = multiprocessing.get_context("fork").Process(target=self._run, daemon=True)

    def _run(self) -> None:
        loop = _Loop(self._shared)
        for port, namespace in self._servers.items():
            for family in FAMILIES:
                _Listener(loop, traffic.listen(namespace, family, port, socket.SOCK_STREAM))
        for port, namespace in self._services.items():
            for family in FAMILIES:
                _Service(loop, traffic.listen_for_datagrams(namespace, family, port), family.version)
        self._theirs.send(None)
        self._theirs.send(loop.run(self.endpoints, self.services, self._rate))

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
        self.records, self.datagrams, self.lasting = self._receive(PATIENCE + 10)

    @property
    def opened(self) -> int:
        return self._shared[_OPENED]

    @property
    def answered(self) -> int:
        return self._shared[_OVER] - self._shared[_FAILED]

    @property
    def heard(self) -> int:
        """Datagrams that were answered."""
        return self._shared[_HEARD]

    def received(self) -> list[int]:
        """Bytes that have come back on each lasting connection."""
        return list(self._shared[_LASTING:])

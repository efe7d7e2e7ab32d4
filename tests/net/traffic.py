"""Kinds of traffic. Each opens real sockets in the namespaces given, and raises when an answer is wrong or
late.

Every socket has a time limit, and a server lives as long as its `with` block.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import ipaddress
import os
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from addresses import IPV4, Family
from netns import Namespace

SECONDS = 2.0  # for one answer; a round trip takes less than a millisecond
TRANSFER_SECONDS = 15.0  # for one bulk transfer
MEGABYTE = 1 << 20
EXCHANGES = 4
DATAGRAMS = 100
FRAGMENTED = 8192  # bytes of a datagram that no link carries whole

IP_RECVERR, IPV6_RECVERR = 11, 25
IP_PKTINFO = 8
IP_MTU_DISCOVER, IPV6_MTU_DISCOVER = 10, 23
PMTUDISC_PROBE = 3  # set don't-fragment, and do not believe what was learnt: send all the same
SOL = {4: socket.IPPROTO_IP, 6: socket.IPPROTO_IPV6}


class Stalled(Exception):
    """An established connection, or an exchange of datagrams, got no answer in time."""


class Unreachable(Exception):
    """No connection came about in time."""


@dataclass(frozen=True)
class Endpoint:
    """A place that a client calls: from its namespace and address to an address and port."""

    namespace: Namespace
    family: Family
    source: str
    address: str
    port: int = 0

    def open(self, kind: int, protocol: int = 0, port: int = 0) -> socket.socket:
        with self.namespace.entered():
            made = socket.socket(self.family.socket, kind, protocol)
        made.settimeout(SECONDS)
        made.bind((self.source, port))
        return made

    def connect(self) -> socket.socket:
        caller = self.open(socket.SOCK_STREAM)
        try:
            caller.connect((self.address, self.port))
        except TimeoutError:
            caller.close()
            raise Unreachable(f"no handshake with {self.address} port {self.port}") from None
        except BaseException:
            caller.close()
            raise
        return caller


def pattern(size: int) -> bytes:
    """Bytes that repeat in no period that a packet size has."""
    block = b"".join(struct.pack("!I", number) for number in range(0, 1021))
    return (block * (size // len(block) + 1))[:size]


class Server:
    """A thread that serves one socket until the block ends; an error in it fails the block."""

    def __init__(self, listening: socket.socket, serve: Callable[[socket.socket], None]) -> None:
        self._listening = listening
        self._serve = serve
        self._stopping = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                if select.select([self._listening], [], [], 0.02)[0]:
                    self._serve(self._listening)
        except BaseException as failure:
            self._failure = failure

    def __enter__(self) -> Server:
        self._thread.start()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._stopping.set()
        self._thread.join(TRANSFER_SECONDS)
        self._listening.close()
        if self._failure and not kind:
            raise self._failure


def listen(namespace: Namespace, family: Family, port: int, kind: int, bound: str | None = None) -> socket.socket:
    with namespace.entered():
        listening = socket.socket(family.socket, kind)
    listening.settimeout(SECONDS)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family.version == 6:
        listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    listening.bind((bound or ("0.0.0.0" if family is IPV4 else "::"), port))
    if kind == socket.SOCK_STREAM:
        listening.listen(16)
    return listening


# TCP: a client that asks for echoes, sends a megabyte and fetches one

_REQUEST = struct.Struct("!cI")


def receive(connection: socket.socket, size: int, within: float = SECONDS) -> bytes:
    deadline, chunks, left = time.monotonic() + within, [], size
    while left:
        connection.settimeout(max(0.001, min(SECONDS, deadline - time.monotonic())))
        try:
            chunk = connection.recv(min(left, 1 << 16))
        except TimeoutError:
            raise Stalled(f"{size - left} of {size} bytes arrived, then nothing") from None
        if not chunk:
            raise Stalled(f"{size - left} of {size} bytes arrived, then the end of the connection")
        chunks.append(chunk)
        left -= len(chunk)
    return b"".join(chunks)


def send(connection: socket.socket, data: bytes) -> None:
    connection.settimeout(TRANSFER_SECONDS)
    try:
        connection.sendall(data)
    except TimeoutError:
        raise Stalled(f"{len(data)} bytes not taken within {TRANSFER_SECONDS} s") from None


def _answer(connection: socket.socket) -> None:
    with connection:
        while True:
            connection.settimeout(TRANSFER_SECONDS)
            head = connection.recv(_REQUEST.size, socket.MSG_WAITALL)
            if len(head) < _REQUEST.size:
                return
            what, size = _REQUEST.unpack(head)
            if what == b"e":
                send(connection, receive(connection, size)[::-1])
            elif what == b"u":
                send(connection, hashlib.sha256(receive(connection, size, TRANSFER_SECONDS)).digest())
            elif what == b"d":
                send(connection, pattern(size))


def _accept(listening: socket.socket) -> None:
    connection, _ = listening.accept()
    threading.Thread(target=_converse, args=(connection,), daemon=True).start()


def _converse(connection: socket.socket) -> None:
    with contextlib.suppress(OSError, Stalled):  # the client is the one who tells
        _answer(connection)


@contextlib.contextmanager
def tcp_server(namespace: Namespace, family: Family, port: int) -> Iterator[None]:
    with Server(listen(namespace, family, port, socket.SOCK_STREAM), _accept):
        yield


def exchange(connection: socket.socket, number: int) -> None:
    question = f"exchange {number} {os.urandom(8).hex()}".encode()
    send(connection, _REQUEST.pack(b"e", len(question)) + question)
    try:
        answer = receive(connection, len(question))
    except Stalled as stall:
        raise Stalled(f"exchange {number}: {stall}") from None
    if answer != question[::-1]:
        raise AssertionError(f"exchange {number}: sent {question!r}, got {answer!r}")


def upload(connection: socket.socket, size: int = MEGABYTE) -> None:
    data = pattern(size)
    send(connection, _REQUEST.pack(b"u", size) + data)
    if receive(connection, 32, TRANSFER_SECONDS) != hashlib.sha256(data).digest():
        raise AssertionError(f"{size} bytes sent arrived as others")


def download(connection: socket.socket, size: int = MEGABYTE) -> None:
    send(connection, _REQUEST.pack(b"d", size))
    if receive(connection, size, TRANSFER_SECONDS) != pattern(size):
        raise AssertionError(f"{size} bytes asked for arrived as others")


def finish(connection: socket.socket) -> None:
    """Closes from this side and waits for the other's end: its last packet has been seen then."""
    connection.shutdown(socket.SHUT_WR)
    connection.settimeout(SECONDS)
    try:
        rest = connection.recv(1)
    except TimeoutError:
        raise Stalled("the end of the connection did not arrive") from None
    if rest:
        raise AssertionError(f"{rest!r} arrived after the last answer")


def converse(endpoint: Endpoint, bulk: int = MEGABYTE) -> None:
    """One connection: exchanges, then bulk data each way, then an orderly end."""
    with endpoint.connect() as connection:
        for number in range(EXCHANGES):
            exchange(connection, number)
        if bulk:
            upload(connection, bulk)
            download(connection, bulk)
        finish(connection)


# UDP: every datagram is answered, reversed, from the address it was sent to


def _answer_from_bound(listening: socket.socket) -> None:
    data, client = listening.recvfrom(1 << 16)
    listening.sendto(data[::-1], client)


def listen_for_datagrams(namespace: Namespace, family: Family, port: int) -> socket.socket:
    """On all addresses; told of each datagram which one was asked."""
    listening = listen(namespace, family, port, socket.SOCK_DGRAM)
    option = IP_PKTINFO if family is IPV4 else socket.IPV6_RECVPKTINFO
    listening.setsockopt(SOL[family.version], option, 1)
    return listening


Control = tuple[int, int, bytes]


def asked(listening: socket.socket) -> tuple[bytes, tuple[str, int], list[Control]]:
    """A datagram, who sent it, and what makes an answer leave from the address that was asked.

    A wildcard socket would choose a source by the main table.
    """
    data, control, _, client = listening.recvmsg(1 << 16, 256)
    source: list[Control] = []
    for level, kind, value in control:
        if (level, kind) == (socket.IPPROTO_IP, IP_PKTINFO):
            source.append((level, kind, struct.pack("=I4s4s", 0, value[4:8], bytes(4))))
        elif (level, kind) == (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO):
            source.append((level, kind, value[:16] + struct.pack("=I", 0)))
    return data, client, source


def _answer_from_asked(listening: socket.socket) -> None:
    data, client, source = asked(listening)
    listening.sendmsg([data[::-1]], source, 0, client)


@contextlib.contextmanager
def udp_server(namespace: Namespace, family: Family, port: int, bound: str | None = None) -> Iterator[None]:
    """Bound to an address, or to none and answering from the one that was asked."""
    if bound:
        listening, answer = listen(namespace, family, port, socket.SOCK_DGRAM, bound), _answer_from_bound
    else:
        listening, answer = listen_for_datagrams(namespace, family, port), _answer_from_asked
    with Server(listening, answer):
        yield


def _ask(caller: socket.socket, question: bytes) -> bytes:
    for tries_left in (1, 0):
        try:
            caller.send(question)
            return caller.recv(1 << 16)
        except OSError as error:
            # IPv6 learns here that the path is narrower, and cuts the next one into smaller pieces.
            if error.errno != errno.EMSGSIZE or not tries_left:
                raise
    raise AssertionError("unreachable")


def datagrams(endpoint: Endpoint, count: int = DATAGRAMS, size: int = 64) -> None:
    with endpoint.open(socket.SOCK_DGRAM) as caller:
        caller.connect((endpoint.address, endpoint.port))  # answers from any other address are not taken
        for number in range(count):
            question = (struct.pack("!I", number) + os.urandom(8) + pattern(size))[:size]
            try:
                answer = _ask(caller, question)
            except TimeoutError:
                raise Stalled(f"datagram {number + 1} of {count} ({size} bytes) got no answer") from None
            if answer != question[::-1]:
                raise AssertionError(f"datagram {number + 1}: {len(answer)} bytes, not the answer to it")


# Echo


def _checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total & 0xFFFF) + (total >> 16)
    return ~(total + (total >> 16)) & 0xFFFF


def forge(namespace: Namespace, family: Family, source: str, destination: str, ports: tuple[int, int]) -> None:
    """Sends one TCP acknowledgement with a source that is not the sender's."""
    ends = b"".join(socket.inet_pton(family.socket, end) for end in (source, destination))
    segment = struct.pack("!HHIIBBHHH", *ports, 1, 1, 5 << 4, 0x10, 1024, 0, 0)
    sum_of = _checksum(ends + struct.pack("!II", len(segment), socket.IPPROTO_TCP) + segment)
    segment = segment[:16] + struct.pack("!H", sum_of) + segment[18:]
    if family is IPV4:  # the kernel fills in its length and its checksum
        header = struct.pack("!BBHHHBBH", 0x45, 0, 0, 0, 0, 64, socket.IPPROTO_TCP, 0)
    else:
        header = struct.pack("!IHBB", 6 << 28, len(segment), socket.IPPROTO_TCP, 64)
    with namespace.entered(), socket.socket(family.socket, socket.SOCK_RAW, socket.IPPROTO_RAW) as sender:
        sender.sendto(header + ends + segment, (destination, 0))


def echoes(endpoint: Endpoint, count: int = 10, size: int = 64) -> None:
    family = endpoint.family
    ask, answer = (8, 0) if family is IPV4 else (128, 129)
    protocol = socket.IPPROTO_ICMP if family is IPV4 else socket.IPPROTO_ICMPV6
    identifier = int.from_bytes(os.urandom(2), "big")  # a connection of its own, as tracking sees it
    with endpoint.open(socket.SOCK_RAW, protocol) as caller:
        caller.connect((endpoint.address, 0))
        for number in range(count):
            tail = struct.pack("!HH", identifier, number) + pattern(size)
            head = struct.pack("!BBH", ask, 0, 0)
            if family is IPV4:  # the kernel does it for ICMPv6
                head = struct.pack("!BBH", ask, 0, _checksum(head + tail))
            caller.send(head + tail)
            deadline = time.monotonic() + SECONDS
            while True:
                caller.settimeout(max(0.001, deadline - time.monotonic()))
                try:
                    packet = caller.recv(1 << 16)
                except TimeoutError:
                    raise Stalled(f"echo {number + 1} of {count} got no reply") from None
                if family is IPV4:
                    packet = packet[(packet[0] & 0xF) * 4 :]
                if packet[0] == answer and packet[4:] == tail:
                    break


# Errors that the host reports


@dataclass(frozen=True)
class IcmpError:
    number: int
    type: int
    code: int
    info: int
    offender: str


def refused(endpoint: Endpoint) -> None:
    """A connection to a closed port: the reset arrives."""
    try:
        endpoint.connect().close()
    except ConnectionRefusedError:
        return
    raise AssertionError("the closed port took a connection")


def _report_errors(endpoint: socket.socket, family: Family) -> None:
    level = SOL[family.version]
    endpoint.setsockopt(level, IP_RECVERR if family is IPV4 else IPV6_RECVERR, 1)
    endpoint.setsockopt(level, IP_MTU_DISCOVER if family is IPV4 else IPV6_MTU_DISCOVER, PMTUDISC_PROBE)


def _set_hops(endpoint: socket.socket, family: Family, hops: int) -> None:
    option = socket.IP_TTL if family is IPV4 else socket.IPV6_UNICAST_HOPS
    endpoint.setsockopt(SOL[family.version], option, hops)


def _reported(endpoint: socket.socket, family: Family) -> IcmpError:
    """The next ICMP error on a socket's error queue, waited for."""
    poll = select.poll()
    poll.register(endpoint, 0)  # an error is always reported
    if not poll.poll(SECONDS * 1000):
        raise Stalled("no ICMP error came back")
    _, control, _, _ = endpoint.recvmsg(2048, 512, socket.MSG_ERRQUEUE)
    for level, kind, value in control:
        if level == SOL[family.version] and kind in (IP_RECVERR, IPV6_RECVERR):
            number, _origin, icmp_type, code, _, info, _ = struct.unpack("=IBBBBII", value[:16])
            address = value[20:24] if family is IPV4 else value[24:40]
            return IcmpError(number, icmp_type, code, info, str(ipaddress.ip_address(address)))
    raise AssertionError(f"the error queue held {control!r}")


def provoke(endpoint: Endpoint, size: int = 32, hops: int | None = None) -> IcmpError:
    """Sends one datagram and returns the ICMP error that came back for it."""
    with endpoint.open(socket.SOCK_DGRAM) as caller:
        _report_errors(caller, endpoint.family)
        if hops:
            _set_hops(caller, endpoint.family, hops)
        caller.connect((endpoint.address, endpoint.port))
        caller.send(pattern(size))
        return _reported(caller, endpoint.family)


@contextlib.contextmanager
def short_lived_answer(namespace: Namespace, family: Family, port: int) -> Iterator[Callable[[], IcmpError]]:
    """A server whose answers die at the first router; what is yielded waits for the error about one."""
    with listen(namespace, family, port, socket.SOCK_DGRAM) as listening:
        _report_errors(listening, family)
        _set_hops(listening, family, 1)
        answered = threading.Thread(target=lambda: _answer_from_bound(listening), daemon=True)
        answered.start()
        try:
            yield lambda: _reported(listening, family)
        finally:
            answered.join(SECONDS)


PORT_UNREACHABLE = {4: (errno.ECONNREFUSED, 3, 3), 6: (errno.ECONNREFUSED, 1, 4)}
TIME_EXCEEDED = {4: (errno.EHOSTUNREACH, 11, 0), 6: (errno.EHOSTUNREACH, 3, 0)}
TOO_BIG = {4: (errno.EMSGSIZE, 3, 4), 6: (errno.EMSGSIZE, 2, 0)}

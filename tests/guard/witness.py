"""Who sees it all: what the host's kernel tells, each first packet that reaches it, each reply at router 1; and what
router 2's kernel tells of its neighbours.

One thread. Packets have the kernel's own times; messages get theirs when they are read, by a thread that does nothing
else.
"""

from __future__ import annotations

import ctypes
import errno
import ipaddress
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import netlink
from netlink import Event, Key
from netns import Namespace

SECONDS = 20.0  # until what is awaited has to be there; generous, since a hang alone shall fail for its time
SO_ATTACH_FILTER, SO_TIMESTAMPNS = 26, 35
ETH_P_IP, ETH_P_IPV6 = 0x0800, 0x86DD
SNAP = 80  # bytes of a packet: its headers

# linux/filter.h: a SYN without ACK, and each datagram. Of IPv4 the header's length is looked up, of IPv6 it is 40.
_LOAD, _LOAD_AT_X, _HEADER, _AND, _EQUAL, _RETURN = 0x30, 0x50, 0xB1, 0x54, 0x15, 0x06
FIRST_PACKETS = {
    4: [(_LOAD, 0, 0, 9), (_EQUAL, 5, 0, 17), (_EQUAL, 0, 5, 6), (_HEADER, 0, 0, 0), (_LOAD_AT_X, 0, 0, 13),
        (_AND, 0, 0, 0x12), (_EQUAL, 0, 1, 2), (_RETURN, 0, 0, SNAP), (_RETURN, 0, 0, 0)],
    6: [(_LOAD, 0, 0, 6), (_EQUAL, 4, 0, 17), (_EQUAL, 0, 4, 6), (_LOAD, 0, 0, 53), (_AND, 0, 0, 0x12),
        (_EQUAL, 0, 1, 2), (_RETURN, 0, 0, SNAP), (_RETURN, 0, 0, 0)],
}  # fmt: skip
PROTOCOLS = {socket.IPPROTO_TCP: "tcp", socket.IPPROTO_UDP: "udp"}


@dataclass(frozen=True)
class Packet:
    """A packet of the load's connections and datagrams."""

    at: float  # time.monotonic(), by the kernel's clock when it came
    protocol: str
    family: int
    port: int  # the client's


def _capture(namespace: Namespace, family: int, only_first: bool) -> socket.socket:
    """What comes in on any port of a namespace, before netfilter."""
    protocol = ETH_P_IP if family == 4 else ETH_P_IPV6
    with namespace.entered():
        made = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(protocol))
    if only_first:
        code = FIRST_PACKETS[family]
        program = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *one) for one in code))
        header = struct.pack("@HP", len(code), ctypes.addressof(program))
        made.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, header)
    made.setsockopt(socket.SOL_SOCKET, netlink.SO_RCVBUFFORCE, netlink.ROOM)
    made.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
    made.setblocking(False)
    return made


class Witness:
    """Sees for the length of a block."""

    def __init__(self, host: Namespace, router1: Namespace, router2: Namespace, client: Iterable[str]) -> None:
        self._client = {ipaddress.ip_address(address).packed for address in client}
        self.events: list[Event] = []
        self.first: list[Packet] = []  # SYNs and questions as they reach the host
        self.strays: list[Packet] = []  # packets to the client as they reach router 1 from the host
        self._rules: dict[Key, int] = {}
        self.lost = 0  # times that a queue of ours was too short
        self._told = threading.Condition()
        self._stopping = threading.Event()
        self._failure: BaseException | None = None
        self._sockets: dict[int, tuple[socket.socket, Callable[[socket.socket], None]]] = {}
        for namespace, protocol, groups in (
            (host, netlink.NETLINK_ROUTE, netlink.ROUTE_GROUPS),
            (host, netlink.NETLINK_NETFILTER, netlink.NFTABLES_GROUP),
            (router2, netlink.NETLINK_ROUTE, netlink.NEIGHBOURS_GROUP),
        ):
            self._add(netlink.listen(namespace, protocol, groups), self._messages)
        for family in (4, 6):
            first, strays = _capture(host, family, True), _capture(router1, family, False)
            self._add(first, lambda each, family=family: self._packet(each, family, self.first, 0))
            self._add(strays, lambda each, family=family: self._packet(each, family, self.strays, 2))
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _add(self, listening: socket.socket, take: Callable[[socket.socket], None]) -> None:
        self._sockets[listening.fileno()] = listening, take

    def __enter__(self) -> Witness:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join(SECONDS)
        for listening, _ in self._sockets.values():
            listening.close()

    def _run(self) -> None:
        try:
            poll = select.poll()
            for descriptor in self._sockets:
                poll.register(descriptor, select.POLLIN)
            while not self._stopping.is_set():
                for descriptor, _ in poll.poll(50):
                    listening, take = self._sockets[descriptor]
                    try:
                        while True:
                            take(listening)
                    except BlockingIOError:
                        pass
        except BaseException as failure:
            self._failure = failure

    def _messages(self, listening: socket.socket) -> None:
        try:
            data = listening.recv(1 << 17)
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise
            self.lost += 1
            return
        found = [event for event in netlink.events(data, time.monotonic()) if self._is_news(event)]
        with self._told:
            self.events += found
            self._told.notify_all()

    def _is_news(self, event: Event) -> bool:
        """Of a rule there may be a twin for a moment: what matters is when the first comes and the last goes."""
        if event.key[0] != "rule":
            return True
        before = self._rules.get(event.key, 0)
        after = self._rules[event.key] = max(0, before + (1 if event.is_there else -1))
        return before == 0 or after == 0

    def _packet(self, listening: socket.socket, family: int, where: list[Packet], port_at: int) -> None:
        """`where` to put it, and where in the header of TCP or UDP the client's port is."""
        try:
            packet, control, _, _ = listening.recvmsg(SNAP, 64)
        except OSError as error:
            if error.errno == errno.ENETDOWN:  # of one port; the others go on
                return
            raise
        header, protocol_at = ((packet[0] & 15) * 4, 9) if family == 4 else (40, 6)
        source, destination = (packet[12:16], packet[16:20]) if family == 4 else (packet[8:24], packet[24:40])
        protocol = PROTOCOLS.get(packet[protocol_at])
        if len(packet) < header + 4 or not protocol or (destination if port_at else source) not in self._client:
            return
        port = struct.unpack_from("!H", packet, header + port_at)[0]
        at = time.time()
        for _, kind, value in control:
            if kind == SO_TIMESTAMPNS:
                seconds, nanoseconds = struct.unpack("=qq", value)
                at = seconds + nanoseconds / 1e9
        with self._told:
            where.append(Packet(at - time.time() + time.monotonic(), protocol, family, port))
            self._told.notify_all()

    def until(self, condition: Callable[[], object], what: Callable[[], str] | str, seconds: float = SECONDS) -> None:
        """Waits until a condition on what was seen holds."""
        with self._told:
            met = self._told.wait_for(lambda: self._failure or condition(), seconds)
        if self._failure:
            raise self._failure
        if not met:
            raise TimeoutError(f"waited {seconds:.0f} s for {what if isinstance(what, str) else what()}")

    def since(self, at: float, key: Key | None = None) -> list[Event]:
        """What was told since then, of one thing or of all."""
        found = []
        for event in reversed(self.events):
            if event.at < at:
                break
            if key in (None, event.key):
                found.append(event)
        return found[::-1]

    def knew(self, address: str, at: float) -> bool:
        """Who sends to a neighbour had its MAC then; if not, packets are in a queue, which may be thrown away."""
        told = [event for event in self.events if event.key[:2] == ("neighbour", address) and event.at <= at]
        return not told or (told[-1].is_there and told[-1].key[2] != "")

    def was_there(self, at: float, key: Key) -> bool:
        return any(event.is_there for event in self.since(at, key))

    def is_back(self, at: float, key: Key) -> bool:
        """The last that was told of it since then is that it is there."""
        told = self.since(at, key)
        return bool(told) and told[-1].is_there

    def has_gone(self, at: float, key: Key) -> bool:
        told = self.since(at, key)
        return bool(told) and not told[-1].is_there

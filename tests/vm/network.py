"""The network of tests/net with a guest in the host's place: a client, the routers, and a switch between."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time

import ports
import traffic
from addresses import CLIENT, IPV4, PUBLIC, Family
from guest import TAP
from lab import LAYOUTS, Lab, Tally
from traffic import MEGABYTE, Endpoint, Stalled, pattern

SECONDS = 60.0  # for a connection, and for its data: a guest without KVM on a loaded machine is slow
EXCHANGES = 8


class Network:
    """Its `with` block takes all away again."""

    def __init__(self) -> None:
        self.lab = Lab(LAYOUTS["lan"])
        self.lab.host.ip("link delete eth0")  # what had the guest's address is unplugged
        self.lab.switch.ip(f"tuntap add {TAP} mode tap", f"link set {TAP} master br0 up")

    def __enter__(self) -> Network:
        return self

    def __exit__(self, *_: object) -> None:
        self.lab.__exit__()

    def through(self, router: int, family: Family = IPV4) -> Endpoint:
        return Endpoint(self.lab.client, family, CLIENT[family], PUBLIC[router][family], ports.WEB)

    def check(self, router: int, family: Family = IPV4) -> None:
        """A whole connection through a router; every packet of it went there and back by that router."""
        with self.lab.watched() as tally, dial(self.through(router, family), time.monotonic() + SECONDS) as connection:
            converse(connection)
        require_way(tally, router, family)


def require_way(tally: Tally, router: int, family: Family) -> None:
    asked, answered = tally.requests(router, "tcp", family), tally.replies(router, "tcp", family)
    if min(asked.bytes, answered.bytes) < MEGABYTE:
        raise AssertionError(f"router {router} saw too little of {family}: {tally}")
    if strays := tally.strays(router):
        raise AssertionError(f"replies to what came through router {router} ({family}) went astray: {strays}; {tally}")


def dial(endpoint: Endpoint, deadline: float) -> socket.socket:
    """The first connection that comes about, tried again and again from now on."""
    while True:
        caller = endpoint.open(socket.SOCK_STREAM)
        caller.settimeout(max(0.1, min(traffic.SECONDS, deadline - time.monotonic())))
        try:
            caller.connect((endpoint.address, endpoint.port))
        except OSError as error:  # nobody there yet: no answer, no neighbour, or a reset
            caller.close()
            if time.monotonic() > deadline:
                raise Stalled(f"no connection with {endpoint.address} port {endpoint.port}: {error}") from None
            time.sleep(0.02)
        else:
            caller.settimeout(SECONDS)
            return caller


def converse(connection: socket.socket) -> None:
    """With a server that echoes: questions and answers in turn, a megabyte each way at once, an orderly end."""
    for number in range(EXCHANGES):
        question = f"exchange {number} {os.urandom(8).hex()}".encode()
        connection.sendall(question)
        if (answer := _receive(connection, len(question))) != question:
            raise AssertionError(f"exchange {number}: sent {question!r}, got {answer!r}")
    data = pattern(MEGABYTE)
    sender = threading.Thread(target=_send, args=(connection, data), daemon=True)
    sender.start()
    if _receive(connection, MEGABYTE) != data:
        raise AssertionError("the megabyte came back as another")
    sender.join(SECONDS)
    connection.shutdown(socket.SHUT_WR)
    if rest := connection.recv(1):
        raise AssertionError(f"{rest!r} arrived after the last answer")


def _send(connection: socket.socket, data: bytes) -> None:
    with contextlib.suppress(OSError):  # who receives tells of it
        connection.sendall(data)


def _receive(connection: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        try:
            chunk = connection.recv(size - len(data))
        except TimeoutError:
            chunk = b""
        if not chunk:
            raise Stalled(f"{len(data)} of {size} bytes arrived, then nothing")
        data += chunk
    return bytes(data)

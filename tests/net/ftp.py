"""As much of FTP as the kernel's connection tracking helper reads: PASV and PORT, EPSV and EPRT."""

from __future__ import annotations

import contextlib
import dataclasses
import re
import socket
from collections.abc import Iterator

from addresses import IPV4, Family
from netns import Namespace
from ports import FTP
from traffic import SECONDS, TRANSFER_SECONDS, Endpoint, Server, Stalled, listen, pattern, receive, send

DATA_PORT = 20  # where an active data connection comes from
SIZE = 1 << 18  # bytes of a transfer, each way


def _line(connection: socket.socket) -> str:
    data = b""
    while not data.endswith(b"\r\n"):
        data += receive(connection, 1)
    return data.decode().strip()


def _say(connection: socket.socket, text: str) -> None:
    send(connection, f"{text}\r\n".encode())


def _dotted(address: str, port: int) -> str:
    return ",".join([*address.split("."), str(port >> 8), str(port & 255)])


def _undotted(text: str) -> tuple[str, int]:
    numbers = re.search(r"(\d+),(\d+),(\d+),(\d+),(\d+),(\d+)", text)
    if not numbers:
        raise AssertionError(f"no address in {text!r}")
    parts = numbers.groups()
    return ".".join(parts[:4]), int(parts[4]) << 8 | int(parts[5])


class _Session:
    def __init__(self, namespace: Namespace, family: Family, control: socket.socket) -> None:
        self.namespace, self.family, self.control = namespace, family, control
        self.own = control.getsockname()[0]

    def serve(self) -> None:
        _say(self.control, "220 ready")
        while True:
            verb, _, argument = _line(self.control).partition(" ")
            if verb == "USER":
                _say(self.control, "230 logged in")
            elif verb == "QUIT":
                return _say(self.control, "221 bye")
            if verb in ("PASV", "EPSV"):
                self.passive(verb)
            elif verb in ("PORT", "EPRT"):
                self.active(argument)

    def passive(self, verb: str) -> None:
        with listen(self.namespace, self.family, 0, socket.SOCK_STREAM, self.own) as waiting:
            port = waiting.getsockname()[1]
            if verb == "PASV":
                _say(self.control, f"227 Entering Passive Mode ({_dotted(self.own, port)}).")
            else:
                _say(self.control, f"229 Entering Extended Passive Mode (|||{port}|)")
            data, _ = waiting.accept()
        self.transfer(data)

    def active(self, argument: str) -> None:
        if "|" in argument:
            _, _, address, port, _ = argument.split("|")
            target = address, int(port)
        else:
            target = _undotted(argument)
        _say(self.control, "200 will call")
        with self.namespace.entered():
            data = socket.socket(self.family.socket, socket.SOCK_STREAM)
        data.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        data.bind((self.own, DATA_PORT))
        data.settimeout(SECONDS)
        data.connect(target)
        self.transfer(data)

    def transfer(self, data: socket.socket) -> None:
        with data:
            if receive(data, SIZE, TRANSFER_SECONDS) != pattern(SIZE):
                raise AssertionError("the data connection brought other bytes")
            send(data, pattern(SIZE)[::-1])


@contextlib.contextmanager
def server(namespace: Namespace, family: Family) -> Iterator[None]:
    def serve(listening: socket.socket) -> None:
        control, _ = listening.accept()
        control.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with control, contextlib.suppress(OSError, Stalled):  # the client is the one who tells
            _Session(namespace, family, control).serve()

    with Server(listen(namespace, family, FTP, socket.SOCK_STREAM), serve):
        yield


def _transfer(data: socket.socket) -> None:
    with data:
        send(data, pattern(SIZE))
        if receive(data, SIZE, TRANSFER_SECONDS) != pattern(SIZE)[::-1]:
            raise AssertionError("the data connection brought other bytes")
        data.settimeout(SECONDS)
        if data.recv(1):
            raise AssertionError("the data connection did not end")


def _log_in(control: socket.socket) -> None:
    """The helper believes only lines that follow one it has seen: a first command is never PORT."""
    _line(control)
    _say(control, "USER anonymous")
    _line(control)


def _quit(control: socket.socket) -> None:
    _say(control, "QUIT")
    _line(control)
    if control.recv(1):
        raise AssertionError("the control connection did not end")


def fetch_passive(endpoint: Endpoint) -> None:
    """The client opens the data connection, to a port that no policy lists."""
    with endpoint.connect() as control:
        _log_in(control)
        if endpoint.family is IPV4:
            _say(control, "PASV")
            address, port = _undotted(_line(control))
            if address != endpoint.address:
                raise AssertionError(f"told to call {address}, not {endpoint.address}")
        else:
            _say(control, "EPSV")
            port = int(_line(control).split("|")[3])
        _transfer(dataclasses.replace(endpoint, port=port).connect())
        _quit(control)


def fetch_active(endpoint: Endpoint) -> None:
    """The server opens the data connection: its first packet finds the way of the control connection."""
    with endpoint.connect() as control:
        _log_in(control)
        with endpoint.open(socket.SOCK_STREAM) as waiting:
            waiting.listen(1)
            port = waiting.getsockname()[1]
            if endpoint.family is IPV4:
                _say(control, f"PORT {_dotted(endpoint.source, port)}")
            else:
                _say(control, f"EPRT |2|{endpoint.source}|{port}|")
            _line(control)
            try:
                data, peer = waiting.accept()
            except TimeoutError:
                raise Stalled(f"the server did not call port {port}") from None
        if peer[0] != endpoint.address:
            raise AssertionError(f"the data connection came from {peer[0]}, not {endpoint.address}")
        _transfer(data)
        _quit(control)

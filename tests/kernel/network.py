"""A host between a router and a client behind it, with packets; and what the manual says of JSON."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import struct
from collections.abc import Iterator

from case import Bench
from machine import Machine
from policies import ROOT

MAC = "02:00:00:00:01:00"  # of the far end of the host's first port
ROUTER, CLIENT, HOST = ("10.0.0.2", "fd00::2"), ("198.51.100.7", "2001:db8::7"), ("10.0.0.10", "fd00::10")
POLICY = f"""
[paths.router2]
mark = 0x2
table = 200
gateways = ["{ROUTER[0]}", "{ROUTER[1]}"]
source_macs = ["{MAC}"]
services = ["tcp/80", "tcp/8080", "udp/53", "icmp", "sctp/80"]

[paths.other]
mark = 0x3
table = 201
gateways = ["10.1.0.2"]
ingress = ["eth1"]
"""


class Network:
    """A host, and on the far end of its first port a machine that is router 2 and a client behind it."""

    def __init__(self) -> None:
        self.host, self.far = Machine(), Machine(routers=False)
        self.far.batch(*(f"link del {port}" for port in ("eth0", "eth1", "eth2")))
        self.host.batch(f"link set peer0 netns /proc/{os.getpid()}/fd/{self.far.descriptor}")
        lines = ["link set peer0 up"]
        for router, client, (long, all_of_it) in zip(ROUTER, CLIENT, ((24, 32), (64, 128)), strict=True):
            nodad = " nodad" if long == 64 else ""
            lines += [f"addr add {router}/{long} dev peer0{nodad}", f"addr add {client}/{all_of_it} dev lo{nodad}"]
        self.far.batch(*lines)
        self.far.settle(("peer0",))

    def __enter__(self) -> Network:
        return self

    def __exit__(self, *_: object) -> None:
        self.host.close()
        self.far.close()

    def conversation(
        self, kind: int, address: str, port: int, up: int = 1, down: int = 1, listen: int = 0, client: str = ""
    ) -> int:
        """Bytes there and back, each seen to arrive; returns the client's port."""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with self.host.inside():
            server = socket.socket(family, kind)
        with self.far.inside():
            caller = socket.socket(family, kind)
        with server, caller:
            for one in (server, caller):
                one.settimeout(10)
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            server.bind((address, listen or port))
            caller.bind((client or CLIENT[":" in address], 0))
            peer, accepted = server, None
            if kind == socket.SOCK_STREAM:
                server.listen()
            caller.connect((address, port))
            if kind == socket.SOCK_STREAM:
                peer, accepted = server.accept()
                peer.settimeout(10)
            caller.sendall(b"u" * up)
            got, came_from = 0, accepted
            while got < up:
                data, sender = peer.recvfrom(65536)
                got, came_from = got + len(data), sender or accepted
            (peer.sendall if accepted else lambda data: peer.sendto(data, came_from))(b"d" * down)
            got = 0
            while got < down:
                got += len(caller.recv(65536))
            number = caller.getsockname()[1]
            if accepted:
                peer.close()
            return number

    def tcp(self, address: str = HOST[0], port: int = 80, up: int = 1000, down: int = 3000, listen: int = 0) -> int:
        return self.conversation(socket.SOCK_STREAM, address, port, up, down, listen)

    def udp(self, address: str = HOST[0], port: int = 53, up: int = 100, down: int = 300) -> int:
        return self.conversation(socket.SOCK_DGRAM, address, port, up, down)

    def echo(self, version: int) -> None:
        self.far.run("ping", "-n", "-c", "1", "-W", "5", "-I", CLIENT[version == 6], HOST[version == 6])

    def association(self, source_port: int, port: int) -> None:
        """The first packet of SCTP (RFC 9260, 3.3.2), whose checksum tracking looks at."""
        with self.far.inside(), socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_SCTP) as raw:
            raw.bind((CLIENT[0], 0))
            chunk = struct.pack("!BBHIIHHI", 1, 0, 20, 1, 65536, 1, 1, 1)
            ports = struct.pack("!HHI", source_port, port, 0)
            checksum = struct.pack("<I", crc32c(ports + bytes(4) + chunk))
            raw.sendto(ports + checksum + chunk, (HOST[0], 0))

    def datagrams(self, count: int) -> None:
        """So many connections, which nobody answers."""
        with self.host.inside():
            deaf = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with deaf:
            deaf.bind((HOST[0], 53))
            with self.far.inside():
                for number in range(count):
                    if number % 20000 == 0:
                        raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_UDP)
                        raw.bind((f"198.51.100.{7 if number == 0 else number // 20000 + 100}", 0))
                    head = struct.pack("!HHHH", 1024 + number % 20000, 53, 12, 0)
                    raw.sendto(head + b"once", (HOST[0], 0))
                    if number % 20000 == 19999:
                        raw.close()


def crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


@contextlib.contextmanager
def applied(bench: Bench, **settings: int) -> Iterator[tuple[Network, str]]:
    """A network with the policy in force, and its image; `settings` of connection tracking."""
    image = bench.image(POLICY)
    with Network() as network:
        bench.apply(network.host, image)
        for name, value in settings.items():
            network.host.sysctl(f"netfilter/{name}", value)
        yield network, image


def keys(value: object, place: str = "") -> Iterator[str]:
    """Each key of a JSON text, as the manual names it: a list by its []; an object by what is in it."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from keys(inner, f"{place}.{key}" if place else key)
    elif isinstance(value, list):
        yield f"{place}[]"
        for inner in value:
            if isinstance(inner, dict):
                yield from keys(inner, f"{place}[]")
    else:
        yield place


def documented(command: str) -> set[str]:
    """The keys that the manual page of a command lists."""
    pages = (ROOT / "src/bin/returnpath-manual/pages.md").read_text()
    section = pages.split(f"\n# returnpath-{command}\n")[1].split("\n# ")[0].split("\n## JSON\n")[1].split("\n## ")[0]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("|")]
    return {key for row in rows for key in re.findall("`([^`]+)`", row)}


@contextlib.contextmanager
def asking(network: Network) -> Iterator[tuple[socket.socket, socket.socket]]:
    """The client's socket, which asks udp/53 of the host, and the host's, which can answer as often as it likes."""
    with network.host.inside():
        server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        server.bind((HOST[0], 53))
    server.settimeout(10)
    with network.far.inside():
        caller = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        caller.bind((CLIENT[0], 0))
        caller.connect((HOST[0], 53))
    with server, caller:
        yield caller, server

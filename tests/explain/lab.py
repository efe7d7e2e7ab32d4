"""A host with two Ethernets of routers, two tunnels and a host behind it. All around it is played by this process, in
frames: so any router can send anything, and what leaves the host is seen with the next hop's MAC on it."""

from __future__ import annotations

import fcntl
import os
import selectors
import socket
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1] / "kernel"))

import draw
import packets
from draw import Connection
from machine import Machine
from packets import ACK, SYN, Packet

ETH_P_ALL, PACKET_OUTGOING = 3, 4
TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
SECONDS = 5  # until an answer that is expected has to be there
SILENCE = 0.03  # what is not expected is waited for so long

DNAT = "\n".join(
    f"{family} daddr {{ {', '.join(draw.OWN[version])} }} {protocol} dport {port} dnat {family} to {server}"
    for version, family, server in ((4, "ip", draw.SERVER[4]), (6, "ip6", draw.SERVER[6]))
    for protocol, port in draw.FORWARDED
)
NAT = f"""table inet nat {{
    chain in {{
        type nat hook prerouting priority dstnat
{DNAT}
    }}
}}
"""


class Host(Machine):
    """Where answers leave: `seen`, as port and next hop's MAC (empty on a tunnel), by the connection's number."""

    def __init__(self, strict: int, has_default: bool) -> None:
        super().__init__(routers=False)
        self.seen: list[tuple[int, str, str]] = []
        self.reached_server: set[int] = set()
        self.selector = selectors.DefaultSelector()
        self._send: dict[str, Callable[[bytes, str], object]] = {}
        self._servers: list[socket.socket] = []  # they listen for as long as they are held
        with self.inside():
            self._settings(strict)
            for number, port in enumerate((*draw.PORTS, draw.INSIDE)):
                self._ethernet_port(port, f"peer{number}", bytes.fromhex(f"0200000000{number:02x}"))
            for port in draw.TUNNELS:
                self._tunnel_port(port)
            for version, kind in ((4, socket.AF_INET), (6, socket.AF_INET6)):
                self._serve(kind, draw.OWN[version])
        self._neighbours()
        if has_default:
            self.batch("route add default via 10.0.0.1", "-6 route add default via fd00::1")
        self.run("nft", "-f", "-", stdin=NAT)

    def _settings(self, strict: int) -> None:
        values = {
            "ipv4/ip_forward": 1,
            "ipv6/conf/all/forwarding": 1,
            "ipv4/icmp_ratelimit": 0,
            "ipv6/icmp/ratelimit": 0,
        }
        for port in ("all", *draw.PORTS, draw.INSIDE, *draw.TUNNELS):
            values |= {f"ipv4/conf/{port}/send_redirects": 0, f"ipv4/conf/{port}/rp_filter": 0}
        for name, value in (values | {"ipv4/conf/all/rp_filter": strict}).items():
            Path("/proc/sys/net", name).write_text(f"{value}\n")

    def _ethernet_port(self, port: str, peer: str, own: bytes) -> None:
        wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        wire.bind((peer, 0))
        wire.setblocking(False)

        def send(data: bytes, source: str) -> None:
            kind = packets.ETHERTYPE[data[0] >> 4]
            wire.send(own + bytes.fromhex(source.replace(":", "")) + struct.pack("!H", kind) + data)

        def receive() -> None:
            frame, (_, kind, direction, *_) = wire.recvfrom(65536)
            if direction != PACKET_OUTGOING and kind in packets.ETHERTYPE.values():
                self._left(port, frame[:6].hex(":"), frame[14:])

        self._send[port] = send
        self.selector.register(wire, selectors.EVENT_READ, receive)

    def _tunnel_port(self, port: str) -> None:
        tunnel = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        fcntl.ioctl(tunnel, TUNSETIFF, struct.pack("16sH22x", port.encode(), IFF_TUN | IFF_NO_PI))
        self._send[port] = lambda data, _: os.write(tunnel, data)
        self.selector.register(tunnel, selectors.EVENT_READ, lambda: self._left(port, "", os.read(tunnel, 65536)))

    def _serve(self, kind: int, addresses: tuple[str, ...]) -> None:
        """Two TCP ports (the others answer with a reset), and UDP from the address that was asked."""
        for address in addresses:
            for port in (80, 443):
                listener = socket.socket(kind, socket.SOCK_STREAM)
                listener.bind((address, port))
                listener.listen(1000)  # nobody accepts: the kernel answers
                self._servers.append(listener)
            for port in draw.SERVICES["udp"]:
                server = socket.socket(kind, socket.SOCK_DGRAM)
                server.bind((address, port))
                server.setblocking(False)
                echo = lambda server=server: self._echo(server)  # noqa: E731
                self.selector.register(server, selectors.EVENT_READ, echo)

    @staticmethod
    def _echo(server: socket.socket) -> None:
        data, client = server.recvfrom(2048)
        try:
            server.sendto(data, client)
        except OSError:
            pass  # it has no route, which is one of the answers

    def _neighbours(self) -> None:
        for version, option in ((4, ""), (6, "-6 ")):
            lines = [f"{option}neigh add {draw.SERVER[version]} lladdr {draw.mac(draw.INSIDE, 2)} dev {draw.INSIDE}"]
            for port in draw.PORTS:
                for number in (*draw.ROUTERS, draw.NEIGHBOUR):
                    lladdr = draw.mac(port, number)
                    lines.append(f"{option}neigh add {draw.address(port, number, version)} lladdr {lladdr} dev {port}")
            self.batch(*lines)

    def _left(self, port: str, next_hop: str, data: bytes) -> None:
        """A packet has left the host."""
        packet = packets.parse(data)
        if packet is None:
            return
        if port == draw.INSIDE and packet.destination in draw.SERVER.values():
            self.reached_server.add(packet.sport)
            self._send[port](packet.answer().bytes(), draw.mac(port, 2))
        else:
            self.seen.append((packet.dport, port, next_hop))
            self.last = packet

    def exchange(self, connection: Connection, is_answered: bool) -> list[tuple[str, str]]:
        """Two packets in; returns where what came back for them has left. Packets that come back too late for their
        turn are none that somebody waits for: every connection has a number of its own."""
        ask = Packet(
            connection.source, connection.destination, connection.protocol, connection.number,
            connection.service or connection.number, SYN, sequence=1, payload=b"",
        )  # fmt: skip
        self.seen.clear()
        for turn in (1, 2):
            self._send[connection.port](ask.bytes(), connection.mac)
            deadline = time.monotonic() + (SECONDS if is_answered else SILENCE)
            while len(self._of(connection)) < turn and (left := deadline - time.monotonic()) > 0:
                for key, _ in self.selector.select(left):
                    key.data()
            if not is_answered:
                break
            is_open = connection.protocol == "tcp" and self._of(connection) and self.last.flags == SYN | ACK
            flags, acknowledged = (ACK, self.last.sequence + 1) if is_open else (SYN, 0)
            ask = Packet(
                connection.source, connection.destination, connection.protocol, connection.number,
                connection.service or connection.number, flags, 2, acknowledged, b"again",
            )  # fmt: skip
        return self._of(connection)

    def _of(self, connection: Connection) -> list[tuple[str, str]]:
        return [(port, next_hop) for number, port, next_hop in self.seen if number == connection.number]

    def close(self) -> None:
        self.selector.close()
        super().close()

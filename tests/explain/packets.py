"""Packets as bytes: made, and read back as far as the tests need."""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass
from ipaddress import ip_address

TCP, UDP = 6, 17
ECHO = {4: (1, 8, 0), 6: (58, 128, 129)}  # protocol, request, reply
SYN, RST, ACK = 2, 4, 16
ETHERTYPE = {4: 0x0800, 6: 0x86DD}


@dataclass(frozen=True)
class Packet:
    """`sport` and `dport` of an echo are both its identifier, so that answers look alike for all protocols."""

    source: str
    destination: str
    protocol: str  # tcp, udp, icmp
    sport: int
    dport: int
    flags: int = 0
    sequence: int = 0
    acknowledged: int = 0
    payload: bytes = b""
    is_reply: bool = False  # of an echo

    @property
    def version(self) -> int:
        return ip_address(self.source).version

    def answer(self) -> Packet:
        """What a host answers that serves everything."""
        flags = SYN | ACK if self.flags == SYN else ACK
        return Packet(
            self.destination, self.source, self.protocol, self.dport, self.sport, flags,
            sequence=self.acknowledged or 1000,
            acknowledged=self.sequence + (1 if self.flags == SYN else len(self.payload)),
            payload=b"" if self.protocol == "tcp" else self.payload,
            is_reply=True,
        )  # fmt: skip

    def bytes(self) -> bytes:
        source, destination = (ip_address(address).packed for address in (self.source, self.destination))
        number, body = self._body()
        pseudo = b""
        if number != ECHO[4][0]:
            form = "!BBH" if self.version == 4 else "!I3xB"
            rest = (0, number, len(body)) if self.version == 4 else (len(body), number)
            pseudo = source + destination + struct.pack(form, *rest)
        at = {TCP: 16, UDP: 6}.get(number, 2)
        body = body[:at] + struct.pack("!H", checksum(pseudo + body) or 0xFFFF) + body[at + 2 :]
        if self.version == 6:
            return struct.pack("!IHBB", 6 << 28, len(body), number, 64) + source + destination + body
        head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(body), 1, 0, 64, number, 0) + source + destination
        return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + body

    def _body(self) -> tuple[int, bytes]:
        if self.protocol == "tcp":
            numbers = self.sport, self.dport, self.sequence, self.acknowledged, 5 << 4, self.flags, 65535, 0, 0
            return TCP, struct.pack("!HHIIBBHHH", *numbers) + self.payload
        if self.protocol == "udp":
            return UDP, struct.pack("!HHHH", self.sport, self.dport, 8 + len(self.payload), 0) + self.payload
        number, request, reply = ECHO[self.version]
        kind = reply if self.is_reply else request
        return number, struct.pack("!BBHHH", kind, 0, 0, self.sport, self.sequence) + self.payload


def checksum(data: bytes) -> int:
    total = sum(struct.unpack(f"!{len(data) // 2 + len(data) % 2}H", data + b"\0" * (len(data) % 2)))
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF


def parse(data: bytes) -> Packet | None:
    """None: something else that a host sends."""
    if data[0] >> 4 == 4:
        number, head, body = data[9], data[12:20], data[(data[0] & 15) * 4 : struct.unpack("!H", data[2:4])[0]]
        source, destination = socket.inet_ntop(socket.AF_INET, head[:4]), socket.inet_ntop(socket.AF_INET, head[4:])
    else:
        number, head, body = data[6], data[8:40], data[40:]
        source, destination = socket.inet_ntop(socket.AF_INET6, head[:16]), socket.inet_ntop(socket.AF_INET6, head[16:])
    if number == TCP:
        sport, dport, sequence, acknowledged, offset, flags = struct.unpack("!HHIIBB", body[:14])
        payload = body[(offset >> 4) * 4 :]
        return Packet(source, destination, "tcp", sport, dport, flags, sequence, acknowledged, payload)
    if number == UDP:
        return Packet(source, destination, "udp", *struct.unpack("!HH", body[:4]), payload=body[8:])
    version = data[0] >> 4
    if number == ECHO[version][0] and body[0] in ECHO[version][1:]:
        identifier, sequence = struct.unpack("!HH", body[4:8])
        is_reply = body[0] == ECHO[version][2]
        return Packet(
            source, destination, "icmp", identifier, identifier, sequence=sequence, payload=body[8:], is_reply=is_reply
        )
    return None

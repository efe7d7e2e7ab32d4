"""What the kernel tells over netlink, read into keys; and the one message that a test sends by itself."""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from netns import Namespace

# linux/netlink.h, linux/rtnetlink.h, linux/fib_rules.h, linux/netfilter/nfnetlink.h, nf_tables.h
NETLINK_ROUTE, NETLINK_NETFILTER = 0, 12
NEWLINK, NEWADDR, NEWROUTE, NEWNEIGH, NEWRULE = 16, 20, 24, 28, 32  # and a DEL, one higher
NEIGHBOURS_GROUP = 0x4
# Links, addresses, routes, rules.
ROUTE_GROUPS = NEIGHBOURS_GROUP | 0x1 | 0x10 | 0x40 | 0x80 | 0x100 | 0x400 | 0x40000
NFTABLES_GROUP = 1 << 6
NEWTABLE, NEWRULE_OF_NFT, NEWELEMENT = (
    10 << 8 | message for message in (0, 6, 12)
)  # NFNL_SUBSYS_NFTABLES; a DEL, two higher
IFF_UP = 1
IFLA_IFNAME, IFA_LOCAL, IFA_ADDRESS, NDA_DST, NDA_LLADDR, NFTA_TABLE_NAME = 3, 2, 1, 1, 2, 1
NFTA_RULE_CHAIN, NFTA_RULE_USERDATA = 2, 7
NFTA_ELEMENTS_SET, NFTA_ELEMENTS, NFTA_LIST_ELEM, NFTA_ELEM_KEY, NFTA_DATA_VALUE = 2, 3, 1, 1, 1
RTA_TABLE = FRA_TABLE = 15
FRA_PRIORITY, FRA_FWMARK, FRA_FWMASK = 6, 10, 16
ROUTE_TYPES = {1: "unicast", 7: "unreachable"}
FAMILIES = {socket.AF_INET: 4, socket.AF_INET6: 6}
NLM_F_REQUEST, NLM_F_ACK, NLMSG_ERROR = 1, 4, 2
SO_RCVBUFFORCE = 33
ROOM = 64 << 20  # bytes that a listener's queue holds, so that it misses nothing

Key = tuple[object, ...]


@dataclass(frozen=True)
class Event:
    """A thing has come (or changed), or has gone: ("rule", 4, 200, 1000), ("route", 6, 200, "unreachable"), …"""

    at: float  # time.monotonic()
    key: Key
    is_there: bool
    by: int  # port number of who asked for it: mostly its process id; 0 the kernel


def listen(namespace: Namespace, protocol: int, groups: int) -> socket.socket:
    with namespace.entered():
        made = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
    made.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, ROOM)
    made.bind((0, groups))
    made.setblocking(False)
    return made


def _attributes(data: bytes) -> dict[int, bytes]:
    found, at = {}, 0
    while at + 4 <= len(data):
        length, kind = struct.unpack_from("=HH", data, at)
        if length < 4:
            break
        found[kind & 0x3FFF] = data[at + 4 : at + length]
        at += (length + 3) & ~3
    return found


def _within(data: bytes, *kinds: int) -> bytes:
    """What is in the attribute of the first kind, in that the one of the second, and so on."""
    for kind in kinds:
        data = _attributes(data).get(kind, b"")
    return data


def _address(data: bytes | None) -> str:
    return str(ipaddress.ip_address(data)) if data and len(data) in (4, 16) else ""


def _number(data: bytes | None) -> int:
    return struct.unpack("=I", data)[0] if data and len(data) == 4 else 0


def _key(kind: int, body: bytes) -> tuple[Key, bool] | None:
    """What a message is about, and whether that is there now."""
    family = FAMILIES.get(body[0], 0)
    if kind & ~1 == NEWLINK:
        flags = struct.unpack_from("=I", body, 8)[0]
        name = _attributes(body[16:]).get(IFLA_IFNAME, b"").rstrip(b"\0").decode()
        return ("link", name), kind == NEWLINK and bool(flags & IFF_UP)
    if kind & ~1 == NEWADDR:
        found = _attributes(body[8:])
        return ("address", _address(found.get(IFA_LOCAL, found.get(IFA_ADDRESS)))), kind == NEWADDR
    if kind & ~1 == NEWROUTE:
        table = _number(_attributes(body[12:]).get(RTA_TABLE)) or body[4]
        return ("route", family, table, ROUTE_TYPES.get(body[7], str(body[7]))), kind == NEWROUTE
    if kind & ~1 == NEWNEIGH:
        found = _attributes(body[12:])
        mac = found.get(NDA_LLADDR, b"").hex(":")  # none: it has been asked for in vain (NUD_FAILED)
        return ("neighbour", _address(found.get(NDA_DST)), mac), kind == NEWNEIGH
    if kind & ~1 == NEWRULE:
        found = _attributes(body[12:])
        table = _number(found.get(FRA_TABLE)) or body[4]
        return ("rule", family, table, _number(found.get(FRA_PRIORITY))), kind == NEWRULE
    if kind & ~2 == NEWTABLE:
        name = _attributes(body[4:]).get(NFTA_TABLE_NAME, b"").rstrip(b"\0").decode()
        return ("table", name), kind == NEWTABLE
    if kind & ~2 == NEWELEMENT:
        found = _attributes(body[4:])
        first = _within(found.get(NFTA_ELEMENTS, b""), NFTA_LIST_ELEM, NFTA_ELEM_KEY, NFTA_DATA_VALUE)
        return ("element", found.get(NFTA_ELEMENTS_SET, b"").rstrip(b"\0").decode(), first.hex(":")), kind == NEWELEMENT
    if kind == NEWRULE_OF_NFT:
        found = _attributes(body[4:])
        if found.get(NFTA_RULE_CHAIN) == b"digest\0":  # its comment says which policy the table is for
            return ("comment", found.get(NFTA_RULE_USERDATA, b"")[2:].rstrip(b"\0").decode()), True
    return None


def events(data: bytes, at: float) -> Iterator[Event]:
    position = 0
    while position + 16 <= len(data):
        length, kind, _, _, by = struct.unpack_from("=IHHII", data, position)
        if length < 16:
            return
        body = data[position + 16 : position + length]
        if len(body) >= 4 and (found := _key(kind, body)):
            yield Event(at, *found, by)
        position += (length + 3) & ~3


class Routing:
    """A socket that deletes rules as fast as it is asked to: `ip rule del`, without a process each."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_ROUTE)
        self._socket.bind((0, 0))

    def delete_rule(self, family: socket.AddressFamily, mark: int, mask: int, table: int) -> bool:
        """False: there is none."""
        body = struct.pack("=BBBBBBBBI", family, 0, 0, 0, 0, 0, 0, 1, 0)  # FR_ACT_TO_TBL
        for kind, value in ((FRA_FWMARK, mark), (FRA_FWMASK, mask), (FRA_TABLE, table)):
            body += struct.pack("=HHI", 8, kind, value)
        self._socket.send(struct.pack("=IHHII", 16 + len(body), NEWRULE + 1, NLM_F_REQUEST | NLM_F_ACK, 0, 0) + body)
        _, kind, _, _, _, error = struct.unpack_from("=IHHIIi", self._socket.recv(4096))
        if kind != NLMSG_ERROR or error not in (0, -2):  # ENOENT
            raise OSError(-error, "RTM_DELRULE")
        return error == 0

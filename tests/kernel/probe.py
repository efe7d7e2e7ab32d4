"""Where the kernel sends a marked packet: asked over netlink, in tens of microseconds."""

from __future__ import annotations

import os
import socket
import struct
import tomllib

RTM_NEWROUTE, RTM_GETROUTE, NLMSG_ERROR = 24, 26, 2
RTA_DST, RTA_OIF, RTA_GATEWAY, RTA_MARK = 1, 4, 5, 16
RTN_UNICAST, RTN_NAMES = 1, {6: "blackhole", 7: "unreachable", 8: "prohibit"}
TARGETS = {4: "198.51.100.9", 6: "2001:db8::9"}
FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value


class Prober:
    """A routing socket of the namespace that the caller is in."""

    def __enter__(self) -> Prober:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        self._socket.settimeout(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def ask(self, family: int, mark: int) -> str:
        target = socket.inet_pton(FAMILIES[family], TARGETS[family])
        body = struct.pack("=BBBBBBBBI", FAMILIES[family], len(target) * 8, 0, 0, 0, 0, 0, 0, 0)
        body += _attribute(RTA_DST, target) + _attribute(RTA_MARK, struct.pack("=I", mark))
        self._socket.send(struct.pack("=IHHII", 16 + len(body), RTM_GETROUTE, 1, 1, 0) + body)
        answer = self._socket.recv(65536)
        length, kind = struct.unpack_from("=IH", answer)
        if kind == NLMSG_ERROR:
            return os.strerror(-struct.unpack_from("=i", answer, 16)[0])
        found, at = {}, 28
        while at + 4 <= length:
            size, number = struct.unpack_from("=HH", answer, at)
            found[number] = answer[at + 4 : at + size]
            at += (size + 3) & ~3
        if answer[16 + 7] != RTN_UNICAST:
            return RTN_NAMES.get(answer[16 + 7], f"type {answer[16 + 7]}")
        device = f"dev {socket.if_indextoname(struct.unpack('=I', found[RTA_OIF])[0])}"
        if RTA_GATEWAY not in found:
            return device
        return f"via {socket.inet_ntop(FAMILIES[family], found[RTA_GATEWAY])} {device}"


class Ways(dict[tuple[int, int], str]):
    """Where a policy sends each mark, by family and mark."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.marks: set[int] = set()
        policy = tomllib.loads(text)
        self.mask: int = policy.get("mark_mask", 0xFF)
        for path in policy.get("paths", {}).values():
            self.marks.add(path["mark"])
            for gateway in path.get("gateways", ()):
                if ":" in gateway:
                    port = int(gateway.split(":")[0][2:], 16)
                    self[6, path["mark"]] = f"via {gateway} dev eth{port}"
                else:
                    self[4, path["mark"]] = f"via {gateway} dev eth{gateway.split('.')[1]}"
            if not path.get("gateways"):
                for family in (4, 6):
                    self[family, path["mark"]] = f"dev {path['device']}"

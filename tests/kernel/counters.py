"""Counters: they outlive what an update replaces, and go with their path."""

from __future__ import annotations

import json
import socket
import struct
from ipaddress import IPv4Address

import policies
from case import Bench, case, require, until
from machine import Machine

SERVICES = '["udp/9"]'
A, B = (1, 101, 1), (2, 102, 2)  # mark, table, router
CLIENT, HOST = IPv4Address("198.51.100.9"), IPv4Address("10.0.0.10")
HOST_MAC, ROUTER_MAC = bytes.fromhex("020000000000"), bytes.fromhex("020000000100")

Counted = dict[str, int]


def policy(*paths: tuple[str, tuple[int, int, int]], services: str = SERVICES) -> str:
    return "".join(policies.path(name, *numbers, services=services) for name, numbers in paths)


def datagram() -> bytes:
    """From the client, through the router at eth0, to a port that nobody listens at."""
    udp = struct.pack("!HHHH", 1000, 9, 8, 0)
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 28, 0, 0, 64, socket.IPPROTO_UDP, 0, CLIENT.packed, HOST.packed)
    total = sum(struct.unpack("!10H", head))
    total = (total & 0xFFFF) + (total >> 16)
    head = head[:10] + struct.pack("!H", ~total & 0xFFFF) + head[12:]
    return HOST_MAC + ROUTER_MAC + b"\x08\x00" + head + udp


def packets(host: Machine) -> Counted:
    listed = json.loads(host.run("nft", "-j", "list", "counters", "table", "inet", "returnpath"))["nftables"]
    return {each["counter"]["name"]: each["counter"]["packets"] for each in listed if "counter" in each}


def four(path: str, *counts: int) -> Counted:
    return dict(zip((f"{what}_{path}" for what in ("new", "in", "back", "astray")), counts, strict=True))


def call(host: Machine, times: int, wanted: Counted) -> None:
    """Each datagram is answered by an error, which leaves by the path."""
    with host.inside(), socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as router:
        router.bind(("peer0", 0))
        for _ in range(times):
            router.send(datagram())
    until(lambda: packets(host) == wanted, f"{wanted}", lambda: packets(host))


@case("counters/outlive-an-update")
def outlive_update(bench: Bench) -> None:
    a, b = ("a", A), ("b", B)
    first = bench.image(policy(a, b))
    with Machine() as host:
        host.sysctl("ipv4/icmp_ratelimit", 0)
        bench.apply(host, first)
        require(packets(host) == four("a", 0, 0, 0, 0) | four("b", 0, 0, 0, 0), packets(host))
        counted = four("a", 1, 3, 3, 0) | four("b", 0, 0, 0, 0)
        call(host, 3, counted)
        bench.apply(host, first)
        require(packets(host) == counted, f"the same policy: {packets(host)}")

        host.run("nft", "flush", "chain", "inet", "returnpath", "prerouting")
        bench.firmware(host, "status", "--policy", first, code=5)
        bench.apply(host, first)
        require(packets(host) == counted, f"after a repair: {packets(host)}")

        second = policy(("c", (3, 103, 3)), a, services='["udp/9", "tcp"]')
        bench.apply(host, bench.image(second))
        counted = four("a", 1, 3, 3, 0) | four("c", 0, 0, 0, 0)
        require(packets(host) == counted, f"another policy: {packets(host)}")
        call(host, 2, counted | four("a", 1, 5, 5, 0))

        bench.apply(host, bench.image(policy(b)))
        bench.apply(host, first)
        require(packets(host) == four("a", 0, 0, 0, 0) | four("b", 0, 0, 0, 0), f"it was away: {packets(host)}")


@case("counters/of-somebody-else")
def foreign(bench: Bench) -> None:
    image = bench.image(policy(("a", A)))
    with Machine() as host:
        bench.apply(host, image)
        host.run("nft", "add", "counter", "inet", "returnpath", "mine")
        said = host.finish(bench.programs.firmware, "status", "--policy", image)
        require(said.returncode == 5 and "counter mine is not of the policy" in said.stdout, f"status: {said}")
        bench.apply(host, image)
        require(packets(host) == four("a", 0, 0, 0, 0), packets(host))


@case("counters/another-way")
def another_way(bench: Bench) -> None:
    """The path names no port: another next hop by the same one is another way, and so is none at all."""
    image = bench.image(policy(("a", A)).replace(', "fd00::2"', ""))
    with Machine() as host:
        host.sysctl("ipv4/icmp_ratelimit", 0)
        bench.apply(host, image)
        call(host, 2, four("a", 1, 2, 2, 0))
        for number, way in enumerate(("via 10.0.0.3 dev eth0", "dev eth0"), 1):
            host.batch(f"route replace default {way} table 101")
            call(host, 2, four("a", 1, 2 + 2 * number, 2, 2 * number))

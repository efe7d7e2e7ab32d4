"""What is refused, each in one line and with nothing changed: images, files, usage, rights, other programs' things."""

from __future__ import annotations

import errno
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import gate
import policies
from case import STATE, Bench, case, one_line, require, unchanged
from machine import Machine, snapshot
from policies import UPDATES
from updating import transition


def refused(bench: Bench, host: Machine, code: int, words: tuple[str, ...], *args: str) -> None:
    """The exit code, one line with these words, and nothing changed."""
    before = snapshot(host)
    done = host.finish(*args)
    require(done.returncode == code, f"exit {done.returncode}, not {code}: {done.stderr.strip()}")
    unchanged(host, before, STATE)
    for word in words:
        require(word in done.stderr, f"it does not say `{word}`: {done.stderr.strip()}")
    one_line(done.stderr)


def bad_image(bench: Bench, spoil: Callable[[bytes], bytes], *words: str) -> None:
    image = Path(bench.image(UPDATES["base"]))
    image.write_bytes(spoil(image.read_bytes()))
    with Machine() as host:
        refused(bench, host, 3, (str(image), *words), *bench.programs.apply(str(image)))
        refused(bench, host, 3, (str(image), *words), *bench.programs.status(str(image)))


def sealed(body: bytes) -> bytes:
    return body + struct.pack("<I", zlib.crc32(body))


BAD_IMAGES: dict[str, tuple] = {
    "empty": (lambda good: b"", "compile"),
    "garbage": (lambda good: os.urandom(500), "returnpath-board compile"),
    "toml": (lambda good: UPDATES["base"].encode(), "returnpath-board compile"),
    "truncated": (lambda good: good[: len(good) // 2], "damaged"),
    "one-byte-short": (lambda good: good[:-1], "damaged"),
    "one-byte-long": (lambda good: good + b"\0", "damaged"),
    "oversize": (lambda good: good + bytes(1 << 20), "more than any policy"),
    "version": (lambda good: sealed(good[:4] + b"\3" + good[5:-4]), "version 3", "versions 1-2"),
    "bad-body": (lambda good: sealed(good[:5] + b"\xff" * 40), "malformed"),
    "trailing": (lambda good: sealed(good[:-4] + b"\0\0"), "after its last path"),
    "zero-mask": (lambda good: sealed(good[:5] + b"\0\0\0"), "mark_mask"),
}
for _name, (_spoil, *_words) in BAD_IMAGES.items():
    case(f"bad/image/{_name}", _spoil, *_words)(bad_image)


@case("bad/image/bits")
def bad_bits(bench: Bench) -> None:
    """Every bit of an image, flipped, is noticed; a sample of them by the firmware itself."""
    image = Path(bench.image(UPDATES["base"]))
    good = image.read_bytes()
    with Machine() as host:
        before = snapshot(host)
        for bit in range(0, 8 * len(good), 13):
            spoilt = bytearray(good)
            spoilt[bit // 8] ^= 1 << bit % 8
            image.write_bytes(spoilt)
            done = host.finish(*bench.programs.apply(str(image)))
            require(done.returncode == 3, f"bit {bit}: exit {done.returncode}: {done.stderr}")
            one_line(done.stderr)
        unchanged(host, before, STATE)


@case("bad/file/missing", "/nowhere/policy.bin", "No such file")
@case("bad/file/folder", "/tmp", "/tmp")
@case("bad/file/endless", "/dev/zero", "more than any policy")
@case("bad/file/empty-device", "/dev/null", "too few")
def bad_file(bench: Bench, file: str, word: str) -> None:
    with Machine() as host:
        refused(bench, host, 3, (file, word), *bench.programs.apply(file))


@case("bad/usage")
def bad_usage(bench: Bench) -> None:
    firmware = bench.programs.firmware
    with Machine() as host:
        for args in (
            [], ["frobnicate"], ["apply", "--board"], ["apply", "--policy"], ["apply", "policy.bin"], ["remove", "now"],
            ["status", "--policy", "a", "b"], ["apply", "--polisy", "x"], ["--version", "x"], ["apply\nremove"],
        ):  # fmt: skip
            refused(bench, host, 2, ("--help",), firmware, *args)
        for command in ("apply", "status"):  # without options: the board, which is not there
            refused(bench, host, 6, ("PARTLABEL=returnpath", "--board"), firmware, command)


WITHOUT_ADMIN = ["setpriv", "--bounding-set", "-net_admin", "--inh-caps", "-net_admin", "--"]


@case("bad/no-cap-net-admin/apply", None, "base")
@case("bad/no-cap-net-admin/update", "base", "tables-swapped")
@case("bad/no-cap-net-admin/remove", "base", None)
def no_capability(bench: Bench, old: str | None, new: str | None) -> None:
    args, start = transition(bench, old, new)
    with start() as host:
        refused(bench, host, 4, ("CAP_NET_ADMIN",), *WITHOUT_ADMIN, *args)


@case("bad/not-root", None, "base")
def not_root(bench: Bench, old: str | None, new: str | None) -> None:
    args, start = transition(bench, old, new)
    binary = bench.for_everyone()
    with start() as host:
        nobody = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "--", binary]
        refused(bench, host, 4, ("CAP_NET_ADMIN",), *nobody, *args[1:])


@case("bad/no-nf-tables/apply", None, "base")
@case("bad/no-nf-tables/remove", None, None)
def no_nftables(bench: Bench, old: str | None, new: str | None) -> None:
    """Sockets for nfnetlink can not be had, as in a kernel without it."""
    args, start = transition(bench, old, new)
    af_netlink, netlink_netfilter = 16, 12

    def judge(call: gate.Call) -> gate.Refuse | None:
        if call.args[0] == af_netlink and call.args[2] == netlink_netfilter:
            return gate.Refuse(errno.EPROTONOSUPPORT)
        return None

    with start() as host:
        before = snapshot(host)
        done = host.gated(args, ["socket"], judge)
        require(done.code == 4, f"exit {done.code}, not 4: {done.stderr}")
        require("CONFIG_NF_TABLES" in one_line(done.stderr), f"it said: {done.stderr}")
        unchanged(host, before, STATE)


HINDRANCES: dict[str, tuple[str, tuple[str, ...], tuple[str, ...]]] = {
    "device-missing": (
        policies.path("a", 1, 101, 1, device='"eth9"'), (), ("eth9", "does not exist"),
    ),
    "device-missing-tunnel": (
        policies.path("a", 1, 101, 1, gateways=None, device='"wg9"', ingress='["wg9"]'), (), ("wg9", "does not exist"),
    ),
    "device-down": (  # the kernel tells the other end of the wire a little later
        policies.path("a", 1, 101, 1, device='"eth0"'),
        ("ip link set eth0 down", "until ip -6 route show dev peer0 | grep -q linkdown; do sleep 0.01; done"),
        ("eth0", "down", "bring it up"),
    ),
    "device-not-point-to-point": (
        policies.path("a", 1, 101, 1, gateways=None, device='"eth1"'), (), ("eth1", "point-to-point", "gateway"),
    ),
    "gateway-not-on-link": (
        policies.path("a", 1, 101, 1, gateways='["192.0.2.1"]', device='"eth1"'), (),
        ("192.0.2.1", "not on a link", "onlink"),
    ),
    "gateway-not-on-link-anywhere": (
        policies.path("a", 1, 101, 1, gateways='["192.0.2.1"]'), (), ("192.0.2.1", "not on a link"),
    ),
    "gateway6-not-on-link": (
        policies.path("a", 1, 101, 1, gateways='["2001:db8::1"]'), (), ("2001:db8::1", "not on a link"),
    ),
    "second-path-not-on-link": (
        UPDATES["base"] + policies.path("z", 9, 109, 3, gateways='["192.0.2.1"]'), (), ("192.0.2.1", "not on a link"),
    ),
    "ipv6-disabled": (
        UPDATES["base"], ("sysctl -qw net.ipv6.conf.eth1.disable_ipv6=1",), ("fd01::2",),
    ),
    "foreign-route": (
        UPDATES["base"], ("ip route add 203.0.113.0/24 via 10.0.0.9 table 102",), ("table 102", "another"),
    ),
    "foreign-route6": (
        UPDATES["base"], ("ip -6 route add 2001:db8::/64 via fd00::9 table 102",), ("table 102", "another"),
    ),
    "foreign-default-route": (
        UPDATES["base"], ("ip route add default via 10.0.0.9 table 101",), ("table 101", "another"),
    ),
    "foreign-unreachable-route": (
        UPDATES["base"], ("ip route add unreachable default metric 4294967295 table 101",), ("table 101", "another"),
    ),
    "foreign-rule-same-place": (
        UPDATES["base"], ("ip rule add fwmark 0x2/0xff table 300 priority 1000",), ("rule", "1000", "priority"),
    ),
    "foreign-rule6-same-place": (
        UPDATES["base"], ("ip -6 rule add fwmark 0x2/0xff table 300 priority 1000",), ("ip -6 rule", "1000"),
    ),
    "foreign-rule-our-table": (
        UPDATES["base"], ("ip rule add from 10.9.0.0/16 table 102 priority 77",), ("rule", "table 102", "77"),
    ),
    "foreign-rule-our-table-goto": (
        UPDATES["base"], ("ip rule add fwmark 0x1/0xff goto 32766 priority 1000",), ("rule", "1000"),
    ),
    "foreign-rule-unreachable": (
        UPDATES["base"], ("ip rule add fwmark 0x1/0xff unreachable priority 1000",), ("rule", "1000"),
    ),
    "foreign-nft-table": (
        UPDATES["base"], ("nft add table inet returnpath",), ("table inet returnpath", "not ours"),
    ),
    "foreign-nft-table-comment": (
        UPDATES["base"], ("nft add table inet returnpath '{ comment \"mine\" ; }'",), ("inet returnpath", "not ours"),
    ),
}  # fmt: skip


def hindrance(bench: Bench, text: str, preparation: tuple[str, ...], words: tuple[str, ...]) -> None:
    image = bench.image(text)
    with Machine() as host:
        for line in preparation:
            host.sh(line)
        refused(bench, host, 4, words, *bench.programs.apply(image))
    with Machine() as host:  # the same, beside a policy that is in force
        bench.apply(host, bench.image(policies.path("old", 7, 107, 3)))
        for line in preparation:
            host.sh(line)
            if "inet returnpath" in line:
                return
        refused(bench, host, 4, words, *bench.programs.apply(image))


for _name, _parameters in HINDRANCES.items():
    case(f"bad/kernel/{_name}", *_parameters)(hindrance)


@case("bad/kernel/foreign-nft-table-remove")
def foreign_table_remove(bench: Bench) -> None:
    with Machine() as host:
        host.sh("nft add table inet returnpath; nft add chain inet returnpath theirs")
        refused(bench, host, 4, ("table inet returnpath", "not ours"), *bench.programs.remove())


@case("bad/kernel/ingress-missing")
def ingress_missing(bench: Bench) -> None:
    """A port that is not there yet is no reason to refuse; it is said."""
    image = bench.image(policies.path("a", 1, 101, 1, ingress='["eth0", "usb0"]'))
    with Machine() as host:
        before = snapshot(host)
        require("usb0" in bench.apply(host, image), "it does not say that usb0 is missing")
        bench.firmware(host, "status", "--policy", image)
        bench.remove(host)
        unchanged(host, before, "after remove")

"""The cases of `check` about marks: bits that other programs use, and whole words that they write or look at."""

from __future__ import annotations

import re

import policies
from case import Bench, case, require
from machine import Machine
from preflight import NIXOS_NAT, ROUTER2, check, nft, none, one


@case("preflight/neighbours-of-known-names")
def known_programs(bench: Bench) -> None:
    """What mwan3, Tailscale, kube-proxy and wg-quick install, beside a mask that is free."""
    with Machine() as host:
        host.sh(KNOWN)
        none(check(bench, host, ROUTER2), "0xff")


KNOWN = """
iptables-nft -t mangle -A PREROUTING -m mark --mark 0/0x3f00 -j CONNMARK --restore-mark --nfmask 0x3f00 --ctmask 0x3f00
iptables-nft -t mangle -A PREROUTING -m mark --mark 0/0x3f00 -j MARK --set-xmark 0x100/0x3f00
iptables-nft -t mangle -A PREROUTING -j CONNMARK --save-mark --nfmask 0x3f00 --ctmask 0x3f00
ip rule add fwmark 0x100/0x3f00 table 301 priority 201
iptables-nft -A FORWARD -i tailscale0 -j MARK --set-xmark 0x40000/0xff0000
iptables-nft -A FORWARD -m mark --mark 0x40000/0xff0000 -j ACCEPT
ip rule add fwmark 0x80000/0xff0000 table main priority 521
iptables-nft -t nat -N KUBE-POSTROUTING
iptables-nft -t nat -A POSTROUTING -j KUBE-POSTROUTING
iptables-nft -t nat -A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
iptables-nft -t nat -A KUBE-POSTROUTING -j MARK --xor-mark 0x4000
ip rule add not fwmark 0xca00 table 51820 priority 32764
ip rule add table main suppress_prefixlength 0 priority 32763
nft -f - <<END
table ip wg-quick-wg0 {
  chain premangle {
    type filter hook prerouting priority -150; meta l4proto udp meta mark set ct mark
  }
  chain postmangle {
    type filter hook postrouting priority -150; meta l4proto udp meta mark 0xca00 ct mark set meta mark
  }
}
END
"""


# By the mask of the policy: what is there, and the chains or rules that are named.
COLLISIONS: dict[str, tuple[int, str, tuple[str, ...]]] = {
    "nixos-nat": (
        0xFF,
        NIXOS_NAT,
        ("ip nat nixos-nat-pre: it writes 0x1 ", "ip nat nixos-nat-post: it looks for 0x1 "),
    ),
    "mwan3": (
        0xFF00,
        KNOWN,
        (
            "chain ip mangle PREROUTING: it writes and looks for 0x3f00",
            "ip -4 rule 201: it looks for 0x3f00",
            "chain ip mangle PREROUTING: it writes 0x3f00 of the connection mark",
            "ip -4 rule 32764",
            "chain ip wg-quick-wg0 postmangle",
            "chain ip nat KUBE-POSTROUTING: it writes and looks for 0x4000",
        ),
    ),
    "tailscale": (0xF0000, KNOWN, ("chain ip filter FORWARD: it writes and looks for 0xf0000", "ip -4 rule 521")),
    "nft-bits": (
        0xFF,
        nft("meta mark set meta mark & 0xfffffff0 | 0x3"),
        ("chain inet theirs c: it writes 0xf of the packet",),
    ),
    "nft-constant": (
        0xFF,
        nft("ct mark set 0x80", "type filter hook forward priority 0"),
        ("it writes 0x80 of the connection",),
    ),
    "nft-range": (0xFF, nft("ct mark & 0xff >= 3 counter"), ("it looks for 0xff of the connection",)),
    "nft-vmap": (0xFF, nft("ct mark & 0x7 vmap { 1 : accept, 2 : drop }"), ("it looks for 0x7 of the connection",)),
    "nft-concatenation": (
        0xFF,
        nft("meta mark & 0x3 . ip saddr { 1 . 192.0.2.1, 2 . 192.0.2.2 } counter"),
        ("it looks for 0x3 of the packet",),
    ),
    "nft-nowhere": (
        0xFF,
        "nft add table ip6 x; nft add chain ip6 x y; nft add rule ip6 x y meta mark set 0x11",
        ("chain ip6 x y: it writes 0x11 of the packet",),
    ),
    "connmark": (
        0xFF,
        "iptables-nft -t mangle -A FORWARD -m connmark --mark 0x4/0x4 -j CONNMARK --set-xmark 0x8/0x8",
        ("chain ip mangle FORWARD: it writes and looks for 0xc of the connection",),
    ),
    "tproxy": (
        0xFF,
        "ip6tables-nft -t mangle -A PREROUTING -p tcp -j TPROXY --on-port 80 --tproxy-mark 0x1/0x1",
        ("chain ip6 mangle PREROUTING: it writes 0x1 of the packet",),
    ),
    "ip-rule": (0xFF, "ip rule add fwmark 0x1 table 300 priority 2000", ("ip -4 rule 2000: it looks for 0x1",)),
    "ip-rule6": (
        0xFF,
        "ip -6 rule add fwmark 0x10/0xf0 table 300 priority 2000",
        ("ip -6 rule 2000: it looks for 0xf0",),
    ),
}


def with_mask(mask: int) -> str:
    step = mask & -mask
    return f"mark_mask = {mask:#x}\n" + policies.path("router2", 2 * step if mask & 2 * step else step, 200, 2)


def collision(bench: Bench, mask: int, setup: str, expected: tuple[str, ...]) -> None:
    with Machine() as host:
        host.sh(setup)
        found = [each["line"] for each in check(bench, host, with_mask(mask)) if each["code"] == "mark-bits"]
        for words in expected:
            require(sum(words in line for line in found) == 1, f"not said once: {words}: {found}")
        if len(expected) != len(found):
            require(False, f"more was said than that: {found}")
        suggested = {int(re.findall(r"mark_mask = (0x[0-9a-f]+)", line)[0], 16) for line in found}
        require(len(suggested) == 1, f"several masks are suggested: {suggested}")
        left = check(bench, host, with_mask(suggested.pop()))
        # Who writes a whole mark after us is another matter.
        none([each for each in left if each["code"] != "mark-whole" or setup == NIXOS_NAT], "with the suggested mask")


for _name, _parameters in COLLISIONS.items():
    case(f"preflight/mark-bits/{_name}", *_parameters)(collision)


@case("preflight/mark-bits/none-is-free")
def no_mask(bench: Bench) -> None:
    with Machine() as host:
        host.sh(nft("meta mark & 0x7fffffff == 0x1 counter"))
        one(check(bench, host, with_mask(0xFF)), "mark-bits", "take `mark_mask = 0x80000000`")
        many = "mark_mask = 0xff\n" + "".join(policies.path(name, n + 1, 200 + n, n + 1) for n, name in enumerate("ab"))
        one(check(bench, host, many), "mark-bits", "no bits are free")


# What writes or looks at a whole mark, and the same with a mask.
WHOLE: dict[str, tuple[str, str, str]] = {
    "save": (
        "iptables-nft -t mangle -A PREROUTING -j CONNMARK --save-mark",
        "iptables-nft -t mangle -A PREROUTING -j CONNMARK --save-mark --nfmask 0xff00 --ctmask 0xff00",
        "chain ip mangle PREROUTING: it writes the whole connection mark",
    ),
    "restore": (
        "iptables-nft -t mangle -A OUTPUT -j CONNMARK --restore-mark",
        "iptables-nft -t mangle -A OUTPUT -j CONNMARK --restore-mark --nfmask 0xff00 --ctmask 0xff00",
        "chain ip mangle OUTPUT: it writes the whole packet mark",
    ),
    "restore-by-a-chain": (
        "iptables-nft -t mangle -N X; iptables-nft -t mangle -N Y; iptables-nft -t mangle -A OUTPUT -j X;"
        "iptables-nft -t mangle -A X -g Y; iptables-nft -t mangle -A Y -j MARK --set-mark 0x100",
        "iptables-nft -t mangle -N X; iptables-nft -t mangle -A PREROUTING -j X;"  # before ours
        "iptables-nft -t mangle -A X -j MARK --set-mark 0x100",
        "chain ip mangle Y: it writes the whole packet mark",
    ),
    "nft": (
        nft("ct mark set meta mark"),
        nft("ct mark & 0xff == 0 ct mark set meta mark"),
        "the whole connection mark",
    ),
    "unmarked": (
        nft("ct mark 0 counter"),
        nft("ct mark & 0xff00 == 0 counter"),
        "it looks at the whole connection mark",
    ),
}


def whole(bench: Bench, wrong: str, right: str, words: str) -> None:
    with Machine() as host:
        host.sh(wrong)
        one(check(bench, host, ROUTER2), "mark-whole", words, "a mask without 0xff")
    with Machine() as host:
        host.sh(right)
        none(check(bench, host, ROUTER2), "with a mask")


for _name, _parameters in WHOLE.items():
    case(f"preflight/mark-whole/{_name}", *_parameters)(whole)


@case("preflight/iptables-legacy")
def legacy(bench: Bench) -> None:
    with Machine() as host:
        host.sh("iptables-legacy -t nat -n -L")
        one(check(bench, host, ROUTER2), "iptables-legacy", "(nat)", "iptables-legacy-save")

"""The policies of the cases, from the address plan of tests/net."""

from __future__ import annotations

from addresses import LAN, MACS, Dual
from lab import LAYOUTS
from policy import Path, Policy

WEB = ("tcp/80",)


def path(router: int, mark: int, table: int, gateways: Dual | tuple[str, ...], **more: object) -> Path:
    return Path(f"router{router}", mark, table, 1000 + mark, WEB, tuple(gateways), (MACS[router],), **more)


def text(*paths: Path) -> str:
    return Policy(paths, tuple(LAN.network)).toml()


IPV4_ONLY = (LAN.host(2).ipv4,)
SEED = text(path(2, 0x2, 200, IPV4_ONLY))
OTHER = text(path(2, 0x3, 201, IPV4_ONLY))  # the same router by another mark and table
TWO_PATHS = LAYOUTS["lan"].policy(LAYOUTS["lan"].second_path()).toml()
LOGGED = SEED + "log = true\n"
BY_PORT = text(path(2, 0x2, 200, IPV4_ONLY, ingress=("eth0",), device="eth0"))
ONLINK = BY_PORT + "onlink = true\n"
ONE_PORT_MISSING = text(
    path(2, 0x2, 200, IPV4_ONLY), path(3, 0x3, 201, (LAN.host(3).ipv4,), ingress=("eth9",), device="eth9")
)


def large(paths: int = 250) -> str:
    """One of many payload sectors: some 110 KB."""
    services = tuple(f"tcp/{port}" for port in range(1000, 1128, 2))
    macs = [tuple(f"52:54:00:01:{number:02x}:{last:02x}" for last in range(16)) for number in range(paths)]
    return text(*(Path(f"p{n}", n + 1, 1000 + n, 1000, services, IPV4_ONLY, macs[n]) for n in range(paths)))

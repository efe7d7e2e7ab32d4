"""A machine for one case: a network namespace and a mount namespace that no name refers to.

They live as long as a descriptor or a process holds them, so nothing is left behind however a case ends.
The case's process is single-threaded and steps into a machine and out of it; what it starts inside stays inside.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import subprocess
import time
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path

import gate

CLONE_NEWNS, CLONE_NEWNET = 0x00020000, 0x40000000
COMMAND_SECONDS = 30
_libc = ctypes.CDLL(None, use_errno=True)

LAN = {"eth0": 0, "eth1": 1, "eth2": 2}  # ports of every machine, and their networks: 10.N.0.0/24, fd0N::/64
TUNNELS = ("wg0", "ppp0")


class CommandFailed(Exception):
    """A command ended with an error; the message holds the command and what it said."""


def setns(descriptor: int, kind: int) -> None:
    if _libc.setns(descriptor, kind):
        error = ctypes.get_errno()
        raise OSError(error, f"setns: {os.strerror(error)}")


def finish(args: list[str] | tuple[str, ...], stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    """Runs a command to its end, whatever that is."""
    return subprocess.run(args, input=stdin, capture_output=True, text=True, timeout=COMMAND_SECONDS, check=False)


def command(*args: str, stdin: str | None = None) -> str:
    done = finish(args, stdin)
    if done.returncode:
        said = (done.stderr or done.stdout).strip()
        raise CommandFailed(f"{' '.join(args[:6])}: exit {done.returncode}: {said}")
    return done.stdout


OWN_IPROUTE2 = """
set -e
mount --make-rprivate /
mount -t tmpfs none /mnt
cp -a /etc/iproute2/. /mnt
mount --move /mnt /etc/iproute2
rm -f /etc/iproute2/rt_tables.d/returnpath.conf*
"""


class Machine:
    """Its ports: three of Ethernet, two of tunnels; more with `ports` and `tunnels`. The same MACs every time."""

    def __init__(self, ports: tuple[str, ...] = (), tunnels: tuple[str, ...] = (), routers: bool = True) -> None:
        self._make_namespaces()
        self._ethernet = {*LAN, *ports}
        self._ethernet |= {f"peer{number}" for number in range(len(self._ethernet))}
        lines = ["link set lo up"]
        for number, port in enumerate([*LAN, *ports]):
            lines += [
                f"link add {port} address 02:00:00:00:00:{number:02x} type veth"
                f" peer name peer{number} address 02:00:00:00:01:{number:02x}",
                f"addr add 10.{number}.0.10/24 dev {port}",
                f"addr add fd{number:02x}::10/64 dev {port} nodad",
                f"link set peer{number} up",
                f"link set {port} up",
            ]
        for tunnel in [*TUNNELS, *tunnels]:
            lines += [f"tuntap add {tunnel} mode tun", f"link set {tunnel} addrgenmode none up"]
        if routers:
            lines += ["route add default via 10.0.0.1", "-6 route add default via fd00::1"]
        with self.inside():
            for scope in ("all", "default"):
                Path(f"/proc/sys/net/ipv6/conf/{scope}/accept_dad").write_text("0\n")
            self.batch(*lines)
        self.settle()

    @property
    def descriptor(self) -> int:
        """Of its network namespace; `ip` takes it as /proc/PID/fd/N."""
        return self._net

    def settle(self, ethernet: Iterable[str] = ()) -> None:
        """Waits until IPv6 has done what it does by itself once a port has carrier: addresses, and their routes."""
        wanted_ports = set(ethernet) or self._ethernet
        deadline = time.monotonic() + 20  # a loaded machine
        while True:
            ports = json.loads(self.run("ip", "-j", "-6", "address", "show", "up"))
            routes = self.run("ip", "-6", "route", "show", "table", "local")
            wanted = [(port["ifname"], each["local"]) for port in ports for each in port.get("addr_info", ())]
            missing = [(port, each) for port, each in wanted if f"local {each} dev {port} " not in routes]
            link_local = {port for port, each in wanted if each.startswith("fe80:")}
            if not missing and link_local >= wanted_ports:
                return
            if time.monotonic() > deadline:
                raise RuntimeError(f"IPv6 does not settle: {wanted}\n{routes}")
            time.sleep(0.01)

    def _make_namespaces(self) -> None:
        told, tell = os.pipe()
        heard, hear = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                gate.die_with_parent()
                os.close(hear)
                if _libc.unshare(CLONE_NEWNS | CLONE_NEWNET):
                    raise OSError(ctypes.get_errno(), "unshare")
                subprocess.run(["sh", "-c", OWN_IPROUTE2], check=True)
                os.write(tell, b"x")
                os.read(heard, 1)
            finally:
                os._exit(0)
        os.close(tell)
        os.close(heard)
        try:
            if os.read(told, 1) != b"x":
                raise RuntimeError("no namespaces: mount or unshare failed")
            self._net = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            self._mounts = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        finally:
            os.close(told)
            os.close(hear)
            os.waitpid(pid, 0)

    @contextlib.contextmanager
    def inside(self, mounts: bool = True) -> Iterator[None]:
        """Steps into it; without `mounts`, files are those of the real machine (iproute2 knows none of our names)."""
        here = [(os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC), CLONE_NEWNET)]
        if mounts:
            here.append((os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC), CLONE_NEWNS))
        try:
            setns(self._net, CLONE_NEWNET)
            if mounts:
                setns(self._mounts, CLONE_NEWNS)
            yield
        finally:
            for descriptor, kind in here:
                setns(descriptor, kind)
                os.close(descriptor)

    def finish(self, *args: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        with self.inside():
            return finish(args, stdin)

    def run(self, *args: str, stdin: str | None = None) -> str:
        with self.inside():
            return command(*args, stdin=stdin)

    def sh(self, script: str) -> str:
        return self.run("sh", "-e", "-c", script)

    def batch(self, *lines: str) -> None:
        """Runs `ip` commands in one process; those that begin with -6 in another, after it."""
        for option, mine in (
            ("-4", [line for line in lines if not line.startswith("-6 ")]),
            ("-6", [line[3:] for line in lines if line.startswith("-6 ")]),
        ):
            if mine:
                family = [] if option == "-4" else ["-6"]
                self.run("ip", *family, "-batch", "-", stdin="".join(f"{line}\n" for line in mine))

    def sysctl(self, name: str, value: int) -> None:
        with self.inside():
            Path("/proc/sys/net", name).write_text(f"{value}\n")

    def read_sysctl(self, name: str) -> str:
        with self.inside():
            return Path("/proc/sys/net", name).read_text().strip()

    def gated(self, args: list[str], calls: list[str], judge, seconds: float = 30) -> gate.Done:  # noqa: ANN001
        with self.inside():
            return gate.run(args, calls, judge, seconds)

    def close(self) -> None:
        os.close(self._net)
        os.close(self._mounts)

    def __enter__(self) -> Machine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def for_policy(text: str) -> Machine:
    """A machine on which every path of a policy can be installed: its ports exist, its gateways are on them."""
    paths = tomllib.loads(text).get("paths", {}).values()
    ports: dict[str, None] = {}
    tunnels: dict[str, None] = {}
    for path in paths:
        if "device" in path:
            (ports if path.get("gateways") else tunnels)[path["device"]] = None
    for path in paths:
        ports |= dict.fromkeys(path.get("ingress", ()))
    known = {*LAN, *TUNNELS}
    machine = Machine(
        tuple(port for port in ports if port not in known and port not in tunnels),
        tuple(tunnel for tunnel in tunnels if tunnel not in known),
    )
    lines: dict[str, None] = {}
    for number, path in enumerate(paths):
        port = path.get("device", "eth0")
        if "auto" in path.get("source_macs", ()):
            for gateway in path["gateways"]:
                lines[f"neigh replace {gateway} lladdr 02:00:00:00:02:{number:02x} dev {port} nud permanent"] = None
        for gateway in path.get("gateways", ()):
            if gateway.startswith("fe80") or path.get("onlink"):
                continue
            if ":" in gateway:
                lines[f"addr replace {gateway.rsplit(':', 1)[0]}:feed/64 dev {port} nodad"] = None
            else:
                lines[f"addr replace {gateway.rsplit('.', 1)[0]}.250/24 dev {port}"] = None
    if lines:
        machine.batch(*lines)
        machine.settle()
    return machine


# What a machine holds.

# Counters that run by themselves, and keys that the kernel draws for each namespace.
VOLATILE = ("nf_conntrack_count", "tcp_fastopen_key", "stable_secret", "nf_conntrack_buckets")


def sysctls() -> dict[str, str]:
    """Every file below /proc/sys/net of the namespace that the caller is in."""
    found = {}
    for folder, _, names in os.walk("/proc/sys/net"):
        for name in names:
            if name in VOLATILE:
                continue
            path = f"{folder}/{name}"
            try:
                descriptor = os.open(path, os.O_RDONLY)
            except OSError:
                continue  # only to be written, as route/flush
            try:
                found[path] = os.read(descriptor, 4096).decode()
            except OSError as error:
                found[path] = f"errno {error.errno}"
            finally:
                os.close(descriptor)
    return found


IP_LISTS = "rule show\nroute show table all\n"


def kernel_routes_last(listed: str) -> str:
    """The kernel's own IPv6 routes come as ports get their carrier, in no certain order."""
    lines = listed.splitlines()
    own = [line for line in lines if " proto kernel " in line and not line[0].isdigit()]
    return "\n".join([line for line in lines if line not in own] + sorted(own))


def snapshot(machine: Machine, with_sysctls: bool = True, json: bool = False) -> dict[str, str]:
    """All that returnpath could have changed, as text, by the name of the command that shows it."""
    with machine.inside(mounts=False):
        state = {
            "ip -d rule; ip -d route show table all": command("ip", "-4", "-d", "-batch", "-", stdin=IP_LISTS),
            "ip -6 -d rule; ip -6 -d route show table all": kernel_routes_last(
                command("ip", "-6", "-d", "-batch", "-", stdin=IP_LISTS)
            ),
            "nft list ruleset": command("nft", "list", "ruleset"),
        }
        if json:
            state["nft -j list ruleset"] = command("nft", "-j", "list", "ruleset")
        if with_sysctls:
            state |= sysctls()
    return state


def difference(expected: dict[str, str], found: dict[str, str]) -> str:
    """The first differing lines; empty where there are none."""
    lines = []
    for name in [*expected, *(name for name in found if name not in expected)]:
        left, right = expected.get(name), found.get(name)
        if left == right:
            continue
        if left is None or right is None:
            lines.append(f"{name}: only {'before' if right is None else 'after'}")
            continue
        before, after = left.splitlines(), right.splitlines()
        only_left = [f"-{line}" for line in before if line not in after]
        only_right = [f"+{line}" for line in after if line not in before]
        changed = only_left + only_right or ["the same lines in another order"]
        lines += [f"{name}: {line.strip()}" for line in changed[:8]]
    return "\n".join(lines[:20])


class Programs:
    """The two programs under test."""

    def __init__(self, firmware: str, board: str) -> None:
        self.firmware, self.board = firmware, board

    def compile(self, text: str, folder: Path, name: str = "policy") -> str:
        source, image = folder / f"{name}.toml", folder / f"{name}.bin"
        source.write_text(text)
        command(self.board, "compile", str(source), "-o", str(image))
        return str(image)

    def apply(self, image: str) -> list[str]:
        return [self.firmware, "apply", "--policy", image]

    def status(self, image: str) -> list[str]:
        return [self.firmware, "status", "--policy", image]

    def remove(self) -> list[str]:
        return [self.firmware, "remove"]


def missing_packages() -> list[str]:
    packages = {
        "conntrack": "conntrack",
        "ip": "iproute2",
        "iptables-legacy": "iptables",
        "iptables-nft": "iptables",
        "mount": "mount",
        "nft": "nftables",
        "ping": "iputils-ping",
        "setpriv": "util-linux",
        "sh": "dash",
        "sysctl": "procps",
    }
    return sorted({package for tool, package in packages.items() if not shutil.which(tool)})

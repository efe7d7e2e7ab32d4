"""What `status` and `watch` say, against what the kernel's own tools say and what was sent."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import signal
import socket
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import gate
from case import Bench, case, require, until
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
GET_NEIGHBOUR, GET_CONNECTIONS = 30, 0x101
WATCHING = 7  # the groups of a socket that hears of connections


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


def status(bench: Bench, host: Machine, image: str, code: int = 0) -> tuple[str, dict]:
    """Its text and its JSON."""
    said = []
    for options in ((), ("--json",)):
        done = host.finish(*bench.programs.status(image), *options)
        require(done.returncode == code, f"status {options}: exit {done.returncode}: {done.stdout}{done.stderr}")
        said.append(done.stdout)
    return said[0], json.loads(said[1])


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


def columns(text: str, head: str) -> dict[str, list[str]]:
    """The rows of a table, by their first word."""
    lines = text.split(head)[1].split("\n\n")[0].splitlines()[1:]
    return {line.split()[0]: line.split()[1:] for line in lines}


@case("report/status-of-a-healthy-host")
def healthy(bench: Bench) -> None:
    image = bench.image(POLICY)
    with Network() as network:
        host = network.host
        bench.apply(host, image)
        network.tcp()
        network.tcp(HOST[1])
        network.udp()
        network.echo(4)
        network.echo(6)
        for port, mark in ((1, 0x3), (2, 0xAB03), (3, 0x4), (4, 0)):  # two of the other path, two of none
            ends = ["-s", "192.0.2.1", "-d", "192.0.2.2", "--sport", str(port), "--dport", "7"]
            host.run("conntrack", "-I", "-p", "udp", "-t", "60", *ends, "-m", str(mark))
        text, found = status(bench, host, image)
        require(text.endswith(f"the kernel is as {image} has it: 2 paths\n"), text)
        require(all(len(line) <= 80 for line in text.splitlines()[:-1]), text)
        require(not host.finish(*bench.programs.status(image)).stderr, "it complains")
        require(found["in_force"] and not found["differences"] and not found["notes"], found)

        router2, other = found["paths"]
        tracked = host.run("conntrack", "-L", "--mark", "2/255").splitlines()
        require(
            (router2["connections_live"], other["connections_live"]) == (len(tracked), 2) == (5, 2), (text, tracked)
        )
        neighbours = {each["dst"]: each for each in json.loads(host.run("ip", "-j", "neigh"))}
        for hop, gateway in zip(router2["next_hops"], ROUTER, strict=True):
            known = neighbours[gateway]
            shown = (hop["gateway"], hop["device"], hop["mac"])
            require(shown == (gateway, known["dev"], known["lladdr"]) == (gateway, "eth0", MAC), f"{hop}; {known}")
            require(hop["state"] in ("REACHABLE", "DELAY", "STALE", "PROBE"), hop)
        hop = other["next_hops"][0]
        require((hop["device"], hop["mac"], hop["state"]) == ("eth1", None, None), hop)
        counted = nft_counters(host)
        for path in found["paths"]:
            shown = {"new": path["connections_taken"], **{name: path[name] for name in ("in", "back", "astray")}}
            for name, number in shown.items():
                known = counted[f"{name}_{path['name']}"]
                known = known[0] if name == "new" else {"packets": known[0], "bytes": known[1]}
                require(number == known, f"{name} of {path['name']}: {number}, and nft says {known}")
        require(router2["connections_taken"] == 5 and other["connections_taken"] == 0, text)
        require(router2["in"]["bytes"] > 2100 and router2["back"]["bytes"] > 6300, text)  # what was sent, and headers
        require(router2["astray"] == other["in"] == {"packets": 0, "bytes": 0}, text)
        rows = columns(text, "MARK  TABLE")
        numbers = [
            router2["in"]["packets"],
            router2["in"]["bytes"],
            router2["back"]["packets"],
            router2["back"]["bytes"],
        ]
        require(rows["router2"] == ["0x2", "200", "1000", "5", "5", *map(str, numbers), "0"], text)
        hops = columns(text, "NEXT HOP")
        require(hops["router2"][:3] == [ROUTER[0], "eth0", MAC] and hops[ROUTER[1]][:2] == ["eth0", MAC], text)


def nft_counters(host: Machine) -> dict[str, tuple[int, int]]:
    listed = json.loads(host.run("nft", "-j", "list", "counters", "table", "inet", "returnpath"))["nftables"]
    found = [each["counter"] for each in listed if "counter" in each]
    return {each["name"]: (each["packets"], each["bytes"]) for each in found}


@case("report/status-tells-what-goes-astray")
def astray(bench: Bench) -> None:
    """The rule is taken away under a connection: its answers are counted where they go, and the rule is named."""
    image = bench.image(POLICY)
    with Network() as network, network.host.inside():
        host = network.host
        bench.apply(host, image)
        server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        server.bind((HOST[0], 53))
        server.settimeout(10)
        with network.far.inside():
            caller = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with server, caller:
            caller.bind((CLIENT[0], 0))
            caller.sendto(b"question", (HOST[0], 53))
            _, client = server.recvfrom(64)
            server.sendto(b"answer", client)
            path = status(bench, host, image)[1]["paths"][0]
            require((path["back"]["packets"], path["astray"]["packets"]) == (1, 0), path)
            host.sh("ip -4 rule del fwmark 0x2/0xff; ip neigh replace 10.0.0.1 lladdr 02:00:00:00:00:fe dev eth0")
            for _ in range(3):
                server.sendto(b"answer", client)
            text, found = status(bench, host, image, 5)
            path = found["paths"][0]
            require((path["back"]["packets"], path["astray"]["packets"]) == (1, 3), path)
            require(columns(text, "MARK  TABLE")["router2"][-1] == "3", text)


@case("report/status-beside-a-guard")
def beside_a_guard(bench: Bench) -> None:
    image = bench.image(POLICY)
    with Machine() as host:
        with host.inside():
            guard = subprocess.Popen([bench.programs.firmware, "guard", "--policy", image], stderr=subprocess.DEVNULL)
        try:
            ask = [*bench.programs.status(image), "--json"]
            until(lambda: host.finish(*ask).returncode == 0, "the guard to begin", lambda: "")
            text, found = status(bench, host, image)
            require(found["guarded"] and "\na guard is at work" in text, text)
        finally:
            guard.kill()
            guard.wait()
        text, found = status(bench, host, image)
        require(not found["guarded"] and "guard" not in text, text)


@case("report/status-of-a-trial")
def on_trial(bench: Bench) -> None:
    image = bench.image(POLICY)
    with Machine() as host:
        bench.firmware(host, "apply", "--confirm", "300", "--policy", image)
        text, found = status(bench, host, image)
        require(found["in_force"] and 200 < found["seconds_on_trial"] <= 300, found)
        require(
            re.search("\\non trial: it is taken back in [23]\\d\\d s; keep it with `returnpath confirm`\\n", text), text
        )
        bench.firmware(host, "confirm")
        text, found = status(bench, host, image)
        require(found["seconds_on_trial"] is None and "trial" not in text, text)


@case("report/status-keys-are-in-the-manual")
def status_keys(bench: Bench) -> None:
    image = bench.image(POLICY)
    with Machine() as host:
        bench.apply(host, image)
        host.sh("ip -4 rule del fwmark 0x3/0xff")
        done = host.gated([*bench.programs.status(image), "--json"], ["sendto", "sendmsg"], refusing(GET_CONNECTIONS))
        require(done.code == 5, done)
        found = set(keys(json.loads(done.stdout)))
        require(found == documented("status"), f"differ: {found ^ documented('status')}")


def refusing(kind: int) -> Callable[[gate.Call], gate.Refuse | None]:
    def judge(call: gate.Call) -> gate.Refuse | None:
        refused = any(found == kind for found, _ in gate.messages(call.data()))
        return gate.Refuse(errno.EPERM) if refused else None

    return judge


@case("report/status-without-a-part", GET_CONNECTIONS, "connections: cannot count them: ")
@case("report/status-without-neighbours", GET_NEIGHBOUR, "neighbour 10.0.0.2 dev eth0: cannot ask for it: ")
def unread(bench: Bench, kind: int, line: str) -> None:
    """What can not be read is missing, and told; the rest is there, and the exit code is what it would be."""
    image = bench.image(POLICY)
    with Network() as network:
        bench.apply(network.host, image)
        network.tcp()
        command = bench.programs.status(image)
        text = network.host.gated(command, ["sendto", "sendmsg"], refusing(kind))
        found = network.host.gated([*command, "--json"], ["sendto", "sendmsg"], refusing(kind))
        require((text.code, found.code, text.stderr) == (0, 0, ""), f"{text}; {found}")
        wanted = f"\n{line}Operation not permitted (os error 1); run it with CAP_NET_ADMIN\n"
        require(wanted in text.stdout, text.stdout)
        path = json.loads(found.stdout)["paths"][0]
        require((path["connections_live"] is None) == (kind == GET_CONNECTIONS), path)
        require((path["next_hops"][0]["mac"] is None) == (kind == GET_NEIGHBOUR), path)
        require(json.loads(found.stdout)["notes"][0].startswith(line), found.stdout)


# What is done to the kernel; the line that tells of it; the command in that line; and what that command shows, or
# with a ! does not show.
DIFFERENCES = {
    "rule-missing": (
        "ip -4 rule del fwmark 0x2/0xff",
        "missing: ip -4 rule add fwmark 0x2/0xff table 200 priority 1000 protocol 82",
        "ip -4 rule", "!fwmark 0x2/0xff",
    ),
    "rule-too-much": (
        "ip -6 rule add fwmark 0x9/0xff table 209 priority 1000 protocol 82",
        "too much: ip -6 rule add fwmark 0x9/0xff table 209 priority 1000 protocol 82",
        "ip -6 rule", "fwmark 0x9/0xff",
    ),
    "rules-in-another-order": (
        "ip -4 rule del fwmark 0x2/0xff; ip -4 rule add fwmark 0x2/0xff table 200 priority 1000 protocol 82",
        "in another order: the rules of ip -4 rule with priority 1000",
        "ip -4 rule", "fwmark 0x3/0xff lookup (201|other) proto 82\\n1000:\\s+from all fwmark 0x2/0xff",
    ),
    "route-missing": (
        "ip -6 route del default table 200",
        "missing: ip -6 route add default via fd00::2 dev eth0 table 200 protocol 82",
        "ip -6 route show table 200", "!via fd00::2",
    ),
    "route-differs": (
        "ip -4 route replace default via 10.0.0.3 table 200 protocol 82",
        "differs: ip -4 route add default via 10.0.0.3 dev eth0 table 200 protocol 82; should be: "
        "ip -4 route add default via 10.0.0.2 dev eth0 table 200 protocol 82",
        "ip -4 route show table 200", "via 10.0.0.3",
    ),
    "route-too-much": (
        "ip -4 route add default via 10.2.0.2 table 209 protocol 82",
        "too much: ip -4 route add default via 10.2.0.2 dev eth2 table 209 protocol 82",
        "ip -4 route show table 209", "via 10.2.0.2",
    ),
    "route-of-others": (
        "ip -4 route add 203.0.113.0/24 via 10.0.0.2 table 200",
        "table 200: another program has routes in it, see `ip route show table 200` and `ip -6 route show table 200`; "
        "choose another `table`",
        "ip rule; ip -6 rule; ip route show table all", "203.0.113.0/24 via 10.0.0.2",
    ),
    "table-missing": (
        "nft delete table inet returnpath",
        "missing: table inet returnpath",
        "nft list table inet returnpath", "No such file",
    ),
    "table-dormant": (
        "nft add table inet returnpath '{ flags dormant; }'",
        "table inet returnpath: table returnpath is not as the policy has it",
        "nft list table inet returnpath", "dormant",
    ),
    "chain-empty": (
        "nft flush chain inet returnpath take_router2",
        "table inet returnpath: content of chain take_router2 is missing",
        "nft list chain inet returnpath take_router2", "chain take_router2 {\\s*}",
    ),
    "chain-missing": (
        "nft flush chain inet returnpath output; nft delete chain inet returnpath output",
        "table inet returnpath: chain output is missing",
        "nft list chain inet returnpath output", "No such file",
    ),
    "chain-differs": (
        "nft insert rule inet returnpath prerouting accept",
        "table inet returnpath: content of chain prerouting is not as the policy has it",
        "nft list chain inet returnpath prerouting", "accept\\s+meta mark",
    ),
    "chain-too-much": (
        "nft add chain inet returnpath guest",
        "table inet returnpath: chain guest is not of the policy",
        "nft list chain inet returnpath guest", "chain guest",
    ),
    "counter-too-much": (
        "nft add counter inet returnpath guests",
        "table inet returnpath: counter guests is not of the policy",
        "nft list counter inet returnpath guests", "counter guests",
    ),
    "map-empty": (
        "nft flush map inet returnpath macs",
        "table inet returnpath: content of map macs is missing",
        "nft list map inet returnpath macs", f"!{MAC}",
    ),
    "set-too-much": (
        "nft add set inet returnpath guests '{ type ipv4_addr; elements = { 192.0.2.1 }; }'",
        "table inet returnpath: set guests is not of the policy",
        "nft list set inet returnpath guests", "192.0.2.1",
    ),
    "setting": (
        "sysctl -w net.ipv4.fwmark_reflect=0",
        "net/ipv4/fwmark_reflect: is 0, should be 1",
        "sysctl net/ipv4/fwmark_reflect", "= 0",
    ),
}  # fmt: skip


@case("report/status-differences")
def differences(bench: Bench) -> None:
    """Each kind alone: it is told once, in a line, and the command in that line shows it."""
    image = bench.image(POLICY)
    for name, (change, line, command, shown) in DIFFERENCES.items():
        with Machine() as host:
            bench.apply(host, image)
            host.sh(change)
            text, found = status(bench, host, image, 5)
            require(found["differences"] == [{"line": line, "command": command}], f"{name}: {found['differences']}")
            wanted = f"\n\n{line}; see `{command}`\nthe kernel differs from {image}: in 1 respect\n"
            require(text.endswith(wanted) and not found["in_force"], f"{name}: {text}")
            done = host.finish("sh", "-c", command)
            seen = bool(re.search(shown.removeprefix("!"), done.stdout + done.stderr))
            require(seen != shown.startswith("!"), f"{name}: `{command}`: {done.stdout}{done.stderr}")
            if name != "route-of-others":  # what is not ours stays
                bench.apply(host, image)
                status(bench, host, image)


@case("report/status-of-many-connections")
def many_connections(bench: Bench) -> None:
    """All are counted, and none is kept: memory does not grow with them."""
    image = bench.image(POLICY)
    peaks = []
    with Network() as network:
        bench.apply(network.host, image)
        network.far.batch(*(f"addr add 198.51.100.{100 + number}/32 dev lo" for number in range(4)))
        for count in (1, 30000):
            network.datagrams(count)
            peak = 0

            def look(call: gate.Call) -> None:
                nonlocal peak
                peak = int(re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{call.pid}/status").read_text())[1])

            # The last of these calls asks for a neighbour, when the connections have been counted.
            done = network.host.gated([*bench.programs.status(image), "--json"], ["sendto", "sendmsg"], look)
            live = json.loads(done.stdout)["paths"][0]["connections_live"]
            require((done.code, live) == (0, count), f"{live} of {count} connections: {done}")
            peaks.append(peak)
    require(peaks[1] < peaks[0] + 512, f"memory grows with the connections: {peaks} KB")


class Watch:
    """The firmware, watching; lines as they come."""

    def __init__(self, bench: Bench, host: Machine, image: str, *options: str) -> None:
        command = [bench.programs.firmware, "watch", "--policy", image, *options]
        with host.inside():
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for stream in (self.process.stdout, self.process.stderr):
            os.set_blocking(stream.fileno(), False)
        self.lines: list[str] = []
        self.complaints = ""
        self._rest = b""
        mine = re.compile(rf"^\S+ 12 +{self.process.pid} +{WATCHING:08x} ", re.MULTILINE)
        until(lambda: mine.search(host.run("cat", "/proc/net/netlink")), "it to listen", self.hear)

    def hear(self) -> list[str]:
        while chunk := self.process.stdout.read():
            *whole, self._rest = (self._rest + chunk).split(b"\n")
            self.lines += [line.decode() for line in whole]
        self.complaints += (self.process.stderr.read() or b"").decode()
        return self.lines

    def says(self, count: int) -> list[str]:
        """The next lines, once so many are there."""
        until(lambda: len(self.hear()) >= count, f"{count} lines", lambda: "\n".join([*self.lines, self.complaints]))
        lines, self.lines = self.lines, []
        require(len(lines) == count, f"{len(lines)} lines, not {count}: {lines}")
        return lines

    def ends(self) -> int:
        until(lambda: self.process.poll() is not None, "it to end", self.hear)
        self.hear()
        return self.process.returncode


@contextlib.contextmanager
def watching(bench: Bench, host: Machine, image: str, *options: str) -> Iterator[Watch]:
    watch = Watch(bench, host, image, *options)
    try:
        yield watch
    finally:
        if watch.process.poll() is None:
            watch.process.kill()
        watch.process.wait()
        watch.process.stdout.close()
        watch.process.stderr.close()


def words(line: str) -> str:
    return " ".join(line.split())


@case("report/watch")
def watch(bench: Bench) -> None:
    """Each connection once as it comes and once as it ends, with what was really sent; nothing of others."""
    image = bench.image(POLICY)
    with Network() as network:
        host = network.host
        bench.apply(host, image)
        host.sysctl("netfilter/nf_conntrack_acct", 1)
        host.sysctl("netfilter/nf_conntrack_tcp_timeout_time_wait", 1)
        host.run("nft", "-f", "-", stdin="""
table inet others {
  chain nat { type nat hook prerouting priority -100; tcp dport 8080 redirect to :80; }
  chain paint { type filter hook prerouting priority -90; ct state new ct mark set ct mark | 0xab00; }
}""")  # fmt: skip
        with watching(bench, host, image) as text, watching(bench, host, image, "--json") as machine:
            network.conversation(socket.SOCK_STREAM, HOST[0], 81, client=ROUTER[0])  # no service of the policy
            ports = {
                "tcp": network.tcp(),
                "redirected": network.tcp(port=8080, listen=80),
                "tcp6": network.tcp(HOST[1]),
                "udp": network.udp(),
                "udp6": network.udp(HOST[1]),
            }
            network.echo(4)
            network.echo(6)
            network.association(5000, 80)
            wanted = [
                f"tcp {CLIENT[0]}:{ports['tcp']} → {HOST[0]}:80",
                f"tcp {CLIENT[0]}:{ports['redirected']} → {HOST[0]}:8080 ({HOST[0]}:80)",
                f"tcp [{CLIENT[1]}]:{ports['tcp6']} → [{HOST[1]}]:80",
                f"udp {CLIENT[0]}:{ports['udp']} → {HOST[0]}:53",
                f"udp [{CLIENT[1]}]:{ports['udp6']} → [{HOST[1]}]:53",
                f"icmp {CLIENT[0]} → {HOST[0]}",
                f"icmpv6 {CLIENT[1]} → {HOST[1]}",
                f"sctp {CLIENT[0]}:5000 → {HOST[0]}:80",
            ]
            lines = text.says(len(wanted))
            require([words(line) for line in lines] == [f"taken router2 {each}" for each in wanted], lines)
            require(len({line.index("→") for line in lines if "[" not in line}) == 1, f"not aligned: {lines}")
            taken = [json.loads(line) for line in machine.says(len(wanted))]

            def closed() -> bool:
                return all("TIME_WAIT" in line for line in host.run("conntrack", "-L", "-p", "tcp").splitlines())

            until(closed, "TCP to be over", lambda: host.run("conntrack", "-L"))
            for family in ("ipv4", "ipv6"):
                host.finish("conntrack", "-D", "-f", family)
            ended = [json.loads(line) for line in machine.says(len(wanted))]
            lines = [words(line) for line in text.says(len(wanted))]
            for event, line in zip(ended, lines, strict=True):
                place = [each for each in wanted if line.startswith(f"ended router2 {each} sent: ")]
                require(len(place) == 1, f"{line}: of none of {wanted}")
                sent, answered = event["sent"], event["answered"]
                amounts = [f"packets {each['packets']} bytes {each['bytes']}" for each in (sent, answered)]
                require(line == f"ended router2 {place[0]} sent: {amounts[0]}; answered: {amounts[1]}", line)
                amount = {"tcp": (1000, 3000), "udp": (100, 300)}.get(event["protocol"])
                if amount:  # headers beside it: of IP, and of TCP with its options or of UDP
                    for payload, seen in zip(amount, (sent, answered), strict=True):
                        header = 40 if ":" in event["source"]["address"] else 20
                        least, most = (8, 8) if event["protocol"] == "udp" else (20, 60)
                        good = [payload + seen["packets"] * (header + each) for each in (least, most)]
                        require(good[0] <= seen["bytes"] <= good[1], f"{payload} bytes sent; {event}")
            for one, other in zip(sorted(map(key, taken)), sorted(map(key, ended)), strict=True):
                require(one == other, f"{one} was taken, {other} ended")
            lost = {"version", "event", "events"}
            found = {each for event in taken + ended for each in keys(event)}
            require(found | lost == documented("watch"), f"differ: {found ^ documented('watch')}")
            require("nf_conntrack_acct" not in text.complaints, text.complaints)


def key(event: dict) -> str:
    """What an event says of a connection, but for what was counted."""
    require((event["version"], event["path"], event["mark"]) == (1, "router2", 2), event)
    return str({name: event[name] for name in ("protocol", "source", "destination", "answering")})


@case("report/watch-marked-later")
def marked_later(bench: Bench) -> None:
    """A connection that was there before the policy is told of when it takes the path, and once."""
    image = bench.image(POLICY)
    with Network() as network:
        host = network.host
        host.run("nft", "add table inet track; add chain inet track x { type filter hook prerouting priority 0; }; "
                 "add rule inet track x ct state new accept")  # fmt: skip
        with watching(bench, host, image) as watch, host.inside():
            server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            server.bind((HOST[0], 53))
            server.settimeout(10)
            with network.far.inside():
                caller = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            with server, caller:
                caller.bind((CLIENT[0], 0))
                caller.connect((HOST[0], 53))
                caller.send(b"before")
                server.recv(64)
                bench.apply(host, image)
                for number in range(3):
                    caller.send(b"after")
                    _, client = server.recvfrom(64)
                    if number:
                        server.sendto(b"answer", client)
                network.udp(HOST[1])
                lines = [words(line) for line in watch.says(2)]
                require(lines[0] == f"taken router2 udp {CLIENT[0]}:{client[1]} → {HOST[0]}:53", lines)


@case("report/watch-without-accounting")
def without_accounting(bench: Bench) -> None:
    """It is said once, with a remedy that helps."""
    image = bench.image(POLICY)
    with Network() as network:
        host = network.host
        bench.apply(host, image)
        host.sysctl("netfilter/nf_conntrack_acct", 0)
        with watching(bench, host, image) as watch:
            network.udp()
            network.udp(HOST[1])
            lines = watch.says(2)
            until(lambda: "acct" in watch.complaints or watch.hear() is None, "the warning", watch.hear)
            require(watch.complaints.count("nf_conntrack_acct is 0") == 1, watch.complaints)
            remedy = re.search("`(sysctl [^`]*)`", watch.complaints)[1]
            require(host.read_sysctl("netfilter/nf_conntrack_acct") == "0", "it was changed")
            host.sh(remedy)
            network.echo(4)
            lines = watch.says(1)
            for family in ("ipv4", "ipv6"):
                host.finish("conntrack", "-D", "-f", family)
            lines = sorted(watch.says(3))
            require([" sent: " in line for line in lines] == ["icmp" in line for line in lines], lines)


@case("report/watch-ends")
def watch_ends(bench: Bench) -> None:
    """Quietly: when its reader has gone, though nothing happens, and when it is interrupted."""
    image = bench.image(POLICY)
    with Machine() as host:
        bench.apply(host, image)
        host.sysctl("netfilter/nf_conntrack_acct", 1)
        for name, end in {
            "reader": lambda watch: watch.process.stdout.close(),
            "interrupt": lambda watch: watch.process.send_signal(signal.SIGINT),
        }.items():
            with watching(bench, host, image) as watch:
                until(lambda: watch.hear() is not None and watch.complaints, "its first word", lambda: "")
                before, told = watch.complaints, watch.process.stderr
                end(watch)
                until(lambda: watch.process.poll() is not None, f"it to end: {name}", lambda: "")
                code, said = watch.process.returncode, (told.read() or b"").decode()
                require((code, said) == (-signal.SIGINT if name == "interrupt" else 0, ""), f"{name}: {code}: {said}")
                require(before.count("\n") == 1, before)


@case("report/watch-a-flood")
def flood(bench: Bench) -> None:
    """More than its socket holds: what is lost is told, nothing else is, and it goes on."""
    image = bench.image(POLICY)
    count = 60000
    with Network() as network:
        bench.apply(network.host, image)
        network.far.batch(*(f"addr add 198.51.100.{100 + number}/32 dev lo" for number in range(4)))
        with watching(bench, network.host, image, "--json") as watch:
            watch.process.send_signal(signal.SIGSTOP)
            network.datagrams(count)
            watch.process.send_signal(signal.SIGCONT)
            events: list[dict] = []

            def all_there() -> bool:
                watch.hear()
                events.extend(json.loads(line) for line in watch.lines)
                watch.lines = []
                return sum(event.get("events", 1) for event in events) >= count

            until(all_there, f"{count} events", lambda: f"{len(events)} lines, the last {events[-1:]}")
            lost = [event for event in events if event["event"] == "lost"]
            require(lost and sum(event.get("events", 1) for event in events) == count, f"{len(events)} lines; {lost}")
            require(all(set(event) == {"version", "event", "events"} for event in lost), lost)
            network.udp(HOST[1])
            require(json.loads(watch.says(1)[0])["source"]["address"] == CLIENT[1], "it does not go on")

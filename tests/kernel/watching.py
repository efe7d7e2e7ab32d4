"""What `watch` says, against what was sent."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
from collections.abc import Iterator

from case import Bench, case, require, until
from machine import Machine
from network import CLIENT, HOST, POLICY, ROUTER, Network, applied, asking, documented, keys

WATCHING = 7  # the groups of a socket that hears of connections


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
    settings = {"nf_conntrack_acct": 1, "nf_conntrack_tcp_timeout_time_wait": 1}
    with applied(bench, **settings) as (network, image):
        host = network.host
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
        with watching(bench, host, image) as watch, asking(network) as (caller, server):
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
    with applied(bench, nf_conntrack_acct=0) as (network, image):
        host = network.host
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
    count = 60000
    with applied(bench) as (network, image):
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

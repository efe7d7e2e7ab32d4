"""The boot stage, started by another init: what can not be used yet is installed as soon as it can.

As PID 1 and with real disks it is tested in virtual machines (tests/vm); here, each thing that may come late by itself.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

from case import Bench, case, require, same, until
from machine import Machine, snapshot

LAN = """
[paths.router2]
mark = 0x2
table = 200
gateways = ["10.0.0.2", "fd00::2"]
source_macs = ["52:54:00:c2:a5:43"]
"""
LATE = """
[paths.late]
mark = 0x3
table = 300
gateways = ["10.7.0.2"]
ingress = ["eth7"]
device = "eth7"
"""
ONLINK = LATE.replace('"eth7"', '"eth1"') + "onlink = true\n"
IN_ROUTER2 = "default via 10.0.0.2 dev eth0"


class Stage:
    """A machine with a board, a kernel command line and a kernel log of its own."""

    def __init__(self, bench: Bench, host: Machine, *policies: str, options: str = "") -> None:
        self.bench, self.host = bench, host
        self.board = bench.board(*policies)
        line = bench.folder / "cmdline"
        line.write_text(f"quiet returnpath.board={self.board} returnpath.timeout=2 {options}\n")
        pipe = bench.folder / "kmsg"
        os.mkfifo(pipe)
        host.sh(f"mount --bind {line} /proc/cmdline; mount --bind {pipe} /dev/kmsg")
        self._log = os.open(pipe, os.O_RDWR | os.O_NONBLOCK)  # also to be written, so that nobody ever waits for us
        self.said = ""

    def init(self, code: int = 0) -> str:
        """Runs the stage; returns what it said in the kernel log so far."""
        done = self.host.finish(self.bench.programs.firmware, "init")
        require(done.returncode == code, f"init: exit {done.returncode}, not {code}: {self.log()}{done.stderr}")
        return self.log()

    def log(self) -> str:
        with contextlib.suppress(BlockingIOError):
            while True:
                self.said += os.read(self._log, 65536).decode()
        return self.said

    def says(self, words: str) -> None:
        self.until(lambda: words in self.log(), f"the log to say `{words}`")

    def until(self, condition: Callable[[], bool], what: str) -> None:
        until(condition, what, self.log)

    def table(self, number: int, family: int = 4) -> str:
        return table(self.host, number, family)

    def waiting(self) -> list[int]:
        """The processes that have stayed behind in this machine."""
        with self.host.inside(mounts=False):
            here = os.stat("/proc/self/ns/net").st_ino
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                is_stage = b"--work" in (process / "cmdline").read_bytes().split(b"\0")
                if is_stage and (process / "ns/net").stat().st_ino == here:
                    found.append(int(process.name))
        return found

    def ends(self) -> None:
        self.until(lambda: not self.waiting(), "the waiting process to end")

    def in_force(self) -> None:
        done = self.host.finish(self.bench.programs.firmware, "status", "--board", self.board)
        require(done.returncode == 0, f"status: exit {done.returncode}: {done.stdout}{done.stderr}")


@contextlib.contextmanager
def stage(bench: Bench, *policies: str, **options: str) -> Iterator[Stage]:
    with Machine(routers=False) as host:
        running = Stage(bench, host, *policies, **options)
        yield running
        left = running.waiting()
        require(not left, f"processes {left} are still there; the log:\n{running.log()}")


def table(host: Machine, number: int, family: int = 4) -> str:
    return host.finish("ip", f"-{family}", "route", "show", "table", str(number)).stdout


def without_address(host: Machine, port: str) -> None:
    host.batch(f"addr flush dev {port}")


@case("early/in-force-at-once")
def at_once(bench: Bench) -> None:
    with stage(bench, LAN) as boot:
        said = boot.init()
        require("(slot A, serial 1): 1 path; in force" in said, said)
        require("<3>" not in said and "<4>" not in said, said)
        boot.in_force()


@case("early/address-comes-later")
def address_later(bench: Bench) -> None:
    with stage(bench, LAN) as boot:
        without_address(boot.host, "eth0")
        boot.init()
        require(boot.waiting(), f"nothing waits: {boot.log()}")
        require("unreachable default" in boot.table(200) and "via" not in boot.table(200), boot.table(200))
        require("fwmark 0x2/0xff lookup" in boot.host.run("ip", "rule"), "no rule")
        boot.host.batch("addr add 10.0.0.10/24 dev eth0")
        boot.until(lambda: IN_ROUTER2 in boot.table(200), "the IPv4 route")
        require(boot.waiting(), "IPv6 is not waited for")
        boot.host.batch("addr add fd00::10/64 dev eth0 nodad")
        boot.until(lambda: "default via fd00::2 dev eth0" in boot.table(200, 6), "the IPv6 route")
        boot.says("complete")
        require("<3>" not in boot.said and "<4>" not in boot.said, f"it complains: {boot.said}")
        boot.ends()
        boot.in_force()


@case("early/port-is-down")
def port_down(bench: Bench) -> None:
    """A declared port is brought up; another one is left to whoever configures it."""
    with stage(bench, LATE.replace("eth7", "eth1")) as boot:
        boot.host.batch("link set eth1 down", "link set eth2 down")
        without_address(boot.host, "eth1")
        boot.init()
        require("UP" in re.search("<(.*)>", boot.host.run("ip", "link", "show", "eth1"))[1], "eth1 is down")
        require(",UP" not in re.search("<(.*)>", boot.host.run("ip", "link", "show", "eth2"))[1], "eth2 is up")
        boot.host.batch("addr add 10.7.0.10/24 dev eth1")
        boot.until(lambda: "via 10.7.0.2 dev eth1" in boot.table(300), "the route")
        boot.ends()
        boot.in_force()


@case("early/port-turns-up-later")
def port_later(bench: Bench) -> None:
    """The path whose port is there does not wait for the other one."""
    with stage(bench, LAN + LATE) as boot:
        said = boot.init()
        require("<4>" in said and "port eth7" in said, f"it does not say what it waits for: {said}")
        require(IN_ROUTER2 in boot.table(200), "the path whose port is there is not in force")
        boot.host.batch("link add eth7 type veth peer name peer7", "link set peer7 up")
        boot.until(lambda: "UP" in boot.host.run("ip", "link", "show", "eth7"), "the port to be brought up")
        boot.host.batch("addr add 10.7.0.10/24 dev eth7")
        boot.until(lambda: "via 10.7.0.2 dev eth7" in boot.table(300), "the route")
        boot.ends()
        boot.in_force()


@case("early/another-way-is-not-the-link")
def not_the_link(bench: Bench) -> None:
    """A default route by a tunnel reaches every address, and so does a wide one; neither is where the gateway is."""
    with stage(bench, LAN.replace(', "fd00::2"', "") + LATE) as boot:
        without_address(boot.host, "eth0")
        boot.init()
        boot.host.batch("route add default dev ppp0", "route add 10.0.0.0/8 dev ppp0")
        boot.host.batch("link add eth7 type veth peer name peer7", "link set peer7 up")
        boot.until(lambda: ",UP" in boot.host.run("ip", "link", "show", "eth7"), "the port, which came later")
        boot.host.batch("addr add 10.0.0.10/24 dev eth0")
        boot.until(lambda: "via 10.0.0.2" in boot.table(200), "the route")
        require(IN_ROUTER2 in boot.table(200), boot.table(200))
        boot.host.batch("addr add 10.7.0.10/24 dev eth7")
        boot.ends()
        boot.in_force()


@case("early/address-by-dhcp-client")
def by_dhcp_client(bench: Bench) -> None:
    """Some make the route to the port's network themselves."""
    with stage(bench, LAN.replace(', "fd00::2"', "")) as boot:
        without_address(boot.host, "eth0")
        boot.init()
        boot.host.batch("addr add 10.0.0.10/24 dev eth0 noprefixroute")
        boot.host.batch("route add 10.0.0.0/24 dev eth0 proto dhcp scope link src 10.0.0.10")
        boot.until(lambda: IN_ROUTER2 in boot.table(200), "the route")
        boot.ends()


@case("early/one-wrong-gateway")
def wrong_gateway(bench: Bench) -> None:
    """What the kernel will never take holds up no other path, and is told once."""
    wrong = LATE.replace('ingress = ["eth7"]', 'source_macs = ["52:54:00:00:00:07"]')
    wrong = wrong.replace('device = "eth7"', 'device = "eth0"').replace("10.7.0.2", "10.0.0.255")
    with stage(bench, LAN.replace(', "fd00::2"', "") + wrong) as boot:
        without_address(boot.host, "eth0")
        boot.init()
        boot.host.batch("addr add 10.0.0.10/24 dev eth0")
        boot.until(lambda: IN_ROUTER2 in boot.table(200), "the route of the other path")
        boot.says("Nexthop has invalid gateway")
        for number in range(50):
            boot.host.batch(f"route add 192.0.2.{number}/32 dev eth1")
        require(IN_ROUTER2 in boot.table(200), "it has been undone")
        require(boot.log().count("\n") < 20, f"it says too much: {boot.said}")
        for process in boot.waiting():
            os.kill(process, signal.SIGTERM)
        boot.ends()


@case("early/holds-nothing-of-its-caller")
def holds_nothing(bench: Bench) -> None:
    """Its descriptors and its folder would be held for as long as something is awaited."""
    with stage(bench, LAN.replace(', "fd00::2"', "")) as boot:
        without_address(boot.host, "eth0")
        boot.host.run("sh", "-c", f"cd {bench.folder}; exec {bench.programs.firmware} init 7>held 8<held")
        (process,) = boot.waiting()

        def strange() -> list[str]:
            held = [os.readlink(file) for file in Path(f"/proc/{process}/fd").iterdir()]
            return [file for file in held if not file.startswith(("/dev/null", "socket:")) and "kmsg" not in file]

        boot.until(lambda: not strange(), f"it to let go of {strange()}")  # the lock, for a moment
        require(os.readlink(f"/proc/{process}/cwd") == "/", "it holds the folder")
        boot.host.batch("addr add 10.0.0.10/24 dev eth0")
        boot.ends()


@case("early/odd-command-line")
def odd_command_line(bench: Bench) -> None:
    with stage(bench, LAN) as boot:
        line = bench.folder / "cmdline"
        line.write_bytes(b"caf\xe9 " + line.read_bytes())
        boot.init()
        boot.in_force()
        done = boot.host.finish(bench.programs.firmware, "init", "--help")
        require(done.returncode == 2 and "init: `--help`" in done.stderr, f"{done.returncode}: {done.stderr}")


@case("early/onlink-needs-no-address")
def onlink(bench: Bench) -> None:
    with stage(bench, ONLINK) as boot:
        boot.host.batch("link set eth1 down", "link set lo down")
        without_address(boot.host, "eth1")
        boot.init()
        require("default via 10.7.0.2 dev eth1 proto 82 onlink" in boot.table(300), boot.table(300))
        boot.ends()
        boot.in_force()


@case("early/another-apply-takes-over")
def taken_over(bench: Bench) -> None:
    """Whoever waits for a port does not bring its old policy back over a newer one."""
    for name, newer in {
        "another path": LAN.replace("router2", "uplink").replace("200", "201"),
        "another gateway": LAN.replace("10.0.0.2", "10.0.0.3"),
        "another service": LAN + 'services = ["tcp/80"]\n',
    }.items():
        with contextlib.suppress(FileNotFoundError):
            os.unlink(bench.folder / "kmsg")
            os.unlink(bench.folder / "board.img")
        with stage(bench, LAN) as boot:
            without_address(boot.host, "eth0")
            boot.init()
            require(boot.waiting(), f"{name}: nothing waits")
            image = bench.image(newer.replace('"fd00::2"', '"fd01::2"').replace("10.0.0.", "10.1.0."))
            bench.apply(boot.host, image)
            boot.says("has changed what was in force")
            boot.ends()
            boot.host.batch("addr add 10.0.0.10/24 dev eth0", "addr add fd00::10/64 dev eth0 nodad")
            bench.firmware(boot.host, "status", "--policy", image)


@case("early/removed-meanwhile")
def removed(bench: Bench) -> None:
    with stage(bench, LAN) as boot:
        without_address(boot.host, "eth0")
        boot.init()
        bench.remove(boot.host)
        boot.host.batch("addr add 10.0.0.10/24 dev eth0")
        boot.ends()
        require("fwmark" not in boot.host.run("ip", "rule"), "it has come back")


@case("early/refused-policy-gives-way-to-the-last-good-one")
def falls_back(bench: Bench) -> None:
    with stage(bench, LAN, LAN.replace("200", "250")) as boot:
        boot.host.batch("route add 192.0.2.0/24 dev eth0 table 250")
        said = boot.init()
        require("<3>" in said and "table 250" in said, said)
        require("slot A, serial 1" in said, said)
        require(IN_ROUTER2 in boot.table(200), "the older policy is not in force")


@case("early/every-policy-refused")
def none_left(bench: Bench) -> None:
    with stage(bench, LAN) as boot:
        boot.host.batch("route add 192.0.2.0/24 dev eth0 table 200")
        said = boot.init(code=4)
        require("<3>" in said and "table 200" in said, said)


@case("early/no-board")
def no_board(bench: Bench) -> None:
    with stage(bench, LAN) as boot:
        os.unlink(boot.board)
        done = boot.host.finish(bench.programs.firmware, "init")
        require(done.returncode == 6 and "board.img: not found" in done.stderr, f"{done.returncode}: {done.stderr}")
        require("<3>" in boot.log() and "board.img: not found" in boot.log(), boot.log())


@case("early/no-policy-in-it")
def no_policy(bench: Bench) -> None:
    with stage(bench) as boot:
        require("<3>" in boot.init(code=3), boot.log())


@case("early/without-proc")
def without_proc(bench: Bench) -> None:
    """Settings that can not be seen are not taken for those of another kernel."""
    image = bench.image(LAN)
    with Machine() as host:
        before = snapshot(host)
        run = f"umount -l /proc && exec {bench.programs.firmware} apply --policy {image}"
        done = host.finish("unshare", "--mount", "sh", "-c", run)
        require(done.returncode == 4 and "mount /proc" in done.stderr, f"{done.returncode}: {done.stderr}")
        same(before, snapshot(host), "without /proc")


@case("early/closed", "<&-")
@case("early/closed-output", ">&-")
def closed(bench: Bench, which: str) -> None:
    """Started without one of its three descriptors, where there is no /dev/null to put in its place."""
    image = bench.image(LAN)
    with Machine() as host:
        run = f"mount -t tmpfs none /dev && exec {bench.programs.firmware} apply --policy {image} {which}"
        done = host.finish("unshare", "--mount", "sh", "-c", run)
        require(done.returncode == 0, f"{done.returncode}: {done.stderr}")
        require("via 10.0.0.2" in table(host, 200), table(host, 200))


@case("early/command-as-process-1")
def command_as_process_1(bench: Bench) -> None:
    """As in a container. It must not become the boot stage, which would execute the machine's init there."""
    image = bench.image(LAN)
    with Machine() as host:
        commands = [(f"{command} --policy {image}", 0) for command in ("apply", "status", "check")]
        for command, code in (*commands, ("--version", 0), ("--help", 0), ("aply", 2)):
            run = f"mount -t tmpfs none /sbin/. && exec {bench.programs.firmware} {command} </dev/null"
            done = host.finish("unshare", "--mount", "--pid", "--fork", "sh", "-c", run)
            require(done.returncode == code, f"{command}: exit {done.returncode}: {done.stdout}{done.stderr}")
        require("via 10.0.0.2" in table(host, 200), table(host, 200))

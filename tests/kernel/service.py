"""Run by a service manager: `apply --wait`, standard input, one capability, the journal."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

from case import SECONDS, Bench, case, require, unchanged, until
from early import IN_ROUTER2, LAN, LATE, table, without_address
from machine import COMMAND_SECONDS, Machine, snapshot

LAN4 = LAN.replace(', "fd00::2"', "")
# As DynamicUser= and AmbientCapabilities= of systemd have it.
UNPRIVILEGED = [
    "setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "--inh-caps", "+net_admin",
    "--ambient-caps", "+net_admin", "--bounding-set", "-all,+net_admin", "--no-new-privs", "--",
]  # fmt: skip


class Service:
    """The firmware in the foreground, and the socket on which it tells how it is."""

    def __init__(self, host: Machine, *command: str, place: str = "", stdin: int = subprocess.DEVNULL) -> None:
        self.told: list[str] = []
        self.said = ""
        environment = dict(os.environ)
        with host.inside():  # where abstract addresses are the namespace's own
            if place:
                self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
                self._socket.bind(place.replace("@", "\0", 1))
                if not place.startswith("@"):
                    os.chmod(place, 0o777)  # as systemd's
                self._socket.setblocking(False)
                environment["NOTIFY_SOCKET"] = place
            self.process = subprocess.Popen(command, stdin=stdin, stderr=subprocess.PIPE, env=environment)
        os.set_blocking(self.process.stderr.fileno(), False)

    def hear(self) -> str:
        with contextlib.suppress(BlockingIOError):
            while hasattr(self, "_socket"):
                self.told.append(self._socket.recv(65536).decode())
        while line := self.process.stderr.read():
            self.said += line.decode()
        return f"{self.told} {self.said}"

    def tells(self, words: str) -> None:
        until(lambda: self.hear() and any(words in state for state in self.told), f"`{words}`", self.hear)

    def says(self, words: str) -> None:
        until(lambda: self.hear() and words in self.said, f"`{words}`", self.hear)

    def is_there(self) -> bool:
        return self.process.poll() is None

    def ends(self, code: int = 0) -> None:
        until(lambda: not self.is_there(), "it to end", self.hear)
        self.hear()
        found = self.process.returncode
        require(found == code, f"exit {found}, not {code}: {self.told} {self.said}")

    def is_ready_once(self) -> None:
        ready = [state for state in self.told if "READY=1" in state.splitlines()]
        require(ready == self.told[:1], f"not ready once, and at first: {self.told}")


@contextlib.contextmanager
def service(host: Machine, *command: str, place: str = "", stdin: int = subprocess.DEVNULL) -> Iterator[Service]:
    running = Service(host, *command, place=place, stdin=stdin)
    try:
        yield running
    finally:
        if running.is_there():
            running.process.kill()
        running.process.wait()


def waiting(bench: Bench, text: str = LAN4) -> list[str]:
    return [bench.programs.firmware, "apply", "--wait", "--policy", bench.image(text)]


def place(bench: Bench) -> str:
    return str(bench.folder / "notify")


@case("service/nothing-to-wait-for")
def at_once(bench: Bench) -> None:
    with Machine() as host:
        file = bench.board(LAN)
        for number, options in enumerate((["--wait", "--board", file], ["--board", file, "--wait"])):
            with service(host, bench.programs.firmware, "apply", *options, place=f"{place(bench)}{number}") as running:
                running.ends()
                require(running.told == [f"READY=1\nSTATUS={file} (slot A, serial 1): 1 path; in force"], running.told)
        bench.firmware(host, "status", "--board", file)


@case("service/address-comes-later", "")
@case("service/abstract-socket", "@returnpath/notify")
def address_later(bench: Bench, where: str) -> None:
    args = waiting(bench, LAN)
    with Machine() as host:
        without_address(host, "eth0")
        with service(host, *args, place=where or place(bench)) as running:
            running.tells("READY=1\nSTATUS=waiting for ip -4 route add default via 10.0.0.2")
            require("unreachable default" in table(host, 200) and "via" not in table(host, 200), table(host, 200))
            host.batch("addr add 10.0.0.10/24 dev eth0")
            running.tells("STATUS=waiting for ip -6 route add default via fd00::2")
            require(IN_ROUTER2 in table(host, 200), table(host, 200))
            host.batch("addr add fd00::10/64 dev eth0 nodad")
            running.tells("STATUS=complete: all that was waited for is there")
            running.ends()
            running.is_ready_once()
            logged = [line for line in running.said.splitlines() if "waiting for" in line or "complete" in line]
            told = [state.split("STATUS=")[1] for state in running.told]
            require(logged == [f"returnpath: {line}" for line in told], f"log and status differ: {running.hear()}")
        bench.firmware(host, "status", "--policy", args[-1])


@case("service/port-comes-later")
def port_later(bench: Bench) -> None:
    """Ports are left to whoever manages them. The other path does not wait."""
    args = waiting(bench, LAN + LATE)
    with Machine(routers=False) as host:
        with service(host, *args, place=place(bench)) as running:
            running.tells("port eth7: it does not exist")
            require(IN_ROUTER2 in table(host, 200), "the path whose port is there is not in force")
            host.batch("link add eth7 type veth peer name peer7", "link set peer7 up")
            running.tells("port eth7: it is down")
            require(",UP" not in re.search("<(.*)>", host.run("ip", "link", "show", "eth7"))[1], "it was brought up")
            host.batch("link set eth7 up", "addr add 10.7.0.10/24 dev eth7")
            running.tells("STATUS=complete")
            running.ends()
        require("via 10.7.0.2 dev eth7" in table(host, 300), table(host, 300))
        bench.firmware(host, "status", "--policy", args[-1])


@case("service/many-are-awaited")
def many(bench: Bench) -> None:
    """A status that the service manager would not take, for its length, is cut."""
    text = "".join(
        LATE.replace("paths.late", f"paths.late{n}").replace("0x3", str(n)).replace("300", str(1000 + n)).replace(
            '"eth7"]', f'"p{n}"]'
        )
        for n in range(1, 101)
    )  # fmt: skip
    with Machine() as host, service(host, *waiting(bench, text), place=place(bench)) as running:
        running.tells("READY=1\nSTATUS=waiting for ")
        require(3000 < len(running.told[0].encode()) <= 4096, f"{len(running.told[0])} bytes")


@case("service/nobody-listens")
def nobody_listens(bench: Bench) -> None:
    with Machine() as host:
        without_address(host, "eth0")
        with service(host, *waiting(bench)) as running:
            running.says("waiting for")
            require("NOTIFY_SOCKET" not in running.said, running.said)
            host.batch("addr add 10.0.0.10/24 dev eth0")
            running.ends()
        gone = ["env", f"NOTIFY_SOCKET={place(bench)}", *waiting(bench)]
        said = host.finish(*gone)
        require(said.returncode == 0 and "is not told" in said.stderr, f"{said.returncode}: {said.stderr}")


@case("service/another-apply-takes-over", ["apply"])
@case("service/removed-meanwhile", ["remove"])
def taken_over(bench: Bench, other: list[str]) -> None:
    args, newer = waiting(bench), bench.image(LAN4.replace("10.0.0.", "10.1.0."))
    with Machine() as host:
        without_address(host, "eth0")
        with service(host, *args, place=place(bench)) as running:
            running.tells("READY=1")
            bench.firmware(host, *other, *(["--policy", newer] if other == ["apply"] else []))
            running.tells("STATUS=another program, or another `apply`, has changed what was in force")
            running.ends()
        host.batch("addr add 10.0.0.10/24 dev eth0")
        require(IN_ROUTER2 not in table(host, 200), "it has come back")


@case("service/another-policy-that-awaits-as-much")
def taken_over_by_a_waiter(bench: Bench) -> None:
    """Two policies that differ in nothing but a route that neither can have yet: the newer one gets it."""
    args, newer = waiting(bench), waiting(bench, LAN4.replace("10.0.0.2", "10.0.0.3"))
    with Machine() as host:
        without_address(host, "eth0")
        with service(host, *args, place=place(bench)) as older:
            older.tells("waiting for ip -4 route add default via 10.0.0.2")
            with service(host, *newer, place=f"{place(bench)}2") as running:
                running.tells("waiting for ip -4 route add default via 10.0.0.3")
                running.process.send_signal(signal.SIGSTOP)
                host.batch("addr add 10.0.0.10/24 dev eth0")
                older.tells("STATUS=another program, or another `apply`, has changed what was in force")
                older.ends()
                require("via" not in table(host, 200), f"it has come back: {table(host, 200)}")
                running.process.send_signal(signal.SIGCONT)
                running.tells("STATUS=complete")
                running.ends()
        require("via 10.0.0.3" in table(host, 200), table(host, 200))
        bench.firmware(host, "status", "--policy", newer[-1])


@case("service/stopped-while-it-waits")
def stopped(bench: Bench) -> None:
    """What is in force stays, and the next start goes on."""
    args = waiting(bench)
    with Machine() as host:
        without_address(host, "eth0")
        with service(host, *args, place=place(bench)) as running:
            running.tells("READY=1")
            running.process.send_signal(signal.SIGTERM)
            running.ends(-signal.SIGTERM)
        require("unreachable default" in table(host, 200), table(host, 200))
        host.batch("addr add 10.0.0.10/24 dev eth0")
        require(IN_ROUTER2 not in table(host, 200), "it goes on")
        with service(host, *args, place=f"{place(bench)}2") as running:
            running.tells("in force")
            running.ends()
        bench.firmware(host, "status", "--policy", args[-1])


@case("service/fails-before-it-is-ready")
def fails(bench: Bench) -> None:
    refused = LAN4.replace("200", "250")
    for number, (code, options, words) in enumerate((
        (2, ["--policy"], "its value is missing"),
        (3, ["--policy", "/nowhere"], "/nowhere"),
        (3, ["--board", bench.board(name="empty.img")], "no slot has a usable policy"),
        (6, ["--board", "/nowhere"], "/nowhere: not found"),
        (4, ["--policy", bench.image(refused)], "table 250"),
        (4, ["--board", bench.board(refused)], "table 250"),
    )):  # fmt: skip
        with Machine() as host:
            host.batch("route add 192.0.2.0/24 dev eth0 table 250")
            before = snapshot(host)
            args = [bench.programs.firmware, "apply", "--wait", *options]
            with service(host, *args, place=f"{place(bench)}{number}") as running:
                running.ends(code)
                require(not running.told, f"{options}: it told {running.told}")
                lines = running.said.splitlines()
                require(len(lines) == 1 and words in lines[0], f"{options}: not one line with `{words}`: {lines}")
            unchanged(host, before, "something was left")


@case("service/refused-policy-gives-way-to-the-last-good-one")
def falls_back(bench: Bench) -> None:
    with Machine() as host:
        file = bench.board(LAN, LAN.replace("200", "250"))
        host.batch("route add 192.0.2.0/24 dev eth0 table 250")
        with service(host, bench.programs.firmware, "apply", "--wait", "--board", file, place=place(bench)) as running:
            running.ends()
            running.tells("(slot A, serial 1): 1 path; in force")
            refusal, *_, in_force = running.said.splitlines()
            require("slot B, serial 2" in refusal and "table 250" in refusal and "slot A" in in_force, running.said)


# Standard input


def with_input(host: Machine, file: str, *command: str) -> subprocess.CompletedProcess[str]:
    with host.inside(), open(file, "rb") as source:
        return subprocess.run(
            command, stdin=source, capture_output=True, text=True, timeout=COMMAND_SECONDS, check=False
        )


@case("service/standard-input")
def standard_input(bench: Bench) -> None:
    """An open descriptor is enough: the process could not open the file itself."""
    binary, file, image = bench.for_everyone(), bench.board(LAN), bench.image(LAN)
    for name in (file, image):
        os.chmod(name, 0o600)
    with Machine() as host:
        for option, name in (("--board", file), ("--policy", image)):
            own = host.finish(*UNPRIVILEGED, binary, "apply", option, name)
            require(own.returncode in (3, 6) and "ermission denied" in own.stderr, f"it can open {name}: {own.stderr}")
            for wait in ([], ["--wait"]):
                done = with_input(host, name, *UNPRIVILEGED, binary, "apply", *wait, option, "-")
                require(done.returncode == 0 and name in done.stderr, f"{option} {wait}: {done}")
            done = with_input(host, name, *UNPRIVILEGED, binary, "status", option, "-")
            require(done.returncode == 0 and name in done.stdout, f"status: {done}")
            bench.remove(host)
            done = with_input(host, name, *UNPRIVILEGED, binary, "status", option, "-")
            require(done.returncode == 5, f"status after remove: {done}")


@case("service/standard-input-of-another-kind")
def another_input(bench: Bench) -> None:
    image = Path(bench.image(LAN))
    firmware = bench.programs.firmware
    with Machine() as host:
        done = host.finish("sh", "-c", f"cat {image} | {firmware} apply --policy -")
        require(done.returncode == 0 and "standard input: 1 path; in force" in done.stderr, f"a pipe: {done}")
        for code, script, words in (
            (3, "apply --policy - </dev/null", "/dev/null"),
            (3, "apply --policy - </", "/: Is a directory"),
            (6, "apply --board - </dev/null", "/dev/null: neither a block device nor a plain file; redirect it"),
            (6, f"status --board - <{image}", "the device ends within it"),
        ):
            done = host.finish("sh", "-c", f"{firmware} {script}")
            require(done.returncode == code and words in done.stderr, f"{script}: {done}")
        done = host.finish("sh", "-c", f"cat {image} | {firmware} apply --board -")
        require(done.returncode == 6 and "standard input: neither" in done.stderr, f"a pipe for a board: {done}")


@case("service/standard-input-is-let-go")
def lets_go(bench: Bench) -> None:
    """A disk that is held open can not be given new partitions."""
    file = bench.board(LAN4)
    with Machine() as host, open(file, "rb") as source:
        without_address(host, "eth0")
        args = [bench.programs.firmware, "apply", "--wait", "--board", "-"]
        with service(host, *args, place=place(bench), stdin=source.fileno()) as running:
            running.tells("READY=1")
            held = [os.readlink(held) for held in Path(f"/proc/{running.process.pid}/fd").iterdir()]
            require(held[0] == "/dev/null" and file not in held, f"it holds {held}")


# One capability


@case("service/unprivileged")
def unprivileged(bench: Bench) -> None:
    image = bench.image(LAN)
    other = bench.image(LAN.replace("200", "201"))
    mine = [*UNPRIVILEGED, bench.for_everyone()]
    with Machine() as host:
        host.sysctl("ipv4/conf/eth0/rp_filter", 1)
        before = snapshot(host)
        bench.apply(host, image)
        as_root = snapshot(host)
        bench.remove(host)

        done = host.finish(*mine, "apply", "--policy", image)
        require(done.returncode == 0, f"apply: {done}")
        lines = [line for line in done.stderr.splitlines() if "iproute2" in line]
        require(len(lines) == 1 and "ermission denied" in lines[0], f"not one line about the names: {done.stderr}")
        unchanged(host, as_root, "it is not as root would have it")
        require(host.finish(*mine, "status", "--policy", image).returncode == 0, "status")
        require(host.finish(*mine, "apply", "--policy", other).returncode == 0, "another policy")
        done = host.finish(*mine, "remove")
        require(done.returncode == 0 and "iproute2" not in done.stderr, f"remove: {done}")
        unchanged(host, before, "after remove")

        without_address(host, "eth0")
        with service(host, *mine, "apply", "--wait", "--policy", image, place=place(bench)) as running:
            running.tells("READY=1")
            host.batch("addr add 10.0.0.10/24 dev eth0", "addr add fd00::10/64 dev eth0 nodad")
            running.tells("STATUS=complete")
            running.ends()
        require(host.finish(*mine, "status", "--policy", image).returncode == 0, "status after waiting")


@case("service/unprivileged-one-at-a-time")
def one_at_a_time(bench: Bench) -> None:
    image = bench.image(LAN)
    mine = [*UNPRIVILEGED, bench.for_everyone()]
    with Machine() as host:
        with host.inside():
            lock = os.open("/proc/sys/net/ipv4/route/flush", os.O_WRONLY)
        fcntl.flock(lock, fcntl.LOCK_EX)
        with service(host, *mine, "apply", "--policy", image) as running:
            with contextlib.suppress(subprocess.TimeoutExpired):
                running.process.wait(1)
            running.hear()
            require(running.is_there() and not running.said, f"it did not wait: {running.said}")
            fcntl.flock(lock, fcntl.LOCK_UN)
            running.ends()
        os.close(lock)


@case("service/names-cannot-be-deleted")
def names_stay(bench: Bench) -> None:
    """What root has written, an unprivileged service can not delete: told once, and no failure."""
    image = bench.image(LAN)
    mine = [*UNPRIVILEGED, bench.for_everyone()]
    with Machine() as host:
        bench.apply(host, image)
        done = host.finish(*mine, "remove")
        lines = [line for line in done.stderr.splitlines() if "iproute2" in line]
        require(done.returncode == 0 and len(lines) == 1 and "it stays" in lines[0], f"{done}")


@case("service/names-of-somebody-else", "to-a-file")
@case("service/names-of-somebody-else-dangling", "to-nothing")
def names_of_somebody_else(bench: Bench, target: str) -> None:
    """A system that is made from a description links its files: they are not ours to write or delete."""
    names = "/etc/iproute2/rt_tables.d/returnpath.conf"
    with Machine() as host:
        host.sh(f"echo '200 router2' > /etc/iproute2/to-a-file; ln -s ../{target} {names}")
        said = bench.apply(host, bench.image(LAN)) + bench.remove(host)
        require("iproute2" not in said, f"it speaks of it: {said}")
        require(host.run("readlink", names).strip() == f"../{target}", "the link is another")
        require(host.run("ls", "/etc/iproute2/rt_tables.d").split() == ["README", "returnpath.conf"], "more is there")
        require(host.run("cat", "/etc/iproute2/to-a-file") == "200 router2\n", "the file behind it is another")
        require(host.finish("test", "-e", "/etc/iproute2/to-nothing").returncode == 1, "it has made a file behind it")


# The journal


@case("service/severity-for-the-journal")
def severity(bench: Bench) -> None:
    image = bench.image(LAN4)
    said = bench.folder / "said"
    with Machine() as host:
        for stream, wanted in (("as it is", True), ("1:2", False), ("", False)):
            for code, args, prefix in (
                (0, ["apply", "--policy", image], "<6>"),
                (4, ["apply", "--policy", bench.image(LAN4.replace("10.0.0.2", "192.0.2.1"))], "<3>"),
                (2, ["frobnicate"], "<3>"),
                (0, ["remove"], "<6>"),
            ):
                with host.inside(), open(said, "w") as errors:
                    here = os.fstat(errors.fileno())
                    named = f"{here.st_dev}:{here.st_ino}" if stream == "as it is" else stream
                    environment = {name: value for name, value in os.environ.items() if name != "JOURNAL_STREAM"}
                    done = subprocess.run(
                        [bench.programs.firmware, *args], stderr=errors, check=False, timeout=SECONDS,
                        env=environment | ({"JOURNAL_STREAM": named} if named else {}),
                    )  # fmt: skip
                require(done.returncode == code, f"{args}: exit {done.returncode}, not {code}: {said.read_text()}")
                lines = said.read_text().splitlines()
                begin = f"{prefix}returnpath: " if wanted else "returnpath: "
                require(lines and all(line.startswith(begin) for line in lines), f"{args}, {stream}: {lines}")

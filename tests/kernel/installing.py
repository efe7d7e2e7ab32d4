"""What `apply` makes of a machine, that it makes nothing the second time, and what `remove` leaves of it."""

from __future__ import annotations

import contextlib
import itertools
import re
import subprocess
import time
from collections.abc import Callable, Iterator

import gate
import policies
from case import STATE, Bench, bystanders, case, require, rules_in_any_order, same, unchanged, until, without_handles
from machine import Machine, command, difference, for_policy, snapshot
from policies import UPDATES

# plan equals apply


def strict_on_ports(host: Machine) -> None:
    for port in ("eth0", "eth1", "eth2", "wg0"):
        host.sysctl(f"ipv4/conf/{port}/rp_filter", 1)


REVERSE_PATH: dict[str, Callable[[Machine], object]] = {
    "off": lambda host: None,
    "strict-on-all": lambda host: host.sysctl("ipv4/conf/all/rp_filter", 1),
    "strict-on-ports": strict_on_ports,
    "loose": lambda host: host.sysctl("ipv4/conf/all/rp_filter", 2),
    "set-already": lambda host: [
        host.sysctl(name, 1) for name in ("ipv4/tcp_fwmark_accept", "ipv4/fwmark_reflect", "ipv6/fwmark_reflect")
    ],
}


def plan_equals_apply(bench: Bench, text: str) -> None:
    image = bench.image(text)
    script = command(bench.programs.board, "plan", image)
    own_ports = "eth1" in text or "eth0" in text
    for name, prepare in REVERSE_PATH.items():
        if name not in ("off", "strict-on-all") and (not own_ports or len(script) > 100_000):
            continue
        with for_policy(text) as by_plan, for_policy(text) as by_apply:
            for host in (by_plan, by_apply):
                prepare(host)
            before = snapshot(by_apply)
            same(before, snapshot(by_plan), f"{name}: the two machines differ from the start")
            by_plan.run("sh", "-e", stdin=script)
            bench.apply(by_apply, image)
            planned, applied = (without_handles(snapshot(host, json=True)) for host in (by_plan, by_apply))
            require(planned["nft list ruleset"], f"{name}: the plan made nothing")
            same(planned, applied, f"reverse path {name}: - the plan's commands, + apply")
            bench.firmware(by_apply, "status", "--policy", image)
            for host in (by_plan, by_apply):
                bench.remove(host)
                unchanged(host, before, f"reverse path {name}: after remove")


for _name, _text in policies.every().items():
    case(f"plan-equals-apply/{_name}", _text)(plan_equals_apply)


@case("plan-equals-apply/and-is-taken-for-it")
def plan_is_in_force(bench: Bench) -> None:
    """What the plan's commands made is in force: for `status`, and for an `apply` that then changes nothing."""
    for name, text in policies.every().items():
        if name == "256-paths" or not text.strip():
            continue
        image = bench.image(text)
        with for_policy(text) as host:
            host.run("sh", "-e", stdin=command(bench.programs.board, "plan", image))
            done = host.finish(*bench.programs.status(image))
            require(done.returncode == 0, f"{name}: status: exit {done.returncode}: {done.stdout}")
            require("in force already" in bench.apply(host, image), f"{name}: apply changed something")


# applying again is silent


@contextlib.contextmanager
def monitored(host: Machine, bench: Bench) -> Iterator[Callable[[], str]]:
    """`ip monitor` and `nft monitor`, from one change of ours that both have shown to another."""
    commands = {"ip": ["ip", "monitor", "all"], "nft": ["nft", "monitor"]}
    files = {name: bench.folder / f"monitor-{name}" for name in commands}
    running = []

    def fence(number: int) -> None:
        deadline, pause = time.monotonic() + 20, 0.05
        while True:  # until both listen
            host.batch(f"rule add priority {30000 + number} table 999", f"rule del priority {30000 + number}")
            host.sh(f"nft add table ip fence{number}; nft delete table ip fence{number}")
            time.sleep(pause)
            pause *= 2  # nft begins to read a large table anew if it changes meanwhile
            marks = {"ip": f"{30000 + number}:", "nft": f"fence{number}"}
            if all(mark in files[name].read_text() for name, mark in marks.items()):
                return
            require(time.monotonic() < deadline, "a monitor shows nothing")

    def between() -> str:
        fence(2)
        found = []
        for name, file in files.items():
            for line in file.read_text()[heard[name] :].splitlines():
                if not re.search(r"3000[12]:|fence[12]|# new generation", line):
                    found.append(f"{name} monitor: {line}")
        return "\n".join(found)

    try:
        with host.inside():
            for name, args in commands.items():
                with files[name].open("w") as out:
                    running.append(
                        subprocess.Popen(args, stdout=out, stderr=subprocess.DEVNULL, preexec_fn=gate.die_with_parent)
                    )
        fence(1)
        heard = {name: len(file.read_text()) for name, file in files.items()}
        yield between
    finally:
        for process in running:
            process.kill()
            process.wait()


@case("silent-twice/both", UPDATES["base"])
@case("silent-twice/tunnel", UPDATES["tunnel"])
@case("silent-twice/empty", "")
@case("silent-twice/256-paths", policies.many(256, 4))
def silent_twice(bench: Bench, text: str) -> None:
    image = bench.image(text)
    with Machine() as host:
        bystanders(host)
        host.sysctl("ipv4/conf/all/rp_filter", 1)
        bench.apply(host, image)
        before = snapshot(host)
        with monitored(host, bench) as between:
            done = host.gated(bench.programs.apply(image), ["sendto", "sendmsg", "open", "openat"], lambda call: None)
            heard = between()
        require(done.code == 0, f"exit {done.code}: {done.stderr}")
        require(not heard, f"the second apply was heard:\n{heard}")
        unchanged(host, before, "after the second apply")
        written = silent_calls(host, bench, image)
        require(not written, f"the second apply sent what changes something: {written}")


def silent_calls(host: Machine, bench: Bench, image: str) -> list[str]:
    found: list[str] = []

    def judge(call: gate.Call) -> None:
        if gate.changes(call):
            found.append(f"{call.name} {[kind for kind, _ in gate.messages(call.data())]}")

    host.gated(bench.programs.apply(image), ["sendto", "sendmsg", "open", "openat"], judge)
    return found


@case("silent-twice/the-monitors-hear")
def monitors_hear(bench: Bench) -> None:
    """The harness can fail: a first apply is heard on every channel."""
    image = bench.image(UPDATES["base"])
    with Machine() as host:
        with monitored(host, bench) as between:
            require(silent_calls(host, bench, image), "the gate saw no change")
            heard = between()
        for word in ("ip monitor: [RULE]", "ip monitor: [ROUTE]", "nft monitor: add rule inet returnpath"):
            require(word in heard, f"{word} was not heard:\n{heard[:500]}")


# remove restores


def with_bystanders(bench: Bench) -> tuple[Machine, dict[str, str]]:
    host = Machine()
    bystanders(host)
    host.sysctl("ipv4/conf/all/rp_filter", 1)
    host.sysctl("ipv4/conf/eth1/rp_filter", 1)
    return host, snapshot(host)


@case("remove/after-one")
def remove_after_one(bench: Bench) -> None:
    for name, text in UPDATES.items():
        host, before = with_bystanders(bench)
        with host:
            bench.apply(host, bench.image(text))
            bench.remove(host)
            unchanged(host, before, f"after apply {name}, remove")


@case("remove/after-two")
def remove_after_two(bench: Bench) -> None:
    first = ("base", "scope", "tunnel")
    for one, other in itertools.product(first, UPDATES):
        host, before = with_bystanders(bench)
        with host:
            bench.apply(host, bench.image(UPDATES[one]))
            bench.apply(host, bench.image(UPDATES[other]))
            bench.remove(host)
            unchanged(host, before, f"after apply {one}, apply {other}, remove")


@case("remove/nothing-there")
def remove_nothing(bench: Bench) -> None:
    host, before = with_bystanders(bench)
    with host:
        said = bench.remove(host)
        require("nothing to remove" in said, f"it said: {said}")
        unchanged(host, before, STATE)


@case("remove/twice")
def remove_twice(bench: Bench) -> None:
    host, before = with_bystanders(bench)
    with host:
        bench.apply(host, bench.image(UPDATES["base"]))
        bench.remove(host)
        bench.remove(host)
        unchanged(host, before, STATE)


@case("remove/after-flush-ruleset")
def remove_after_flush(bench: Bench) -> None:
    """The record goes with the table: settings stay changed, but no route and no rule does."""
    host, _ = with_bystanders(bench)
    with host:
        host.run("nft", "flush", "ruleset")
        before = snapshot(host)
        bench.apply(host, bench.image(UPDATES["base"]))
        host.run("nft", "flush", "ruleset")
        bench.remove(host)
        after = snapshot(host)
        ours = {name: text for name, text in after.items() if not name.startswith("/proc")}
        same({name: before[name] for name in ours}, ours, "after flush ruleset, remove")
        changed = sorted(name for name in before if before[name] != after.get(name))
        require("/proc/sys/net/ipv4/tcp_fwmark_accept" in changed, "the record was lost, yet settings came back: how?")


@case("remove/after-flush-and-apply")
def remove_after_flush_and_apply(bench: Bench) -> None:
    """A firewall restart wipes our table; the next apply makes it whole."""
    host, _ = with_bystanders(bench)
    image = bench.image(UPDATES["base"])
    with host:
        bench.apply(host, image)
        host.run("nft", "flush", "ruleset")
        bench.apply(host, image)
        bench.firmware(host, "status", "--policy", image)
        bench.remove(host)


@case("remove/administrator-changed-settings")
def remove_keeps_changes(bench: Bench) -> None:
    host, before = with_bystanders(bench)
    with host:
        bench.apply(host, bench.image(UPDATES["base"]))
        host.sysctl("ipv4/conf/eth1/rp_filter", 0)
        host.sysctl("ipv4/tcp_fwmark_accept", 0)
        host.sysctl("ipv4/conf/eth2/rp_filter", 1)
        host.sysctl("ipv6/conf/eth0/hop_limit", 33)
        said = bench.remove(host)
        expected = before | {
            "/proc/sys/net/ipv4/conf/eth1/rp_filter": "0\n",
            "/proc/sys/net/ipv4/conf/eth2/rp_filter": "1\n",
            "/proc/sys/net/ipv6/conf/eth0/hop_limit": "33\n",
        }
        same(expected, snapshot(host), "after the administrator changed settings")
        require("eth1/rp_filter" in said, f"it does not say that a setting stays: {said}")


@case("remove/foreign-changes-stay")
def remove_keeps_foreign(bench: Bench) -> None:
    """What others add after apply stays, also in our tables and at our priority."""
    additions = (
        "route add 192.0.2.0/24 via 10.0.0.9 table 101",
        "rule add fwmark 0x30000/0xff0000 table 500 priority 1000",
        "-6 route add 2001:db8::/64 via fd00::9 table 101",
    )
    host, _ = with_bystanders(bench)
    with host:
        host.batch(*additions)
        before = snapshot(host)
        host.batch(*(line.replace(" add ", " del ") for line in additions))
        bench.apply(host, bench.image(UPDATES["base"]))
        host.batch(*additions)
        bench.remove(host)
        same(rules_in_any_order(before), rules_in_any_order(snapshot(host)), STATE)


@case("remove/port-vanished", "link del eth1")
@case("remove/port-went-down", "link set eth1 down")
@case("remove/port-flapped", "link set eth1 down", "link set eth1 up")
@case("remove/port-renamed", "link set eth1 down", "link set eth1 name lan1", "link set lan1 up")
def remove_after_port(bench: Bench, *lines: str) -> None:
    name = "lan1" if "lan1" in lines[-1] else "eth1"

    def happen(machine: Machine) -> None:
        machine.batch(*lines)
        routes = lambda: machine.run("ip", "-6", "route", "show", "table", "all")  # noqa: E731
        has_settled = {  # the kernel does the rest a moment later
            "up": lambda shown: f"local fe80::ff:fe00:1 dev {name} " in shown and "linkdown" not in shown,
            "down": lambda shown: "linkdown" in shown,
        }.get(lines[-1].split()[-1], lambda _: True)
        until(lambda: has_settled(routes()), f"both ends of {name} to settle", routes)

    host, _ = with_bystanders(bench)
    with host:
        bench.apply(host, bench.image(UPDATES["base"]))
        happen(host)
        bench.remove(host)
        found = snapshot(host)
    expected, _ = with_bystanders(bench)
    with expected:
        happen(expected)
        wanted = snapshot(expected)
    for state in (wanted, found):  # of a new name the kernel makes new settings: what they were has no record
        for path in [path for path in state if f"/{name}/" in path and name == "lan1"]:
            del state[path]
    same(rules_in_any_order(wanted), rules_in_any_order(found), STATE)


# names of tables


@case("names/apply-and-remove")
def names(bench: Bench) -> None:
    with Machine() as host:
        bench.apply(host, bench.image(policies.path("router2", 2, 200, 1)))
        shown = host.run("ip", "route", "show", "table", "router2")
        require("default via 10.0.0.2 dev eth0" in shown, f"ip route show table router2: {shown}")
        require("lookup router2" in host.run("ip", "rule"), "ip rule does not show the name")
        bench.apply(host, bench.image(policies.path("other", 2, 201, 1)))
        require("lookup other" in host.run("ip", "rule"), "the new name is not known after an update")
        old = host.finish("ip", "route", "show", "table", "router2")
        require(old.returncode != 0, "the old name is known still")
        bench.remove(host)
        left = host.run("ls", "/etc/iproute2/rt_tables.d").split()
        require(left == ["README"], f"left behind: {left}")


@case("names/read-only")
def names_read_only(bench: Bench) -> None:
    image = bench.image(policies.path("router2", 2, 200, 1))
    with Machine() as host:
        for name in ("ipv4/tcp_fwmark_accept", "ipv4/fwmark_reflect", "ipv6/fwmark_reflect"):
            host.sysctl(name, 1)
        host.sh("mount -o remount,ro /etc/iproute2")
        said = bench.apply(host, image)
        lines = [line for line in said.splitlines() if "iproute2" in line]
        require(len(lines) == 1 and "Read-only" in lines[0], f"not one line about it: {said}")
        bench.firmware(host, "status", "--policy", image)
        said = bench.remove(host)
        require("iproute2" not in said, f"remove speaks of a file that it never made: {said}")


@case("names/no-iproute2")
def names_without_iproute2(bench: Bench) -> None:
    with Machine() as host:
        host.sh("""
            umount /etc/iproute2
            mkdir /tmp/.rk-etc.$$ && mount -t tmpfs none /tmp/.rk-etc.$$
            mkdir /tmp/.rk-etc.$$/up /tmp/.rk-etc.$$/work
            mount -t overlay -o lowerdir=/etc,upperdir=/tmp/.rk-etc.$$/up,workdir=/tmp/.rk-etc.$$/work none /etc
            umount -l /tmp/.rk-etc.$$ && rmdir /tmp/.rk-etc.$$
            rm -r /etc/iproute2
            for folder in /usr/share/iproute2 /usr/lib/iproute2; do [ ! -d $folder ] || mount -t tmpfs none /usr; done
        """)
        said = bench.apply(host, bench.image(UPDATES["base"]))
        require("iproute2" not in said, f"it speaks of iproute2: {said}")
        require(host.finish("ls", "/etc/iproute2").returncode != 0, "/etc/iproute2 was made")
        bench.remove(host)


@case("names/others-stay")
def names_others(bench: Bench) -> None:
    with Machine() as host:
        host.sh("echo '77 other' > /etc/iproute2/rt_tables.d/other.conf")
        bench.apply(host, bench.image(UPDATES["base"]))
        bench.remove(host)
        left = sorted(host.run("ls", "/etc/iproute2/rt_tables.d").split())
        require(left == ["README", "other.conf"], f"left: {left}")


# log and company


@case("log/rule")
def log_rule(bench: Bench) -> None:
    text = policies.path("quiet", 1, 101, 1) + policies.path("loud", 2, 102, 2, log="true")
    with Machine() as host:
        bench.apply(host, bench.image(text))
        lines = [line for line in host.run("nft", "list", "ruleset").splitlines() if " log " in line]
        require(len(lines) == 1, f"{len(lines)} log rules: {lines}")
        require("limit rate" in lines[0] and 'prefix "returnpath loud: "' in lines[0], lines[0])


@case("together/the-same", ["base"] * 5)
@case("together/different", ["base", "tables-swapped", "tunnel", "scope", "empty"])
def together(bench: Bench, names: list[str]) -> None:
    """For information: several at once. Whatever they did to one another, the next apply has to make it whole."""
    images = [bench.image(UPDATES[name]) for name in names]
    with Machine() as host:
        host.sysctl("ipv4/conf/all/rp_filter", 1)
        clean = snapshot(host)
        with host.inside():
            running = [
                subprocess.Popen(
                    bench.programs.apply(image), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
                )
                for image in images
            ]
            ends = [(process, process.communicate(timeout=60)[1]) for process in running]
        codes = [process.returncode for process, _ in ends]
        statuses = [host.finish(*bench.programs.status(image)).returncode for image in images]
        print(f"   {len(images)} at once: apply exits {codes}, status exits {statuses}")
        for (process, said), name in zip(ends, names, strict=True):
            if process.returncode:
                print(f"   {name}: {said.strip().splitlines()[-1]}")
        require(all(code in (0, 4) for code in codes), f"exits {codes}")
        bench.apply(host, images[0])
        bench.firmware(host, "status", "--policy", images[0])
        bench.remove(host)
        left = difference(clean, snapshot(host))
        print(f"   after a last apply alone, and remove: {left or 'as before'}", flush=True)

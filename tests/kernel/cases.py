"""The cases: what the firmware leaves in the kernel, whatever happens meanwhile."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import re
import signal
import struct
import subprocess
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import gate
import policies
import probe
from case import (
    Bench,
    as_after_an_update,
    bystanders,
    case,
    require,
    rules_in_any_order,
    same,
    unchanged,
    without_handles,
)
from machine import Machine, command, difference, finish, for_policy, snapshot

UPDATES = policies.updates()
RTM_DELRULE = 33
STATE = "what the kernel holds differs from before"

# 1. plan equals apply


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


# 2. applying again is silent


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


# 3. remove restores


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
    host, _ = with_bystanders(bench)
    with host:
        bench.apply(host, bench.image(UPDATES["base"]))
        host.batch(*lines)
        bench.remove(host)
        found = snapshot(host)
    expected, _ = with_bystanders(bench)
    with expected:
        expected.batch(*lines)
        wanted = snapshot(expected)
    name = "lan1" if "lan1" in lines[-1] else "eth1"
    for state in (wanted, found):  # of a new name the kernel makes new settings: what they were has no record
        for path in [path for path in state if f"/{name}/" in path and name == "lan1"]:
            del state[path]
    same(rules_in_any_order(wanted), rules_in_any_order(found), STATE)


# 4. updates


def fresh_state(bench: Bench, text: str) -> dict[str, str]:
    with Machine() as host:
        host.sysctl("ipv4/conf/all/rp_filter", 1)
        bench.apply(host, bench.image(text))
        return snapshot(host)


def marks_given(table: str) -> set[int]:
    """The marks that new connections are given."""
    found = re.findall(r"ct mark set (?:ct mark & 0x[0-9a-f]+ \| )?(0x[0-9a-f]+)", table)
    return {int(mark, 16) for mark in found}


def arrival(table: str) -> list[str]:
    """The part of the table that gives marks to connections: one policy's is told from another's by it. A set that no
    rule asks gives none: it is made before the rules and goes after them."""
    blocks = re.findall(r"^\t(?:map|set|chain) .*?^\t}$", table, re.MULTILINE | re.DOTALL)
    blocks = [block for block in blocks if not re.match(r"\tchain (?!from_|take_|arriving)", block)]
    asked = set(re.findall(r"@([\w-]+)", table))
    counts = [block for block in blocks if not (name := re.match(r"\tset ([\w-]+)", block)) or name[1] in asked]
    return sorted(re.sub(r"packets \d+ bytes \d+", "", block) for block in counts)


def every_update(bench: Bench, part: int, parts: int) -> None:
    """All ordered pairs. What a mark leads to is asked before each message that changes something."""
    names = list(UPDATES)
    walk = policies.circuit(names)
    size = -(-(len(walk) - 1) // parts)
    walk = walk[part * size : (part + 1) * size + 1]
    images = {name: bench.image(UPDATES[name]) for name in names}
    fresh = {name: fresh_state(bench, UPDATES[name]) for name in set(walk[1:])}
    problems: list[str] = []
    host = None
    for old, new in itertools.pairwise(walk):
        if host is None:
            host = Machine()
            host.sysctl("ipv4/conf/all/rp_filter", 1)
            bench.apply(host, images[old])
        trouble = one_update(host, bench, old, new, images[new], fresh[new]["nft list ruleset"])
        found = snapshot(host)
        changed = difference(as_after_an_update(fresh[new]), as_after_an_update(found))
        if changed:
            trouble.append(f"differs from a fresh apply:\n{changed}")
        problems += [f"{old} -> {new}: {line}" for line in trouble[:3]]
        if trouble:
            host.close()
            host = None
    if host:
        host.close()
    require(not problems, f"{len(problems)} problems\n" + "\n".join(problems[:40]))


def one_update(host: Machine, bench: Bench, old: str, new: str, image: str, fresh: str) -> list[str]:
    """Updates, and looks before each message that changes something.

    A mark that both policies have goes one of the two ways at any time. A mark that only one has goes its way
    while that policy's chains give it. Under another mask one more is right: a mark whose path loses this family
    may go by main, its new way, as soon as its rule would catch what the new chains mark for another path.
    """
    ways = probe.Ways(UPDATES[old]), probe.Ways(UPDATES[new])
    everything = sorted(ways[0].keys() | ways[1].keys())
    in_force = ways[0]
    after_batch = False
    trouble: list[str] = []

    with host.inside(), probe.Prober() as prober:

        def table() -> str:
            return finish(["nft", "list", "table", "inet", "returnpath"]).stdout

        def look(where: str) -> None:
            for family, mark in everything:
                allowed = {way[family, mark] for way in ways if (family, mark) in way}
                if (family, mark) not in ways[1] and ways[0].mask != ways[1].mask and mark in ways[1].marks:
                    allowed.add(prober.ask(family, 0))
                if len([way for way in ways if (family, mark) in way]) == 2 or (family, mark) in in_force:
                    answer = prober.ask(family, mark)
                    if answer not in allowed:
                        trouble.append(f"{where}: IPv{family} mark {mark:#x} goes {answer}, not {sorted(allowed)}")

        def judge(call: gate.Call) -> None:
            nonlocal after_batch, in_force
            if after_batch:
                now = table()
                if arrival(now) == arrival(fresh):
                    in_force = ways[1]
                elif marks_given(now) != ways[0].marks:
                    trouble.append(f"before call {call.index}: the chains give {marks_given(now)}")
                after_batch = False
            if gate.changes(call):
                look(f"before call {call.index}, {[kind for kind, _ in gate.messages(call.data())][:3]}")
                after_batch = gate.is_batch(call)

        done = gate.run(bench.programs.apply(image), ["sendto", "sendmsg"], judge)
        in_force = ways[1]
        look("at the end")
    if done.code:
        trouble.append(f"exit {done.code}: {done.stderr.strip()}")
    return trouble


PARTS = 6
for _part in range(PARTS):
    case(f"update/every-pair-{_part + 1}-of-{PARTS}", _part, PARTS)(every_update)


@case("update/the-probe-sees")
def probe_sees(bench: Bench) -> None:
    """The harness can fail: a table emptied and filled again by hand does not go unseen."""
    with Machine() as host:
        bench.apply(host, bench.image(UPDATES["base"]))
        ways = probe.Ways(UPDATES["base"])
        with host.inside(), probe.Prober() as prober:
            for (family, mark), way in ways.items():
                require(prober.ask(family, mark) == way, f"IPv{family} {mark}: {prober.ask(family, mark)}, not {way}")
            require(prober.ask(4, 0) == "via 10.0.0.1 dev eth0", f"unmarked: {prober.ask(4, 0)}")
            command("ip", "route", "flush", "table", "101")
            require(prober.ask(4, 1) == "via 10.0.0.1 dev eth0", f"flushed: {prober.ask(4, 1)}")


@case("update/rules-keep-their-order")
def rule_order(bench: Bench) -> None:
    """An update leaves rules of one priority in the order of a fresh apply."""
    with Machine() as host:
        host.sysctl("ipv4/conf/all/rp_filter", 1)
        bench.apply(host, bench.image(UPDATES["base"]))
        bench.apply(host, bench.image(UPDATES["tables-swapped"]))
        changed = difference(fresh_state(bench, UPDATES["tables-swapped"]), snapshot(host))
        require(not changed, f"not as after a fresh apply:\n{changed}")


# 5. everything or nothing

CALLS = ["sendto", "sendmsg", "recvmsg", "recvfrom", "open", "openat"]
TRANSITIONS: dict[str, tuple[str | None, str | None]] = {
    "fresh": (None, "base"),
    "fresh-tunnel": (None, "tunnel"),
    "same": ("base", "base"),
    "tables-swapped": ("base", "tables-swapped"),
    "shrinks": ("base", "added-removed"),
    "to-empty": ("base", "empty"),
    "mask": ("mask-elsewhere", "scope"),
    "remove": ("base", None),
}


def transition(bench: Bench, old: str | None, new: str | None) -> tuple[list[str], Callable[[], Machine]]:
    images = {name: bench.image(UPDATES[name]) for name in (old, new) if name}

    def start() -> Machine:
        host = Machine()
        host.sysctl("ipv4/conf/all/rp_filter", 1)
        if old:
            bench.apply(host, images[old])
        return host

    return bench.programs.apply(images[new]) if new else bench.programs.remove(), start


def faults(bench: Bench, old: str | None, new: str | None, calls: list[str], errors: list[int]) -> None:
    """Each call in turn fails, once with each error. The state after is the one before, or the new one."""
    args, start = transition(bench, old, new)
    with start() as host:
        before = snapshot(host)
        done = host.gated(args, CALLS, lambda call: None)
        require(done.code == 0, f"without a fault: exit {done.code}: {done.stderr}")
        wanted = snapshot(host)
    problems: list[str] = []
    for error in errors:
        number, host = 0, start()
        while True:
            number += 1
            hit = 0
            target = ""

            def judge(call: gate.Call) -> gate.Refuse | None:
                nonlocal hit, target
                counts = call.name in calls and (call.name not in ("open", "openat") or gate.changes(call))
                hit += counts
                if counts and hit == number:
                    kinds = [kind for kind, _ in gate.messages(call.data())]
                    target = f"{call.name} {kinds or ''}"
                    return gate.Refuse(error)
                return None

            done = host.gated(args, CALLS, judge)
            if not target:
                break
            found = snapshot(host)
            what = f"{errno.errorcode[error]} on call {number} ({target.strip()})"
            changed = difference(rules_in_any_order(before), rules_in_any_order(found))
            if done.code == 4 and changed:
                problems.append(f"{what}: exit 4, but the state changed:\n{changed}")
            elif done.code == 0 and difference(as_after_an_update(wanted), as_after_an_update(found)):
                problems.append(f"{what}: exit 0, but not the new state:\n{difference(wanted, found)}")
            elif done.code not in (0, 4):
                problems.append(f"{what}: exit {done.code}: {done.stderr.strip()}")
            elif done.code == 4 and "could not be undone" in done.stderr:
                problems.append(f"{what}: {done.stderr.strip()}")
            if difference(before, found):
                host.close()
                host = start()
        host.close()
        require(number > 5, f"only {number} calls were seen")
    require(not problems, f"{len(problems)} problems\n" + "\n".join(problems[:6]))


for _name, (_old, _new) in TRANSITIONS.items():
    case(f"fault/send/{_name}", _old, _new, ["sendto", "sendmsg"], [errno.ENOBUFS, errno.EPERM])(faults)
    case(f"fault/receive/{_name}", _old, _new, ["recvmsg", "recvfrom"], [errno.ENOBUFS])(faults)


def sysctl_faults(bench: Bench, old: str | None, new: str | None) -> None:
    args, start = transition(bench, old, new)
    for number in itertools.count(1):
        with start() as host:
            before = snapshot(host)
            hit, target = 0, ""

            def judge(call: gate.Call) -> gate.Refuse | None:
                nonlocal hit, target
                if gate.changes(call):
                    hit += 1
                    if hit == number:
                        target = call.path()
                        return gate.Refuse(errno.EROFS)
                return None

            done = host.gated(args, ["open", "openat"], judge)
            if not target:
                require(done.code == 0, f"without a fault: exit {done.code}: {done.stderr}")
                break
            if target.endswith("/route/flush"):
                require(done.code == 0, f"{target}: exit {done.code}: {done.stderr}")
                continue
            require(done.code == 4, f"cannot write {target}: exit {done.code}, not 4: {done.stderr.strip()}")
            found = snapshot(host)
            same(rules_in_any_order(before), rules_in_any_order(found), f"cannot write {target}")
    require(number > 3, f"only {number - 1} settings were written")


case("fault/sysctl/fresh", None, "base")(sysctl_faults)
case("fault/sysctl/update", "mask-elsewhere", "tunnel")(sysctl_faults)
case("fault/sysctl/remove", "base", None)(sysctl_faults)


def killed(bench: Bench, old: str | None, new: str | None) -> None:
    """Killed before each message that changes something: the next run makes it whole, `remove` takes it all out."""
    args, start = transition(bench, old, new)
    with Machine() as host:
        host.sysctl("ipv4/conf/all/rp_filter", 1)
        clean = snapshot(host)
    with start() as host:
        done = host.gated(args, CALLS, lambda call: None)
        wanted = snapshot(host)
    problems = []
    for number in itertools.count(1):
        hit = 0

        def judge(call: gate.Call) -> gate.Kill | None:
            nonlocal hit
            hit += gate.changes(call)
            return gate.Kill() if gate.changes(call) and hit == number else None

        with start() as host, start() as other:
            done = host.gated(args, CALLS, judge)
            if done.code != -signal.SIGKILL:
                break
            hit = 0
            other.gated(args, CALLS, judge)
            again = host.finish(*args)
            changed = difference(as_after_an_update(wanted), as_after_an_update(snapshot(host)))
            if again.returncode or changed:
                problems.append(f"killed before change {number}, run again: exit {again.returncode}: {changed}")
            gone = other.finish(*bench.programs.remove())
            changed = difference(clean, snapshot(other))
            if gone.returncode or changed:
                problems.append(f"killed before change {number}, remove: exit {gone.returncode}: {changed}")
    require(number > 3, f"only {number - 1} changes were seen")
    require(not problems, f"{len(problems)} problems\n" + "\n".join(problems[:6]))


for _name in ("fresh", "tables-swapped", "mask", "remove"):
    case(f"killed/{_name}", *TRANSITIONS[_name])(killed)


@case("fault/proc-sys-read-only", None, "base")
@case("fault/proc-sys-read-only-update", "mask-elsewhere", "tunnel")
@case("fault/proc-sys-read-only-remove", "base", None)
def proc_sys_read_only(bench: Bench, old: str | None, new: str | None) -> None:
    args, start = transition(bench, old, new)
    with start() as host:
        before = snapshot(host)
        host.sh("mount --bind /proc/sys /proc/sys; mount -o remount,ro,bind /proc/sys")
        done = host.finish(*args)
        require(done.returncode == 4, f"exit {done.returncode}, not 4: {done.stderr}")
        require("/proc/sys" in done.stderr and "writable" in done.stderr, f"it said: {done.stderr}")
        same(rules_in_any_order(before), rules_in_any_order(snapshot(host)), STATE)
        one_line(done.stderr)


@case("fault/rules-keep-their-order/update", "base", "tables-swapped")
@case("fault/rules-keep-their-order/remove", "base", None)
def order_after_undo(bench: Bench, old: str | None, new: str | None) -> None:
    """Byte for byte holds for the order of our rules, too. (A stranger's of the same priority ends up before ours:
    the kernel only adds behind.)
    """
    args, start = transition(bench, old, new)
    with start() as host:
        before = snapshot(host)
        deleted = 0

        def judge(call: gate.Call) -> gate.Refuse | None:
            nonlocal deleted
            if any(kind == RTM_DELRULE for kind, _ in gate.messages(call.data())):
                deleted += 1
                if deleted == 3:
                    return gate.Refuse(errno.ENOBUFS)
            return None

        done = host.gated(args, CALLS, judge)
        require(done.code == 4, f"exit {done.code}: fewer than three rules were deleted: {done.stderr}")
        unchanged(host, before, STATE)


# 6. bad input


def one_line(said: str) -> str:
    lines = said.splitlines()
    require(len(lines) == 1, f"{len(lines)} lines on standard error, not 1:\n{said}")
    require(lines[0].startswith("returnpath: "), f"it does not begin with `returnpath: `: {said}")
    return lines[0]


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


# 7. names of tables

NAMES = "/etc/iproute2/rt_tables.d/returnpath.conf"


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


# 8. log and company


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

"""From one policy to another: what holds meanwhile, and that it is done whole or not at all."""

from __future__ import annotations

import errno
import itertools
import re
import signal
from collections.abc import Callable

import gate
import policies
import probe
from case import STATE, Bench, as_after_an_update, case, one_line, require, rules_in_any_order, same, unchanged
from machine import Machine, command, difference, finish, snapshot
from policies import UPDATES

RTM_DELRULE = 33

# updates


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


# everything or nothing

CALLS = ["sendto", "sendmsg", "recvmsg", "recvmmsg", "recvfrom", "open", "openat"]
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
    case(f"fault/receive/{_name}", _old, _new, ["recvmsg", "recvmmsg", "recvfrom"], [errno.ENOBUFS])(faults)


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
        deleted, is_refused = 0, False

        def judge(call: gate.Call) -> gate.Refuse | None:
            nonlocal deleted, is_refused
            if deleted >= 2 and not is_refused and gate.changes(call):
                is_refused = True
                return gate.Refuse(errno.ENOBUFS)
            deleted += sum(kind == RTM_DELRULE for kind, _ in gate.messages(call.data()))
            return None

        done = host.gated(args, CALLS, judge)
        require(done.code == 4, f"exit {done.code}: fewer than two rules were deleted: {done.stderr}")
        unchanged(host, before, STATE)

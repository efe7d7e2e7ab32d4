"""The guard alone: others fight it, flood it, or leave it in peace; and what that costs."""

from __future__ import annotations

import multiprocessing
import re
import signal
import socket
import subprocess
import time
from pathlib import Path

from bench import OURS, Bench, case, require
from decay import SPARED, shell
from netlink import Event, Routing
from resident import until
from verdict import NONE

EACH = 0.001  # seconds between two attempts of the fighter
LIMIT = 1.0 / 3  # of one processor, at most, whatever others do
FIGHTER = "rulefight"
RULE = ("rule", 4, 200, 1000)


def fighter(bench: Bench, seconds: float) -> None:
    """Deletes our rule a thousand times a second."""
    Path("/proc/self/comm").write_text(FIGHTER)
    with bench.host.entered():
        routing = Routing()
    end = due = time.monotonic()
    end += seconds
    while due < end:
        routing.delete_rule(socket.AF_INET, 0x2, 0xFF, 200)
        due = max(due + EACH, time.monotonic())
        time.sleep(max(0.0, due - time.monotonic()))


@case("pressure/fight")
def fight(bench: Bench) -> None:
    """It gives way, says to whom, and has the last word."""
    seconds = 30.0 if bench.options.full else 4.0
    with bench.guard("--policy", bench.compile(bench.policy())) as guard:
        other = multiprocessing.get_context("fork").Process(target=fighter, args=(bench, seconds), daemon=True)
        began, cpu = time.monotonic(), guard.cpu()
        other.start()
        other.join()
        fought, cpu = time.monotonic() - began, guard.cpu() - cpu
        put_back = sum(event.is_there for event in bench.witness.since(began, RULE))
        back = lambda: bench.witness.is_back(began, RULE)  # noqa: E731
        bench.witness.until(back, lambda: f"the rule: {guard.said()}", 2 * seconds + 20)
        named, gives_way = f"{FIGHTER} (process {other.pid})", "again and again"
        lines = [line for line in guard.said().splitlines() if gives_way in line]
        require(any(named in line for line in lines), f"no line with {named} and `{gives_way}`: {guard.said()}")
        require(put_back < 30 + seconds, f"{put_back} times put back within {fought:.1f} s")
        busy(bench, cpu, fought)
        bench.figures["put back"] = put_back
        bench.resident(guard)


def busy(bench: Bench, cpu: float, seconds: float) -> None:
    bench.figures["guard cpu %"] = 100 * cpu / seconds
    require(cpu < LIMIT * seconds, f"{cpu:.2f} s of processor time within {seconds:.2f} s")


def churn(bench: Bench, routes: int) -> None:
    """Routes of somebody else that come and go, in a table of theirs and in main."""
    lines = []
    for number in range(routes):
        to = f"203.0.{number >> 8 & 127}.{number & 255}"
        lines += [f"route {verb} {to} dev back0 table {table}" for verb in ("add", "del") for table in (999, 254)]
    bench.host.ip(*lines)


@case("pressure/storm")
def storm(bench: Bench) -> None:
    """Others are busy with their own: it listens to all of it, and finds what is meant for it."""
    image = bench.compile(bench.policy())
    with bench.guard("--policy", image) as guard:
        began, cpu = time.monotonic(), guard.cpu()
        for _ in range(bench.options.times(10, 3)):
            churn(bench, 2000)
            bench.event("ip rule del", shell(bench, "ip rule del table 200"), {RULE}, NONE)
        bench.figures["events a second"] = len(bench.witness.since(began)) / (time.monotonic() - began)
        # Shown, not judged: it is over in a third of a second, and the clock of a process ticks in hundredths.
        bench.figures["guard cpu %"] = 100 * (guard.cpu() - cpu) / (time.monotonic() - began)
        bench.in_force(image)
        bench.resident(guard)


@case("pressure/overrun")
def overrun(bench: Bench) -> None:
    """More is told than its sockets hold, and what concerns it is among what was lost."""
    image = bench.compile(bench.policy())
    with bench.guard("--policy", image) as guard:
        for _ in range(bench.options.times(5, 1)):

            def act() -> None:
                guard.stop()
                churn(bench, 2000)
                bench.restart_firewall()
                shell(bench, "ip $family rule del table 200; ip $family route flush table 200", SPARED)()
                churn(bench, 500)
                require(guard.drops() > drops, "nothing was lost, so nothing is shown")
                guard.signal(signal.SIGCONT)

            drops = guard.drops()
            bench.event("overrun", act, OURS, NONE)
        bench.figures["lost by the guard"] = guard.drops()
        bench.in_force(image)
        bench.resident(guard)


@case("pressure/watchdog")
def watchdog(bench: Bench) -> None:
    """Signs of life, twice in the time that the service manager grants; none on behalf of another process."""
    image, granted = bench.compile(bench.policy()), 1.0
    microseconds = str(int(granted * 1e6))
    with bench.guard("--policy", image, WATCHDOG_USEC=microseconds) as guard:
        signs = lambda: [at for at, state in guard.told if state == "WATCHDOG=1"]  # noqa: E731
        until(lambda: len(signs()) > 6, "signs of life", guard.said)
        first, last, count = signs()[0], signs()[-1], len(signs()) - 1
        bench.figures["sign of life each s"] = (last - first) / count
        require(0.4 * granted < (last - first) / count < granted, f"{count} signs within {last - first} s")
    with bench.guard("--policy", image, WATCHDOG_USEC=microseconds, WATCHDOG_PID="1") as guard:
        time.sleep(2 * granted)
        require(not any("WATCHDOG" in state for _, state in guard.told), f"it gave signs for another: {guard.told}")


@case("pressure/idle")
def idle(bench: Bench) -> None:
    """Nothing happens, and no system call of it comes back; then something does."""
    seconds = 300.0 if bench.options.soak else 20.0
    trace = bench.folder / "strace"
    calls = lambda: re.findall(r"^.*\) += .*$", trace.read_text(), re.M)  # noqa: E731
    with bench.guard("--policy", bench.compile(bench.policy())) as guard:
        quiet(bench)
        strace = subprocess.Popen(["strace", "-f", "-q", "-o", str(trace), "-p", str(guard.pid)])
        try:
            until(lambda: trace.exists() and trace.read_text(), "strace to see it", lambda: "nothing")
            cpu, began = guard.cpu(), time.monotonic()
            time.sleep(seconds)
            told = news(bench, began)
            require(not told, f"the machine was not quiet: {told[:3]}")
            require(not calls(), f"{len(calls())} system calls within {seconds:.0f} s: {calls()[:3]}")
            bench.figures["idle s"] = time.monotonic() - began
            bench.figures["wake-ups"] = len(calls())
            bench.figures["cpu ms"] = 1000 * (guard.cpu() - cpu)
            bench.host.run("ip", "rule", "del", "table", "200")
            until(calls, "a system call", trace.read_text)  # so it would have been seen
        finally:
            strace.terminate()
            strace.wait()
        bench.resident(guard)


def news(bench: Bench, since: float) -> list[Event]:
    """All but neighbours, which age by themselves."""
    return [event for event in bench.witness.since(since) if event.key[0] != "neighbour"]


def quiet(bench: Bench) -> None:
    """Waits until neither the guard's own installation nor IPv6 has anything more to tell."""
    deadline = time.monotonic() + 60
    while news(bench, time.monotonic() - 3):
        require(time.monotonic() < deadline, "the machine does not get quiet")
        time.sleep(0.1)

"""`apply --confirm`: a policy that is taken back by itself unless somebody confirms it."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import time
from pathlib import Path

from case import SECONDS, Bench, case, require, same, until
from early import LAN
from guard import OTHER, comes_back, guarded, is_whole
from machine import Machine, command, snapshot

ANOTHER = LAN.replace("0x2", "0x4").replace("200", "300")


def on_trial(bench: Bench, host: Machine, image: str, seconds: int) -> str:
    return bench.firmware(host, "apply", "--confirm", str(seconds), "--policy", image)


def comes_to(host: Machine, state: dict[str, str], what: str) -> None:
    deadline = time.monotonic() + SECONDS
    while (now := snapshot(host)) != state and time.monotonic() < deadline:
        time.sleep(0.05)
    same(state, now, what)


@case("trial/taken-back", LAN)
@case("trial/taken-back-to-nothing", "")
def taken_back(bench: Bench, before: str) -> None:
    image = bench.image(ANOTHER)
    with Machine() as host:
        host.sysctl("ipv4/conf/all/rp_filter", 1)
        if before:
            bench.apply(host, bench.image(before))
        was = snapshot(host)
        said = on_trial(bench, host, image, 1)
        require("in force, on trial" in said and "taken back in 1 s" in said, said)
        require(is_whole(host, bench, image), "the policy on trial differs from itself")
        comes_to(host, was, "after the trial")
        line = f"returnpath: {image}: not confirmed within 1 s, and taken back"
        until(lambda: line in command("dmesg"), "a record in the kernel log", lambda: command("dmesg")[-2000:])


@case("trial/confirmed")
def confirmed(bench: Bench) -> None:
    image = bench.image(ANOTHER)
    with Machine() as host:
        bench.apply(host, bench.image(LAN))
        bench.apply(host, image)
        applied = snapshot(host)
        bench.apply(host, bench.image(LAN))
        on_trial(bench, host, image, 2)
        bench.firmware(host, "confirm")
        same(applied, snapshot(host), "confirmed")
        time.sleep(2.5)
        same(applied, snapshot(host), "confirmed, and the time is up")
        require("no policy is on trial" in bench.firmware(host, "confirm", code=4), "confirmed twice")


@case("trial/ended-by-another-apply", "apply")
@case("trial/ended-by-the-same-apply", "same")
@case("trial/ended-by-remove", "remove")
def ended(bench: Bench, by: str) -> None:
    image, other = bench.image(ANOTHER), bench.image(LAN)
    with Machine() as host:
        on_trial(bench, host, image, 1)
        bench.remove(host) if by == "remove" else bench.apply(host, other if by == "apply" else image)
        was = snapshot(host)
        time.sleep(1.5)
        same(was, snapshot(host), "when the time is up")


@case("trial/in-force-already")
def already(bench: Bench) -> None:
    image = bench.image(LAN)
    with Machine() as host:
        bench.apply(host, image)
        was = snapshot(host)
        require("not on trial" in on_trial(bench, host, image, 1), "a trial of what is in force")
        same(was, snapshot(host), "nothing to try")


@case("trial/refused")
def refused(bench: Bench) -> None:
    with Machine() as host:
        bench.apply(host, bench.image(LAN))
        was = snapshot(host)
        image = bench.image(LAN.replace("10.0.0.2", "192.0.2.1"))
        bench.firmware(host, "apply", "--confirm", "1", "--policy", image, code=4)
        bench.firmware(host, "apply", "--confirm", "0", "--policy", image, code=2)
        bench.firmware(host, "apply", "--confirm", "--policy", image, code=2)
        bench.firmware(host, "apply", "--confirm", "5", "--policy", "/nonexistent", code=3)
        same(was, snapshot(host), "after refusals")


@case("trial/one-at-a-time")
def one_at_a_time(bench: Bench) -> None:
    first, second = bench.image(ANOTHER), bench.image(OTHER)
    with Machine() as host:
        clean = snapshot(host)
        on_trial(bench, host, first, 3)
        said = bench.firmware(host, "apply", "--confirm", "3", "--policy", second, code=4)
        require("another policy is on trial" in said, said)
        comes_to(host, clean, "after the trial")


@case("trial/terminal-dies")
def terminal_dies(bench: Bench) -> None:
    """The terminal goes while the trial lasts, and takes its foreground processes with it."""
    image = bench.image(ANOTHER)
    with Machine() as host:
        clean = snapshot(host)
        with host.inside():
            process, terminal = pty.fork()
            if process == 0:
                command = f"{bench.programs.firmware} apply --confirm 2 --policy {image}; cat"
                os.execv("/bin/sh", ["sh", "-c", command])
        until(lambda: is_whole(host, bench, image), "the policy", lambda: "")
        os.close(terminal)
        os.waitpid(process, 0)
        comes_to(host, clean, "after the terminal has died")


@case("trial/beside-a-guard")
def beside_a_guard(bench: Bench) -> None:
    """It lets the trial be, guards what the trial leaves, and takes up again what comes back."""
    image, other = bench.image(LAN), bench.image(ANOTHER)
    with Machine() as host, guarded(host, bench, image) as guard:
        was = snapshot(host)
        on_trial(bench, host, other, 1)
        guard.says("another policy than that of")
        comes_to(host, was, "after the trial")
        until(lambda: guard.hear() and "in force, and guarded" in guard.told[-1], "it to be at rest", guard.hear)
        host.run("nft", "flush", "ruleset")
        comes_back(host, bench, image, guard)


@case("trial/of-a-guarded-source")
def of_a_guarded_source(bench: Bench) -> None:
    """The guard repairs a policy on trial as any other, and that ends no trial."""
    file, other = bench.folder / "policy.bin", bench.image(ANOTHER)
    file.write_bytes(Path(bench.image(LAN)).read_bytes())
    with Machine() as host, guarded(host, bench, str(file)) as guard:
        was = snapshot(host)
        file.write_bytes(Path(other).read_bytes())
        on_trial(bench, host, str(file), 2)
        host.run("ip", "rule", "del", "fwmark", "4/0xff")
        comes_back(host, bench, other, guard)
        comes_to(host, was, "after the trial")


@case("trial/its-process-is-gone")
def process_gone(bench: Bench) -> None:
    """Then nobody takes it back; and when its time is up it stands in no one's way."""
    first, second = bench.image(ANOTHER), bench.image(OTHER)
    with Machine() as host:
        on_trial(bench, host, first, 1)
        done = subprocess.run(
            ["pgrep", "-f", f"on-trial 1 --policy {first}"], capture_output=True, text=True, check=True
        )
        os.kill(int(done.stdout), signal.SIGKILL)
        time.sleep(1.2)
        require(is_whole(host, bench, first), "it is gone")
        on_trial(bench, host, second, 1)
        bench.firmware(host, "confirm")

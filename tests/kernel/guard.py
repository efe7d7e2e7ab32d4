"""`guard`: what others take away is put back, what an administrator orders is obeyed. (Packets: tests/guard.)"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from case import Bench, case, require, same, until
from early import IN_ROUTER2, LAN, table
from machine import Machine, snapshot
from service import Service, place, service

OTHER = LAN.replace('"52:54:00:c2:a5:43"', '"52:54:00:c2:a5:44"')


@contextlib.contextmanager
def guarded(host: Machine, bench: Bench, source: str, name: str = "--policy") -> Iterator[Service]:
    with service(host, bench.programs.firmware, "guard", name, source, place=place(bench)) as guard:
        guard.tells("READY=1\nSTATUS=")
        yield guard
        require(guard.is_there(), f"the guard has ended: {guard.hear()}")


def is_whole(host: Machine, bench: Bench, image: str) -> bool:
    return host.finish(bench.programs.firmware, "status", "--policy", image).returncode == 0


def comes_back(host: Machine, bench: Bench, image: str, guard: Service) -> None:
    until(lambda: is_whole(host, bench, image), "the policy to be whole again", guard.hear)


@contextlib.contextmanager
def strict(host: Machine) -> Iterator[None]:
    """With a reverse-path filter, for whose sake the gateway's port has settings of ours."""
    host.sysctl("ipv4/conf/all/rp_filter", 1)
    yield


TAKEN = {
    "flush-ruleset": [["nft", "flush", "ruleset"]],
    "flush-table": [["nft", "flush", "table", "inet", "returnpath"]],
    "one-rule": [["sh", "-c", "nft delete rule inet returnpath take_router2 handle "
                  "$(nft -a list chain inet returnpath take_router2 | sed -n 's/.*accept # handle //p')"]],
    "element": [["nft", "delete element inet returnpath macs { 52:54:00:c2:a5:43 }"]],
    "fwmark-rule": [["ip", "-4", "rule", "del", "fwmark", "2/0xff"]],
    "all-rules": [["ip", "-4", "rule", "flush"], ["ip", "-6", "rule", "flush"]],
    "routes": [["ip", "route", "flush", "table", "200"], ["ip", "-6", "route", "flush", "table", "200"]],
    "another-route": [["ip", "route", "replace", "default", "via", "10.0.0.77", "table", "200", "protocol", "82"]],
    "setting": [["sysctl", "-qw", "net.ipv4.tcp_fwmark_accept=0"]],
    "port-setting": [["sysctl", "-qw", "net.ipv4.conf.eth0.src_valid_mark=0"]],
    "everything": [["nft", "flush", "ruleset"], ["ip", "rule", "del", "fwmark", "2/0xff"],
                   ["ip", "route", "flush", "table", "200"]],
}  # fmt: skip


def taken(bench: Bench, name: str, is_in_force: bool) -> None:
    image = bench.image(LAN)
    with Machine() as host, strict(host):
        if is_in_force:
            bench.apply(host, image)
        with guarded(host, bench, image) as guard:
            for command in TAKEN[name]:
                host.finish(*command)
            comes_back(host, bench, image, guard)
            guard.says("put back: ")


for _name in TAKEN:
    case(f"guard/taken/{_name}", _name, False)(taken)
case("guard/taken/setting-of-before", "setting", True)(taken)


@case("guard/names-who", ["nft", "flush", "ruleset"], r"it was nft \(process \d+\)")
@case("guard/names-who-rule", ["ip", "rule", "del", "fwmark", "2/0xff"], r"it was (ip \()?process \d+")
def names_who(bench: Bench, command: list[str], words: str) -> None:
    image = bench.image(LAN)
    with Machine() as host, guarded(host, bench, image) as guard:
        host.run(*command)
        comes_back(host, bench, image, guard)
        guard.says("it was ")
        require(re.search(words, guard.said), guard.said)


@case("guard/flap")
def flap(bench: Bench) -> None:
    """The route goes with the port and comes with it; what is beneath it stays; and a flap is no fight."""
    image = bench.image(LAN)
    with Machine() as host, strict(host), guarded(host, bench, image) as guard:
        record = host.run("nft", "list", "chain", "inet", "returnpath", "sysctls")
        require("conf/eth0/rp_filter=" in record, record)
        for _ in range(30):
            host.batch("link set eth0 down")
            until(lambda: IN_ROUTER2 not in table(host, 200), "the route to go", guard.hear)
            until(lambda: "waiting for ip -4 route add" in guard.hear(), "it to have seen that", guard.hear)
            now = host.run("nft", "list", "chain", "inet", "returnpath", "sysctls")
            require(now == record, f"the settings of the port are given up: {now}")
            require("unreachable default" in table(host, 200), table(host, 200))
            host.batch("link set eth0 up")
            until(lambda: IN_ROUTER2 in table(host, 200), "the route", guard.hear)
        host.batch("addr add fd00::10/64 dev eth0 nodad")  # IPv6 addresses go with the port
        comes_back(host, bench, image, guard)
        require("again and again" not in guard.hear(), guard.said)
        guard.tells("STATUS=complete")


@case("guard/address")
def address(bench: Bench) -> None:
    image = bench.image(LAN)
    with Machine() as host, guarded(host, bench, image) as guard:
        host.batch("addr del 10.0.0.10/24 dev eth0")
        guard.tells("STATUS=waiting for ip -4 route add default via 10.0.0.2")
        host.batch("addr add 10.0.0.10/24 dev eth0")
        comes_back(host, bench, image, guard)
        guard.tells("STATUS=complete")


@case("guard/address-time-and-again")
def address_again(bench: Bench) -> None:
    """What can not be had is not said to be put back, and nobody has taken it away."""
    image = bench.image(f'{LAN}device = "eth0"')
    with Machine() as host, guarded(host, bench, image) as guard:
        for number in range(1, 16):
            host.batch("addr del 10.0.0.10/24 dev eth0")
            until(lambda: IN_ROUTER2 not in table(host, 200), "the route to go", guard.hear)
            awaited = lambda n=number: guard.hear().count("returnpath: waiting for ip -4 route add") >= n  # noqa: E731
            until(awaited, "it to have seen that", guard.hear)
            host.batch("addr add 10.0.0.10/24 dev eth0")
            complete = lambda n=number: guard.hear().count("returnpath: complete") >= n  # noqa: E731
            until(complete, "the route", guard.hear)
        comes_back(host, bench, image, guard)
        require("again and again" not in guard.hear(), guard.said)
        require(guard.said.count("put back: missing: ip -4 route") <= 15, guard.said)


@case("guard/link-by-hand", "guard", "--policy")
@case("service/link-by-hand", "apply", "--wait", "--policy")
def link_by_hand(bench: Bench, *words: str) -> None:
    """An address of its own alone, and a route to the link beside it, as hosted machines have; whatever comes first."""
    image = bench.image(LAN)
    with Machine() as host:
        host.batch("addr flush dev eth0", "addr add 10.0.0.10/32 dev eth0", "addr add fd00::10/128 dev eth0 nodad")
        with service(host, bench.programs.firmware, *words, image, place=place(bench)) as running:
            running.tells("STATUS=waiting for ip -4 route add default via 10.0.0.2")
            host.batch("route add 10.0.0.0/16 dev eth0 proto static scope link")
            until(lambda: IN_ROUTER2 in table(host, 200), "the route", running.hear)
            host.batch("-6 route add fd00::/48 dev eth0 proto static")
            running.tells("STATUS=complete")
            require(is_whole(host, bench, image), running.said)
        host.run(bench.programs.firmware, "remove")
        with service(host, bench.programs.firmware, *words, image) as running:
            until(lambda: running.hear() and "1 path; in force" in running.said, "the policy", running.hear)
            require("waiting for" not in running.said, running.said)


@case("guard/begins-early")
def begins_early(bench: Bench) -> None:
    """Started before the network is there, it is ready at once, and adds what comes."""
    image = bench.image(LAN)
    with Machine() as host:
        host.batch("link set eth0 down", "addr flush dev eth0")
        with guarded(host, bench, image) as guard:
            guard.tells("STATUS=waiting for ip -4 route add default via 10.0.0.2")
            host.batch("link set eth0 up", "addr add 10.0.0.10/24 dev eth0", "addr add fd00::10/64 dev eth0 nodad")
            comes_back(host, bench, image, guard)


@case("guard/as-apply-leaves-it")
def as_apply(bench: Bench) -> None:
    image = bench.image(LAN)
    with Machine() as host:
        clean = snapshot(host)
        bench.apply(host, image)
        applied = snapshot(host)
        bench.remove(host)
        same(clean, snapshot(host), "after remove")
        for _ in range(2):
            with service(host, bench.programs.firmware, "guard", "--policy", image, place=place(bench)) as guard:
                guard.tells("READY=1")
                same(applied, snapshot(host), "with a guard")
                guard.process.terminate()
                guard.ends()
                os.unlink(place(bench))
        same(applied, snapshot(host), "after the guards")


@case("guard/killed")
def killed(bench: Bench) -> None:
    image = bench.image(LAN)
    with Machine() as host:
        with service(host, bench.programs.firmware, "guard", "--policy", image) as guard:
            guard.says("in force")
            whole = snapshot(host)
        same(whole, snapshot(host), "after a kill")
        with guarded(host, bench, image):
            same(whole, snapshot(host), "with the next guard")


@case("guard/reload")
def reload(bench: Bench) -> None:
    image, other = bench.image(LAN), bench.image(OTHER)
    file = bench.folder / "policy.bin"
    file.write_bytes(Path(image).read_bytes())
    with Machine() as host, guarded(host, bench, str(file)) as guard:
        file.write_bytes(Path(other).read_bytes())
        guard.process.send_signal(signal.SIGHUP)
        comes_back(host, bench, other, guard)
        guard.tells("RELOADING=1\nMONOTONIC_USEC=")
        until(lambda: guard.hear() and sum("READY=1" in state for state in guard.told) == 2, "ready again", guard.hear)

        file.write_bytes(b"RPOL nonsense")
        guard.process.send_signal(signal.SIGHUP)
        guard.says("the policy of before stays in force")
        host.run("nft", "flush", "ruleset")
        comes_back(host, bench, other, guard)
        guard.says("the policy of before: 1 path; in force")


@case("guard/board")
def board(bench: Bench) -> None:
    file = bench.board(LAN)
    with Machine() as host, guarded(host, bench, file, "--board") as guard:
        guard.says("(slot A, serial 1): 1 path; in force, and guarded")
        host.run(bench.programs.board, "write", "--device", file, bench.image(OTHER))
        guard.process.send_signal(signal.SIGHUP)
        guard.says("(slot B, serial 2): 1 path; in force, and guarded")
        comes_back(host, bench, bench.image(OTHER), guard)


@case("guard/apply-beside-it")
def beside(bench: Bench) -> None:
    """A new policy in the source, applied by hand: both agree. Another one: it stays, until SIGHUP or a flush."""
    file = bench.board(LAN)
    other, third = bench.image(OTHER), bench.image(LAN.replace("0x2", "0x4"))
    with Machine() as host, guarded(host, bench, file, "--board") as guard:
        host.run(bench.programs.board, "write", "--device", file, other)
        bench.firmware(host, "apply", "--board", file)
        guard.says("(slot B, serial 2): 1 path; in force, and guarded")
        host.run("ip", "rule", "del", "fwmark", "2/0xff")
        comes_back(host, bench, other, guard)

        bench.apply(host, third)
        guard.tells("STATUS=another policy than that of")
        said = host.run(bench.programs.firmware, "status", "--policy", third)
        require("guard is at work" not in said, f"it claims to guard:\n{said}")
        host.run("ip", "rule", "add", "fwmark", "0x9999", "table", "main", "priority", "7")  # it wakes, and lets it be
        time.sleep(0.1)
        require(is_whole(host, bench, third), "the policy that was applied by hand is gone")
        guard.process.send_signal(signal.SIGHUP)
        comes_back(host, bench, other, guard)

        bench.apply(host, third)
        guard.hear()
        host.run("nft", "flush", "ruleset")
        comes_back(host, bench, other, guard)


@case("guard/remembers-settings")
def remembers_settings(bench: Bench) -> None:
    """The record of what settings were goes with the table; a guard has read it before."""
    image = bench.image(LAN)
    with Machine() as host, strict(host):
        host.sysctl("ipv4/tcp_fwmark_accept", 1)
        clean = snapshot(host)
        with service(host, bench.programs.firmware, "guard", "--policy", image) as guard:
            guard.says("in force")
            whole = snapshot(host)
            host.run("nft", "flush", "ruleset")
            comes_back(host, bench, image, guard)
            require("our record of it is lost" not in guard.hear(), guard.said)
            same(whole, snapshot(host), "after a flush")
            guard.process.terminate()
            guard.ends()
        bench.remove(host)
        same(clean, snapshot(host), "after remove")


@case("guard/settings-after-reclaim")
def settings_after_reclaim(bench: Bench) -> None:
    """The kernel makes a setting's inode anew once it has dropped its name from the cache."""
    image = bench.image(LAN)
    with Machine() as host, strict(host):
        bench.apply(host, image)
        with guarded(host, bench, image) as guard:
            Path("/proc/sys/vm/drop_caches").write_text("2\n")
            for command in TAKEN["setting"]:
                host.run(*command)
            comes_back(host, bench, image, guard)


@case("guard/only-one")
def only_one(bench: Bench) -> None:
    image = bench.image(LAN)
    with Machine() as host, guarded(host, bench, image):
        require("another `returnpath guard`" in bench.firmware(host, "guard", "--policy", image, code=4), "two guards")
        bench.apply(host, image)
        before = snapshot(host)
        require("guard" in bench.remove(host, code=4), "it does not say why")
        same(before, snapshot(host), "after a refused remove")


def taken_until(host: Machine, guard: Service, words: str, meanwhile: Callable[[], None] = lambda: None) -> int:
    """Somebody deletes our rule until the guard gives way in such words; how often there was one to delete."""
    deleted = 0
    while not re.search(words, guard.hear()):
        deleted += host.finish("ip", "rule", "del", "fwmark", "2/0xff").returncode == 0
        meanwhile()
        require(deleted < 200, guard.said)
    return deleted


@case("guard/fight")
def fight(bench: Bench) -> None:
    """Somebody who takes the same away again and again is named, and left more and more time; then it is put back."""
    image = bench.image(LAN)
    with Machine() as host, guarded(host, bench, image) as guard:
        deleted = taken_until(host, guard, r"it was .*process \d+.*(left alone for|another attempt in) 1 s")
        require(deleted >= 10, f"it gave way after {deleted}")
        comes_back(host, bench, image, guard)


@case("guard/fight-beside-a-port")
def fight_beside(bench: Bench) -> None:
    """A port that is none of ours changes all the time; that excuses nobody."""
    image = bench.image(LAN)
    with Machine() as host, guarded(host, bench, image) as guard:
        host.batch("link add other type veth peer name another")
        change = lambda: host.batch("link set other mtu 1400", "link set other mtu 1401")  # noqa: E731
        deleted = taken_until(host, guard, r"(left alone for|another attempt in) [2-9] s", change)
        require(deleted < 40, f"it gave way after {deleted}: {guard.said}")


@case("guard/fight-with-a-flap")
def fight_with_flap(bench: Bench) -> None:
    """A port of ours that goes down takes a route with it, and no rule."""
    image = bench.image(LAN)
    with Machine() as host, guarded(host, bench, image) as guard:

        def change() -> None:
            host.batch("link set eth0 mtu 1400", "link set eth0 mtu 1500")
            comes_back(host, bench, image, guard)

        deleted = taken_until(host, guard, r"ip -4 rule add.*(left alone for|another attempt in) 1 s", change)
        require(deleted < 40, f"it gave way after {deleted}: {guard.said}")


@case("guard/port-back-in-a-fight", "")
@case("guard/named-port-back-in-a-fight", 'device = "eth0"')
def port_back(bench: Bench, key: str) -> None:
    """Somebody who takes a rule away again and again does not delay a route that comes back with its port."""
    image = bench.image(f"{LAN}{key}")
    with Machine() as host, guarded(host, bench, image) as guard:
        began = time.monotonic()
        taken_until(host, guard, r"(left alone for|another attempt in) 8 s")
        require(time.monotonic() - began > 1 + 2 + 4, f"it did not wait: {guard.said}")
        host.batch("link set eth0 down")
        until(lambda: "waiting for ip -4 route add" in guard.hear(), "it to have seen that", guard.hear)
        began = time.monotonic()
        host.batch("link set eth0 up")
        until(lambda: IN_ROUTER2 in table(host, 200), "the route", guard.hear)
        took = time.monotonic() - began
        require(took < 4, f"the route was back after {took:.1f} s: {guard.said}")


@case("guard/port-made-anew")
def port_anew(bench: Bench) -> None:
    """As one that dials in again and again. Its settings and what we recorded of them go and come with it: no fight."""
    path = LAN.replace(', "fd00::2"', "") + 'device = "eth9"\nonlink = true\nscope = "both"'
    with Machine() as host:
        host.sysctl("ipv4/conf/default/rp_filter", 1)
        anew = ("link add eth9 type veth peer name eth10", "link set eth9 up", "link set eth10 up")
        host.batch(*anew)
        with guarded(host, bench, bench.image(path)) as guard:
            for _ in range(14):
                host.batch("link del eth9")
                until(lambda: "via" not in table(host, 200), "the route to go", guard.hear)
                host.batch(*anew)
                until(lambda: "via 10.0.0.2 dev eth9" in table(host, 200), "the route", guard.hear)
            comes_back(host, bench, bench.image(path), guard)
            require("again and again" not in guard.hear(), guard.said)


@case("guard/no-inotify")
def no_inotify(bench: Bench) -> None:
    """Somebody has used all instances up: all else is guarded. A user namespace has a limit of its own."""
    image = bench.image(LAN)
    script = f"""
        echo 0 >/proc/sys/user/max_inotify_instances
        ip link add eth0 type veth peer name eth1; ip link set eth0 up; ip link set eth1 up
        ip address add 10.0.0.10/24 dev eth0 && ip address add fd00::10/64 dev eth0 nodad
        {bench.programs.firmware} guard --policy {image} 2>&1 & guard=$!
        trap 'kill $guard' TERM
        is_whole() {{ {bench.programs.firmware} status --policy {image} >/dev/null 2>&1; }}
        whole() {{ until is_whole; do sleep 0.05 & wait $!; done; }}
        whole; ip rule del fwmark 2/0xff; whole
        kill $guard; wait $guard; echo "ended $?"
    """
    with Machine() as host:
        done = host.finish("unshare", "--user", "--map-root-user", "--net", "timeout", "20", "sh", "-c", script)
    require("raise fs.inotify.max_user_instances" in done.stdout, f"{done.stdout}{done.stderr}")
    require("put back: missing: ip -4 rule add" in done.stdout and "ended 0" in done.stdout, done.stdout)


@case("guard/watchdog")
def watchdog(bench: Bench) -> None:
    image = bench.image(LAN)
    os.environ["WATCHDOG_USEC"] = "200000"
    with Machine() as host, guarded(host, bench, image) as guard:
        until(lambda: guard.hear() and guard.told.count("WATCHDOG=1") >= 5, "five signs of life", guard.hear)


@case("guard/much-at-once")
def much(bench: Bench) -> None:
    """More news than its sockets hold, with one in between that is about us."""
    image = bench.image(LAN)
    with Machine() as host, guarded(host, bench, image) as guard:
        guard.process.send_signal(signal.SIGSTOP)
        lines = [
            f"route {verb} 203.0.113.{n}/32 dev eth0" for _ in range(10) for verb in ("add", "del") for n in range(250)
        ]
        host.batch(*lines[:2500], "rule del fwmark 2/0xff", *lines[2500:])
        guard.process.send_signal(signal.SIGCONT)
        comes_back(host, bench, image, guard)


@case("guard/idle")
def idle(bench: Bench) -> None:
    """Nothing happens, and it does nothing: no system call comes back."""
    image = bench.image(LAN)
    with Machine() as host, guarded(host, bench, image) as guard:
        time.sleep(1)  # its own news of the installation
        calls = Path(f"/proc/{guard.process.pid}/status")

        def switches() -> str:
            return re.search(r"^voluntary_ctxt_switches:\s+(\d+)", calls.read_text(), re.M).group(1)

        before = switches()
        host.batch("route add 203.0.113.0/24 via 10.0.0.1 protocol bgp", "route add 198.51.100.0/24 via 10.1.0.1")
        time.sleep(2)
        require(guard.is_there(), guard.hear())
        woken = int(switches()) - int(before)
        require(woken <= 2, f"woken {woken} times by two routes of others")
        before = switches()
        time.sleep(3)
        require(switches() == before, "it was woken by nothing")

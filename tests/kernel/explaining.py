"""`returnpath explain` where the kernel is not as the policy has it. (Where it is, tests/explain asks.)"""

from __future__ import annotations

import json

from case import Bench, case, require, unchanged
from machine import Machine, snapshot
from policies import path

MAC = "52:54:00:c2:a5:43"
POLICY = path("a", 0x2, 200, 1, ingress=None, source_macs=f'["{MAC}"]') + path(
    "t", 0x3, 201, 1, gateways=None, device='"wg0"', ingress='["wg0"]', services=None
)
CALL = "--iif eth0 --mac {mac} --src 198.51.100.7 --dst 10.0.0.10 --proto tcp --dport {port}"


def explain(bench: Bench, host: Machine, image: str, code: int, port: int = 80, mac: str = MAC) -> dict:
    words = ["explain", "--policy", image, *CALL.format(mac=mac, port=port).split(), "--json"]
    done = host.finish(bench.programs.firmware, *words)
    require(done.returncode == code, f"exit {done.returncode}, not {code}: {done.stderr or done.stdout}")
    return json.loads(done.stdout)


@case("explain/differs/not-applied", lambda _: None, "things not as the policy has it")
@case(
    "explain/differs/rule-gone",
    lambda host: host.batch("rule del priority 1000 table 200"),
    "; see `returnpath status`",
)
@case(
    "explain/differs/route-gone", lambda host: host.batch("route del default table 200 via 10.0.0.2"), ": unreachable"
)
@case("explain/differs/other-rule", lambda host: host.batch("rule add priority 9 table main"), "; `ip rule` shows")
@case(
    "explain/differs/by-service", lambda host: host.batch("rule add ipproto tcp sport 80 priority 9 table main"), "`ip"
)
@case(
    "explain/differs/chain-gone",
    lambda host: host.run("nft", "flush", "chain", "inet", "returnpath", "from_a"),
    "1 thing ",
)
def differs(bench: Bench, change, said: str) -> None:  # noqa: ANN001
    with Machine() as host:
        image = bench.image(POLICY)
        if "things" not in said:
            bench.apply(host, image)
            require(explain(bench, host, image, 0)["kernel"]["agrees"], "it agrees")
        change(host)
        before = snapshot(host)
        answer = explain(bench, host, image, 5)
        require(answer["path"] == "a" and answer["table"] == 200, f"what the plan says: {answer}")
        require(any(said in line for line in answer["kernel"]["objections"]), f"{said}: {answer['kernel']}")
        unchanged(host, before, "explain has changed something")


@case("explain/other-rule-takes-what-is-not-ours")
def not_ours(bench: Bench) -> None:
    with Machine() as host:
        image = bench.image(POLICY)
        bench.apply(host, image)
        require(explain(bench, host, image, 0, port=23)["path"] is None, "no path takes it")
        host.batch("rule add ipproto tcp sport 23 priority 9 table 200")
        said = explain(bench, host, image, 5, port=23)["kernel"]["objections"]
        require("table of path a without its mark" in said[0], f"{said}")


@case("explain/usage")
def usage(bench: Bench) -> None:
    """What only the machine can tell: exit 2, one line."""
    with Machine() as host:
        image = bench.image(POLICY)
        bench.apply(host, image)
        call = CALL.format(mac=MAC, port=80)
        for words, said in (
            (call.replace("eth0", "eth9"), "--iif eth9: no such port"),
            (call.replace(f"--mac {MAC} ", ""), "port eth0: its frames have one, and paths go by it"),
            (call.replace("eth0", "wg0"), "port wg0: its packets have none; leave it out"),
        ):
            told = bench.firmware(host, "explain", "--policy", image, *words.split(), code=2)
            require(said in told and told.count("\n") == 1, f"{words}: {told}")
        by_port = bench.image(path("a", 0x2, 200, 1))  # where no path goes by a MAC, none is needed
        words = call.replace(f"--mac {MAC} ", "").split()
        bench.apply(host, by_port)
        bench.firmware(host, "explain", "--policy", by_port, *words)


@case("explain/board")
def board(bench: Bench) -> None:
    with Machine() as host:
        file = bench.board(POLICY)
        bench.firmware(host, "apply", "--board", file)
        bench.firmware(host, "explain", "--board", file, *CALL.format(mac=MAC, port=80).split())

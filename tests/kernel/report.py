"""What `status` says, against what the kernel's own tools say and what was sent."""

from __future__ import annotations

import errno
import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import gate
from case import Bench, case, require, until
from machine import Machine
from network import HOST, MAC, POLICY, ROUTER, Network, applied, asking, documented, keys

GET_NEIGHBOUR, GET_CONNECTIONS = 30, 0x101


def status(bench: Bench, host: Machine, image: str, code: int = 0) -> tuple[str, dict]:
    """Its text and its JSON."""
    said = []
    for options in ((), ("--json",)):
        done = host.finish(*bench.programs.status(image), *options)
        require(done.returncode == code, f"status {options}: exit {done.returncode}: {done.stdout}{done.stderr}")
        said.append(done.stdout)
    return said[0], json.loads(said[1])


def columns(text: str, head: str) -> dict[str, list[str]]:
    """The rows of a table, by their first word."""
    lines = text.split(head)[1].split("\n\n")[0].splitlines()[1:]
    return {line.split()[0]: line.split()[1:] for line in lines}


@case("report/status-of-a-healthy-host")
def healthy(bench: Bench) -> None:
    with applied(bench) as (network, image):
        host = network.host
        network.tcp()
        network.tcp(HOST[1])
        network.udp()
        network.echo(4)
        network.echo(6)
        for port, mark in ((1, 0x3), (2, 0xAB03), (3, 0x4), (4, 0)):  # two of the other path, two of none
            ends = ["-s", "192.0.2.1", "-d", "192.0.2.2", "--sport", str(port), "--dport", "7"]
            host.run("conntrack", "-I", "-p", "udp", "-t", "60", *ends, "-m", str(mark))
        text, found = status(bench, host, image)
        require(text.endswith(f"the kernel is as {image} has it: 2 paths\n"), text)
        require(all(len(line) <= 80 for line in text.splitlines()[:-1]), text)
        require(not host.finish(*bench.programs.status(image)).stderr, "it complains")
        require(found["in_force"] and not found["differences"] and not found["notes"], found)

        router2, other = found["paths"]
        tracked = host.run("conntrack", "-L", "--mark", "2/255").splitlines()
        require(
            (router2["connections_live"], other["connections_live"]) == (len(tracked), 2) == (5, 2), (text, tracked)
        )
        neighbours = {each["dst"]: each for each in json.loads(host.run("ip", "-j", "neigh"))}
        for hop, gateway in zip(router2["next_hops"], ROUTER, strict=True):
            known = neighbours[gateway]
            shown = (hop["gateway"], hop["device"], hop["mac"])
            require(shown == (gateway, known["dev"], known["lladdr"]) == (gateway, "eth0", MAC), f"{hop}; {known}")
            require(hop["state"] in ("REACHABLE", "DELAY", "STALE", "PROBE"), hop)
        hop = other["next_hops"][0]
        require((hop["device"], hop["mac"], hop["state"]) == ("eth1", None, None), hop)
        counted = nft_counters(host)
        for path in found["paths"]:
            shown = {"new": path["connections_taken"], **{name: path[name] for name in ("in", "back", "astray")}}
            for name, number in shown.items():
                known = counted[f"{name}_{path['name']}"]
                known = known[0] if name == "new" else {"packets": known[0], "bytes": known[1]}
                require(number == known, f"{name} of {path['name']}: {number}, and nft says {known}")
        require(router2["connections_taken"] == 5 and other["connections_taken"] == 0, text)
        require(router2["in"]["bytes"] > 2100 and router2["back"]["bytes"] > 6300, text)  # what was sent, and headers
        require(router2["astray"] == other["in"] == {"packets": 0, "bytes": 0}, text)
        rows = columns(text, "MARK  TABLE")
        numbers = [
            router2["in"]["packets"],
            router2["in"]["bytes"],
            router2["back"]["packets"],
            router2["back"]["bytes"],
        ]
        require(rows["router2"] == ["0x2", "200", "1000", "5", "5", *map(str, numbers), "0"], text)
        hops = columns(text, "NEXT HOP")
        require(hops["router2"][:3] == [ROUTER[0], "eth0", MAC] and hops[ROUTER[1]][:2] == ["eth0", MAC], text)


def nft_counters(host: Machine) -> dict[str, tuple[int, int]]:
    listed = json.loads(host.run("nft", "-j", "list", "counters", "table", "inet", "returnpath"))["nftables"]
    found = [each["counter"] for each in listed if "counter" in each]
    return {each["name"]: (each["packets"], each["bytes"]) for each in found}


@case("report/status-tells-what-goes-astray")
def astray(bench: Bench) -> None:
    """The rule is taken away under a connection: its answers are counted where they go, and the rule is named."""
    image = bench.image(POLICY)
    with Network() as network, network.host.inside():
        host = network.host
        bench.apply(host, image)
        with asking(network) as (caller, server):
            caller.send(b"question")
            _, client = server.recvfrom(64)
            server.sendto(b"answer", client)
            path = status(bench, host, image)[1]["paths"][0]
            require((path["back"]["packets"], path["astray"]["packets"]) == (1, 0), path)
            host.sh("ip -4 rule del fwmark 0x2/0xff; ip neigh replace 10.0.0.1 lladdr 02:00:00:00:00:fe dev eth0")
            for _ in range(3):
                server.sendto(b"answer", client)
            text, found = status(bench, host, image, 5)
            path = found["paths"][0]
            require((path["back"]["packets"], path["astray"]["packets"]) == (1, 3), path)
            require(columns(text, "MARK  TABLE")["router2"][-1] == "3", text)


@case("report/status-beside-a-guard")
def beside_a_guard(bench: Bench) -> None:
    image = bench.image(POLICY)
    with Machine() as host:
        with host.inside():
            guard = subprocess.Popen([bench.programs.firmware, "guard", "--policy", image], stderr=subprocess.DEVNULL)
        try:
            ask = [*bench.programs.status(image), "--json"]
            until(lambda: host.finish(*ask).returncode == 0, "the guard to begin", lambda: "")
            text, found = status(bench, host, image)
            require(found["guarded"] and "\na guard is at work" in text, text)
        finally:
            guard.kill()
            guard.wait()
        text, found = status(bench, host, image)
        require(not found["guarded"] and "guard" not in text, text)


@case("report/status-of-a-trial")
def on_trial(bench: Bench) -> None:
    image = bench.image(POLICY)
    with Machine() as host:
        bench.firmware(host, "apply", "--confirm", "300", "--policy", image)
        text, found = status(bench, host, image)
        require(found["in_force"] and 200 < found["seconds_on_trial"] <= 300, found)
        require(
            re.search("\\non trial: it is taken back in [23]\\d\\d s; keep it with `returnpath confirm`\\n", text), text
        )
        bench.firmware(host, "confirm")
        text, found = status(bench, host, image)
        require(found["seconds_on_trial"] is None and "trial" not in text, text)


@case("report/status-of-a-silent-gateway")
def silent_gateway(bench: Bench) -> None:
    """It is told in a line, and is no difference; where its MAC is awaited, that line is the difference's."""
    image, auto = bench.image(POLICY), bench.image(POLICY.replace(f'"{MAC}"', '"auto"'))
    with Machine() as host:
        bench.apply(host, image)
        note = "path router2: gateway 10.0.0.2 does not answer; replies by it are lost"
        host.run("ip", "neigh", "replace", "10.0.0.2", "dev", "eth0", "nud", "failed")
        text, found = status(bench, host, image)
        require(found["notes"] == [note] and f"\n\n{note}\nthe kernel is as " in text, text)
        host.run("ip", "neigh", "replace", "10.0.0.2", "dev", "eth0", "lladdr", MAC, "nud", "stale")
        require(not status(bench, host, image)[1]["notes"], "it answers")
    with Machine() as host:
        host.run("ip", "neigh", "replace", "10.0.0.2", "dev", "eth0", "nud", "failed")
        text, found = status(bench, host, auto, 5)
        require("unknown: MAC of gateway 10.0.0.2: " in text and not found["notes"], text)


@case("report/status-keys-are-in-the-manual")
def status_keys(bench: Bench) -> None:
    image = bench.image(POLICY)
    with Machine() as host:
        bench.apply(host, image)
        host.sh("ip -4 rule del fwmark 0x3/0xff")
        done = host.gated([*bench.programs.status(image), "--json"], ["sendto", "sendmsg"], refusing(GET_CONNECTIONS))
        require(done.code == 5, done)
        found = set(keys(json.loads(done.stdout)))
        require(found == documented("status"), f"differ: {found ^ documented('status')}")


def refusing(kind: int) -> Callable[[gate.Call], gate.Refuse | None]:
    def judge(call: gate.Call) -> gate.Refuse | None:
        refused = any(found == kind for found, _ in gate.messages(call.data()))
        return gate.Refuse(errno.EPERM) if refused else None

    return judge


@case("report/status-without-a-part", GET_CONNECTIONS, "connections: cannot count them: ")
@case("report/status-without-neighbours", GET_NEIGHBOUR, "neighbour 10.0.0.2 dev eth0: cannot ask for it: ")
def unread(bench: Bench, kind: int, line: str) -> None:
    """What can not be read is missing, and told; the rest is there, and the exit code is what it would be."""
    with applied(bench) as (network, image):
        network.tcp()
        command = bench.programs.status(image)
        text = network.host.gated(command, ["sendto", "sendmsg"], refusing(kind))
        found = network.host.gated([*command, "--json"], ["sendto", "sendmsg"], refusing(kind))
        require((text.code, found.code, text.stderr) == (0, 0, ""), f"{text}; {found}")
        wanted = f"\n{line}Operation not permitted (os error 1); run it with CAP_NET_ADMIN\n"
        require(wanted in text.stdout, text.stdout)
        path = json.loads(found.stdout)["paths"][0]
        require((path["connections_live"] is None) == (kind == GET_CONNECTIONS), path)
        require((path["next_hops"][0]["mac"] is None) == (kind == GET_NEIGHBOUR), path)
        require(json.loads(found.stdout)["notes"][0].startswith(line), found.stdout)


# What is done to the kernel; the line that tells of it; the command in that line; and what that command shows, or
# with a ! does not show.
DIFFERENCES = {
    "rule-missing": (
        "ip -4 rule del fwmark 0x2/0xff",
        "missing: ip -4 rule add fwmark 0x2/0xff table 200 priority 1000 protocol 82",
        "ip -4 rule", "!fwmark 0x2/0xff",
    ),
    "rule-too-much": (
        "ip -6 rule add fwmark 0x9/0xff table 209 priority 1000 protocol 82",
        "too much: ip -6 rule add fwmark 0x9/0xff table 209 priority 1000 protocol 82",
        "ip -6 rule", "fwmark 0x9/0xff",
    ),
    "rules-in-another-order": (
        "ip -4 rule del fwmark 0x2/0xff; ip -4 rule add fwmark 0x2/0xff table 200 priority 1000 protocol 82",
        "in another order: the rules of ip -4 rule with priority 1000",
        "ip -4 rule", "fwmark 0x3/0xff lookup (201|other) proto 82\\n1000:\\s+from all fwmark 0x2/0xff",
    ),
    "route-missing": (
        "ip -6 route del default table 200",
        "missing: ip -6 route add default via fd00::2 dev eth0 table 200 protocol 82",
        "ip -6 route show table 200", "!via fd00::2",
    ),
    "route-differs": (
        "ip -4 route replace default via 10.0.0.3 table 200 protocol 82",
        "differs: ip -4 route add default via 10.0.0.3 dev eth0 table 200 protocol 82; should be: "
        "ip -4 route add default via 10.0.0.2 dev eth0 table 200 protocol 82",
        "ip -4 route show table 200", "via 10.0.0.3",
    ),
    "route-too-much": (
        "ip -4 route add default via 10.2.0.2 table 209 protocol 82",
        "too much: ip -4 route add default via 10.2.0.2 dev eth2 table 209 protocol 82",
        "ip -4 route show table 209", "via 10.2.0.2",
    ),
    "route-of-others": (
        "ip -4 route add 203.0.113.0/24 via 10.0.0.2 table 200",
        "table 200: another program has routes in it; choose another `table`",
        "ip -4 route show table 200", "203.0.113.0/24 via 10.0.0.2",
    ),
    "rule-of-others": (
        "ip -6 rule add from 2001:db8::/64 table 200 priority 77",
        "ip -6 rule 77: it is none of ours (protocol 82 and no other selector), and looks up table 200, which is the "
        "policy's; delete it, or choose another `table` and `priority`",
        "ip -6 rule", "77:\\s+from 2001:db8::/64",
    ),
    "table-missing": (
        "nft delete table inet returnpath",
        "missing: table inet returnpath",
        "nft list table inet returnpath", "No such file",
    ),
    "table-dormant": (
        "nft add table inet returnpath '{ flags dormant; }'",
        "table inet returnpath: table returnpath is not as the policy has it",
        "nft list table inet returnpath", "dormant",
    ),
    "chain-empty": (
        "nft flush chain inet returnpath take_router2",
        "table inet returnpath: content of chain take_router2 is missing",
        "nft list chain inet returnpath take_router2", "chain take_router2 {\\s*}",
    ),
    "chain-missing": (
        "nft flush chain inet returnpath output; nft delete chain inet returnpath output",
        "table inet returnpath: chain output is missing",
        "nft list chain inet returnpath output", "No such file",
    ),
    "chain-differs": (
        "nft insert rule inet returnpath prerouting accept",
        "table inet returnpath: content of chain prerouting is not as the policy has it",
        "nft list chain inet returnpath prerouting", "accept\\s+ct mark",
    ),
    "chain-too-much": (
        "nft add chain inet returnpath guest",
        "table inet returnpath: chain guest is not of the policy",
        "nft list chain inet returnpath guest", "chain guest",
    ),
    "counter-too-much": (
        "nft add counter inet returnpath guests",
        "table inet returnpath: counter guests is not of the policy",
        "nft list counter inet returnpath guests", "counter guests",
    ),
    "map-empty": (
        "nft flush map inet returnpath macs",
        "table inet returnpath: content of map macs is missing",
        "nft list map inet returnpath macs", f"!{MAC}",
    ),
    "set-too-much": (
        "nft add set inet returnpath guests '{ type ipv4_addr; elements = { 192.0.2.1 }; }'",
        "table inet returnpath: set guests is not of the policy",
        "nft list set inet returnpath guests", "192.0.2.1",
    ),
    "setting": (
        "sysctl -w net.ipv4.fwmark_reflect=0",
        "net/ipv4/fwmark_reflect: is 0, should be 1",
        "sysctl net/ipv4/fwmark_reflect", "= 0",
    ),
}  # fmt: skip


@case("report/status-differences")
def differences(bench: Bench) -> None:
    """Each kind alone: it is told once, in a line, and the command in that line shows it."""
    image = bench.image(POLICY)
    for name, (change, line, command, shown) in DIFFERENCES.items():
        with Machine() as host:
            bench.apply(host, image)
            host.sh(change)
            text, found = status(bench, host, image, 5)
            require(found["differences"] == [{"line": line, "command": command}], f"{name}: {found['differences']}")
            wanted = f"\n\n{line}; see `{command}`\nthe kernel differs from {image}: in 1 respect\n"
            require(text.endswith(wanted) and not found["in_force"], f"{name}: {text}")
            done = host.finish("sh", "-c", command)
            seen = bool(re.search(shown.removeprefix("!"), done.stdout + done.stderr))
            require(seen != shown.startswith("!"), f"{name}: `{command}`: {done.stdout}{done.stderr}")
            if not name.endswith("-of-others"):  # what is not ours stays
                bench.apply(host, image)
                status(bench, host, image)


@case("report/status-differences-together")
def together(bench: Bench) -> None:
    """What another program has in our places hides nothing else."""
    image = bench.image(POLICY)
    with Machine() as host:
        bench.apply(host, image)
        host.sh("""
            ip -4 rule del fwmark 0x2/0xff
            ip -4 rule add fwmark 0x2/0xff table 200 priority 1000 protocol 4
            ip -4 route add 203.0.113.0/24 via 10.0.0.2 table 200
            ip -6 route del default table 200
            nft flush chain inet returnpath take_router2
        """)
        commands = [each["command"] for each in status(bench, host, image, 5)[1]["differences"]]
        wanted = ["ip -4 rule", "ip -6 route show table 200", "nft list chain inet returnpath take_router2"]
        wanted += ["ip -4 rule", "ip -4 route show table 200"]
        require(commands == wanted, f"{commands}")


@case("report/status-of-many-connections")
def many_connections(bench: Bench) -> None:
    """All are counted, and none is kept: memory does not grow with them."""
    image = bench.image(POLICY)
    peaks = []
    with Network() as network:
        bench.apply(network.host, image)
        network.far.batch(*(f"addr add 198.51.100.{100 + number}/32 dev lo" for number in range(4)))
        for count in (1, 30000):
            network.datagrams(count)
            peak = 0

            def look(call: gate.Call) -> None:
                nonlocal peak
                peak = int(re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{call.pid}/status").read_text())[1])

            # The last of these calls asks for a neighbour, when the connections have been counted.
            done = network.host.gated([*bench.programs.status(image), "--json"], ["sendto", "sendmsg"], look)
            live = json.loads(done.stdout)["paths"][0]["connections_live"]
            require((done.code, live) == (0, count), f"{live} of {count} connections: {done}")
            peaks.append(peak)
    require(peaks[1] < peaks[0] + 512, f"memory grows with the connections: {peaks} KB")

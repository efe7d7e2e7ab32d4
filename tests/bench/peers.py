"""What others do about the same thing, in rule sets of our own: the classic recipe, mwan3's shape and Shorewall's.

In all of them the path that is used is the last one, as it is in returnpath's policy.
"""

from __future__ import annotations

from collections.abc import Iterable

from lab import HOST, INSIDE, ROUTER, ROUTER_MAC, Subject
from netns import Namespace

CONNECTED = ("10.0.0.0/24 dev outer", "10.1.0.0/24 dev inner")


def other_mac(number: int) -> str:
    """One that no frame comes from."""
    return f"02:00:00:01:{number >> 8:02x}:{number & 255:02x}"


def port(path: int, paths: int) -> str:
    """The interface of a path. Rules may name some that are not there."""
    return "outer" if path == paths else f"wan{path}"


def table_of(number: int) -> list[str]:
    """The routes of a path's table: the neighbourhood as in the main table, and everything else by the router."""
    return [f"route add {way} table {number}" for way in (*CONNECTED, f"default via {ROUTER}")]


def restore(host: Namespace, rules: Iterable[str], tool: str = "iptables-nft") -> None:
    host.run(f"{tool}-restore", stdin="\n".join(("*mangle", *rules, "COMMIT", "")))


def recipe(paths: int, tool: str = "iptables-nft") -> Subject:
    """The classic recipe, as far as it has to be put right: restored first, so that what is saved is never 0."""

    def install(host: Namespace) -> None:
        ways, rules = [], ["-A PREROUTING -j CONNMARK --restore-mark"]
        for mark in range(1, paths + 1):
            ways += [*table_of(1000 + mark), f"rule add fwmark {mark} lookup {1000 + mark}"]
            mac = ROUTER_MAC if mark == paths else other_mac(mark)
            rules += [
                f"-A PREROUTING -p {protocol} --dport 80 -m state --state NEW -m mac --mac-source {mac} "
                f"! -s 10.0.0.0/24 -j MARK --set-mark {mark}"
                for protocol in ("tcp", "udp")
            ]
        rules += ["-A PREROUTING -j CONNMARK --save-mark", "-A OUTPUT -j CONNMARK --restore-mark"]
        host.ip(*ways)
        restore(host, rules, tool)

    return Subject(f"recipe, {tool}", install, paths, mark=paths)


def mwan3(paths: int) -> Subject:
    """The shape of mwan3 (OpenWrt), as its guide tells it: one hook for what comes in and what is sent from here.

    It restores the mark; marks what has none by the interface that it came in by, asked one after the other; takes
    what goes to known networks out of it; and has user rules for what is still unmarked. The mark is saved then, and
    what goes to known networks gets the mark that means the main table. An interface has a table, a rule for what comes
    in by it and one for its mark. The mask is 0x3f00, and wider where that is too narrow for so many interfaces.
    """
    mask = 0x3F00 if paths <= 60 else 0x3FF00
    unmarked, default = f"-m mark --mark 0/{mask:#x}", f"--set-xmark {mask:#x}/{mask:#x}"
    sets = [f"mwan3_{kind}_v4" for kind in ("custom", "connected", "dynamic")]

    def hook() -> list[str]:
        rules = [f":{chain} - [0:0]" for chain in ("mwan3_hook", "mwan3_ifaces_in", "mwan3_rules", *sets)]
        rules += [
            "-A PREROUTING -j mwan3_hook",
            "-A OUTPUT -j mwan3_hook",
            f"-A mwan3_hook -j CONNMARK --restore-mark --nfmask {mask:#x} --ctmask {mask:#x}",
        ]
        rules += [f"-A mwan3_hook {unmarked} -j {chain}" for chain in ("mwan3_ifaces_in", *sets, "mwan3_rules")]
        rules.append(f"-A mwan3_hook -j CONNMARK --save-mark --nfmask {mask:#x} --ctmask {mask:#x}")
        rules += [f"-A mwan3_hook -m mark ! --mark {mask:#x}/{mask:#x} -j {chain}" for chain in sets]
        rules += [f"-A {name} -m set --match-set {name} dst -j MARK {default}" for name in sets]
        for path in range(1, paths + 1):
            chain, came = f"mwan3_iface_in_{path}", f"-i {port(path, paths)}"
            rules += [f":{chain} - [0:0]", f"-A mwan3_ifaces_in {unmarked} -j {chain}"]
            rules += [f"-A {chain} {came} -m set --match-set {name} src {unmarked} -j MARK {default}" for name in sets]
            rules.append(f"-A {chain} {came} {unmarked} -j MARK --set-xmark {path << 8:#x}/{mask:#x}")
        policy = f"{unmarked} -j MARK --set-xmark 0x100/{mask:#x}"
        return [
            *rules,
            ":mwan3_policy - [0:0]",
            f"-A mwan3_rules {unmarked} -j mwan3_policy",
            f"-A mwan3_policy {policy}",
        ]

    def install(host: Namespace) -> None:
        known = ("10.0.0.0/24", "10.1.0.0/24", "127.0.0.0/8", HOST, INSIDE, "224.0.0.0/3")
        lines = [f"create {name} hash:net" for name in sets] + [f"add {sets[1]} {network}" for network in known]
        host.run("ipset", "restore", stdin="".join(f"{line}\n" for line in lines))
        ways = []
        for path in range(1, paths + 1):
            marked = f"fwmark {path << 8:#x}/{mask:#x}"
            ways += table_of(1000 + path)  # mwan3 has table 1 and so on, which with 254 paths would be the main one
            ways.append(f"rule add iif {port(path, paths)} lookup {1000 + path} priority {1000 + path}")
            ways.append(f"rule add {marked} lookup {1000 + path} priority {2000 + path}")
            ways.append(f"rule add {marked} unreachable priority {3000 + path}")
        last = mask >> 8
        ways.append(f"rule add fwmark {last - 2 << 8:#x}/{mask:#x} blackhole priority {2000 + last - 2}")
        ways.append(f"rule add fwmark {last - 1 << 8:#x}/{mask:#x} unreachable priority {2000 + last - 1}")
        host.ip(*ways)
        restore(host, hook())

    return Subject("mwan3's shape", install, paths, mark=paths << 8, mask=mask, takes_all=True)


def shorewall(paths: int) -> Subject:
    """The shape of Shorewall's providers with `track`, as its article on packet marking shows them.

    The provider's mark is restored where the connection has one; what has none goes, for the interface that it came in
    by, to a chain that marks it by that interface and saves the mark. The chains for the user's own marks (tcpre and so
    on) are there and empty. After routing the mark is taken off the packet. USE_DEFAULT_RT is on: the main table has
    no default route and comes first, the providers' tables after it by mark.
    """
    mask = 0xFF00
    saved = f"-m connmark ! --mark 0/{mask:#x} -j CONNMARK --restore-mark --mask {mask:#x}"
    unmarked, off = f"-m mark --mark 0/{mask:#x}", f"-j MARK --set-xmark 0/{mask:#x}"

    def chains() -> list[str]:
        rules = [f":{chain} - [0:0]" for chain in ("routemark", "tcpre", "tcin", "tcfor", "tcout", "tcpost")]
        rules.append(f"-A PREROUTING {saved}")
        ports = [(path, port(path, paths)) for path in range(1, paths + 1)]
        rules += [f"-A PREROUTING -i {name} {unmarked} -j routemark" for _, name in ports]
        rules += [f"-A PREROUTING -i {name} -j tcpre" for _, name in ports]
        rules += [f"-A PREROUTING {unmarked} -j tcpre", f"-A INPUT {off}", "-A INPUT -j tcin"]
        rules += [f"-A FORWARD {off}", "-A FORWARD -j tcfor", f"-A OUTPUT {saved}", f"-A OUTPUT {unmarked} -j tcout"]
        rules += ["-A POSTROUTING -j tcpost"]
        rules += [f"-A routemark -i {name} -j MARK --set-xmark {path << 8:#x}/{mask:#x}" for path, name in ports]
        return [*rules, f"-A routemark -m mark ! --mark 0/{mask:#x} -j CONNMARK --save-mark --mask {mask:#x}"]

    def install(host: Namespace) -> None:
        ways = ["rule add lookup main priority 999", f"route add default via {ROUTER} table 250"]
        ways += ["rule add lookup 250 priority 32765", f"route delete default via {ROUTER}"]
        for path in range(1, paths + 1):
            table = 1000 + path
            ways.append(f"route add default via {ROUTER} table {table}")
            ways.append(f"rule add fwmark {path << 8:#x}/{mask:#x} lookup {table} priority {10000 + path}")
        host.ip(*ways)
        restore(host, chains())

    return Subject("Shorewall's track", install, paths, mark=paths << 8, mask=mask, takes_all=True, fallback="250")

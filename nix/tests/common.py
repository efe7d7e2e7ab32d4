"""What the scripts of the VM tests have in common. It stands in front of each of them.

The machines (client, router1, router2, gateway, backend), start_all and subtest are there already, in NixOS's test
driver and in tests/nix/guest alike.
"""

import json

PUBLIC = {  # by which a router is called, for each family
    4: {1: "203.0.113.1", 2: "203.0.113.2"},
    6: {1: "2001:db8:113::1", 2: "2001:db8:113::2"},
}
ROUTERS = {1: router1, 2: router2}
ROUTER2_MAC = "52:54:00:c2:a5:43"
MEGABYTE = 1 << 20
PATIENCE = 20  # seconds for a handshake, and for each answer: a guest without KVM is slow
IMPATIENCE = 4  # where no answer is expected
SERVING = []  # the machines that answer


def serve(machine, port: int = 80) -> None:
    """An echo server in the background."""
    machine.succeed(f"traffic serve {port} >/dev/null 2>&1 &")
    machine.wait_until_succeeds(f"ss -Hltn 'sport = :{port}' | grep -q .", timeout=60)
    SERVING.append(machine)


def talk(number: int, family: int, seconds: int, lasting: int = 0) -> tuple[int, str]:
    """The client calls by a router; its exit code, and what it said."""
    for router in ROUTERS.values():
        router.succeed("nft reset counters table inet way")
    return client.execute(f"traffic talk --seconds {seconds} --lasting {lasting} {PUBLIC[family][number]} 80 2>&1")


def count(number: int, name: str) -> dict[str, int]:
    """Packets and bytes that a router has seen since the client began to talk."""
    listed = json.loads(ROUTERS[number].succeed(f"nft -j list counter inet way {name}"))["nftables"]
    return next(entry["counter"] for entry in listed if "counter" in entry)


def tally() -> str:
    seen = [
        f"router {number} {name}: {found['packets']} packets, {found['bytes']} bytes"
        for number in ROUTERS
        for name in ("requests", "replies")
        if (found := count(number, name))["packets"]
    ]
    return "; ".join(seen) or "no router saw a packet"


def require_way(number: int, family: int = 4, lasting: int = 0) -> None:
    """A whole connection by a router; every packet of it came and went by that router, and none by the other."""
    status, said = talk(number, family, PATIENCE, lasting)
    assert status == 0, f"by router {number}: {said.strip()} ({tally()})"
    for name in ("requests", "replies"):
        seen = count(number, name)
        assert seen["bytes"] > MEGABYTE and seen["packets"] > 20, f"router {number}: too few {name}: {tally()}"
        stray = count(3 - number, name)["packets"]
        assert stray == 0, f"{stray} {name} of what came by router {number} went by the other: {tally()}"


def require_ways(family: int = 4) -> None:
    for number in ROUTERS:
        require_way(number, family)


def require_way_during(command: str, lasting: int = 10) -> None:
    """A connection by router 2 that is open before and after a command on the gateway goes on, by router 2 alone."""
    is_open = "ss -Htn state established 'sport = :80' | grep -q ."
    gateway.succeed(
        "rm -f /run/was-open",
        f"(until {is_open}; do sleep 0.1; done; {command}; {is_open} && touch /run/was-open) >/dev/null 2>&1 &",
    )
    require_way(2, lasting=lasting)
    gateway.succeed("test -e /run/was-open")


def guarded() -> None:
    """The guard has nothing left to do."""
    gateway.wait_until_succeeds("returnpath status --policy /etc/returnpath/policy.bin", timeout=60)


def told(words: str, severity: str = "info") -> str:
    """The shell command that looks for what the guard has said, in the journal."""
    return f"journalctl -b -o cat -p {severity} -u returnpath | grep -E '{words}'"


def require_failure(family: int = 4) -> int:
    """Without us a connection by router 2 must fail, while router 1 serves. Returns how many replies went astray."""
    require_way(1, family)
    status, said = talk(2, family, IMPATIENCE)
    assert status != 0, f"by router 2 without returnpath: {said.strip()} ({tally()})"
    assert count(2, "requests")["packets"], "the client's packets did not come by router 2"
    assert not count(2, "replies")["packets"], f"replies came by router 2 without returnpath: {tally()}"
    strays = count(1, "replies")["packets"]
    for machine in SERVING:  # a handshake that goes on would be counted with the next connection
        machine.wait_until_fails("ss -Htn state syn-recv | grep -q .", timeout=60)
    return strays


def ready() -> None:
    """All machines are up, the gateway with the policy in force."""
    start_all()
    for machine in (client, router1, router2):
        machine.wait_for_unit("network.target")
    gateway.wait_for_unit("multi-user.target")
    gateway.wait_for_unit("returnpath.service")


def stop() -> None:
    gateway.succeed("systemctl stop returnpath-policy")
    gateway.fail("systemctl is-active returnpath")
    gateway.fail("nft list table inet returnpath")


def require_difference(family: int = 4) -> None:
    """It is returnpath that makes it: without it a connection by router 2 dies, and with it again it does not."""
    with subtest("stopped: what comes in by router 2 is answered by router 1, and dies"):
        stop()
        assert require_failure(family) > 0
    with subtest("started again: the way back is right again"):
        gateway.succeed("systemctl start returnpath")
        require_ways(family)


# The board partition, on a second disk that is empty at first

BOARD = "/dev/disk/by-partlabel/returnpath"


def make_partition() -> None:
    """While the gateway runs; its unit has waited for the partition in vain."""
    gateway.wait_for_unit("multi-user.target")
    gateway.fail("systemctl is-active returnpath")
    gateway.succeed("echo 'label: gpt\nname=returnpath' | sfdisk --quiet /dev/vdb")
    gateway.wait_until_succeeds(f"test -e {BOARD}", timeout=60)
    gateway.succeed(f"returnpath-board format --device {BOARD}")


def write_policy(service: str) -> None:
    policy = f"""
[paths.router2]
mark = 2
table = 200
gateways = ["10.0.0.2"]
source_macs = ["{ROUTER2_MAC}"]
services = ["{service}"]
"""
    gateway.succeed(f"echo '{policy}' >/run/policy.toml", f"returnpath-board write --device {BOARD} /run/policy.toml")

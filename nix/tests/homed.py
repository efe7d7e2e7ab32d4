ready()
serve(gateway)

with subtest("each connection goes back by its own port, through both reverse-path filters"):
    require_ways(4)
    require_ways(6)

with subtest("a router that is not declared is filtered as ever, by the firewall: IPv6 has no other filter"):
    router2.succeed("ip link set second address 52:54:00:c2:a5:44")
    assert require_failure(6) == 0
    router2.succeed(f"ip link set second address {ROUTER2_MAC}")
    require_way(2, 6)

with subtest("a source of our own networks is filtered as ever, though a declared router sends it"):
    gateway.succeed(
        "nft add table inet probe",
        # behind the firewall's filter, ahead of our own chain
        "nft add chain inet probe first '{ type filter hook prerouting priority -120; }'",
        "nft add counter inet probe ours",
        "nft add counter inet probe theirs",
        "nft add rule inet probe first ip saddr 10.0.0.77 counter name ours",
        "nft add rule inet probe first ip saddr 198.51.100.77 counter name theirs",
    )
    require_way(2)  # router 2 knows the gateway's MAC: it could not ask for it with such a source
    for source in ("10.0.0.77", "198.51.100.77"):
        router2.succeed(f"ip address add {source}/32 dev second")
        router2.execute(f"ping -c 3 -W 1 -I {source} 10.0.2.10")
        router2.succeed(f"ip address delete {source}/32 dev second")
    ours, theirs = (gateway.succeed(f"nft list counter inet probe {name}") for name in ("ours", "theirs"))
    assert "packets 0 " in ours, f"it has passed the firewall: {ours}"
    assert "packets 0 " not in theirs, f"what is filtered is not what was meant: {theirs}"

with subtest("stopped: the kernel's filter drops what comes in by router 2"):
    stop()
    assert require_failure(4) == 0

with subtest("and without it the answers would go by router 1"):
    strict = gateway.succeed("cat /proc/sys/net/ipv4/conf/second/rp_filter").strip()
    assert strict == "1", f"the port is not strict: {strict}"
    gateway.succeed("echo 0 >/proc/sys/net/ipv4/conf/second/rp_filter")
    assert require_failure(4) > 0
    gateway.succeed("echo 1 >/proc/sys/net/ipv4/conf/second/rp_filter")

with subtest("started again: the way back is right again"):
    gateway.succeed("systemctl start returnpath")
    require_ways(4)

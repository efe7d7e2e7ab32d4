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

ready()
serve(gateway)

with subtest("before: each connection goes back by its own port"):
    require_ways()

with subtest("the port goes down and comes up again: no answer, but never one by the wrong router"):
    gateway.succeed("ip link set second down", "ip link set second up")
    assert require_failure() == 0
    gateway.fail("returnpath status --policy /etc/returnpath/policy.bin")

with subtest("a restart mends it; for IPv6, whose address the flap has taken, as soon as that is back"):
    gateway.succeed("systemctl restart returnpath")
    require_ways(4)
    gateway.succeed("systemctl restart network-addresses-second")
    gateway.wait_until_succeeds("returnpath status --policy /etc/returnpath/policy.bin", timeout=30)
    require_ways(6)

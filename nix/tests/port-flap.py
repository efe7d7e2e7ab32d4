ready()
serve(gateway)

with subtest("before: each connection goes back by its own port"):
    require_ways(4)
    require_ways(6)

with subtest("the port goes down and comes up again under an open connection: it goes on, by its own router alone"):
    require_way_during("ip link set second down; ip link set second up")
    require_ways(4)

with subtest("IPv6, whose address the flap has taken, as soon as that is back"):
    gateway.fail("returnpath status --policy /etc/returnpath/policy.bin")
    gateway.succeed("systemctl restart network-addresses-second")
    guarded()
    require_ways(6)

with subtest("a reverse-path filter that others make strict is loosened again"):
    setting = "sysctl -n net.ipv4.conf.second.rp_filter"
    assert gateway.succeed(setting).strip() == "2", "it is not loose"
    gateway.succeed("systemctl restart systemd-sysctl")  # the configuration has 1
    gateway.wait_until_succeeds(f"{setting} | grep -x 2", timeout=60)
    guarded()
    require_ways(4)

start_all()
make_partition()
serve(gateway)

with subtest("a policy that does not name the service: what comes in by router 2 dies"):
    write_policy("tcp/81")
    gateway.succeed("systemctl start returnpath", "returnpath status")
    assert require_failure() > 0

with subtest("a new policy, and a reload: it is in force"):
    write_policy("tcp/80")
    assert require_failure() > 0
    gateway.succeed("systemctl reload returnpath", "returnpath status")
    require_ways()

with subtest("a new one, and `apply` beside the guard: that is what it guards from now on"):
    write_policy("tcp/81")
    gateway.succeed("returnpath apply")
    gateway.wait_until_succeeds(told("serial 3.*guarded"), timeout=60)
    gateway.succeed("nft delete table inet returnpath")
    gateway.wait_until_succeeds("returnpath status", timeout=60)
    assert require_failure() > 0

with subtest("a new one, and a restart: it is in force"):
    write_policy("tcp/80")
    gateway.succeed("systemctl restart returnpath", "returnpath status")
    require_ways()

with subtest("after a reboot it still is"):
    gateway.shutdown()
    gateway.start()
    gateway.wait_for_unit("multi-user.target")
    gateway.wait_until_succeeds("systemctl is-active returnpath", timeout=120)  # a slow machine finds the disk late
    serve(gateway)
    require_ways()
    gateway.succeed("returnpath status")

start_all()
make_partition()
serve(gateway)

with subtest("a policy that does not name the service: what comes in by router 2 dies"):
    write_policy("tcp/81")
    gateway.succeed("systemctl start returnpath", "returnpath status")
    assert require_failure() > 0

with subtest("a new policy, and a restart: it is in force"):
    write_policy("tcp/80")
    assert require_failure() > 0
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

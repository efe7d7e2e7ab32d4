ready()
serve(gateway)

with subtest("each connection goes back by its own router, since boot"):
    require_ways(6)
    gateway.succeed("returnpath status --policy /etc/returnpath/policy.bin")

with subtest("stopped: what comes in by router 2 is answered by router 1, and dies"):
    stop()
    assert require_failure(6) > 0

with subtest("started again: the way back is right again"):
    gateway.succeed("systemctl start returnpath")
    require_ways(6)

ready()
serve(gateway)
guarded()

with subtest("killed under an open connection: the policy stays, and there is a guard again"):
    before = gateway.get_unit_property("returnpath.service", "MainPID")
    require_way_during("systemctl kill --signal KILL returnpath")
    gateway.wait_for_unit("returnpath.service")
    assert gateway.get_unit_property("returnpath.service", "MainPID") != before, "it was not killed"
    gateway.succeed("ip rule delete priority 1000")
    guarded()
    require_ways()

with subtest("the policy is not taken out under it"):
    gateway.fail("returnpath remove")
    require_ways()

with subtest("a fight: each time it is named who has taken the table away, and in the end the policy is there"):
    gateway.succeed("for _ in $(seq 20); do nft delete table inet returnpath || true; sleep 0.1; done")
    gateway.wait_until_succeeds(told("it was nft \\(process", "warning"), timeout=60)
    guarded()
    require_ways()

require_difference()

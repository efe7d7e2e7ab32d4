ready()
serve(gateway)

with subtest("each connection goes back by its own router, since boot"):
    require_ways()
    gateway.succeed("returnpath status --policy /etc/returnpath/policy.bin")

with subtest("a connection that is open over a restart goes on, by its own router"):
    before = gateway.get_unit_property("returnpath.service", "InvocationID")
    gateway.succeed("(sleep 1; systemctl restart returnpath) >/dev/null 2>&1 &")
    require_way(2, lasting=10)
    assert gateway.get_unit_property("returnpath.service", "InvocationID") != before, "it was not restarted meanwhile"
    gateway.wait_for_unit("returnpath.service")

require_difference()

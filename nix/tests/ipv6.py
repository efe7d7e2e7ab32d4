ready()
serve(gateway)

with subtest("each connection goes back by its own router, since boot"):
    require_ways(6)
    gateway.succeed("returnpath status --policy /etc/returnpath/policy.bin")

require_difference(6)

ready()
serve(gateway)

with subtest("the firewall restarted under an open connection: it leaves what is ours alone"):
    require_way_during("systemctl restart nftables")
    require_ways()
    gateway.fail(told("put back: .*; it was "))

with subtest("everybody's rules flushed under an open connection: it goes on, and the guard says whose doing it was"):
    require_way_during("nft flush ruleset")
    gateway.wait_until_succeeds(told("put back: .*table inet returnpath.*; it was nft \\(process"), timeout=60)
    guarded()
    require_ways()

with subtest("and with the firewall in its place again"):
    gateway.succeed("systemctl restart nftables")
    require_ways()

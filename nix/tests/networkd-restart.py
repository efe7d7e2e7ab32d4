CONFIGURATION = "[Network]\nManageForeignRoutes=yes\nManageForeignRoutingPolicyRules=yes\n"

ready()
serve(gateway)
guarded()

with subtest("restarted under an open connection: it leaves what is ours alone"):
    require_way_during("systemctl restart systemd-networkd")
    require_ways()
    gateway.fail(told("put back: .*; it was "))

with subtest("told at run time to take away what is not its own: the guard puts it back, and says who it was"):
    gateway.succeed(
        "mkdir -p /run/systemd/networkd.conf.d",
        f"echo '{CONFIGURATION}' >/run/systemd/networkd.conf.d/foreign.conf",
        "systemctl restart systemd-networkd",
    )
    gateway.wait_until_succeeds(told("put back: .*; it was systemd"), timeout=60)  # whose networkd's socket is
    guarded()
    require_ways(4)
    require_ways(6)

start_all()
make_partition()
write_policy("tcp/80")
gateway.succeed("systemctl start returnpath")
serve(gateway)

with subtest("a whole partition: each connection goes back by its own router"):
    require_ways()

with subtest("both slots damaged: the boot goes on, and the unit has failed"):
    gateway.succeed(f"dd if=/dev/urandom of={BOARD} bs=1M count=8 conv=fsync status=none")
    gateway.shutdown()
    gateway.start()
    gateway.wait_for_unit("multi-user.target")
    gateway.wait_until_succeeds("systemctl is-failed returnpath", timeout=120)  # a slow machine finds the disk late
    assert gateway.get_unit_property("returnpath.service", "NRestarts") == "0", "it is tried again and again"
    told = gateway.succeed("journalctl -b -o cat -u returnpath")
    for word in ("slot A", "slot B", "returnpath-board write"):
        assert word in told, f"{word!r} is not in what the unit says:\n{told}"

with subtest("the network is up all the same, by the default gateway"):
    serve(gateway)
    assert require_failure() > 0

with subtest("what the message says mends it"):
    gateway.succeed(f"returnpath-board format --force --device {BOARD}")
    write_policy("tcp/80")
    gateway.succeed("systemctl start returnpath")
    require_ways()

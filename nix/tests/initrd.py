start_all()
gateway.wait_for_unit("multi-user.target")
serve(gateway)

with subtest("in force since stage 1, before the root file system was there"):
    told = gateway.succeed("journalctl -b -o cat").splitlines()
    in_force = [number for number, line in enumerate(told) if "in force" in line]
    switched = [number for number, line in enumerate(told) if "Switching root" in line]
    assert switched, "the journal does not tell of stage 1"
    assert in_force and in_force[0] < switched[0], f"not in force in stage 1: lines {in_force}, {switched}"
    assert gateway.get_unit_property("returnpath.service", "ActiveState") == "inactive"
    gateway.succeed("nft list table inet returnpath")

with subtest("what comes in by router 2 has no gateway yet, and is not answered by router 1"):
    assert require_failure() == 0

with subtest("the system's unit adds the rest"):
    gateway.succeed("systemctl start returnpath")
    require_ways()
    gateway.succeed("returnpath status --policy /etc/returnpath/policy.bin")

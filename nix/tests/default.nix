# The VM tests, by name. Each is a file with its machines beside a script; `testers.runNixOSTest` runs them here, and
# tests/nix/guest/run runs the same ones where there is no nixpkgs.
{
  lib,
  testers,
}:
let
  network = import ./network.nix { inherit lib; };

  test =
    name: file: arguments:
    let
      scenario = import file ({ inherit lib network; } // arguments);
    in
    testers.runNixOSTest {
      inherit name;
      inherit (scenario) nodes;
      testScript = lib.concatMapStrings lib.readFile ([ ./common.py ] ++ scenario.scripts);
    };
  plain = name: test name (./. + "/${name}.nix") { };
in
lib.genAttrs [
  "seed"
  "gateway"
  "ipv6"
  "initrd"
  "coexistence"
  "guard"
  "nftables-restart"
  "networkd-restart"
] plain
// {
  homed-nftables = test "homed-nftables" ./homed.nix {
    backend = "nftables";
    scripts = [ ./homed.py ];
  };
  homed-iptables = test "homed-iptables" ./homed.nix {
    backend = "iptables";
    scripts = [
      ./homed.py
      ./firewall-restart.py
    ];
  };
  board = test "board" ./board.nix { scripts = [ ./board.py ]; };
  bad-policy = test "bad-policy" ./board.nix { scripts = [ ./bad-policy.py ]; };
  port-flap = test "port-flap" ./homed.nix {
    backend = "nftables";
    scripts = [ ./port-flap.py ];
  };
  unguarded = test "unguarded" ./homed.nix {
    backend = "nftables";
    guard = false;
    scripts = [ ./unguarded.py ];
  };
}

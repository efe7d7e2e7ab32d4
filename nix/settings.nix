# The policy as options: the keys of the TOML form, with the same meaning. Closed, so that a misspelt key is an error.
# What spans several keys (a mark outside the mask, two paths with one table) is checked by returnpath-board, once.
{ lib }:
let
  inherit (lib) mkOption types;

  # Nix has no hexadecimal numbers.
  word = types.coercedTo (types.strMatching "0x[0-9a-fA-F]{1,8}") lib.fromHexString types.ints.u32;
  list =
    element: description: example:
    mkOption {
      type = types.listOf element;
      default = [ ];
      inherit description example;
    };
  port = types.strMatching "[^/[:space:]]{1,15}";

  path = types.submodule {
    options = {
      mark = mkOption {
        type = word;
        example = "0x2";
        description = "The fwmark of this path: not 0, within `mark_mask`, unlike every other path's.";
      };
      table = mkOption {
        type = types.ints.u32;
        example = 200;
        description = "The number of its routing table: not 0 and not 253 to 255, unlike every other path's.";
      };
      gateways = list types.str "Next hops: at most one of each address family." [
        "10.0.0.2"
        "fd00::2"
      ];
      source_macs = list (types.strMatching "auto|([0-9a-fA-F]{2}:){5}[0-9a-fA-F]{2}") ''
        MACs that the router sends from; a VRRP pair has several. `auto` among them: those that the neighbour table
        has for the gateways. This or `ingress` is required.
      '' [ "52:54:00:c2:a5:43" ];
      ingress =
        list port "Ports that its frames come in by. Given with `source_macs`, both have to match."
          [ "eth1" ];
      services =
        list types.str
          "What counts, with ports as they arrive, before this host's own DNAT. Empty: every service."
          [
            "tcp/80"
            "udp/5000-5100"
            "icmp"
          ];
      destinations = list types.str "Destination networks, as they arrive. Empty: any." [
        "203.0.113.0/24"
      ];
      device = mkOption {
        type = types.nullOr port;
        default = null;
        example = "eth1";
        description = ''
          The port that the gateway is on. Looked up when it is not set; required for a link-local gateway, and for a
          point-to-point port without one.
        '';
      };
      onlink = mkOption {
        type = types.bool;
        default = false;
        description = "Take the gateway for a neighbour on `device` although no address of this host covers it.";
      };
      scope = mkOption {
        type = types.enum [
          "local"
          "forward"
          "both"
        ];
        default = "both";
        description = "Who answers: this host, hosts behind it, or both.";
      };
      when_down = mkOption {
        type = types.enum [
          "unreachable"
          "main"
        ];
        default = "unreachable";
        description = ''
          What becomes of marked replies while the gateway's route is gone: they fail, or they take the main table. A
          gateway that is dead behind a port that is up keeps its route: they are lost.
        '';
      };
      priority = mkOption {
        type = types.ints.u32;
        default = 1000;
        description = "Priority of its `ip rule`.";
      };
      log = mkOption {
        type = types.bool;
        default = false;
        description = "Log connections that take this path in the kernel log, at most 10 a minute (5 at once).";
      };
    };
  };
in
types.submodule {
  options = {
    mark_mask = mkOption {
      type = word;
      default = 255;
      example = "0xff00";
      description = "Our bits of the packet and connection mark. No other bit is ever changed.";
    };
    local_networks = list types.str "Sources that are never marked: they are answered directly." [
      "10.0.0.0/24"
      "fd00::/64"
    ];
    paths = mkOption {
      type = types.attrsOf path;
      default = { };
      description = ''
        The declared routers. A path's name is also its routing table's in `ip route` and `ip rule`: 1 to 15 of
        `a-z`, `0-9`, `_` and `-`.
      '';
    };
  };
}

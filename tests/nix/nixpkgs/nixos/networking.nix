# Addresses, firewall and NAT as options. What NixOS makes of them is not here: the rules of its firewall are made by
# nixpkgs' modules, and the guest harness (tests/nix/guest) renders its own of the same structure.
{ config, lib, ... }:
let
  inherit (lib) types;
  option = import ./option.nix { inherit lib; };
  maybe = type: option.withDefault (types.nullOr type) null;
  family = {
    addresses = option.withDefault (types.listOf (
      types.submodule {
        options = {
          address = option.required types.str "The address.";
          prefixLength = option.required types.int "The length of its network's prefix.";
        };
      }
    )) [ ] "Addresses.";
    routes = option.withDefault (types.listOf (
      types.submodule {
        options = {
          address = option.required types.str "The network.";
          prefixLength = option.required types.int "The length of its prefix.";
          via = maybe types.str "The next hop.";
          options = option.withDefault (types.attrsOf types.str) { } "More for `ip route`.";
        };
      }
    )) [ ] "Routes.";
  };
  gateway = maybe (types.coercedTo types.str (address: { inherit address; }) (
    types.submodule {
      options = {
        address = option.required types.str "The address.";
        interface = maybe types.str "The port.";
      };
    }
  )) "The default gateway.";
  forward = types.submodule {
    options = {
      sourcePort = option.required (types.either types.int (types.strMatching "[0-9]+:[0-9]+")) "Ports.";
      destination = option.required types.str "Where to.";
      proto = option.withDefault types.str "tcp" "The protocol.";
    };
  };
in
{
  options.networking = {
    hostName = option.withDefault types.str "nixos" "The host's name.";
    enableIPv6 = option.on "Whether there is IPv6.";
    useDHCP = option.on "Whether ports ask for an address.";
    useNetworkd = option.off "Whether networkd sets the ports up.";
    defaultGateway = gateway;
    defaultGateway6 = gateway;
    interfaces = option.group {
      options = {
        macAddress = maybe types.str "Its MAC.";
        useDHCP = maybe types.bool "Whether it asks for an address.";
        ipv4 = family;
        ipv6 = family;
      };
    } "Ports.";
    iproute2.enable = option.off "Whether names of tables are kept in /etc.";
    firewall = {
      enable = option.on "Whether there is a firewall.";
      backend = option.withDefault (types.enum [
        "iptables"
        "nftables"
        "firewalld"
      ]) (if config.networking.nftables.enable then "nftables" else "iptables") "What it is made with.";
      checkReversePath = option.withDefault (types.either types.bool (
        types.enum [
          "strict"
          "loose"
        ]
      )) true "The reverse-path filter.";
      logReversePathDrops = option.off "Whether the log tells what that filter drops.";
      allowedTCPPorts = option.withDefault (types.listOf types.port) [ ] "Open ports.";
      extraCommands = option.text "With iptables: more commands.";
      extraStopCommands = option.text "With iptables: commands when it stops.";
      extraReversePathFilterRules = option.text "With nftables: more of the reverse-path filter.";
      extraInputRules = option.text "With nftables: more of the input chain.";
    };
    nftables = {
      enable = option.off "Whether nftables is used.";
      flushRuleset = option.off "Whether everybody's rules go at a reload.";
      ruleset = option.text "Rules.";
      extraDeletions = option.text "What else goes at a reload.";
      tables = option.group (
        { name, ... }:
        {
          options = {
            enable = option.on "Whether it exists.";
            name = option.withDefault types.str name "Its name.";
            family = option.required (types.enum [
              "ip"
              "ip6"
              "inet"
              "arp"
              "bridge"
              "netdev"
            ]) "Its family.";
            content = option.required types.lines "What is in it.";
          };
        }
      ) "Tables.";
    };
    nat = {
      enable = option.off "Whether there is NAT.";
      enableIPv6 = option.off "Whether there is for IPv6.";
      externalInterface = maybe types.str "The port outside.";
      internalInterfaces = option.strings "Ports inside.";
      forwardPorts = option.withDefault (types.listOf forward) [ ] "Ports that lead inside.";
      extraCommands = option.text "More commands.";
    };
  };

  config = lib.mkIf config.networking.useNetworkd { systemd.network.enable = lib.mkDefault true; };
}

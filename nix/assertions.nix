# What would undo the policy, or be undone by it; each with its remedy.
{ config, lib, ... }:
let
  cfg = config.services.returnpath;
  inherit (config) networking;

  # Mark bits that other programs are known to use.
  marks = {
    # It marks what comes from inside, and masquerades that; with nftables it does without.
    "networking.nat with iptables" = {
      enable =
        networking.nat.enable && networking.nat.internalInterfaces != [ ] && !networking.nftables.enable;
      bits = "0x00000001";
    };
    "services.tailscale" = {
      enable = config.services.tailscale.enable;
      bits = "0x00ff0000";
    };
    "kube-proxy" = {
      enable =
        config.services.k3s.enable
        || config.services.rke2.enable
        || config.services.kubernetes.proxy.enable;
      bits = "0x0000c000";
    };
  };
  mask = cfg.settings.mark_mask;
  overlap = other: builtins.bitAnd (lib.fromHexString other.bits) mask;
  collisions = lib.filterAttrs (_: other: other.enable && overlap other != 0) marks;
  hexadecimal = number: "0x${lib.toLower (lib.toHexString number)}";
  remedy =
    other:
    let
      rest = mask - overlap other;
    in
    if rest == 0 then
      "Choose a mask of other bits, and marks within it."
    else
      ''Set it to "${hexadecimal rest}" or to other bits, and choose marks within it.'';

  flushes =
    networking.nftables.flushRuleset
    || lib.any (lib.hasInfix "flush ruleset") [
      networking.nftables.ruleset
      networking.nftables.extraDeletions
    ];

  isOff =
    value:
    lib.elem value [
      false
      "no"
      "false"
      "off"
      "0"
    ];
  leavesAlone =
    networkd:
    networkd.enable
    -> lib.all (key: isOff (networkd.config.networkConfig.${key} or true)) [
      "ManageForeignRoutes"
      "ManageForeignRoutingPolicyRules"
    ];
in
{
  assertions = lib.mkIf cfg.enable (
    [
      {
        assertion = cfg.board.device != null || cfg.settings.paths != { };
        message = ''
          services.returnpath: no policy. Declare a router in services.returnpath.settings.paths, or name the board
          partition in services.returnpath.board.device.
        '';
      }
      {
        assertion = cfg.initrd.enable -> config.boot.initrd.systemd.enable;
        message = ''
          services.returnpath.initrd.enable needs a systemd stage 1. Set boot.initrd.systemd.enable = true.
        '';
      }
      {
        assertion = networking.nftables.enable -> !flushes;
        message = ''
          `flush ruleset` takes returnpath's table away with each reload of the firewall. Set
          networking.nftables.flushRuleset to false, leave that line out of networking.nftables.ruleset and
          extraDeletions, and have rules in networking.nftables.tables, which are replaced one by one.
        '';
      }
      {
        assertion =
          leavesAlone config.systemd.network
          && (cfg.initrd.enable -> leavesAlone config.boot.initrd.systemd.network);
        message = ''
          systemd-networkd would take returnpath's rules and routes away. Leave ManageForeignRoutes and
          ManageForeignRoutingPolicyRules at false in systemd.network.config.networkConfig, and in the one of
          boot.initrd.systemd.network.
        '';
      }
    ]
    # With a partition the mask is not known here.
    ++ lib.mapAttrsToList (name: other: {
      assertion = false;
      message = ''
        ${name} uses the mark bits ${other.bits}, and services.returnpath.settings.mark_mask =
        ${hexadecimal mask} overlaps them. ${remedy other}
      '';
    }) (lib.optionalAttrs (cfg.board.device == null) collisions)
  );
}

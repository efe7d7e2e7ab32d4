# What the harness has to know of a VM test's machines, as plain data: read with `nix eval --json`, so that topology,
# units and options stand in one place, nix/tests.
{ nixpkgs }:
let
  pkgs = import nixpkgs { system = "x86_64-linux"; };
  inherit (pkgs) lib;
  tests = import ../../../nix/tests {
    inherit (pkgs) lib testers;
  };

  # Paths as text: nothing is built.
  plain = value: builtins.unsafeDiscardStringContext (toString value);
  isOurs = name: _: lib.hasInfix "returnpath" name;
  units = lib.mapAttrs (
    _: unit: {
      text = plain unit.text;
      inherit (unit) wantedBy requiredBy overrideStrategy;
    }
  );
  addresses = map (entry: "${entry.address}/${toString entry.prefixLength}");
  etcPrefixes = [
    "iproute2/rt_tables.d/"
    "systemd/system.conf.d/"
    "systemd/networkd.conf"
  ];

  machine =
    config:
    let
      inherit (config) boot networking virtualisation;
      inherit (networking) firewall nat;
      returnpath = config.services.returnpath or { enable = false; };
    in
    {
      number = virtualisation.test.nodeNumber;
      disks = map (disk: disk.size) virtualisation.emptyDiskImages;
      ports = lib.mapAttrs (name: port: {
        inherit (port) vlan;
        mac = networking.interfaces.${name}.macAddress;
        addresses =
          addresses networking.interfaces.${name}.ipv4.addresses
          ++ addresses networking.interfaces.${name}.ipv6.addresses;
      }) virtualisation.allInterfaces;
      gateways = lib.concatMap (gateway: lib.optional (gateway != null) gateway.address) [
        networking.defaultGateway
        networking.defaultGateway6
      ];
      networkd = networking.useNetworkd;
      sysctl = lib.filterAttrs (
        name: value: lib.hasPrefix "net." name && value != null
      ) boot.kernel.sysctl;
      tables = lib.mapAttrs (_: table: { inherit (table) family content; }) (
        lib.filterAttrs (
          name: table: table.enable && !lib.hasPrefix "nixos-" name
        ) networking.nftables.tables
      );
      firewall = {
        inherit (firewall)
          enable
          backend
          allowedTCPPorts
          extraCommands
          extraStopCommands
          extraReversePathFilterRules
          ;
        reversePath = plain (builtins.toJSON firewall.checkReversePath);
      };
      nat = {
        inherit (nat) enable externalInterface internalInterfaces;
        forwardPorts = map (forward: { inherit (forward) proto sourcePort destination; }) nat.forwardPorts;
      };
    }
    // lib.optionalAttrs returnpath.enable {
      package = plain returnpath.package;
      policy = {
        path = plain returnpath.policy;
        settings = returnpath.settings;
      };
      units = units (lib.filterAttrs isOurs config.systemd.units);
      inherit (boot) kernelModules;
      kernelParams = lib.filter (lib.hasPrefix "returnpath.") boot.kernelParams;
      etc = lib.mapAttrs (_: file: plain file.text) (
        lib.filterAttrs (
          name: file: file.enable && lib.any (prefix: lib.hasPrefix prefix name) etcPrefixes
        ) config.environment.etc
      );
      policyEtc = lib.filter (lib.hasPrefix "returnpath/") (lib.attrNames config.environment.etc);
      initrd = lib.optionalAttrs boot.initrd.systemd.enable {
        units = units (lib.filterAttrs isOurs boot.initrd.systemd.units);
        inherit (boot.initrd) kernelModules;
      };
    };
in
{
  inherit (builtins) storeDir;
  tests = lib.mapAttrs (_: test: {
    machines = lib.mapAttrs (_: machine) test.nodes;
    script = test.config.testScriptString;
  }) tests;
}

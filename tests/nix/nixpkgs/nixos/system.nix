# What every configuration has: packages, assertions, files, users' basics, and what is built of it.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  inherit (lib) types;
  option = import ./option.nix { inherit lib; };
  platform = types.coercedTo types.str lib.systems.elaborate types.attrs;
  failed = lib.filter (entry: !entry.assertion) config.assertions;
  # A system is only built of a configuration that keeps its assertions.
  checked =
    if failed != [ ] then
      throw "\nFailed assertions:\n${lib.concatMapStringsSep "\n" (entry: "- ${entry.message}") failed}"
    else
      lib.foldr (warning: builtins.trace "evaluation warning: ${warning}") (_: _) config.warnings;
  texts = lib.mapAttrsToList (_: unit: toString unit.text);
  etc = lib.filterAttrs (_: file: file.enable) config.environment.etc;
in
{
  options = {
    assertions = option.withDefault (types.listOf (
      types.submodule {
        options = {
          assertion = option.required types.bool "What has to hold.";
          message = option.required types.str "What is said if it does not.";
        };
      }
    )) [ ] "Conditions.";
    warnings = option.strings "What is said when the system is built.";
    nixpkgs = {
      hostPlatform = option.required platform "The machine that it is for.";
      buildPlatform = option.withDefault platform config.nixpkgs.hostPlatform "The machine that builds.";
      overlays = option.withDefault (types.listOf types.raw) [ ] "Changes to the packages.";
      pkgs = option.withDefault types.raw (import ../pkgs.nix {
        lib = import ../nixos-lib.nix;
        inherit (config.nixpkgs.hostPlatform) system;
        inherit (config.nixpkgs) overlays;
      }) "The packages.";
    };
    environment = {
      systemPackages = option.withDefault (types.listOf types.package) [ ] "Packages for everybody.";
      etc = option.group (
        { name, config, ... }:
        {
          options = {
            enable = option.on "Whether it exists.";
            target = option.withDefault types.str name "Its name below /etc.";
            text = option.withDefault (types.nullOr types.lines) null "Its contents.";
            mode = option.withDefault types.str "symlink" "`symlink`, or the mode of a copy.";
            source = option.required types.path "Where it is.";
          };
          config.source = lib.mkIf (config.text != null) (
            pkgs.writeText "etc-${baseNameOf name}" config.text
          );
        }
      ) "Files below /etc.";
    };
    fileSystems = option.group {
      options = {
        device = option.withDefault (types.nullOr types.str) null "The device.";
        fsType = option.required types.str "Its type.";
        options = option.withDefault (types.listOf types.str) [ "defaults" ] "Options of mount.";
        neededForBoot = option.off "Whether the initrd mounts it.";
      };
    } "File systems.";
    users.allowNoPasswordLogin = option.off "Whether a system nobody can log in to is meant.";
    documentation.enable = option.on "Whether documentation is installed.";
    nix.enable = option.on "Whether Nix is installed.";
    system = {
      build = option.withDefault (types.lazyAttrsOf types.unspecified) { } "What can be built.";
      stateVersion = option.withDefault types.str lib.trivial.release "The release that its state is of.";
      switch.enable = option.on "Whether it can switch to another configuration.";
      boot.loader = {
        kernelFile = option.withDefault types.str "bzImage" "The kernel's name.";
        initrdFile = option.withDefault types.str "initrd" "The initrd's name.";
      };
    };
  };

  config = {
    _module.args = {
      pkgs = config.nixpkgs.pkgs;
      utils = import ./utils.nix { inherit lib; };
    };
    system.build = {
      toplevel = checked (
        pkgs.runCommand "nixos-system-${config.networking.hostName}"
          {
            files = lib.mapAttrsToList (_: file: "${file.source}") etc;
            packages = config.environment.systemPackages;
            units = texts config.systemd.units;
            initrdUnits = texts config.boot.initrd.systemd.units;
            # All of it, so that all of it has its type.
            networking = builtins.toJSON config.networking;
            inherit (config.boot) kernelModules kernelParams;
          }
          ''
            mkdir "$out"
            printf '%s\n' $files > "$out/etc"
            printf '%s\n' $packages > "$out/packages"
          ''
      );
      initialRamdisk = pkgs.absent "initrd";
    };
  };
}

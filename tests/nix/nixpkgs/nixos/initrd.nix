# The boot: kernel, initrd and its systemd.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  inherit (lib) types;
  option = import ./option.nix { inherit lib; };
  unit = import ./unit.nix {
    inherit lib pkgs;
    packages = [ ];
  };
  # A set of names; a list of them will do.
  names =
    description:
    option.withDefault (types.coercedTo (types.listOf types.str) (list: lib.genAttrs list (_: true)) (
      types.attrsOf types.bool
    )) { } description;
  modules = names "Kernel modules." // {
    apply = set: lib.attrNames (lib.filterAttrs (_: wanted: wanted) set);
  };
  sysctl = types.nullOr (
    types.oneOf [
      types.bool
      types.int
      types.str
    ]
  );
in
{
  options.boot = {
    kernelModules = modules;
    kernelParams = option.strings "The kernel command line.";
    kernel.sysctl = option.withDefault (types.attrsOf sysctl) { } "Settings below /proc/sys.";
    kernelPackages = option.withDefault types.raw pkgs.linuxPackages "The kernel.";
    loader.grub.enable = option.on "Whether GRUB is the boot loader.";
    initrd = {
      kernelModules = modules;
      availableKernelModules = modules;
      supportedFilesystems = names "File systems.";
      systemd = {
        enable = option.on "Whether systemd runs in the initrd.";
        services = option.withDefault (types.attrsOf unit.service) { } "Services.";
        units = option.group (import ./units.nix { inherit lib; }).text "Units as text.";
        storePaths = option.withDefault (types.listOf (
          types.either types.path types.package
        )) [ ] "What is copied.";
        network = (import ./networkd.nix { inherit lib; }).options;
      };
    };
  };

  config.boot.initrd.systemd.units = unit.units config.boot.initrd.systemd.services;
}

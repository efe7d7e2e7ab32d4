# systemd of the running system: services, units as text, networkd.
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
    packages = [
      pkgs.coreutils
      pkgs.findutils
      pkgs.gnugrep
      pkgs.gnused
      pkgs.systemd
    ];
  };
  networkd = import ./networkd.nix { inherit lib; };
in
{
  options.systemd = {
    services = option.withDefault (types.attrsOf unit.service) { } "Services.";
    units = option.group (import ./units.nix { inherit lib; }).text "Units as text.";
    network = networkd.options;
  };

  config = {
    systemd.units = unit.units config.systemd.services;
    environment.etc = networkd.files config.systemd.network;
  };
}

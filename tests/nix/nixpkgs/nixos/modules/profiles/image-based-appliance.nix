# No Nix, no documentation; the real profile does more of the kind.
{ lib, ... }:
{
  nix.enable = lib.mkDefault false;
  documentation.enable = lib.mkDefault false;
  system.switch.enable = lib.mkDefault false;
  boot.initrd.systemd.enable = lib.mkDefault true;
  networking.useNetworkd = lib.mkDefault true;
}

# A gateway that is nothing else: no Nix, no documentation, no SSH; a console on the serial port; the policy in a
# partition of its own.
board:
{
  lib,
  modulesPath,
  pkgs,
  ...
}:
let
  # What the board's own line says of the root file system and of the first program is for the image without Nix.
  kernelParams = lib.filter (
    word: !lib.hasPrefix "root=" word && !lib.hasPrefix "init=" word
  ) board.cmdline;
  label = partition: board.partitions.${partition}.Label;
in
{
  imports = [
    "${modulesPath}/profiles/image-based-appliance.nix"
    ./module.nix
    (import ./image.nix board)
  ];

  nixpkgs.hostPlatform = lib.mkDefault board.system;
  networking.hostName = lib.mkDefault board.name;
  system.stateVersion = lib.mkDefault lib.trivial.release;

  services.returnpath = {
    enable = true;
    package = lib.mkDefault (pkgs.pkgsStatic.callPackage ./package.nix { });
    settings = lib.mkDefault board.policy;
    board.device = "/dev/disk/by-partlabel/${label "30-board"}";
    initrd.enable = true;
  };

  boot = {
    inherit kernelParams;
    loader.grub.enable = false;
    initrd = {
      availableKernelModules = board.modules;
      supportedFilesystems.erofs = true;
    };
  };
  # A root shell on the console, as the image without Nix has; nothing listens on the network.
  services.getty.autologinUser = lib.mkDefault "root";
  users.allowNoPasswordLogin = lib.mkDefault true;
  services.openssh.enable = lib.mkDefault false;
  services.resolved.enable = lib.mkOverride 900 false; # networkd's module has mkDefault true
  services.timesyncd.enable = lib.mkDefault false;
  networking.useDHCP = false;

  # All state is in memory, but for the policy.
  fileSystems = {
    "/" = {
      fsType = "tmpfs";
      options = [
        "mode=0755"
        "size=64M"
      ];
    };
    "/nix/store" = {
      device = "/dev/disk/by-partlabel/${label "20-root"}";
      fsType = "erofs";
      options = [ "ro" ];
      neededForBoot = true;
    };
  };

  systemd.network.networks = lib.listToAttrs (
    map (
      port:
      lib.nameValuePair "10-${port.port}" {
        matchConfig.Name = port.port;
        address = [ "${port.address}/${toString port.prefixLength}" ];
        gateway = lib.optional (port ? gateway) port.gateway;
      }
    ) board.addresses
  );
}

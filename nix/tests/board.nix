# The policy comes from a partition, not from the store.
{
  lib,
  network,
  scripts,
  ...
}:
{
  inherit scripts;
  nodes = network.outside "lan" // {
    gateway = {
      imports = [ (network.gateway "lan") ];
      virtualisation.emptyDiskImages = [ 16 ];
      # A guest without KVM on a loaded machine finds its disks late.
      systemd.units."dev-disk-by\\x2dpartlabel-returnpath.device".text = lib.mkForce ''
        [Unit]
        JobRunningTimeoutSec=45s
      '';
      services.returnpath.board.device = "/dev/disk/by-partlabel/returnpath";
    };
  };
}

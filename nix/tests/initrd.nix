# The policy from stage 1 alone: the system's own unit waits for the script.
{ lib, network, ... }:
{
  nodes = network.outside "lan" // {
    gateway = {
      imports = [ (network.gateway "lan") ];
      boot.initrd.systemd.enable = true;
      services.returnpath.initrd.enable = true;
      systemd.services.returnpath.wantedBy = lib.mkForce [ ];
    };
  };
  scripts = [ ./initrd.py ];
}

# The NixOS firewall by nftables, which is restarted, and everybody's rules, which are flushed.
{ network, ... }:
{
  nodes = network.outside "lan" // {
    gateway = {
      imports = [ (network.gateway "lan") ];
      networking.nftables.enable = true;
    };
  };
  scripts = [ ./nftables-restart.py ];
}

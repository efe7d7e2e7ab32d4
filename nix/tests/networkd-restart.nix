# The ports are networkd's.
{ network, ... }:
{
  nodes = network.outside "lan" // {
    gateway = {
      imports = [ (network.gateway "lan") ];
      networking.useNetworkd = true;
    };
  };
  scripts = [ ./networkd-restart.py ];
}

# Two routers on one LAN; the gateway itself answers port 80.
{ network, ... }:
{
  nodes = network.outside "lan" // {
    gateway = network.gateway "lan";
  };
  scripts = [ ./seed.py ];
}

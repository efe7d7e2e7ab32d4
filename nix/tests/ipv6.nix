# The seed's network, called by IPv6.
{ network, ... }:
{
  nodes = network.outside "lan" // {
    gateway = network.gateway "lan";
  };
  scripts = [ ./ipv6.py ];
}

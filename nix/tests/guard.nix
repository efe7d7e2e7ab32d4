# What else is done to a guard, and by it.
{ network, ... }:
{
  nodes = network.outside "lan" // {
    gateway = network.gateway "lan";
  };
  scripts = [ ./guard.py ];
}

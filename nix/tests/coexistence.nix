# Beside what Docker and Tailscale do: chains and NAT of theirs, mark bits of theirs, rules of theirs.
{ network, ... }:
{
  nodes = network.outside "lan" // {
    inherit (network) backend;
    gateway = network.forwarder;
  };
  scripts = [ ./coexistence.py ];
}

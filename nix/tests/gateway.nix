# A gateway with NAT: port 80 is a host's behind it.
{ network, ... }:
{
  nodes = network.outside "lan" // {
    inherit (network) backend;
    gateway = {
      imports = [ network.forwarder ];
      # The iptables form of networking.nat marks what it masquerades with 1.
      services.returnpath.settings.mark_mask = "0xfe";
      networking.nat = {
        enable = true;
        externalInterface = "lan";
        internalInterfaces = [ "back" ];
        forwardPorts = [
          {
            proto = "tcp";
            sourcePort = 80;
            destination = "192.168.7.2:8080";
          }
        ];
      };
    };
  };
  scripts = [ ./gateway.py ];
}

# The network of the VM tests:
#
#                       ┌── router1   10.0.0.1   the default gateway ──┐
#   client ── world ────┤                                              ├──── gateway ── back ── backend
#                       └── router2   10.0.0.2   52:54:00:c2:a5:43 ────┘
#
# Each router forwards a public address of its own to the gateway, so that the client chooses the router by the address
# that it calls, and a reply that takes the other router's way is no answer to it. Counters stand in each router's first
# hook, before its own connection tracking or NAT could hide a packet that went astray.
{ lib }:
let
  vlans = {
    world = 1;
    lan = 2;
    second = 3;
    back = 4;
  };

  # A port of that name on the virtual LAN of that name, with the host number in both families.
  networks = {
    world = {
      ipv4 = "203.0.113";
      ipv6 = "2001:db8:113:";
    };
    lan = {
      ipv4 = "10.0.0";
      ipv6 = "fd00:";
    };
    second = {
      ipv4 = "10.0.2";
      ipv6 = "fd00:0:0:2:";
    };
    back = {
      ipv4 = "192.168.7";
      ipv6 = "fd00:0:0:7:";
    };
  };
  address = lan: number: {
    ipv4 = "${networks.${lan}.ipv4}.${toString number}";
    ipv6 = "${networks.${lan}.ipv6}:${toString number}";
  };
  port = lan: number: {
    virtualisation.interfaces.${lan} = {
      vlan = vlans.${lan};
      assignIP = false;
    };
    networking.interfaces.${lan} = {
      ipv4.addresses = [
        {
          address = (address lan number).ipv4;
          prefixLength = 24;
        }
      ];
      ipv6.addresses = [
        {
          address = (address lan number).ipv6;
          prefixLength = 64;
        }
      ];
    };
  };
  defaultBy = lan: number: {
    networking = {
      defaultGateway = {
        address = (address lan number).ipv4;
        interface = lan;
      };
      defaultGateway6 = {
        address = (address lan number).ipv6;
        interface = lan;
      };
    };
  };

  machine =
    { pkgs, ... }:
    {
      virtualisation.vlans = [ ];
      # A handshake that fails is soon over.
      boot.kernel.sysctl."net.ipv4.tcp_synack_retries" = 1;
      networking = {
        useDHCP = false;
        firewall.enable = lib.mkDefault false;
      };
      environment.systemPackages = [
        (pkgs.writeShellScriptBin "traffic" ''exec ${lib.getExe pkgs.python3} ${./traffic.py} "$@"'')
        pkgs.conntrack-tools
        pkgs.iptables
        pkgs.nftables
      ];
    };
  forwarding.boot.kernel.sysctl = {
    "net.ipv4.ip_forward" = 1;
    "net.ipv6.conf.all.forwarding" = 1;
  };

  clientAddress = address "world" 100;
  macs.router2 = "52:54:00:c2:a5:43";

  # `inner` is the virtual LAN that it shares with the gateway.
  router = number: inner: {
    imports = [
      machine
      forwarding
      (port "world" number)
      (port inner number)
    ];
    networking.nftables = {
      enable = true;
      tables = {
        way = {
          family = "inet";
          content = ''
            counter requests { }
            counter replies { }
            chain first {
              type filter hook prerouting priority raw
              iifname "world" ip saddr ${clientAddress.ipv4} meta l4proto tcp counter name "requests"
              iifname "world" ip6 saddr ${clientAddress.ipv6} meta l4proto tcp counter name "requests"
              iifname "${inner}" ip daddr ${clientAddress.ipv4} counter name "replies"
              iifname "${inner}" ip6 daddr ${clientAddress.ipv6} counter name "replies"
            }
          '';
        };
        edge = {
          family = "inet";
          content = ''
            chain forward_public {
              type nat hook prerouting priority dstnat
              ip daddr ${(address "world" number).ipv4} meta l4proto tcp dnat ip to ${(address inner 10).ipv4}
              ip6 daddr ${(address "world" number).ipv6} meta l4proto tcp dnat ip6 to ${(address inner 10).ipv6}
            }
          '';
        };
      };
    };
  };

  # As every NixOS machine, it has a firewall that filters by reverse path.
  gateway = inner: {
    imports = [
      machine
      ../module.nix
      (port "lan" 10)
      (defaultBy "lan" 1)
    ];
    networking.firewall = {
      enable = true;
      allowedTCPPorts = [ 80 ];
    };
    services.returnpath = {
      enable = true;
      settings = {
        local_networks = [
          "10.0.0.0/24"
          "fd00::/64"
        ];
        paths.router2 = {
          mark = "0x2";
          table = 200;
          gateways = lib.attrValues (address inner 2);
          source_macs = [ macs.router2 ];
          services = [ "tcp/80" ];
        };
      };
    };
  };
in
{
  inherit gateway port;

  # All but the gateway; `inner` is where router2 is.
  outside = inner: {
    client.imports = [
      machine
      (port "world" 100)
    ];
    router1 = router 1 "lan";
    router2 = lib.recursiveUpdate (router 2 inner) {
      networking.interfaces.${inner}.macAddress = macs.router2;
    };
  };

  backend.imports = [
    machine
    (port "back" 2)
    (defaultBy "back" 1)
  ];

  # A gateway with the backend behind it.
  forwarder.imports = [
    (gateway "lan")
    (port "back" 1)
    forwarding
  ];
}

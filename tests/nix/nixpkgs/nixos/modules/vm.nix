# A machine of a VM test: its ports and disks.
{ config, lib, ... }:
let
  inherit (lib) types;
  option = import ../option.nix { inherit lib; };
  inherit (config.virtualisation) interfaces test vlans;
  assigned = lib.filterAttrs (_: port: port.assignIP) config.virtualisation.allInterfaces;
in
{
  options.virtualisation = {
    vlans = option.withDefault (types.listOf types.ints.unsigned) (
      if interfaces == { } then [ 1 ] else [ ]
    ) "Virtual LANs: eth1, eth2, …";
    interfaces = option.group (
      { name, ... }:
      {
        options = {
          name = option.withDefault types.str name "The port's name.";
          vlan = option.required types.ints.unsigned "Its virtual LAN.";
          assignIP = option.off "Whether it gets an address by itself.";
        };
      }
    ) "Ports by name.";
    allInterfaces = option.withDefault types.raw (
      interfaces
      // lib.listToAttrs (
        lib.imap1 (
          index: vlan:
          lib.nameValuePair "eth${toString index}" {
            name = "eth${toString index}";
            inherit vlan;
            assignIP = true;
          }
        ) vlans
      )
    ) "All ports.";
    emptyDiskImages = option.withDefault (types.listOf (
      types.coercedTo types.ints.positive (size: { inherit size; }) (
        types.submodule {
          options = {
            size = option.required types.ints.positive "MiB.";
          };
        }
      )
    )) [ ] "Empty disks: vdb, …";
    test = {
      nodeName = option.required types.str "Its name in the test.";
      nodeNumber = option.required types.ints.positive "Its number in the test.";
    };
  };

  config.networking = {
    hostName = lib.mkDefault test.nodeName;
    interfaces = lib.mapAttrs (_: port: {
      ipv4.addresses = [
        {
          address = "192.168.${toString port.vlan}.${toString test.nodeNumber}";
          prefixLength = 24;
        }
      ];
      ipv6.addresses = [
        {
          address = "2001:db8:${toString port.vlan}::${toString test.nodeNumber}";
          prefixLength = 64;
        }
      ];
    }) assigned;
  };
}

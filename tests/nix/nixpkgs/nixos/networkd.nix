# networkd's options, of the system and of the initrd, and the files that they become.
{ lib }:
let
  inherit (lib) types;
  option = import ./option.nix { inherit lib; };
  ini = import ./ini.nix { inherit lib; };
  settings = option.withDefault (types.attrsOf option.setting) { };
in
{
  options = {
    enable = option.off "Whether networkd runs.";
    config.networkConfig = settings "The section [Network] of networkd.conf.";
    networks = option.group {
      options = {
        enable = option.on "Whether the file exists.";
        matchConfig = settings "The section [Match].";
        linkConfig = settings "The section [Link].";
        networkConfig = settings "The section [Network].";
        address = option.strings "Address= lines.";
        gateway = option.strings "Gateway= lines.";
      };
    } "Files *.network.";
  };
  files =
    config:
    lib.optionalAttrs config.enable (
      {
        "systemd/networkd.conf".text = ini.section "Network" [ config.config.networkConfig ];
      }
      // lib.mapAttrs' (
        name: network:
        lib.nameValuePair "systemd/network/${name}.network" {
          text = ini.file [
            (ini.section "Match" [ network.matchConfig ])
            (ini.section "Link" [ network.linkConfig ])
            (ini.section "Network" [
              network.networkConfig
              (lib.optionalAttrs (network.address != [ ]) { Address = network.address; })
              (lib.optionalAttrs (network.gateway != [ ]) { Gateway = network.gateway; })
            ])
          ];
        }
      ) (lib.filterAttrs (_: network: network.enable) config.networks)
    );
}

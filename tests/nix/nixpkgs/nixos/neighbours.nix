# Other programs, as far as the tree looks at them or switches them.
{ lib, ... }:
let
  option = import ./option.nix { inherit lib; };
  inherit (lib) types;
  switch = name: option.off "Whether ${name} runs.";
in
{
  options.services = {
    tailscale.enable = switch "Tailscale";
    k3s.enable = switch "k3s";
    rke2.enable = switch "RKE2";
    kubernetes.proxy.enable = switch "kube-proxy";
    openssh.enable = switch "sshd";
    resolved.enable = switch "systemd-resolved";
    timesyncd.enable = switch "systemd-timesyncd";
    getty.autologinUser =
      option.withDefault (types.nullOr types.str) null
        "Who is logged in at the console.";
  };
}

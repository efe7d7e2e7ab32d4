# The modules of every configuration.
[
  ./system.nix
  ./systemd.nix
  ./initrd.nix
  ./networking.nix
  ./neighbours.nix
]

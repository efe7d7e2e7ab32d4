# `import nixpkgs { system = …; }`
{
  system ? builtins.currentSystem,
  overlays ? [ ],
}:
import ./pkgs.nix {
  lib = import ./nixos-lib.nix;
  inherit system overlays;
}

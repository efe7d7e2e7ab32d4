# lib as the flake has it: with nixosSystem.
let
  lib = import ./lib.nix;
in
lib
// {
  nixosSystem = import ./nixos { inherit lib; };
}

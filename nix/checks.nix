# What `nix flake check` builds: the programs with their tests, and the tests in virtual machines.
{ pkgs }:
import ./tests {
  inherit (pkgs) lib testers;
}
// {
  returnpath = pkgs.callPackage ./package.nix { };
  returnpath-board = pkgs.callPackage ./package.nix { program = "returnpath-board"; };
  docs = pkgs.callPackage ./docs.nix { };
}

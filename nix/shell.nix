# To work on it: both toolchains, and what the tests look at the kernel with.
{ pkgs }:
pkgs.mkShell {
  inputsFrom = [ (pkgs.callPackage ./package.nix { }) ];
  packages = [
    pkgs.cargo
    pkgs.clippy
    pkgs.rustc
    pkgs.rustfmt
    pkgs.conntrack-tools
    pkgs.deadnix
    pkgs.iproute2
    pkgs.nftables
    pkgs.nixfmt
    pkgs.python3
    pkgs.qemu
    pkgs.ruff
  ];
}

# The packages, and for each board its disk image.
{
  pkgs,
  boards,
  appliance,
}:
let
  inherit (pkgs) lib;
  inherit (pkgs.stdenv.hostPlatform) system;
  # A board has its own processor; the machine that builds may have another one.
  image = board: (appliance board [ { nixpkgs.buildPlatform = system; } ]).config.system.build.disk;
in
lib.fix (packages: {
  default = packages.returnpath;
  returnpath = pkgs.callPackage ./package.nix { };
  returnpath-board = pkgs.callPackage ./package.nix { program = "returnpath-board"; };
  firmware = pkgs.pkgsStatic.callPackage ./package.nix { };
  docs = pkgs.callPackage ./docs.nix { };
})
// lib.mapAttrs' (name: board: lib.nameValuePair "image-${name}" (image board)) boards

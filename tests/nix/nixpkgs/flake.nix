{
  description = "What the tree uses of nixpkgs, for machines that can not have it";

  outputs =
    { self }:
    let
      lib = import ./nixos-lib.nix;
    in
    {
      inherit lib;
      legacyPackages = lib.genAttrs lib.systems.flakeExposed (system: import self { inherit system; });
    };
}

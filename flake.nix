{
  description = "Every connection that came in through a declared router goes back out through that router";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-26.05";

  outputs =
    { self, nixpkgs }:
    let
      inherit (nixpkgs) lib;
      eachSystem =
        make:
        lib.genAttrs [ "x86_64-linux" "aarch64-linux" ] (system: make nixpkgs.legacyPackages.${system});
      boards = lib.mapAttrs (name: _: import ./nix/board.nix { inherit lib; } (./board + "/${name}")) (
        lib.filterAttrs (_: kind: kind == "directory") (builtins.readDir ./board)
      );
      appliance =
        board: modules: lib.nixosSystem { modules = [ (import ./nix/appliance.nix board) ] ++ modules; };
    in
    {
      packages = eachSystem (pkgs: import ./nix/packages.nix { inherit pkgs boards appliance; });
      overlays.default = import ./nix/overlay.nix;
      nixosModules = {
        default = self.nixosModules.returnpath;
        returnpath = ./nix/module.nix;
      };
      nixosConfigurations = lib.mapAttrs' (
        name: board: lib.nameValuePair "appliance-${name}" (appliance board [ ])
      ) boards;
      checks = eachSystem (pkgs: import ./nix/checks.nix { inherit pkgs; });
      devShells = eachSystem (pkgs: {
        default = import ./nix/shell.nix { inherit pkgs; };
      });
      formatter = eachSystem (pkgs: pkgs.nixfmt-tree);
      apps = eachSystem (pkgs: import ./nix/apps.nix { inherit pkgs; });
    };
}

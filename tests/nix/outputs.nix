# The flake's outputs as plain data, evaluated with the tree of nixpkgs that is given, and without a lock.
{ nixpkgs }:
let
  call =
    folder: inputs:
    let
      self = (import (folder + "/flake.nix")).outputs ({ inherit self; } // inputs) // {
        outPath = toString folder;
      };
    in
    self;
  tree = call nixpkgs { };
  flake = call ../../. { nixpkgs = tree; };
  inherit (tree) lib;

  # What a user of a package reads of it; a program also says how it is started, and under which terms.
  complete =
    package:
    let
      asked = [
        "description"
      ]
      ++ lib.optionals (package ? version) [
        "license"
        "longDescription"
        "mainProgram"
        "maintainers"
        "platforms"
      ];
    in
    lib.filter (name: !(package.meta ? ${name})) asked;
  derivations = lib.mapAttrs (_: package: package.drvPath);
  perSystem = lib.mapAttrs (_: derivations);
in
{
  packages.paths = perSystem flake.packages;
  packages.missingMeta = lib.mapAttrs (
    _: packages: lib.filterAttrs (_: missing: missing != [ ]) (lib.mapAttrs (_: complete) packages)
  ) flake.packages;
  # One by one, since a real nixpkgs takes a gigabyte for each.
  checkNames = lib.mapAttrs (_: lib.attrNames) flake.checks;
  checks = lib.mapAttrs (
    _:
    lib.mapAttrs (
      _: check:
      {
        path = check.drvPath;
      }
      // lib.optionalAttrs (check ? driver) {
        driver = check.driver.drvPath;
        script = check.config.testScriptString;
      }
    )
  ) flake.checks;
  devShells = perSystem flake.devShells;
  formatter = derivations flake.formatter;
  apps = lib.mapAttrs (_: lib.mapAttrs (_: app: app.program)) flake.apps;
  nixosConfigurations = lib.mapAttrs (_: system: {
    toplevel = system.config.system.build.toplevel.drvPath;
    image = system.config.system.build.image.drvPath;
  }) flake.nixosConfigurations;
  # As a user takes them: in another flake's system.
  modules = lib.mapAttrs (
    _: module:
    (lib.nixosSystem {
      modules = (import ./cases.nix { inherit nixpkgs; }).plain ++ [
        module
        {
          nixpkgs.hostPlatform = "x86_64-linux";
          nixpkgs.overlays = [ flake.overlays.default ];
        }
        (
          { pkgs, ... }:
          {
            services.returnpath.package = pkgs.returnpath;
            environment.systemPackages = [ pkgs.returnpath-board ];
          }
        )
      ];
    }).config.system.build.toplevel.drvPath
  ) flake.nixosModules;
}

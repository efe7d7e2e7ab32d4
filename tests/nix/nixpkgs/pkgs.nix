# Packages: each a real derivation, built with the programs of this machine.
{
  lib,
  system,
  overlays ? [ ],
  isStatic ? false,
}@arguments:
let
  # Written by tests/nix/prepare: PATH, the homes of cargo and rustup, a target folder, and where static programs are.
  machine = import ./machine.nix;
  mkDerivation = import ./derivation.nix { inherit lib system machine; };

  packages =
    final:
    let
      script =
        name: text: more:
        final.writeTextFile (
          {
            inherit name;
            text = "#!${final.runtimeShell}\n${text}";
            executable = true;
          }
          // more
        );
      program =
        name: text:
        script name text {
          destination = "/bin/${name}";
          meta.mainProgram = name;
        };
      library = name: final.runCommand name { } ''mkdir "$out"'';
    in
    {
      inherit lib system mkDerivation;
      pkgs = final;
      stdenv = {
        inherit mkDerivation;
        hostPlatform = lib.systems.elaborate system // {
          inherit isStatic;
        };
        buildPlatform = lib.systems.elaborate system;
      };
      # What runs on the machine that builds: the same here.
      buildPackages = if isStatic then import ./pkgs.nix (arguments // { isStatic = false; }) else final;
      pkgsStatic = import ./pkgs.nix (arguments // { isStatic = true; });

      callPackage =
        package: overrides:
        let
          function = if builtins.isFunction package then package else import package;
          wanted = builtins.functionArgs function;
          found = builtins.intersectAttrs wanted final // overrides;
          missing = lib.filter (name: !wanted.${name} && !(found ? ${name})) (lib.attrNames wanted);
          result = function found;
        in
        if missing != [ ] then
          throw "callPackage: no package `${lib.head missing}', which ${toString package} asks for"
        else if lib.isAttrs result then
          result // { override = change: final.callPackage package (overrides // change); }
        else
          result;

      rustPlatform.buildRustPackage =
        attributes:
        let
          flags =
            lib.optional (attributes.buildNoDefaultFeatures or false) "--no-default-features"
            ++ lib.optionals (attributes.buildFeatures or [ ] != [ ]) [
              "--features"
              (lib.concatStringsSep "," attributes.buildFeatures)
            ]
            ++ attributes.cargoBuildFlags or [ ];
        in
        # The lock file has to exist and to name the package, as it has to there.
        assert lib.hasInfix ''name = "${
          (lib.importTOML (attributes.src.origSrc + "/Cargo.toml")).package.name
        }"'' (lib.readFile attributes.cargoLock.lockFile);
        mkDerivation (
          {
            buildCommand = ''
              ${if isStatic then "takeStatic" else "buildRust"}
              runHook postInstall
            '';
            cargoFlags = flags;
          }
          // lib.optionalAttrs isStatic { inherit (machine) staticPrograms staticSum; }
          // machine.cargo
          // builtins.removeAttrs attributes [ "cargoLock" ]
        );

      runCommand =
        name: attributes: buildCommand:
        mkDerivation ({ inherit name buildCommand; } // attributes);
      writeTextFile =
        {
          name,
          text,
          executable ? false,
          destination ? "",
          meta ? { },
          checkPhase ? "",
        }:
        final.runCommand name
          {
            inherit
              text
              destination
              checkPhase
              meta
              ;
            mode = if executable then "755" else "644";
          }
          ''
            target=$out$destination
            mkdir -p "$(dirname "$target")"
            printf %s "$text" > "$target"
            chmod "$mode" "$target"
            runHook checkPhase
          '';
      writeText = name: text: final.writeTextFile { inherit name text; };
      writeShellScript = name: text: script name text { };
      writeShellScriptBin = program;
      writeShellApplication =
        {
          name,
          text,
          runtimeInputs ? [ ],
        }:
        program name ''
          set -euo pipefail
          export PATH="${lib.makeBinPath runtimeInputs}:$PATH"
          ${text}
        '';
      runtimeShell = "/bin/bash";
      mkShell =
        attributes:
        mkDerivation (
          {
            name = "shell";
            buildCommand = ''echo "$inputPath" > "$out"'';
          }
          // attributes
        );

      formats.toml = _: {
        generate = name: value: final.writeText name (import ./toml.nix { inherit lib; } value);
      };
      nixosOptionsDoc = import ./manual.nix {
        inherit lib;
        pkgs = final;
      };
      testers.runNixOSTest = import ./nixos/test.nix {
        inherit lib;
        pkgs = final;
      };
      nixos =
        module:
        lib.nixosSystem {
          modules = [
            module
            { nixpkgs.pkgs = final; }
          ];
        };

      # Only looked at, never built against: the compiler finds this machine's.
      libmnl = library "libmnl";
      libnftnl = library "libnftnl";
      hello = final.absent "hello";
      linuxPackages.kernel = final.absent "kernel" // {
        version = "6.12.41";
      };
      # Evaluated, never built.
      absent =
        name:
        final.runCommand name { meta.mainProgram = name; } ''
          echo "the stand-in has no ${name}; build with nixpkgs" >&2
          exit 1
        '';
      installShellFiles = library "install-shell-files"; # setup.sh has its functions
    }
    // lib.mapAttrs (
      name: programs:
      final.runCommand name { meta.mainProgram = lib.head programs; } (
        lib.concatMapStrings (program: "linkProgram ${program}\n") programs
      )
    ) (import ./programs.nix);

  pkgs = lib.fix (final: lib.composeManyExtensions overlays final (packages final));
in
pkgs

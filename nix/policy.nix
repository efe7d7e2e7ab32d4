# A policy, checked and compiled: its mistakes end the build with the host tool's own words.
{
  lib,
  runCommand,
  buildPackages,
  formats,
}:
settings:
let
  tool = buildPackages.callPackage ./package.nix { program = "returnpath-board"; };
  # TOML has no null: what is not set is left out.
  isSet = _: value: value != null;
  source = (formats.toml { }).generate "returnpath-policy.toml" (
    lib.filterAttrs isSet settings
    // {
      paths = lib.mapAttrs (_: lib.filterAttrs isSet) settings.paths;
    }
  );
in
runCommand "returnpath-policy.bin"
  {
    nativeBuildInputs = [ tool ];
    passthru = { inherit source; };
  }
  ''
    ln -s ${source} policy.toml
    returnpath-board compile policy.toml -o policy.bin
    cp policy.bin "$out"
  ''

# Manual pages and shell completions of both programs.
{ runCommand, callPackage }:
runCommand "returnpath-manual"
  {
    nativeBuildInputs = [ (callPackage ./package.nix { program = "returnpath-manual"; }) ];
  }
  ''
    returnpath-manual "$out/share"
  ''

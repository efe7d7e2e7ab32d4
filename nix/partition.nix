# A board partition with a policy in its first slot.
{ runCommand, buildPackages }:
policy:
runCommand "returnpath-partition.img"
  {
    nativeBuildInputs = [ (buildPackages.callPackage ./package.nix { program = "returnpath-board"; }) ];
  }
  ''
    returnpath-board format --device partition.img
    returnpath-board write --device partition.img ${policy}
    cp partition.img "$out"
  ''

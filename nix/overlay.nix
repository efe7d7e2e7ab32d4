final: _: {
  returnpath = final.callPackage ./package.nix { };
  returnpath-board = final.callPackage ./package.nix { program = "returnpath-board"; };
}

# mkDerivation: a real derivation, with the attributes that callers look at.
{
  lib,
  system,
  machine,
}:
attributes:
let
  name = attributes.name or "${attributes.pname}-${attributes.version}";
  inputs = attributes.nativeBuildInputs or [ ] ++ attributes.buildInputs or [ ];
  passthru = attributes.passthru or { };
in
passthru
// derivation (
  {
    inherit name system;
    builder = "/bin/bash";
    args = [ "${./setup.sh}" ];
    inputPath = lib.makeBinPath inputs;
    machinePath = machine.path;
  }
  // builtins.removeAttrs attributes [
    "env"
    "meta"
    "passthru"
  ]
  // attributes.env or { }
)
// {
  inherit name passthru;
  outputs = [ "out" ];
  meta = {
    inherit name;
  }
  // attributes.meta or { };
}
// builtins.intersectAttrs {
  pname = null;
  version = null;
  src = null;
} attributes

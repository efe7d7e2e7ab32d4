# A unit: what every kind of it has, and one that is given as text.
{ lib }:
let
  inherit (lib) types;
  option = import ./option.nix { inherit lib; };
  common = {
    enable = option.on "Whether the unit exists.";
    aliases = option.strings "Other names.";
    wantedBy = option.strings "Units that want it.";
    requiredBy = option.strings "Units that require it.";
    upheldBy = option.strings "Units that uphold it.";
    overrideStrategy = option.withDefault (types.enum [
      "asDropin"
      "asDropinIfExists"
    ]) "asDropinIfExists" "How it goes with a unit of a package.";
  };
in
{
  inherit common;
  text.options = common // {
    text = option.withDefault (types.nullOr types.str) null "The unit file.";
  };
}

# How options are declared.
{ lib }:
let
  mkOption = attributes: { _type = "option"; } // attributes;
in
{
  inherit mkOption;
  mkEnableOption =
    what:
    mkOption {
      type = lib.types.bool;
      default = false;
      example = true;
      description = "Whether to enable ${what}.";
    };
  literalExpression = text: {
    _type = "literalExpression";
    inherit text;
  };
  literalMD = text: {
    _type = "literalMD";
    inherit text;
  };
}

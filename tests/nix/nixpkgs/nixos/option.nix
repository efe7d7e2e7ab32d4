# Shorthands for option declarations.
{ lib }:
let
  inherit (lib) mkOption types;
  withDefault =
    type: default: description:
    mkOption { inherit type default description; };
in
{
  inherit withDefault;
  required = type: description: mkOption { inherit type description; };
  on = withDefault types.bool true;
  off = withDefault types.bool false;
  text = withDefault types.lines "";
  strings = withDefault (types.listOf types.str) [ ];
  group = options: description: withDefault (types.attrsOf (types.submodule options)) { } description;
  # A systemd setting: one value, or several lines of one key.
  setting =
    let
      one = types.oneOf [
        types.bool
        types.int
        types.float
        types.str
        types.path
        types.package
      ];
    in
    lib.mkOptionType {
      description = "systemd option";
      check = value: one.check value || lib.isList value && lib.all one.check value;
      merge =
        location: definitions:
        if lib.any (definition: lib.isList definition.value) definitions then
          lib.concatMap (definition: lib.flatten definition.value) definitions
        else
          one.merge location definitions;
    };
}

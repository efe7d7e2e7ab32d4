# A value as TOML, as `formats.toml` generates it: keys of a table before its tables.
{ lib }:
let
  key = name: if builtins.match "[A-Za-z0-9_-]+" name != null then name else builtins.toJSON name;
  # JSON's strings, numbers and booleans are TOML's, too.
  inline =
    value:
    if lib.isList value then
      "[${lib.concatMapStringsSep ", " inline value}]"
    else if lib.isAttrs value && !lib.isDerivation value then
      "{ ${
        lib.concatStringsSep ", " (lib.mapAttrsToList (name: inner: "${key name} = ${inline inner}") value)
      } }"
    else if value == null then
      throw "TOML has no null"
    else
      builtins.toJSON value;
  table =
    path: value:
    let
      isTable = inner: lib.isAttrs inner && !lib.isDerivation inner;
      own = lib.filterAttrs (_: inner: !isTable inner) value;
      tables = lib.filterAttrs (_: isTable) value;
    in
    lib.optionalString (path != [ ]) "\n[${lib.concatMapStringsSep "." key path}]\n"
    + lib.concatStrings (lib.mapAttrsToList (name: inner: "${key name} = ${inline inner}\n") own)
    + lib.concatStrings (lib.mapAttrsToList (name: table (path ++ [ name ])) tables);
in
table [ ]

# Sets of files: which paths below a root are in. A set is a function from a path and whether it is a folder to "all"
# of it, "some" of it, or "none".
{ lib }:
let
  below = folder: path: lib.hasPrefix "${toString folder}/" path;
  make = has: {
    _type = "fileset";
    inherit has;
  };

  # A path does as a set.
  from =
    value:
    if value._type or null == "fileset" then
      value
    else if !builtins.pathExists value then
      throw "lib.fileset: ${toString value} does not exist"
    else
      make (
        path: _:
        if path == toString value || below value path then
          "all"
        else if below path (toString value) then
          "some"
        else
          "none"
      );
in
{
  unions =
    sets:
    make (
      path: kind:
      let
        found = map (set: (from set).has path kind) sets;
      in
      if lib.elem "all" found then
        "all"
      else if lib.elem "some" found then
        "some"
      else
        "none"
    );
  fileFilter =
    predicate: folder:
    make (
      path: kind:
      let
        file = {
          name = baseNameOf path;
          type = kind;
          hasExt = extension: lib.hasSuffix ".${extension}" file.name;
        };
      in
      if kind == "directory" then
        (
          if path == toString folder || below folder path || below path (toString folder) then
            "some"
          else
            "none"
        )
      else if below folder path && predicate file then
        "all"
      else
        "none"
    );
  toSource =
    { root, fileset }:
    {
      origSrc = root;
      name = "source";
      outPath = builtins.path {
        path = root;
        name = "source";
        filter = path: kind: (from fileset).has path kind != "none";
      };
    };
}

# Settings as the text of a unit file.
{ lib }:
let
  value =
    setting:
    if setting == true then
      "true"
    else if setting == false then
      "false"
    else
      toString setting;
  lines =
    key: setting:
    map (item: "${key}=${value item}") (if lib.isList setting then setting else [ setting ]);
in
{
  file = sections: lib.concatStringsSep "\n" (lib.filter (text: text != "") sections);
  # Sets of settings, one after the other.
  section =
    name: groups:
    let
      all = lib.concatMap (group: lib.concatLists (lib.mapAttrsToList lines group)) groups;
    in
    lib.optionalString (all != [ ]) (lib.concatLines ([ "[${name}]" ] ++ all));
}

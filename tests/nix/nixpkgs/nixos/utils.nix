# The argument `utils` of NixOS modules.
{ lib }:
let
  # systemd's escaping of one name.
  escape =
    text:
    lib.concatMapStrings (
      character:
      if character == "/" then
        "-"
      else if builtins.match "[A-Za-z0-9:_.]" character != null then
        character
      else
        code.${character} or (throw "escapeSystemdPath: no code for ${character}")
    ) (lib.stringToCharacters text);
  # Printable ASCII from the blank on.
  printable = lib.stringToCharacters " !\"#$%&'()*+,-./0123456789:;<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[\\]^_`abcdefghijklmnopqrstuvwxyz{|}~";
  code = lib.listToAttrs (
    lib.imap0 (
      index: character: lib.nameValuePair character "\\x${lib.toLower (lib.toHexString (32 + index))}"
    ) printable
  );
in
{
  escapeSystemdPath =
    path:
    let
      name = escape (lib.concatStringsSep "/" (lib.filter (part: part != "") (lib.splitString "/" path)));
    in
    if name == "" then
      "-"
    else if lib.hasPrefix "." name then
      code."." + lib.removePrefix "." name
    else
      name;
}

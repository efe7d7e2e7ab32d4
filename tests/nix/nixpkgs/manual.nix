# nixosOptionsDoc: options in Markdown. One without a description is an error, as it is there.
{ lib, pkgs }:
{
  options,
  transformOptions ? lib.id,
}:
let
  shown = lib.filter (option: option.visible && !option.internal) (
    lib.optionAttrSetToDocList options
  );
  literal = value: if value._type == "literalMD" then value.text else "`${value.text}`";
  section =
    option:
    ''
      ## ${lib.replaceStrings [ "<" ] [ "\\<" ] option.name}

      ${
        if option.description == null then
          throw "option ${option.name} has no description"
        else
          option.description
      }

      *Type:* ${option.type}${lib.optionalString option.readOnly " *(read only)*"}
    ''
    + lib.optionalString (option ? default) "\n*Default:* ${literal option.default}\n"
    + lib.optionalString (option ? example) "\n*Example:* ${literal option.example}\n"
    + lib.concatMapStrings (file: "\n*Declared by:* ${toString file}\n") option.declarations;
in
{
  optionsCommonMark = pkgs.writeText "options.md" (
    lib.concatMapStringsSep "\n" section (map transformOptions shown)
  );
}

# Options as a list, for documentation: those of submodules included.
{ lib }:
let
  collect =
    value:
    if value._type or null == "option" then
      [ (describe value) ]
      ++ lib.optionals (value.visible or true == true) (collect (value.type.getSubOptions value.loc))
    else if lib.isAttrs value then
      lib.concatMap (name: collect value.${name}) (lib.remove "_module" (lib.attrNames value))
    else
      [ ];
  describe =
    option:
    {
      name = lib.showOption option.loc;
      inherit (option) loc declarations;
      description = option.description or null;
      type = option.type.description;
      readOnly = option.readOnly or false;
      visible = option.visible or true == true;
      internal = option.internal or false;
    }
    // lib.optionalAttrs (option ? default || option ? defaultText) {
      default = literal (option.defaultText or option.default);
    }
    // lib.optionalAttrs (option ? example) { example = literal option.example; };
  literal =
    value: if value ? _type && value ? text then value else lib.literalExpression (lib.toPretty value);
in
collect

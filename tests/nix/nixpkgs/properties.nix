# What a definition may be wrapped in (mkIf, mkMerge, mkOverride, mkOrder), and how several definitions become a value.
{ lib }:
let
  inherit (builtins)
    concatMap
    filter
    isAttrs
    map
    mapAttrs
    ;

  priorities = {
    optionDefault = 1500;
    default = 1000;
    none = 100;
  };
  mkOverride = priority: content: {
    _type = "override";
    inherit priority content;
  };
  mkOrder = order: content: {
    _type = "order";
    inherit order content;
  };
  kindOf = value: if isAttrs value then value._type or null else null;

  # Wrappers around a set move to its attributes, so that names are known before any condition is.
  pushDown =
    value:
    let
      inside = wrap: concatMap (set: [ (mapAttrs (_: wrap) set) ]) (pushDown value.content);
    in
    {
      merge = concatMap pushDown value.contents;
      "if" = inside (mkIf value.condition);
      override = inside (mkOverride value.priority);
      order = inside (mkOrder value.order);
    }
    .${toString (kindOf value)} or [ value ];

  mkIf = condition: content: {
    _type = "if";
    inherit condition content;
  };

  # A definition without its wrappers: none where a condition is false, several where it was a merge.
  discharge =
    definition@{ value, ... }:
    let
      continue = content: discharge (definition // { value = content; });
    in
    {
      merge = concatMap continue value.contents;
      "if" =
        if !builtins.isBool value.condition then
          throw "mkIf: the condition is not a boolean but ${lib.toPretty value.condition}, in `${definition.file}'"
        else if value.condition then
          continue value.content
        else
          [ ];
      override = map (inner: inner // { inherit (value) priority; }) (continue value.content);
      order = map (inner: inner // { inherit (value) order; }) (continue value.content);
    }
    .${toString (kindOf value)} or [ definition ];

  # The definitions that count: of the strongest priority, in order.
  effective =
    definitions:
    let
      all = concatMap discharge definitions;
      priorityOf = definition: definition.priority or priorities.none;
      strongest = builtins.foldl' (best: definition: lib.min best (priorityOf definition)) 9999 all;
    in
    {
      priority = strongest;
      list = builtins.sort (a: b: a.order or 1000 < b.order or 1000) (
        filter (definition: priorityOf definition == strongest) all
      );
    };

  showDefinitions = lib.concatMapStrings (
    { file, value, ... }: "\n- In `${file}': ${lib.toPretty value}"
  );

  # Several definitions of one thing, checked and merged by its type.
  mergeDefinitions =
    location: type: definitions:
    let
      inherit (effective definitions) list priority;
      wrong = filter (definition: !(type.check definition.value)) list;
    in
    {
      inherit priority list;
      isDefined = list != [ ];
      value =
        if list == [ ] then
          type.emptyValue.value
            or (throw "The option `${lib.showOption location}' was accessed but has no value defined. Try setting the option.")
        else if wrong != [ ] then
          throw "A definition for option `${lib.showOption location}' is not of type `${type.description}'. Definition values:${showDefinitions wrong}"
        else
          type.merge location list;
    };
in
{
  inherit
    kindOf
    mergeDefinitions
    mkIf
    mkOrder
    mkOverride
    priorities
    pushDown
    showDefinitions
    ;
  mkMerge = contents: {
    _type = "merge";
    inherit contents;
  };
  mkOptionDefault = mkOverride priorities.optionDefault;
  mkDefault = mkOverride priorities.default;
  mkForce = mkOverride 50;
  mkVMOverride = mkOverride 10;
  mkBefore = mkOrder 500;
  mkAfter = mkOrder 1500;
}

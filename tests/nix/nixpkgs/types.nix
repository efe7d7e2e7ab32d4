# The types of options. Each has: description, check (is this value of the type?), merge (several definitions
# into one value), and for documentation getSubOptions.
{ lib }:
let
  inherit (builtins)
    concatMap
    elem
    filter
    isAttrs
    isList
    isString
    length
    map
    mapAttrs
    ;

  # --- Ways to merge ----------------------------------------------------------------------------

  conflict =
    location: definitions:
    throw "The option `${lib.showOption location}' has conflicting definition values:${lib.showDefinitions definitions}\nUse `lib.mkForce value' or `lib.mkDefault value' to change the priority on any of these definitions.";
  mergeOne =
    location: definitions:
    if length definitions == 1 then
      (builtins.head definitions).value
    else
      conflict location definitions;
  mergeEqual =
    location: definitions:
    let
      first = (builtins.head definitions).value;
    in
    if builtins.all (definition: definition.value == first) definitions then
      first
    else
      conflict location definitions;

  mkOptionType =
    {
      description,
      check ? _: true,
      merge ? mergeEqual,
      ...
    }@type:
    {
      _type = "option-type";
      name = description;
      getSubOptions = _: { };
      nestedTypes = { };
      composite = false;
    }
    // type
    // {
      inherit check merge;
    };

  # In a description, what is itself composed stands in parentheses.
  inner = type: if type.composite or false then "(${type.description})" else type.description;

  simple = description: check: mkOptionType { inherit description check; };
  inRange =
    description: low: high:
    simple description (value: builtins.isInt value && value >= low && value <= high);
  unsigned =
    bits: high:
    inRange "${toString bits} bit unsigned integer; between 0 and ${toString high} (both inclusive)" 0
      high;
  separated =
    separator: description:
    mkOptionType {
      inherit description;
      check = isString;
      merge =
        _: definitions:
        builtins.concatStringsSep separator (map (definition: definition.value) definitions);
    };
  isStringLike = value: isString value || value ? outPath || value ? __toString;

  attributes =
    {
      type,
      lazy,
      placeholder ? "name",
    }:
    mkOptionType {
      name = if lazy then "lazyAttrsOf" else "attrsOf";
      description = "${if lazy then "lazy " else ""}attribute set of ${inner type}";
      composite = true;
      check = isAttrs;
      emptyValue.value = { };
      merge =
        location: definitions:
        let
          one = name: values: lib.mergeDefinitions (location ++ [ name ]) type values;
          all = builtins.zipAttrsWith one (
            map (
              definition:
              mapAttrs (_: value: {
                inherit (definition) file;
                inherit value;
              }) definition.value
            ) definitions
          );
        in
        mapAttrs (_: merged: merged.value) (
          if lazy then all else lib.filterAttrs (_: merged: merged.isDefined) all
        );
      getSubOptions = prefix: type.getSubOptions (prefix ++ [ "<${placeholder}>" ]);
      nestedTypes.elemType = type;
    };

  list =
    type: least:
    mkOptionType (
      {
        name = "listOf";
        description = "${lib.optionalString (least > 0) "non-empty "}list of ${inner type}";
        composite = true;
        check = value: isList value && length value >= least;
        merge =
          location: definitions:
          let
            entries = concatMap (
              definition:
              lib.imap1 (index: value: {
                name = "[definition ${toString index}-entry ${toString index}]";
                inherit (definition) file;
                inherit value;
              }) definition.value
            ) definitions;
            merged = map (
              entry:
              lib.mergeDefinitions (location ++ [ entry.name ]) type [
                { inherit (entry) file value; }
              ]
            ) entries;
          in
          map (entry: entry.value) (filter (entry: entry.isDefined) merged);
        getSubOptions = prefix: type.getSubOptions (prefix ++ [ "*" ]);
        nestedTypes.elemType = type;
      }
      // lib.optionalAttrs (least == 0) { emptyValue.value = [ ]; }
    );

  submoduleWith =
    {
      modules,
      specialArgs ? { },
      shorthandOnlyDefinesConfig ? false,
      description ? null,
    }:
    let
      evaluate =
        location: name: definitions:
        lib.evalModules {
          inherit specialArgs;
          prefix = location;
          modules = [ { _module.args.name = lib.mkOptionDefault name; } ] ++ modules ++ definitions;
        };
    in
    mkOptionType {
      name = "submodule";
      description = if description == null then "submodule" else description;
      check = value: isAttrs value || builtins.isFunction value || builtins.isPath value;
      emptyValue.value = { };
      merge =
        location: definitions:
        (evaluate location (lib.last location) (
          map (
            { file, value, ... }:
            if isAttrs value && shorthandOnlyDefinesConfig then
              {
                _file = file;
                config = value;
              }
            else
              {
                _file = file;
                imports = [ value ];
              }
          ) definitions
        )).config;
      getSubOptions = prefix: builtins.removeAttrs (evaluate prefix "‹name›" [ ]).options [ "_module" ];
    };

  types = {
    inherit mkOptionType submoduleWith;

    raw = mkOptionType {
      description = "raw value";
      merge = mergeOne;
    };
    anything = mkOptionType {
      description = "anything";
      merge =
        location: definitions:
        if
          builtins.all (
            definition: isAttrs definition.value && !lib.isDerivation definition.value
          ) definitions
        then
          (types.lazyAttrsOf types.anything).merge location definitions
        else
          mergeEqual location definitions;
    };
    unspecified = mkOptionType {
      description = "unspecified value";
      merge =
        location: definitions:
        if builtins.all (definition: isList definition.value) definitions then
          concatMap (definition: definition.value) definitions
        else
          mergeEqual location definitions;
    };

    bool = simple "boolean" builtins.isBool;
    int = simple "signed integer" builtins.isInt;
    float = simple "floating point number" builtins.isFloat;
    str = simple "string" isString;
    singleLineStr = simple "(optionally newline-terminated) single-line string" (
      value: isString value && builtins.match "[^\n\r]*\n?" value != null
    );
    strMatching =
      pattern:
      simple "string matching the pattern ${pattern}" (
        value: isString value && builtins.match pattern value != null
      );
    lines = separated "\n" "strings concatenated with \"\\n\"";
    path = simple "absolute path" (
      value: builtins.isPath value || (isStringLike value && lib.hasPrefix "/" "${value}")
    );
    package = mkOptionType {
      description = "package";
      check =
        value: lib.isDerivation value || (isStringLike value && lib.hasPrefix builtins.storeDir "${value}");
      merge = mergeOne;
    };
    port = unsigned 16 65535;
    ints = {
      between =
        low: high: inRange "integer between ${toString low} and ${toString high} (both inclusive)" low high;
      positive = simple "positive integer, meaning >0" (value: builtins.isInt value && value > 0);
      unsigned = simple "unsigned integer, meaning >=0" (value: builtins.isInt value && value >= 0);
      u8 = unsigned 8 255;
      u16 = unsigned 16 65535;
      u32 = unsigned 32 4294967295;
    };
    enum =
      values:
      simple (
        if length values == 1 then
          "value ${lib.toPretty (builtins.head values)} (singular enum)"
        else
          "one of ${lib.concatMapStringsSep ", " lib.toPretty values}"
      ) (value: elem value values);

    attrs = mkOptionType {
      description = "attribute set";
      check = isAttrs;
      emptyValue.value = { };
      merge = _: definitions: lib.mergeAttrsList (map (definition: definition.value) definitions);
    };
    attrsOf =
      type:
      attributes {
        inherit type;
        lazy = false;
      };
    lazyAttrsOf =
      type:
      attributes {
        inherit type;
        lazy = true;
      };
    listOf = type: list type 0;

    nullOr =
      type:
      mkOptionType {
        name = "nullOr";
        description = "null or ${inner type}";
        composite = true;
        check = value: value == null || type.check value;
        emptyValue.value = null;
        merge =
          location: definitions:
          if builtins.all (definition: definition.value == null) definitions then
            null
          else if builtins.any (definition: definition.value == null) definitions then
            conflict location definitions
          else
            type.merge location definitions;
        inherit (type) getSubOptions;
        nestedTypes.elemType = type;
      };
    either =
      left: right:
      mkOptionType {
        name = "either";
        description = "${inner left} or ${inner right}";
        composite = true;
        check = value: left.check value || right.check value;
        merge =
          location: definitions:
          let
            all = type: builtins.all (definition: type.check definition.value) definitions;
          in
          if all left then
            left.merge location definitions
          else if all right then
            right.merge location definitions
          else
            conflict location definitions;
        nestedTypes = {
          inherit left right;
        };
      };
    oneOf =
      alternatives:
      lib.foldr types.either (lib.last alternatives) (
        lib.sublist 0 (length alternatives - 1) alternatives
      );
    coercedTo =
      from: convert: to:
      mkOptionType {
        name = "coercedTo";
        description = "${inner to} or ${inner from} convertible to it";
        composite = true;
        check = value: to.check value || (from.check value && to.check (convert value));
        merge =
          location: definitions:
          to.merge location (
            map (
              definition:
              definition
              // {
                value = if from.check definition.value then convert definition.value else definition.value;
              }
            ) definitions
          );
        inherit (to) getSubOptions;
        nestedTypes = {
          coercedType = from;
          finalType = to;
        };
      };
    functionTo =
      type:
      mkOptionType {
        description = "function that evaluates to a(n) ${inner type}";
        check = builtins.isFunction;
        merge =
          location: definitions: argument:
          (lib.mergeDefinitions location type (
            map (definition: {
              inherit (definition) file;
              value = definition.value argument;
            }) definitions
          )).value;
      };

    submodule =
      modules:
      submoduleWith {
        modules = if isList modules then modules else [ modules ];
        shorthandOnlyDefinesConfig = true;
      };
    deferredModule = mkOptionType {
      description = "module";
      check = value: isAttrs value || builtins.isFunction value || builtins.isPath value;
      merge = _: definitions: {
        imports = map ({ file, value, ... }: {
          _file = file;
          imports = [ value ];
        }) definitions;
      };
    };
  };
in
types

# The functions of nixpkgs' lib that the tree uses.
let
  lib = {
    inherit (builtins)
      all
      any
      attrNames
      attrValues
      concatLists
      concatMap
      concatStringsSep
      elem
      elemAt
      filter
      foldl'
      head
      isAttrs
      isList
      listToAttrs
      mapAttrs
      readFile
      removeAttrs
      replaceStrings
      tail
      ;

    # Lists.
    toList = value: if builtins.isList value then value else [ value ];
    optional = condition: value: if condition then [ value ] else [ ];
    optionals = condition: values: if condition then values else [ ];
    flatten = value: if builtins.isList value then builtins.concatMap lib.flatten value else [ value ];
    reverseList =
      list:
      builtins.genList (n: builtins.elemAt list (builtins.length list - 1 - n)) (builtins.length list);
    init = list: lib.sublist 0 (builtins.length list - 1) list;
    foldl =
      f: zero: list:
      if list == [ ] then zero else lib.foldl f (f zero (builtins.head list)) (builtins.tail list);
    last = list: builtins.elemAt list (builtins.length list - 1);
    range =
      first: final: if first > final then [ ] else builtins.genList (n: first + n) (final - first + 1);
    unique = builtins.foldl' (
      seen: value: if builtins.elem value seen then seen else seen ++ [ value ]
    ) [ ];
    remove = value: builtins.filter (other: other != value);
    sublist =
      from: count: list:
      builtins.concatMap (n: if n < builtins.length list then [ (builtins.elemAt list n) ] else [ ]) (
        lib.range from (from + count - 1)
      );
    zipListsWith =
      f: first: second:
      builtins.genList (n: f (builtins.elemAt first n) (builtins.elemAt second n)) (
        lib.min (builtins.length first) (builtins.length second)
      );
    imap0 = f: list: builtins.genList (n: f n (builtins.elemAt list n)) (builtins.length list);
    imap1 = f: list: builtins.genList (n: f (n + 1) (builtins.elemAt list n)) (builtins.length list);
    foldr =
      f: zero: list:
      if list == [ ] then zero else f (builtins.head list) (lib.foldr f zero (builtins.tail list));

    # Attribute sets.
    nameValuePair = name: value: { inherit name value; };
    genAttrs =
      names: f: builtins.listToAttrs (builtins.map (name: lib.nameValuePair name (f name)) names);
    mapAttrs' =
      f: set: builtins.listToAttrs (builtins.map (name: f name set.${name}) (builtins.attrNames set));
    mapAttrsToList = f: set: builtins.map (name: f name set.${name}) (builtins.attrNames set);
    mergeAttrsList = builtins.foldl' (a: b: a // b) { };
    filterAttrs =
      predicate: set:
      builtins.removeAttrs set (
        builtins.filter (name: !(predicate name set.${name})) (builtins.attrNames set)
      );
    optionalAttrs = condition: set: if condition then set else { };
    attrByPath =
      path: default: set:
      if path == [ ] then
        set
      else if builtins.isAttrs set && set ? ${builtins.head path} then
        lib.attrByPath (builtins.tail path) default set.${builtins.head path}
      else
        default;
    recursiveUpdate =
      old: new:
      if builtins.isAttrs old && builtins.isAttrs new then
        old
        // builtins.mapAttrs (
          name: value: if old ? ${name} then lib.recursiveUpdate old.${name} value else value
        ) new
      else
        new;
    isDerivation = value: value.type or null == "derivation";

    # Strings.
    optionalString = condition: text: if condition then text else "";
    concatStrings = builtins.concatStringsSep "";
    concatLines = lines: lib.concatStrings (builtins.map (line: line + "\n") lines);
    concatMapStrings = f: list: lib.concatStrings (builtins.map f list);
    concatMapStringsSep =
      separator: f: list:
      builtins.concatStringsSep separator (builtins.map f list);
    hasPrefix = prefix: text: builtins.substring 0 (builtins.stringLength prefix) text == prefix;
    hasSuffix =
      suffix: text:
      builtins.stringLength text >= builtins.stringLength suffix
      &&
        builtins.substring (builtins.stringLength text - builtins.stringLength suffix) (-1) text == suffix;
    hasInfix = infix: text: builtins.length (lib.splitString infix text) > 1;
    removePrefix =
      prefix: text:
      if lib.hasPrefix prefix text then
        builtins.substring (builtins.stringLength prefix) (-1) text
      else
        text;
    removeSuffix =
      suffix: text:
      if lib.hasSuffix suffix text then
        builtins.substring 0 (builtins.stringLength text - builtins.stringLength suffix) text
      else
        text;
    versionOlder = version: other: builtins.compareVersions other version == 1;
    splitString =
      separator: text:
      let
        special = lib.stringToCharacters "\\[](){}.*+?^$|";
        pattern = builtins.replaceStrings special (builtins.map (
          character: "\\${character}"
        ) special) separator;
      in
      builtins.filter builtins.isString (builtins.split pattern text);
    stringToCharacters =
      text: builtins.genList (n: builtins.substring n 1 text) (builtins.stringLength text);
    trim =
      text:
      let
        inside = builtins.match "[[:space:]]*(.*[^[:space:]])[[:space:]]*" text;
      in
      if inside == null then "" else builtins.head inside;
    toUpper = builtins.replaceStrings (lib.stringToCharacters lowerCase) (
      lib.stringToCharacters upperCase
    );
    toLower = builtins.replaceStrings (lib.stringToCharacters upperCase) (
      lib.stringToCharacters lowerCase
    );
    fixedWidthString =
      width: filler: text:
      if builtins.stringLength text >= width then
        text
      else
        lib.fixedWidthString width filler (filler + text);
    toHexString =
      number:
      if number < 16 then digit number else lib.toHexString (number / 16) + digit (lib.mod number 16);
    fromHexString = text: (builtins.fromTOML "number = 0x${lib.removePrefix "0x" text}").number;
    toInt =
      text:
      let
        value = builtins.fromJSON text;
      in
      if builtins.isInt value then value else throw "toInt: ${text} is no whole number";
    escapeShellArg =
      text:
      if builtins.match "[[:alnum:],._+:@%/-]+" (toString text) != null then
        toString text
      else
        "'${builtins.replaceStrings [ "'" ] [ "'\\''" ] (toString text)}'";
    mod = dividend: divisor: dividend - divisor * (dividend / divisor);
    min = a: b: if a < b then a else b;

    # Paths and programs.
    importTOML = path: builtins.fromTOML (builtins.readFile path);
    makeBinPath = lib.concatMapStringsSep ":" (package: "${package}/bin");
    getBin = package: package.bin or package;
    getExe' = package: program: "${lib.getBin package}/bin/${program}";
    getExe =
      package:
      lib.getExe' package (
        package.meta.mainProgram or (throw "getExe: ${package.name} has no meta.mainProgram")
      );
    fileset = import ./fileset.nix { inherit lib; };

    trivial.release = "26.05";

    # Functions.
    id = value: value;
    fix =
      f:
      let
        value = f value;
      in
      value;
    composeManyExtensions =
      extensions: final: previous:
      builtins.foldl' (done: extension: done // extension final done) previous extensions;

    # What a package says of itself.
    licenses = {
      gpl2Plus = {
        spdxId = "GPL-2.0-or-later";
        fullName = "GNU General Public License v2.0 or later";
        free = true;
      };
    };
    platforms.linux = systems;
    systems = {
      flakeExposed = systems;
      elaborate = system: {
        inherit system;
        isLinux = true;
        isx86_64 = lib.hasPrefix "x86_64" system;
        isAarch64 = lib.hasPrefix "aarch64" system;
        efiArch = if lib.hasPrefix "x86_64" system then "x64" else "aa64";
      };
    };
    sourceTypes.fromSource = {
      shortName = "fromSource";
      isSource = true;
    };

    # For messages.
    showOption = path: builtins.concatStringsSep "." (builtins.map quote path);
    toPretty =
      value:
      if lib.isDerivation value then
        "<derivation ${value.name or "?"}>"
      else if builtins.isFunction value then
        "<function>"
      else if builtins.isList value then
        "[ ${lib.concatMapStrings (item: lib.toPretty item + " ") value}]"
      else if builtins.isAttrs value then
        "{ ${
          lib.concatStrings (lib.mapAttrsToList (name: item: "${quote name} = ${lib.toPretty item}; ") value)
        }}"
      else if
        builtins.isString value
        || builtins.isBool value
        || builtins.isInt value
        || builtins.isFloat value
        || value == null
      then
        builtins.toJSON value
      else
        toString value;
    generators.toPretty = _: lib.toPretty;
  }
  // import ./properties.nix { inherit lib; }
  // import ./declare.nix { inherit lib; }
  // import ./modules.nix { inherit lib; }
  // {
    types = import ./types.nix { inherit lib; };
    inherit (lib.types) mkOptionType;
    optionAttrSetToDocList = import ./options.nix { inherit lib; };
  };

  systems = [
    "x86_64-linux"
    "aarch64-linux"
  ];
  lowerCase = "abcdefghijklmnopqrstuvwxyz";
  upperCase = "ABCDEFGHIJKLMNOPQRSTUVWXYZ";
  digit = number: builtins.substring number 1 "0123456789ABCDEF";
  # Names, and what stands for any name in documentation.
  quote =
    name:
    if builtins.match "[a-zA-Z_][a-zA-Z0-9_'-]*|<.*>|[*]" name != null then
      name
    else
      builtins.toJSON name;
in
lib

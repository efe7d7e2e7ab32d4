# The module system: modules in, one checked configuration out.
{ lib }:
let
  inherit (builtins)
    attrNames
    concatMap
    filter
    isAttrs
    isFunction
    length
    map
    mapAttrs
    ;
  inherit (lib)
    kindOf
    mkOption
    mkOverride
    priorities
    pushDown
    showDefinitions
    showOption
    ;

  # --- Modules ---------------------------------------------------------------------------------

  # Every module with its imports, each file once, as { file, key, options, config }.
  collect =
    {
      modules,
      arguments,
      config,
    }:
    let
      structured = [
        "_file"
        "config"
        "imports"
        "key"
        "options"
      ];
      load =
        {
          file,
          key,
          module,
        }:
        if builtins.isPath module || builtins.isString module then
          load {
            file = toString module;
            key = toString module;
            module = import module;
          }
        else if isFunction module then
          load {
            inherit file key;
            module = module (
              arguments
              // mapAttrs (
                name: _:
                arguments.${name} or config._module.args.${name}
                  or (throw "the module `${file}' wants the argument `${name}', which nobody gives")
              ) (builtins.functionArgs module)
            );
          }
        else
          normalise file key module;
      normalise =
        file: key: module:
        let
          own = module._file or file;
          isStructured = kindOf module == null && (module ? config || module ? options);
          unknown = attrNames (builtins.removeAttrs module structured);
        in
        if !isAttrs module then
          throw "the module `${file}' is not a set, a function or a path but ${lib.toPretty module}"
        else if isStructured && unknown != [ ] then
          throw "Module `${own}' has an unsupported attribute `${builtins.head unknown}'. This is caused by introducing a top-level `config' or `options' attribute."
        else
          {
            file = own;
            key = module.key or key;
            imports = lib.optionals (kindOf module == null) (module.imports or [ ]);
            options = if isStructured then module.options or { } else { };
            config =
              if isStructured then
                module.config or { }
              else if kindOf module == null then
                builtins.removeAttrs module structured
              else
                module;
          };
      children =
        parent: modules:
        map (
          { index, module }:
          load {
            inherit (parent) file;
            key = "${parent.key}:${toString index}";
            inherit module;
          }
        ) (lib.imap1 (index: module: { inherit index module; }) modules);
      closure = builtins.genericClosure {
        startSet = children {
          file = "<unknown-file>";
          key = "";
        } modules;
        operator = module: children module module.imports;
      };
    in
    # What is imported comes before what imports it, as in nixpkgs.
    lib.reverseList closure;

  # --- Options, level by level ---------------------------------------------------------------

  # declarations: [{ file, value }], sets of options; definitions: [{ file, value }], sets without wrappers.
  mergeLevel =
    location: declarations: definitions:
    let
      named =
        list: name:
        concatMap (
          entry:
          lib.optional (entry.value ? ${name}) {
            inherit (entry) file;
            value = entry.value.${name};
          }
        ) list;
      names = attrNames (lib.mergeAttrsList (map (entry: entry.value) declarations));
      one =
        name:
        let
          at = location ++ [ name ];
          declared = named declarations name;
          defined = named definitions name;
          options = filter (entry: kindOf entry.value == "option") declared;
        in
        if options == [ ] then
          mergeLevel at declared (expand at defined)
        else if length options != length declared then
          throw "The option `${showOption at}' in `${(builtins.head options).file}' is also a set of options elsewhere."
        else
          let
            option = evaluate at options defined;
          in
          {
            inherit option;
            options = option;
            config = option.value;
            unmatched = [ ];
          };
      children = lib.genAttrs names one;
      strangers = concatMap (
        entry:
        map (name: {
          inherit (entry) file;
          at = location ++ [ name ];
          value = entry.value.${name};
        }) (filter (name: !(children ? ${name})) (attrNames entry.value))
      ) definitions;
    in
    {
      options = mapAttrs (_: child: child.options) children;
      config = mapAttrs (_: child: child.config) children;
      unmatched = strangers ++ concatMap (name: children.${name}.unmatched) names;
    };

  expand =
    location:
    concatMap (
      { file, value }:
      map (
        set:
        if isAttrs set then
          {
            inherit file;
            value = set;
          }
        else
          throw "The option `${showOption location}' is a set of options, but `${file}' defines it as ${lib.toPretty set}."
      ) (pushDown value)
    );

  evaluate =
    location: declared: defined:
    let
      files = map (entry: entry.file) declared;
      declaration =
        if length declared == 1 then
          (builtins.head declared).value
        else
          throw "The option `${showOption location}' in `${builtins.head files}' is already declared in `${lib.last files}'.";
      type = declaration.type or lib.types.unspecified;
      default = lib.optional (declaration ? default) {
        file = builtins.head files;
        value = mkOverride priorities.optionDefault declaration.default;
      };
      merged = lib.mergeDefinitions location type (default ++ defined);
      final =
        if declaration.readOnly or false && length (default ++ defined) > 1 then
          throw "The option `${showOption location}' is read-only, but it's set multiple times. Definition values:${showDefinitions defined}"
        else
          (declaration.apply or lib.id) merged.value;
    in
    declaration
    // {
      inherit type;
      value = final;
      loc = location;
      declarations = files;
      inherit (merged) isDefined;
      highestPrio = merged.priority;
      definitions = map (entry: entry.value) merged.list;
      definitionsWithLocations = merged.list;
      files = map (entry: entry.file) merged.list;
    };

  evalModules =
    {
      modules,
      specialArgs ? { },
      prefix ? [ ],
    }:
    let
      internal.options._module = {
        args = mkOption {
          type = lib.types.lazyAttrsOf lib.types.raw;
          internal = true;
          description = "Arguments of every module, besides those of `specialArgs`.";
        };
        check = mkOption {
          type = lib.types.bool;
          default = true;
          internal = true;
          description = "Whether a definition without an option is an error.";
        };
      };
      loaded = collect {
        modules = [ internal ] ++ modules;
        inherit config;
        arguments = {
          inherit
            lib
            config
            options
            specialArgs
            ;
        }
        // specialArgs;
      };
      tree =
        mergeLevel prefix
          (map (module: {
            inherit (module) file;
            value = module.options;
          }) loaded)
          (
            expand prefix (
              map (module: {
                inherit (module) file;
                value = module.config;
              }) loaded
            )
          );
      stranger = builtins.head tree.unmatched;
      checked =
        if tree.config._module.check && tree.unmatched != [ ] then
          throw "The option `${showOption stranger.at}' does not exist. Definition values:${showDefinitions [ stranger ]}"
        else
          true;
      config = builtins.seq checked tree.config;
      inherit (tree) options;
    in
    {
      inherit options;
      config = builtins.removeAttrs config [ "_module" ];
      _module = config._module;
    };
in
{
  inherit evalModules;
}

# A service as options, and as the text of its unit. `packages` are on the PATH of every service.
{
  lib,
  pkgs,
  packages,
}:
let
  inherit (lib) types;
  option = import ./option.nix { inherit lib; };
  ini = import ./ini.nix { inherit lib; };
  units = import ./units.nix { inherit lib; };

  # Option names; as keys they begin with a capital letter.
  relations = [
    "after"
    "before"
    "bindsTo"
    "conflicts"
    "onFailure"
    "onSuccess"
    "partOf"
    "requires"
    "requisite"
    "upholds"
    "wants"
  ];
  installed = [
    "requiredBy"
    "upheldBy"
    "wantedBy"
  ];
  capital = name: lib.toUpper (builtins.substring 0 1 name) + builtins.substring 1 (-1) name;
  scripts = {
    script = "ExecStart";
    preStart = "ExecStartPre";
    postStart = "ExecStartPost";
    reload = "ExecReload";
    preStop = "ExecStop";
    postStop = "ExecStopPost";
  };
  settings = option.withDefault (types.attrsOf option.setting) { };
  keys =
    names: config:
    lib.listToAttrs (
      map (name: lib.nameValuePair (capital name) (toString config.${name})) (
        lib.filter (name: config.${name} != [ ]) names
      )
    );
  commands =
    name: config:
    lib.mapAttrs' (
      phase: key:
      lib.nameValuePair key (pkgs.writeShellScript "${name}-${phase}" ("set -e\n" + config.${phase}))
    ) (lib.filterAttrs (phase: _: config.${phase} != "") scripts);
  environment =
    config:
    let
      path = config.path ++ lib.optionals config.enableDefaultPath packages;
      folders = kind: map (package: "${package}/${kind}") path;
      all =
        lib.optionalAttrs (path != [ ]) {
          PATH = lib.concatStringsSep ":" (folders "bin" ++ folders "sbin");
        }
        // lib.filterAttrs (_: value: value != null) config.environment;
    in
    lib.mapAttrsToList (name: value: builtins.toJSON "${name}=${value}") all;

  # Services as units: text, and what installs them.
  make =
    name: config:
    builtins.intersectAttrs units.common config
    // {
      text = ini.file [
        (ini.section "Unit" [
          (
            lib.optionalAttrs (config.description != "") { Description = config.description; }
            // lib.optionalAttrs (config.documentation != [ ]) {
              Documentation = toString config.documentation;
            }
            // keys relations config
            // lib.optionalAttrs (config.restartTriggers != [ ]) {
              X-Restart-Triggers = builtins.toFile "X-Restart-Triggers-${name}" (toString config.restartTriggers);
            }
            // config.unitConfig
          )
        ])
        (ini.section "Service" [
          { Environment = environment config; }
          (
            lib.optionalAttrs config.reloadIfChanged { X-ReloadIfChanged = true; }
            // lib.optionalAttrs (!config.restartIfChanged) { X-RestartIfChanged = false; }
            // lib.optionalAttrs (!config.stopIfChanged) { X-StopIfChanged = false; }
          )
          (commands name config // config.serviceConfig)
        ])
        (ini.section "Install" [ (keys installed config) ])
      ];
    };
in
{
  service = types.submodule {
    options =
      units.common
      // {
        description = option.withDefault types.singleLineStr "" "What it is.";
        documentation = option.strings "Where it is described.";
        unitConfig = settings "The section [Unit].";
        serviceConfig = settings "The section [Service].";
        environment = option.withDefault (types.attrsOf (
          types.nullOr (
            types.oneOf [
              types.str
              types.path
              types.package
            ]
          )
        )) { } "Variables.";
        path = option.withDefault (types.listOf (
          types.either types.package types.str
        )) [ ] "Packages on its PATH.";
        enableDefaultPath = option.on "Whether the usual packages are on its PATH.";
        restartIfChanged = option.on "Whether a switch restarts it.";
        reloadIfChanged = option.off "Whether a switch reloads it instead.";
        stopIfChanged = option.on "Whether a switch stops it with the old unit.";
        restartTriggers =
          option.withDefault (types.listOf types.unspecified) [ ]
            "What restarts it by a change.";
        reloadTriggers =
          option.withDefault (types.listOf types.unspecified) [ ]
            "What reloads it by a change.";
      }
      // lib.genAttrs relations (name: option.strings "Units for ${capital name}=.")
      // lib.mapAttrs (_: key: option.text "Commands for ${key}=.") scripts;
  };
  units = lib.mapAttrs' (name: config: lib.nameValuePair "${name}.service" (make name config));
}

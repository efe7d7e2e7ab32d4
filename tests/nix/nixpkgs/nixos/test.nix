# testers.runNixOSTest: evaluates the machines. What it returns can be asked as the real one (`nodes`, `driver`,
# `config`), and is built to nothing but the script and its machines' systems: it runs in tests/nix/guest.
{ lib, pkgs }:
module:
let
  inherit (lib) types;
  option = import ./option.nix { inherit lib; };
  numbered = names: lib.listToAttrs (lib.imap1 (index: name: lib.nameValuePair name index) names);

  test =
    { config, ... }:
    let
      numbers = numbered (lib.attrNames config.nodes);
      machine = types.submoduleWith {
        specialArgs.modulesPath = toString ./modules;
        modules = import ./modules.nix ++ [
          ./modules/vm.nix
          config.defaults
          (
            { name, ... }:
            {
              nixpkgs.hostPlatform = lib.mkDefault pkgs.stdenv.hostPlatform.system;
              nixpkgs.pkgs = lib.mkDefault pkgs;
              virtualisation.test = {
                nodeName = name;
                nodeNumber = numbers.${name};
              };
            }
          )
        ];
      };
    in
    {
      options = {
        name = option.required types.str "Its name.";
        nodes = option.withDefault (types.lazyAttrsOf machine) { } "The machines.";
        defaults = option.withDefault types.deferredModule { } "What all machines have.";
        testScript = option.required (types.either types.str (types.functionTo types.str)) "The script.";
        testScriptString = option.withDefault types.str (
          if builtins.isFunction config.testScript then
            config.testScript { inherit (config) nodes; }
          else
            config.testScript
        ) "The script as text.";
        meta = option.withDefault types.attrs { } "What is said of it.";
        passthru = option.withDefault types.attrs { } "What else it has.";
        driver = option.withDefault types.package (driver config) "The program that runs it.";
      };
    };
  driver =
    config:
    pkgs.runCommand "nixos-test-driver-${config.name}"
      {
        text = config.testScriptString;
        systems = lib.mapAttrsToList (_: node: node.system.build.toplevel) config.nodes;
        meta.mainProgram = "nixos-test-driver";
      }
      ''
        mkdir "$out"
        printf %s "$text" > "$out/script.py"
        printf '%s\n' $systems > "$out/systems"
      '';
  inherit (lib.evalModules { modules = [ test ] ++ lib.toList module; }) config;
in
config.passthru
// pkgs.runCommand "vm-test-run-${config.name}" {
  inherit (config) meta;
  driverProgram = config.driver;
} ''ln -s "$driverProgram" "$out"''
// {
  inherit config;
  inherit (config) nodes driver;
}

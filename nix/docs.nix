# The options reference, made from the module.
{
  lib,
  pkgs,
  nixosOptionsDoc,
  runCommand,
}:
let
  evaluated = lib.evalModules {
    modules = [
      ./module.nix
      # Only what is declared here is wanted; what else a system has is not there.
      {
        _module = {
          check = false;
          args = { inherit pkgs; };
        };
      }
    ];
    specialArgs.utils = { };
  };
  options = nixosOptionsDoc {
    options = { inherit (evaluated.options) services; };
    # A reader has no use for places in the store.
    transformOptions = option: option // { declarations = [ ]; };
  };
in
runCommand "returnpath-docs"
  { meta.description = "Reference of the options of services.returnpath"; }
  ''
    install -D -m 644 ${options.optionsCommonMark} "$out/share/doc/returnpath/options.md"
  ''

# nixosSystem: a configuration of the options that the tree uses, and of no others.
{ lib }:
{
  modules ? [ ],
  specialArgs ? { },
  system ? null,
}:
lib.evalModules {
  modules =
    import ./modules.nix
    ++ lib.optional (system != null) { nixpkgs.hostPlatform = lib.mkDefault system; }
    ++ modules;
  specialArgs = {
    modulesPath = toString ./modules;
  }
  // specialArgs;
}

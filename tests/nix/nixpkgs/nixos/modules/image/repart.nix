# image.repart: partitions as options, and a list of them in place of a disk.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  inherit (lib) types;
  option = import ../../option.nix { inherit lib; };
  ini = import ../../ini.nix { inherit lib; };
  image = config.image.repart;
  value = types.oneOf [
    types.str
    types.int
    types.bool
    (types.listOf types.str)
  ];
  file = types.submodule { options.source = option.required types.path "Where it is copied from."; };
  partition = types.submodule {
    options = {
      storePaths = option.withDefault (types.listOf types.path) [ ] "What of the store is in it.";
      nixStorePrefix = option.withDefault types.path "/nix/store" "Where in it.";
      contents = option.withDefault (types.attrsOf file) { } "Files.";
      repartConfig = option.required (types.attrsOf value) "As in repart.d(5).";
    };
  };
in
{
  options.image = {
    baseName = option.withDefault types.str image.name "The file's name, without its ending.";
    filePath = option.withDefault types.str "${config.image.baseName}.raw" "The file's name.";
    repart = {
      name = option.required types.str "The image's name.";
      seed = option.withDefault (types.nullOr types.str) null "What its identifiers are made of.";
      partitions = option.withDefault (types.attrsOf partition) { } "Partitions.";
      finalPartitions =
        option.withDefault types.raw image.partitions
          "Partitions with all that is in them.";
    };
  };
  config.system.build.image =
    pkgs.runCommand image.name
      {
        definitions = lib.concatStrings (
          lib.mapAttrsToList (
            name: partition:
            "# ${name}\n"
            + ini.section "Partition" [ partition.repartConfig ]
            + lib.concatLines (
              lib.mapAttrsToList (target: file: "${target} ${file.source}") partition.contents
              ++ map (path: "${partition.nixStorePrefix} ${path}") partition.storePaths
            )
          ) image.partitions
        );
        fileName = config.image.filePath;
      }
      ''
        mkdir "$out"
        printf %s "$definitions" > "$out/$fileName"
      '';
}

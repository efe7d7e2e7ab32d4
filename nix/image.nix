# The disk image of a board, with the partitions that board/NAME/repart.d has.
board:
{
  config,
  lib,
  modulesPath,
  pkgs,
  ...
}:
let
  inherit (config.services.returnpath) policy;
  inherit (pkgs.stdenv.hostPlatform) efiArch;
  inherit (config.system.boot) loader;
  kernel = "${config.boot.kernelPackages.kernel}/${config.system.boot.loader.kernelFile}";
  initrd = "${config.system.build.initialRamdisk}/${loader.initrdFile}";
  # As image/build has it: a plain entry, so that the command line can be edited on a flashed disk.
  entry = pkgs.writeText "returnpath.conf" ''
    title   returnpath on ${board.name}
    linux   /returnpath/kernel
    initrd  /returnpath/initrd
    options init=${config.system.build.toplevel}/init ${toString config.boot.kernelParams}
  '';
  loaderConfig = pkgs.writeText "loader.conf" "timeout 0\n";

  # One seed for every identifier, from the board's name, as in image/build.
  hash = builtins.hashString "sha256" "returnpath ${board.name}\n";
  seed = lib.concatStringsSep "-" (
    lib.zipListsWith (start: length: builtins.substring start length hash)
      [ 0 8 12 16 20 ]
      [ 8 4 4 4 12 ]
  );
in
{
  imports = [ "${modulesPath}/image/repart.nix" ];

  image.repart = {
    name = board.name;
    inherit seed;
    partitions = {
      "10-esp" = {
        contents = {
          "/EFI/BOOT/BOOT${lib.toUpper efiArch}.EFI".source =
            "${pkgs.systemd}/lib/systemd/boot/efi/systemd-boot${efiArch}.efi";
          "/loader/loader.conf".source = loaderConfig;
          "/loader/entries/returnpath.conf".source = entry;
          "/returnpath/kernel".source = kernel;
          "/returnpath/initrd".source = initrd;
        };
        # NixOS's kernel and initrd are larger than those that the board's own size is for.
        repartConfig = board.partitions."10-esp" // {
          Format = "vfat";
          SizeMinBytes = "192M";
          SizeMaxBytes = "192M";
        };
      };
      "20-root" = {
        storePaths = [ config.system.build.toplevel ];
        nixStorePrefix = "/";
        repartConfig = board.partitions."20-root" // {
          Format = "erofs";
          Minimize = "best";
        };
      };
      "30-board".repartConfig = board.partitions."30-board" // {
        CopyBlocks = "${pkgs.callPackage ./partition.nix { } policy}";
      };
    };
  };

  # Under the names that image/flash looks for.
  system.build.disk =
    pkgs.runCommand "${board.name}-image"
      {
        meta.description = "Disk image of a returnpath gateway for ${board.name}";
        nativeBuildInputs = [ (pkgs.buildPackages.bmaptool or pkgs.buildPackages.bmap-tools) ];
      }
      ''
        mkdir "$out"
        ln -s ${config.system.build.image}/${config.image.filePath} "$out/${board.name}.img"
        bmaptool create -o "$out/${board.name}.img.bmap" "$out/${board.name}.img"
      '';
}

# `nix run .#demo` and `nix run .#flash`.
{ pkgs }:
let
  inherit (pkgs) lib;
  tests = import ./tests {
    inherit (pkgs) lib testers;
  };
  # The image that `nix build .#image-BOARD` has left in ./result.
  flash = pkgs.writeShellApplication {
    name = "returnpath-flash";
    runtimeInputs = [
      (pkgs.bmaptool or pkgs.bmap-tools)
      pkgs.coreutils
      pkgs.gnugrep
      pkgs.gnused
      pkgs.util-linux
    ];
    text = ''
      export IMAGE_OUT=''${IMAGE_OUT:-result}
      if [ $# != 2 ] || [ ! -f "$IMAGE_OUT/$1.img" ]; then
        echo "usage: flash BOARD DEVICE, after: nix build .#image-BOARD (which leaves $IMAGE_OUT/BOARD.img)" >&2
        exit 2
      fi
      exec ${pkgs.runtimeShell} ${../image}/flash "$@"
    '';
  };
in
{
  demo = {
    type = "app";
    program = lib.getExe tests.seed.driver;
    meta.description = "Show a connection that came in through router 2 going back through router 2";
  };
  flash = {
    type = "app";
    program = lib.getExe flash;
    meta.description = "Write a board's image to a disk: flash BOARD DEVICE";
  };
}

# One of our programs: `returnpath` (the firmware), `returnpath-board` (the host tool) or `returnpath-manual`, which
# writes the manual pages and completions of the other two. Each is built with the features it needs and no others.
{
  lib,
  stdenv,
  rustPlatform,
  buildPackages,
  testers,
  pkg-config,
  libmnl,
  libnftnl,
  installShellFiles,
  program ? "returnpath",
}:
let
  manifest = lib.importTOML ../Cargo.toml;
  features = {
    returnpath = [ ];
    returnpath-board = [ "host" ];
    returnpath-manual = [ "manual" ];
  };
  isManual = program == "returnpath-manual";
  # Made on the machine that builds, for whichever machine.
  manual = buildPackages.callPackage ./manual.nix { };
in
rustPlatform.buildRustPackage {
  pname = program;
  inherit (manifest.package) version;

  src = lib.fileset.toSource {
    root = ../.;
    fileset = lib.fileset.unions (
      [
        ../Cargo.toml
        ../Cargo.lock
        ../src
        ../image/netfilter
        ../tests/common
        ../tests/golden
        (lib.fileset.fileFilter (file: file.hasExt "rs") ../tests)
      ]
      # The manual tells the policy's keys as README does.
      ++ lib.optional isManual ../README.md
    );
  };
  cargoLock.lockFile = ../Cargo.lock;

  nativeBuildInputs = [
    pkg-config
    installShellFiles
  ];
  buildInputs = [
    libmnl
    libnftnl
  ];
  # Statically, libmnl has to stand behind libnftnl, which asks for it; pkg-config knows.
  env = lib.optionalAttrs stdenv.hostPlatform.isStatic { PKG_CONFIG_ALL_STATIC = "1"; };

  buildNoDefaultFeatures = true;
  buildFeatures = features.${program};
  cargoBuildFlags = [
    "--bin"
    program
  ];
  # The tests below tests/ run both programs, so they belong to the one with the features of both.
  doCheck = !isManual;
  cargoTestFlags = lib.optionals (program == "returnpath") [ "--lib" ];

  postInstall = lib.optionalString (!isManual) ''
    for page in ${manual}/share/man/man*/${program}[.-]*; do
      case ''${page##*/} in
        returnpath-board*) [ ${program} = returnpath-board ] || continue ;;
      esac
      installManPage "$page"
    done
    installShellCompletion --bash --name ${program} ${manual}/share/bash-completion/completions/${program}
    installShellCompletion --zsh --name _${program} ${manual}/share/zsh/site-functions/_${program}
    installShellCompletion --fish --name ${program}.fish ${manual}/share/fish/vendor_completions.d/${program}.fish
  '';

  # Their machines are NixOS's, which is not built statically.
  passthru.tests = lib.optionalAttrs (!stdenv.hostPlatform.isStatic) (
    import ./tests {
      inherit lib testers;
    }
  );

  meta = {
    description = lib.removeSuffix "." manifest.package.description;
    longDescription = ''
      A Linux gateway with two routers answers through its default router, also what came in through the other one.
      returnpath marks each connection by the router that it came in through, and sends its replies back the same way:
      what `reply-to` is on the BSDs.
    '';
    license = lib.licenses.gpl2Plus;
    platforms = lib.platforms.linux;
    maintainers = [ ];
    mainProgram = program;
  };
}

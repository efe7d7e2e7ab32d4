# `services.returnpath`.
{
  config,
  lib,
  pkgs,
  utils,
  ...
}:
let
  inherit (lib) mkOption types;
  cfg = config.services.returnpath;

  unit = import ./unit.nix { inherit lib utils; } cfg;
  program = lib.getExe cfg.package;
  tableNames = lib.mapAttrsToList (
    name: path: "${toString path.table}\t${name}\n"
  ) cfg.settings.paths;
  # It takes away rules and routes that it does not know.
  networkd = {
    ManageForeignRoutingPolicyRules = lib.mkDefault false;
    ManageForeignRoutes = lib.mkDefault false;
  };
  # Without those that this kernel has within nf_tables: the boot would complain that they are not there.
  isModule =
    words:
    lib.tail words == [ ]
    || lib.versionOlder config.boot.kernelPackages.kernel.version (lib.last words);
  kernelModules = map lib.head (
    lib.filter isModule (
      map (lib.splitString " <") (import ./lines.nix { inherit lib; } ../image/netfilter)
    )
  );
in
{
  imports = [
    ./assertions.nix
    ./firewall.nix
  ];

  options.services.returnpath = {
    enable = lib.mkEnableOption "returnpath: connections that came in through a declared router go back out through that router";

    package = mkOption {
      type = types.package;
      default = pkgs.callPackage ./package.nix { };
      defaultText = lib.literalExpression "pkgs.callPackage ./package.nix { }";
      description = "The firmware to run.";
    };

    settings = mkOption {
      type = import ./settings.nix { inherit lib; };
      default = { };
      example = lib.literalExpression ''
        {
          local_networks = [ "10.0.0.0/24" ];
          paths.router2 = {
            mark = 2;
            table = 200;
            gateways = [ "10.0.0.2" ];
            source_macs = [ "52:54:00:c2:a5:43" ];
            services = [ "tcp/80" ];
          };
        }
      '';
      description = ''
        The policy. It is checked and compiled when the system is built, and installed from the store. With
        {option}`services.returnpath.board.device` it is only what a disk image starts with.
      '';
    };

    policy = mkOption {
      type = types.package;
      readOnly = true;
      default = pkgs.callPackage ./policy.nix { } cfg.settings;
      defaultText = lib.literalMD "{option}`services.returnpath.settings`, compiled";
      description = "The compiled policy.";
    };

    board.device = mkOption {
      type = types.nullOr (types.strMatching "/dev/[^[:space:]]+");
      default = null;
      example = "/dev/disk/by-partlabel/returnpath";
      description = ''
        The board partition to take the policy from, in place of the store. `returnpath-board write` puts a new policy
        there, and `systemctl reload returnpath` (without a guard: `restart`) has it in force. The NixOS firewall can not
        know its routers, so {option}`networking.firewall.checkReversePath` is `"loose"` then.
      '';
    };

    guard.enable = mkOption {
      type = types.bool;
      default = true;
      description = ''
        Stay, and put back what a port that goes down, a restart of the firewall or another program takes away. Without
        it, `systemctl restart returnpath` does that.
      '';
    };

    initrd.enable = lib.mkEnableOption ''
      the policy already in the initial RAM disk, before the root file system is mounted. It takes
      {option}`boot.initrd.systemd.enable`, and is for machines that are reachable at that time'';
  };

  config = lib.mkIf cfg.enable {
    systemd.services = {
      returnpath = lib.mkMerge [
        (unit.service (if cfg.guard.enable then unit.guard else unit.once))
        {
          wantedBy = [ "multi-user.target" ];
          requires = [ "returnpath-policy.service" ];
          after = [ "returnpath-policy.service" ];
          stopIfChanged = false;
          # Settings that are changed by a switch are set anew, and ours with them.
          restartTriggers = [ (builtins.toJSON config.boot.kernel.sysctl) ];
        }
      ];
      returnpath-policy = unit.policy;
    };

    boot.initrd = lib.mkIf cfg.initrd.enable {
      inherit kernelModules;
      systemd = {
        # Under another name: a unit that is active in the initrd would count as active afterwards, and not be started.
        services.returnpath-initrd = lib.mkMerge [
          (unit.service unit.once)
          {
            wantedBy = [ "initrd.target" ];
            before = [
              "sysroot.mount"
              "initrd-root-fs.target"
            ];
          }
        ];
        inherit (unit) units;
        network.config.networkConfig = lib.mkIf config.boot.initrd.systemd.network.enable networkd;
        storePaths = [ program ] ++ lib.optional (cfg.board.device == null) cfg.policy;
      };
    };

    boot = {
      inherit kernelModules;
      # What `returnpath status` looks at when nothing is named.
      kernelParams = lib.optional (cfg.board.device != null) "returnpath.board=${cfg.board.device}";
    };

    systemd.units = unit.units;

    systemd.network.config.networkConfig = lib.mkIf config.systemd.network.enable networkd;

    environment = {
      systemPackages = [
        cfg.package
        (pkgs.callPackage ./package.nix { program = "returnpath-board"; })
      ];
      etc = lib.mkIf (cfg.board.device == null) {
        "iproute2/rt_tables.d/returnpath.conf".text = lib.concatStrings tableNames;
        # For `returnpath status --policy`, and for whoever asks what the policy is.
        "returnpath/policy.bin".source = cfg.policy;
        "returnpath/policy.toml".source = cfg.policy.source;
      };
    };
  };
}

# Configurations of services.returnpath: those that have to evaluate, and those that have to end with an error.
{ nixpkgs }:
let
  pkgs = import nixpkgs { system = "x86_64-linux"; };
  inherit (pkgs) lib;

  # As much of a machine as NixOS asks for.
  machine = {
    boot.loader.grub.enable = false;
    fileSystems."/" = {
      device = "/dev/vda";
      fsType = "ext4";
    };
    system.stateVersion = lib.trivial.release;
    services.returnpath.enable = true;
  };
  router2 = {
    mark = "0x2";
    table = 200;
    gateways = [ "10.0.0.2" ];
    source_macs = [ "52:54:00:c2:a5:43" ];
  };
  path = change: { services.returnpath.settings.paths.router2 = router2 // change; };
  board.services.returnpath.board.device = "/dev/disk/by-partlabel/returnpath";
  initrd = {
    boot.initrd.systemd.enable = true;
    services.returnpath.initrd.enable = true;
  };

  nat.networking.nat = {
    enable = true;
    externalInterface = "eth0";
    internalInterfaces = [ "eth1" ];
  };

  # It takes away what it does not know.
  networkd = key: {
    modules = [
      (path { })
      {
        networking.useDHCP = false;
        systemd.network = {
          enable = true;
          config.networkConfig.${key} = true;
        };
      }
    ];
    error = "systemd-networkd would take returnpath's rules and routes away.";
  };

  isOurs = lib.hasInfix "returnpath";
  ours = lib.filterAttrs (name: _: isOurs name);
  # The stand-in's kernel has nft_objref within nf_tables.
  hasModules = modules: lib.elem "nft_fib_inet" modules && !lib.elem "nft_objref" modules;
  # The lines that are ours, of a text that others write in, too.
  about =
    text: lib.filter (line: isOurs line || lib.hasInfix " accept" line) (lib.splitString "\n" text);
  texts = units: lib.mapAttrs (_: unit: unit.text) (ours units);
  judged =
    modules:
    let
      system =
        (pkgs.nixos {
          imports = [
            machine
            ../../nix/module.nix
          ]
          ++ modules;
        }).config;
    in
    {
      toplevel = system.system.build.toplevel.drvPath;
      policy = system.services.returnpath.policy.drvPath;
      units = texts system.systemd.units;
      initrdUnits = texts system.boot.initrd.systemd.units;
      rest = {
        inherit (system.networking.firewall) checkReversePath;
        accepted = about system.networking.firewall.extraReversePathFilterRules;
        commands = about system.networking.firewall.extraCommands;
        stopCommands = about system.networking.firewall.extraStopCommands;
        kernelParams = lib.filter isOurs system.boot.kernelParams;
        storePaths = lib.filter isOurs (
          map (entry: toString (entry.outPath or entry.source or entry)) system.boot.initrd.systemd.storePaths
        );
        files = lib.filter isOurs (lib.attrNames system.environment.etc);
        loads = hasModules system.boot.kernelModules;
        loadsInInitrd = hasModules system.boot.initrd.kernelModules;
      };
    };
  good = lib.mapAttrs (_: judged);
  bad = lib.mapAttrs (
    _: case: {
      inherit (case) error;
      result = (judged case.modules).toplevel;
    }
  );
  absent = option: "The option `${option}' does not exist";
  unknown = option: absent "services.returnpath.${option}";
  ofType =
    option: type: "A definition for option `services.returnpath.${option}' is not of type `${type}'";

  cases = {
    plain = [
      machine
      (path { })
    ];
    names = lib.mapAttrs (_: lib.attrNames) { inherit (cases) good bad refused; };

    good = good {
      plain = [ (path { }) ];
      every-key = [
        {
          services.returnpath.settings = {
            mark_mask = "0xff00";
            local_networks = [
              "10.0.0.0/24"
              "fd00::/64"
            ];
            paths.router2 = {
              mark = "0x200";
              table = 200;
              gateways = [
                "10.0.0.2"
                "fd00::2"
              ];
              source_macs = [ "52:54:00:c2:a5:43" ];
              ingress = [ "eth1" ];
              services = [
                "tcp/80"
                "udp/5000-5100"
                "icmp"
              ];
              destinations = [ "203.0.113.0/24" ];
              device = "eth0";
              onlink = true;
              scope = "local";
              when_down = "main";
              priority = 2000;
              log = true;
            };
          };
        }
      ];
      numbers = [ (path { mark = 2; }) ];
      unguarded = [
        (path { })
        { services.returnpath.guard.enable = false; }
      ];
      board = [ board ];
      initrd = [
        (path { })
        initrd
      ];
      board-in-initrd = [
        board
        initrd
      ];
      networkd = [
        (path { })
        {
          networking.useNetworkd = true;
          networking.useDHCP = false;
        }
      ];
      firewall-nftables = [
        (path { })
        { networking.nftables.enable = true; }
      ];
      firewall-iptables = [
        (path { })
        { networking.firewall.enable = true; }
      ];
      auto = [ (path { source_macs = [ "auto" ]; }) ];
      auto-by-port = [
        (path {
          source_macs = [
            "auto"
            "52:54:00:c2:a5:43"
          ];
          ingress = [ "eth1" ];
        })
        { networking.nftables.enable = true; }
      ];
      auto-by-device = [
        (path {
          source_macs = [ "auto" ];
          device = "eth1";
        })
      ];
      beside-nat = [
        (path { })
        nat
        { services.returnpath.settings.mark_mask = "0xfe"; }
      ];
      nat-by-nftables = [
        (path { })
        nat
        { networking.nftables.enable = true; }
      ];
      beside-tailscale = [
        (path { })
        { services.tailscale.enable = true; }
      ];
    };

    bad = bad {
      misspelt-option = {
        modules = [
          (path { })
          { services.returnpath.bord.device = "/dev/vdb"; }
        ];
        error = unknown "bord";
      };
      misspelt-unit-key = {
        modules = [
          (path { })
          { systemd.services.returnpath.serviceconfig.Nice = 1; }
        ];
        error = absent "systemd.services.returnpath.serviceconfig";
      };
      misspelt-setting = {
        modules = [
          (path { })
          { services.returnpath.settings.local_network = [ "10.0.0.0/24" ]; }
        ];
        error = unknown "settings.local_network";
      };
      misspelt-path-key = {
        modules = [ (path { source_mac = [ "52:54:00:c2:a5:43" ]; }) ];
        error = unknown "settings.paths.router2.source_mac";
      };
      mark-missing = {
        modules = [ { services.returnpath.settings.paths.router2 = lib.removeAttrs router2 [ "mark" ]; } ];
        error = "The option `services.returnpath.settings.paths.router2.mark' was accessed but has no value defined";
      };
      mark-is-a-word = {
        modules = [ (path { mark = "two"; }) ];
        error = "A definition for option `services.returnpath.settings.paths.router2.mark' is not of type";
      };
      table-is-text = {
        modules = [ (path { table = "200"; }) ];
        error = ofType "settings.paths.router2.table" "32 bit unsigned integer; between 0 and 4294967295 (both inclusive)";
      };
      services-is-text = {
        modules = [ (path { services = "tcp/80"; }) ];
        error = ofType "settings.paths.router2.services" "list of string";
      };
      scope-unknown = {
        modules = [ (path { scope = "everybody"; }) ];
        error = ofType "settings.paths.router2.scope" ''one of "local", "forward", "both"'';
      };
      guard-is-no-set = {
        modules = [
          (path { })
          { services.returnpath.guard = true; }
        ];
        error = "The option `services.returnpath.guard' is a set of options";
      };
      log-is-a-number = {
        modules = [ (path { log = 1; }) ];
        error = ofType "settings.paths.router2.log" "boolean";
      };
      mac-is-none = {
        modules = [ (path { source_macs = [ "router2" ]; }) ];
        error = "is not of type `string matching the pattern auto|([0-9a-fA-F]{2}:){5}[0-9a-fA-F]{2}'";
      };
      device-is-none = {
        modules = [ { services.returnpath.board.device = "returnpath"; } ];
        error = "A definition for option `services.returnpath.board.device' is not of type";
      };
      policy-is-ours = {
        modules = [
          (path { })
          { services.returnpath.policy = lib.mkForce pkgs.hello; }
        ];
        error = "The option `services.returnpath.policy' is read-only";
      };
      no-policy = {
        modules = [ ];
        error = "services.returnpath: no policy. Declare a router in services.returnpath.settings.paths, or name the board partition in services.returnpath.board.device.";
      };
      initrd-without-systemd = {
        modules = [
          (path { })
          initrd
          { boot.initrd.systemd.enable = lib.mkForce false; }
        ];
        error = "Set boot.initrd.systemd.enable = true.";
      };
      flush-ruleset = {
        modules = [
          (path { })
          {
            networking.nftables.enable = true;
            networking.nftables.flushRuleset = true;
          }
        ];
        error = "`flush ruleset` takes returnpath's table away";
      };
      flush-by-deletions = {
        modules = [
          (path { })
          {
            networking.nftables.enable = true;
            networking.nftables.extraDeletions = "flush ruleset";
          }
        ];
        error = "`flush ruleset` takes returnpath's table away";
      };
      strict-with-partition = {
        modules = [
          board
          { networking.firewall.checkReversePath = true; }
        ];
        error = "The strict reverse-path filter of the firewall can not be told of the routers";
      };
      strict-with-firewalld = {
        modules = [
          (path { })
          {
            networking.firewall.backend = "firewalld";
            networking.firewall.checkReversePath = "strict";
          }
        ];
        error = "The strict reverse-path filter of the firewall can not be told of the routers";
      };
      strict-with-auto = {
        modules = [
          (path { source_macs = [ "auto" ]; })
          { networking.firewall.checkReversePath = true; }
        ];
        error = "The strict reverse-path filter of the firewall can not be told of the routers";
      };
      networkd-manages-rules = networkd "ManageForeignRoutingPolicyRules";
      networkd-manages-routes = networkd "ManageForeignRoutes";
      marks-of-tailscale = {
        modules = [
          (path { mark = "0x20000"; })
          {
            services.returnpath.settings.mark_mask = "0xff0000";
            services.tailscale.enable = true;
          }
        ];
        error = "services.tailscale uses the mark bits 0x00ff0000, and services.returnpath.settings.mark_mask = 0xff0000 overlaps them.";
      };
      marks-of-nat = {
        modules = [
          (path { })
          nat
        ];
        error = "networking.nat with iptables uses the mark bits 0x00000001, and services.returnpath.settings.mark_mask = 0xff overlaps them.";
      };
      marks-of-kube-proxy = {
        modules = [
          (path { mark = "0x4000"; })
          {
            services.returnpath.settings.mark_mask = "0xff00";
            services.k3s.enable = true;
          }
        ];
        error = "services.returnpath.settings.mark_mask = 0xff00 overlaps them.";
      };
    };

    # What only the host tool can see: the build of the policy ends with its words.
    refused =
      lib.mapAttrs
        (_: case: {
          inherit (case) error;
          result = (judged [ (path case.change) ]).policy;
        })
        {
          outside-mask = {
            change.mark = "0x200";
            error = "path router2: mark: 0x200 is outside mark_mask 0xff; choose a mark within the mask";
          };
          reserved-table = {
            change.table = 254;
            error = "path router2: table: 254";
          };
          no-network = {
            change.destinations = [ "everywhere" ];
            error = "path router2: destinations:";
          };
          unknown-service = {
            change.services = [ "web" ];
            error = "path router2: services:";
          };
        };

    # The options, for people.
    options =
      map
        (option: {
          inherit (option) name type;
          description = option.description or "";
        })
        (
          lib.filter (option: option.visible && !option.internal) (
            lib.optionAttrSetToDocList {
              inherit
                ((pkgs.nixos {
                  imports = [
                    machine
                    ../../nix/module.nix
                  ];
                }).options.services
                )
                returnpath
                ;
            }
          )
        );
  };
in
cases

# The units, from the options of services.returnpath: what the system's and the one of the initrd have in common.
{ lib, utils }:
cfg:
let
  inherit (cfg.board) device;
  program = lib.getExe cfg.package;
  deviceUnit = "${utils.escapeSystemdPath device}.device";
  needsDevice = lib.optional (device != null) deviceUnit;
  # The board partition is handed over as an open descriptor: the process itself needs no device node, and no right to
  # open one.
  source = if device == null then "--policy ${cfg.policy}" else "--board -";

  sandbox = {
    DynamicUser = true;
    AmbientCapabilities = [ "CAP_NET_ADMIN" ];
    CapabilityBoundingSet = [ "CAP_NET_ADMIN" ];
    NoNewPrivileges = true;

    # The settings below /proc/sys/net are all that it may write. They are bound from the system's own /proc: the one that
    # ProtectKernelTunables= mounts is another, where nobody sees our locks, and a guard not what others write.
    ProtectSystem = "strict";
    ProtectKernelTunables = true;
    BindPaths = [ "/proc/sys/net" ];
    ProtectHome = true;
    PrivateTmp = true;
    PrivateDevices = true;
    PrivateMounts = true;

    ProtectClock = true;
    ProtectControlGroups = true;
    ProtectHostname = true;
    ProtectKernelLogs = true;
    ProtectKernelModules = true;
    LockPersonality = true;
    MemoryDenyWriteExecute = true;
    RemoveIPC = true;
    RestrictNamespaces = true;
    RestrictRealtime = true;
    RestrictSUIDSGID = true;
    # rtnetlink and nfnetlink; the service manager's socket.
    RestrictAddressFamilies = [
      "AF_NETLINK"
      "AF_UNIX"
    ];
    IPAddressDeny = "any";
    SystemCallArchitectures = "native";
    SystemCallFilter = [
      "@system-service"
      "~@privileged @resources"
    ];
    SystemCallErrorNumber = "EPERM";
    UMask = "0077";
  };
in
{
  # A partition that never comes must not keep the network down for a minute and a half.
  units = lib.optionalAttrs (device != null) {
    ${deviceUnit} = {
      overrideStrategy = "asDropin";
      text = ''
        [Unit]
        JobRunningTimeoutSec=30s
      '';
    };
  };

  # It ends when all that it has waited for is in force.
  once = {
    Type = "notify";
    RemainAfterExit = true;
    ExecStart = "${program} apply --wait ${source}";
  };

  # It stays. Whatever has ended it, it is back within ten seconds; but for a command line, a policy or a partition that
  # it can not use: that is for somebody to mend.
  guard = {
    Type = "notify-reload";
    ExecStart = "${program} guard ${source}";
    WatchdogSec = "1min";
    Restart = "always";
    RestartPreventExitStatus = "2 3 6";
    RestartSteps = 4;
    RestartMaxDelaySec = "10s";
  };

  # `how` is one of the two above.
  service = how: {
    description = "Replies leave by the router that the connection came in through";
    documentation = [ "man:returnpath(8)" ];
    unitConfig = {
      DefaultDependencies = false;
      StartLimitIntervalSec = 0; # a restart costs nothing, and has to be possible
    };
    wants = [ "network-pre.target" ];
    requires = needsDevice;
    before = [ "network-pre.target" ];
    after = needsDevice ++ [
      "systemd-modules-load.service"
      # A strict reverse path that is set later would undo ours.
      "systemd-sysctl.service"
    ];

    serviceConfig =
      sandbox
      // how
      // {
        # Ready as soon as all that can be is in force; gateways whose port has no address yet follow. What is installed
        # stays when the process ends, also when it is stopped.
        TimeoutStartSec = "30s";
      }
      // lib.optionalAttrs (device != null) {
        StandardInput = "file:${device}";
        DeviceAllow = [ "${device} r" ];
      };
  };

  # Takes the policy out when this is stopped, and returnpath.service with it. A restart of that one, or its end, leaves
  # what is in the kernel: a new policy takes the place of the old one while packets flow. A shutdown stops neither, so
  # that the last packets have a way, too.
  policy = {
    description = "The policy of returnpath in the kernel, until this is stopped";
    documentation = [ "man:returnpath-remove(8)" ];
    unitConfig.DefaultDependencies = false;
    wants = [ "returnpath.service" ];
    restartIfChanged = false;
    serviceConfig = sandbox // {
      Type = "oneshot";
      RemainAfterExit = true;
      ExecStop = "${program} remove";
    };
  };
}

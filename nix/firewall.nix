# The reverse-path filter of the NixOS firewall looks at a packet before it can have a mark. It drops what came in
# through a declared router, unless the default route leads there as well; so it is told to let that pass.
# Sources in `local_networks` are filtered as ever. Where it can not be told (the routers are those of a partition, or
# one is known by a MAC that is learned and by no port, or firewalld is the backend), it may not be strict.
{ config, lib, ... }:
let
  cfg = config.services.returnpath;
  firewall = config.networking.firewall;
  isKnown =
    cfg.board.device == null
    && firewall.backend != "firewalld"
    && lib.all (path: (frames path).ports != [ ] || (frames path).macs != [ ]) paths;
  isFiltered = cfg.enable && firewall.enable && firewall.checkReversePath != false && isKnown;

  isIpv6 = lib.hasInfix ":";
  families = [
    {
      nft = "ip";
      iptables = "iptables";
      # DHCP, as the NixOS firewall has it.
      exceptions = ''
        iptables -w -t mangle -A returnpath-strict -p udp --sport 67 --dport 68 -j RETURN
        iptables -w -t mangle -A returnpath-strict -s 0.0.0.0 -d 255.255.255.255 -p udp --sport 68 --dport 67 -j RETURN
      '';
      local = lib.filter (network: !isIpv6 network) cfg.settings.local_networks;
    }
    {
      nft = "ip6";
      iptables = "ip6tables";
      exceptions = "";
      local = lib.filter isIpv6 cfg.settings.local_networks;
    }
  ];
  paths = lib.attrValues cfg.settings.paths;

  # What tells a router's frames when the system is built. Which MAC `auto` takes is not known then: its port is.
  frames =
    path:
    if lib.elem "auto" path.source_macs then
      {
        ports =
          if path.ingress != [ ] then path.ingress else lib.optional (path.device != null) path.device;
        macs = [ ];
      }
    else
      {
        ports = path.ingress;
        macs = path.source_macs;
      };
  set = values: "{ ${lib.concatStringsSep ", " values} }";

  nftRules = lib.concatMap (
    path:
    let
      inherit (frames path) ports macs;
      known =
        lib.optional (ports != [ ]) "iifname ${set (map (port: ''"${port}"'') ports)}"
        ++ lib.optional (macs != [ ]) "ether saddr ${set macs}";
      rule =
        family:
        let
          source =
            if family.local == [ ] then
              "meta nfproto ${if family.nft == "ip" then "ipv4" else "ipv6"}"
            else
              "${family.nft} saddr != ${set family.local}";
        in
        lib.concatStringsSep " " (known ++ [ "${source} accept" ]);
    in
    map rule families
  ) paths;

  # iptables can not say "from none of these", so two chains do: `returnpath` sends local sources to the test, in
  # `returnpath-strict`, and lets the others pass. Both are gone to, so that to return is to pass.
  jumps = lib.concatMap (
    path:
    let
      inherit (frames path) ports macs;
    in
    lib.concatMap (
      port:
      map (
        mac:
        "nixos-fw-rpfilter"
        + lib.optionalString (port != null) " -i ${lib.escapeShellArg port}"
        + lib.optionalString (mac != null) " -m mac --mac-source ${mac}"
        + " -g returnpath"
      ) (if macs == [ ] then [ null ] else macs)
    ) (if ports == [ ] then [ null ] else ports)
  ) paths;
  loose = lib.optionalString (firewall.checkReversePath == "loose") "--loose ";
  start = family: ''
    ${family.iptables} -w -t mangle -N returnpath-strict
    ${family.iptables} -w -t mangle -A returnpath-strict -m rpfilter --validmark ${loose}-j RETURN
    ${family.exceptions}
    ${lib.optionalString firewall.logReversePathDrops ''
      ${family.iptables} -w -t mangle -A returnpath-strict -j LOG --log-level info --log-prefix "rpfilter drop: "
    ''}
    ${family.iptables} -w -t mangle -A returnpath-strict -j DROP
    ${family.iptables} -w -t mangle -N returnpath
    ${lib.concatMapStrings (
      network: "${family.iptables} -w -t mangle -A returnpath -s ${network} -g returnpath-strict\n"
    ) family.local}
    ${lib.concatMapStrings (jump: "${family.iptables} -w -t mangle -I ${jump}\n") jumps}
  '';
  # What leads to the chains may be an older policy's.
  stop = family: ''
    ${family.iptables} -w -t mangle -S nixos-fw-rpfilter 2>/dev/null | sed -n '/ -g returnpath$/s/^-A/-D/p' |
      while read -r rule; do eval "${family.iptables} -w -t mangle $rule"; done
    for chain in returnpath returnpath-strict; do
      if ${family.iptables} -w -t mangle -S "$chain" >/dev/null 2>&1; then
        ${family.iptables} -w -t mangle -F "$chain"
        ${family.iptables} -w -t mangle -X "$chain" || echo "returnpath: chain $chain: in use still, so it stays" >&2
      fi
    done
  '';
  usedFamilies = if config.networking.enableIPv6 then families else [ (lib.head families) ];
in
{
  config = lib.mkIf cfg.enable {
    assertions = [
      {
        assertion =
          firewall.enable && !isKnown
          -> lib.elem firewall.checkReversePath [
            false
            "loose"
          ];
        message = ''
          The strict reverse-path filter of the firewall can not be told of the routers that services.returnpath serves:
          they are those of a board partition, or one is known by `auto` and has neither `ingress` nor `device`, or
          firewalld is the backend. Set networking.firewall.checkReversePath = "loose".
        '';
      }
    ];
    networking.firewall = lib.mkMerge [
      (lib.mkIf (!isKnown) { checkReversePath = lib.mkDefault "loose"; })
      (lib.mkIf isFiltered {
        extraReversePathFilterRules = lib.mkIf (firewall.backend == "nftables") (
          lib.concatMapStrings (rule: "${rule}\n") nftRules
        );
        # What a firewall that was not stopped has left is taken out first.
        extraCommands = lib.mkIf (firewall.backend == "iptables") (
          lib.concatMapStrings (family: stop family + start family) usedFamilies
        );
        extraStopCommands = lib.mkIf (firewall.backend == "iptables") (
          lib.concatMapStrings stop usedFamilies
        );
      })
    ];
  };
}

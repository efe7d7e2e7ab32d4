"""The gateway's firewall and NAT on Debian. What NixOS makes of the same options can not be had here: this is a
rendering of ours, of the same structure, with the rules that returnpath's module adds in the same places."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from node import Node

UNIT = """[Unit]
Description=Firewall
After=sysinit.target
Before=network-pre.target
Wants=network-pre.target

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart={start}
ExecStop={stop}
"""


def units(node: Node) -> tuple[dict[str, str], dict[str, str]]:
    """The unit that NixOS would have for it, and the files that the unit takes."""
    firewall = node.facts["firewall"]
    if not firewall["enable"] or firewall["backend"] == "nftables":
        rules = _nftables(node)
        start, stop = "/usr/sbin/nft -f /etc/guest/firewall.nft", "/usr/sbin/nft -f /etc/guest/firewall-stop.nft"
        files = {"/etc/guest/firewall.nft": rules, "/etc/guest/firewall-stop.nft": _nftables_stop(rules)}
        return {"nftables.service": UNIT.format(start=start, stop=stop)}, files
    start, stop = "/bin/bash -e /etc/guest/firewall-start", "/bin/bash /etc/guest/firewall-stop"
    files = {"/etc/guest/firewall-start": _iptables(node), "/etc/guest/firewall-stop": _iptables_stop(firewall)}
    return {"firewall.service": UNIT.format(start=start, stop=stop)}, files


def _nftables(node: Node) -> str:
    firewall, nat = node.facts["firewall"], node.facts["nat"]
    rules = node.tables()
    if firewall["enable"]:
        policy = "accept" if firewall["reversePath"] == "false" else "drop"
        port = "" if firewall["reversePath"] == '"loose"' else " . iif"
        rules += f"""table inet nixos-fw {{
    chain rpfilter {{
        type filter hook prerouting priority mangle + 10; policy {policy};
        fib saddr . mark{port} oif exists accept
        jump rpfilter-allow
    }}
    chain rpfilter-allow {{
        {firewall["extraReversePathFilterRules"]}
    }}
    chain input {{
        type filter hook input priority filter; policy drop;
        iifname lo accept
        ct state {{ established, related }} accept
        ct state {{ new, untracked }} jump allow
    }}
    chain allow {{
        {"".join(f"tcp dport {port} accept; " for port in firewall["allowedTCPPorts"])}
        icmp type echo-request accept
        icmpv6 type != {{ nd-redirect, 139 }} accept
    }}
}}
"""
    if nat["enable"]:
        outer = nat["externalInterface"]
        forwards = "".join(
            f"iifname {outer} {one['proto']} dport {one['sourcePort']} dnat to {one['destination']}; "
            for one in nat["forwardPorts"]
        )
        masquerades = "".join(f"iifname {port} oifname {outer} masquerade; " for port in nat["internalInterfaces"])
        rules += f"""table ip nixos-nat {{
    chain pre {{
        type nat hook prerouting priority dstnat;
        {forwards}
    }}
    chain post {{
        type nat hook postrouting priority srcnat;
        {masquerades}
    }}
}}
"""
    return rules


def _nftables_stop(rules: str) -> str:
    heads = (line.removesuffix("{") for line in rules.splitlines() if line.startswith("table "))
    return "".join(f"delete {head}\n" for head in heads)


def _iptables(node: Node) -> str:
    firewall, nat = node.facts["firewall"], node.facts["nat"]
    lines = ['ip46tables() { iptables -w "$@"; ip6tables -w "$@"; }']
    if firewall["reversePath"] != "false":
        loose = " --loose" if firewall["reversePath"] == '"loose"' else ""
        lines += [
            "ip46tables -t mangle -N nixos-fw-rpfilter",
            f"ip46tables -t mangle -A nixos-fw-rpfilter -m rpfilter --validmark{loose} -j RETURN",
            "ip46tables -t mangle -A nixos-fw-rpfilter -j DROP",
            "ip46tables -t mangle -A PREROUTING -j nixos-fw-rpfilter",
        ]
    lines += [
        "ip46tables -N nixos-fw",
        "ip46tables -A nixos-fw -i lo -j ACCEPT",
        "ip46tables -A nixos-fw -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT",
        *(f"ip46tables -A nixos-fw -p tcp --dport {port} -j ACCEPT" for port in firewall["allowedTCPPorts"]),
        "iptables -w -A nixos-fw -p icmp --icmp-type echo-request -j ACCEPT",
        "ip6tables -w -A nixos-fw -p icmpv6 --icmpv6-type redirect -j DROP",
        "ip6tables -w -A nixos-fw -p icmpv6 -j ACCEPT",
        "ip46tables -A nixos-fw -j DROP",
        "ip46tables -A INPUT -j nixos-fw",
        firewall["extraCommands"],
    ]
    # A real nixpkgs has NAT in `extraCommands` already.
    if nat["enable"] and "nixos-nat-pre" not in firewall["extraCommands"]:
        outer = nat["externalInterface"]
        lines += [
            f"iptables -w -t nat -A PREROUTING -i {outer} -p {one['proto']} --dport {one['sourcePort']}"
            f" -j DNAT --to-destination {one['destination']}"
            for one in nat["forwardPorts"]
        ]
        if nat["internalInterfaces"]:
            lines.append(f"iptables -w -t nat -A POSTROUTING -o {outer} -j MASQUERADE")
    return "\n".join(lines) + "\n"


def _iptables_stop(firewall: Mapping[str, Any]) -> str:
    return f"""ip46tables() {{ iptables -w "$@"; ip6tables -w "$@"; }}
{firewall["extraStopCommands"]}
ip46tables -D INPUT -j nixos-fw
ip46tables -F nixos-fw
ip46tables -X nixos-fw
if ip46tables -t mangle -D PREROUTING -j nixos-fw-rpfilter 2>/dev/null; then
    ip46tables -t mangle -F nixos-fw-rpfilter
    ip46tables -t mangle -X nixos-fw-rpfilter
fi
iptables -w -t nat -F
"""

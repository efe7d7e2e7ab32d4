with subtest("the firewall restarted: its exceptions for us are there, once, and none that an older policy has left"):
    rules = gateway.succeed("iptables -w -t mangle -S", "ip6tables -w -t mangle -S")
    gateway.succeed("iptables -w -t mangle -I nixos-fw-rpfilter -m mac --mac-source 52:54:00:c2:a5:44 -g returnpath")
    for _ in range(2):
        gateway.succeed("systemctl restart firewall")
    after = gateway.succeed("iptables -w -t mangle -S", "ip6tables -w -t mangle -S")
    assert after == rules, f"before:\n{rules}\nafter:\n{after}"
    require_ways(4)
    require_ways(6)

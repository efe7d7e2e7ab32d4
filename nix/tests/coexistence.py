THEIRS, MASK = 0x40000, "0xff0000"
KEEP = f"--nfmask {MASK} --ctmask {MASK}"

# As Docker: a published port, a network that is masqueraded, a closed forward chain.
PUBLISHED = """
iptables -w -t nat -N DOCKER
iptables -w -t nat -A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
iptables -w -t nat -A DOCKER ! -i back -p tcp --dport 80 -j DNAT --to-destination 192.168.7.2:8080
iptables -w -t nat -A POSTROUTING -s 192.168.7.0/24 ! -o back -j MASQUERADE
iptables -w -N DOCKER
iptables -w -A DOCKER -d 192.168.7.2 ! -i back -o back -p tcp --dport 8080 -j ACCEPT
iptables -w -A FORWARD -o back -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
iptables -w -A FORWARD -o back -j DOCKER
iptables -w -A FORWARD -i back ! -o back -j ACCEPT
iptables -w -P FORWARD DROP
"""
# As Tailscale: bits of the mark kept with the connection, and rules that look at them.
MARKED = f"""
iptables -w -t mangle -A PREROUTING -m conntrack --ctstate ESTABLISHED,RELATED -j CONNMARK --restore-mark {KEEP}
iptables -w -t mangle -A PREROUTING -i lan -m conntrack --ctstate NEW -j MARK --set-xmark {THEIRS:#x}/{MASK}
iptables -w -t mangle -A PREROUTING -i lan -m conntrack --ctstate NEW -j CONNMARK --save-mark {KEEP}
ip rule add priority 5210 fwmark 0x80000/{MASK} lookup main
ip rule add priority 5250 fwmark 0x80000/{MASK} unreachable
ip rule add priority 5270 lookup 52
"""


def foreign() -> str:
    """All that is theirs."""
    tables = "for table in nat mangle filter; do iptables -w -t $table -S; done"
    return gateway.succeed(tables, "ip rule show | grep '^52'")


def require_marks() -> None:
    """Each connection has the bits of both; its replies would else not come back."""
    for number, ours in ((1, 0), (2, 2)):
        gateway.succeed("conntrack -F")
        require_way(number)
        listed = gateway.succeed("conntrack -L -p tcp --orig-port-dst 80").split()
        marks = {int(word.removeprefix("mark=")) for word in listed if word.startswith("mark=")}
        assert marks == {THEIRS | ours}, f"by router {number} the connection's mark is {marks}"


def require_outbound() -> None:
    """What Docker masquerades."""
    backend.succeed("traffic talk 203.0.113.100 8081")


ready()
serve(backend, 8080)
serve(client, 8081)
client.succeed("ip route add 10.0.0.10 via 203.0.113.1")
gateway.succeed(PUBLISHED.replace("\n", ";").strip(";"), MARKED.replace("\n", ";").strip(";"))
before = foreign()

with subtest("theirs came later: both work, and both have their bits"):
    require_marks()
    require_outbound()

with subtest("stopped: theirs are as they were, and what comes in by router 2 dies"):
    stop()
    assert foreign() == before
    require_outbound()
    assert require_failure() > 0

with subtest("theirs came first: both work, and both have their bits"):
    gateway.succeed("systemctl start returnpath")
    require_marks()
    require_outbound()
    assert foreign() == before

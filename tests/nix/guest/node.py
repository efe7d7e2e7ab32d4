"""A machine as nix/tests declares it, and what is done to give any Linux its network."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Port:
    name: str
    vlan: int
    mac: str
    addresses: tuple[str, ...]


@dataclass(frozen=True)
class Node:
    name: str
    facts: Mapping[str, Any]
    ports: tuple[Port, ...]

    @classmethod
    def read(cls, name: str, facts: Mapping[str, Any]) -> Node:
        """From what facts.nix says of it. A port without a MAC of its own has the test driver's."""
        ports = tuple(
            Port(
                port,
                found["vlan"],
                found["mac"] or f"52:54:00:12:{found['vlan']:02x}:{facts['number']:02x}",
                tuple(found["addresses"]),
            )
            for port, found in sorted(facts["ports"].items())
        )
        return cls(name, facts, ports)

    def address_lines(self, port: Port) -> list[str]:
        """For `ip -batch`, once the port is there: what goes by it. Nothing else has these addresses: no detection."""
        lines = [f"link set {port.name} up"]
        for address in port.addresses:
            lines.append(f"address replace {address} dev {port.name}{' nodad' if ':' in address else ''}")
        for gateway in self._gateways(port):
            everything = "::/0" if ":" in gateway else "0.0.0.0/0"
            lines.append(f"route replace {everything} via {gateway} dev {port.name}")
        return lines

    def network_file(self, port: Port) -> str:
        """The same for networkd, as NixOS makes it of the same options."""
        lines = [f"Address={address}" for address in port.addresses]
        lines += [f"Gateway={gateway}" for gateway in self._gateways(port)]
        lines += ["DHCP=no", "IPv6AcceptRA=no", "IPv6DuplicateAddressDetection=0"]
        return f"[Match]\nName={port.name}\n[Network]\n" + "".join(f"{line}\n" for line in lines)

    def _gateways(self, port: Port) -> list[str]:
        """The default gateways that are reached by it."""
        networks = [ipaddress.ip_interface(address).network for address in port.addresses]
        return [one for one in self.facts["gateways"] if any(ipaddress.ip_address(one) in net for net in networks)]

    def sysctls(self) -> dict[str, str]:
        """Those of the network, with numbers for what Nix has as booleans."""
        return {
            key: str(int(value) if isinstance(value, bool) else value) for key, value in self.facts["sysctl"].items()
        }

    def tables(self) -> str:
        """Its own nftables tables, for `nft -f`."""
        return "".join(
            f"table {table['family']} {name} {{\n{table['content']}\n}}\n"
            for name, table in self.facts["tables"].items()
        )

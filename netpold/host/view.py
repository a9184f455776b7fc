"""What this host's interfaces, routes and bridges are at one moment, as a frozen value."""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from netpold.policy.model import Family, Network


@dataclass(frozen=True, slots=True)
class Link:
    """An interface; `kind` None for a physical one; `master` only where that is a bridge; `away`: its other end is in
    another network namespace."""

    name: str
    index: int
    kind: str | None = None
    master: str | None = None
    away: bool = False


class Neighbour(NamedTuple):
    """Who answers for an address on a bridge; `fixed`: it was written down, not asked for."""

    mac: str
    bridge: str
    fixed: bool = False


@dataclass(frozen=True, slots=True)
class HostView:
    """Interfaces, routes and bridges of the host at one moment.  Addresses are text, devices are names.

    `links`: by name.  `routes`: address -> device, the unicast host routes (/32, /128) with no next hop, of all tables.
    `subnets`: network -> bridge, what bridges have on-link.  `neighbours`: address -> who has it, on bridges.
    `fdb`: (bridge, MAC) -> port.  `contested`: address -> the ports that it was heard on, where these are several.
    `own`: the host's own addresses but for IPv6 link-local ones.  `uplinks`: ports with several stations behind them.
    `port_macs`: what the bridges' ports themselves have.
    `bridge_nf_call`: the families for which iptables sees bridged packets (net.bridge.bridge-nf-call-iptables).
    `bridge_nf_misses`: what it does not see even so: "vlan", "pppoe" (net.bridge.bridge-nf-filter-...-tagged is off).
    """

    links: Mapping[str, Link] = field(default_factory=dict)
    routes: Mapping[str, str] = field(default_factory=dict)
    subnets: Mapping[Network, str] = field(default_factory=dict)
    neighbours: Mapping[str, Neighbour] = field(default_factory=dict)
    fdb: Mapping[tuple[str, str], str] = field(default_factory=dict)
    contested: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    own: frozenset[str] = frozenset()
    port_macs: frozenset[str] = frozenset()
    bridge_nf_call: frozenset[Family] = frozenset()
    bridge_nf_misses: frozenset[str] = frozenset()
    uplinks: frozenset[str] = field(init=False, repr=False, compare=False)
    _prefixes: Mapping[Family, Mapping[int, Mapping[int, str]]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        prefixes: dict[Family, dict[int, dict[int, str]]] = {4: {}, 6: {}}
        for network, bridge in sorted(self.subnets.items(), key=lambda item: -item[0].prefixlen):
            shift = network.max_prefixlen - network.prefixlen
            prefixes[network.version].setdefault(shift, {})[int(network.network_address) >> shift] = bridge
        ports = Counter(self.fdb.values())
        object.__setattr__(self, "_prefixes", prefixes)
        object.__setattr__(self, "uplinks", frozenset(port for port, macs in ports.items() if macs > 1))

    def bridge(self, address: str) -> str | None:
        """The bridge that has the address on-link (longest prefix), None where none has."""
        if ":" in address:
            prefixes, family = self._prefixes[6], socket.AF_INET6
        else:
            prefixes, family = self._prefixes[4], socket.AF_INET
        if not prefixes:
            return None
        number = int.from_bytes(socket.inet_pton(family, address), "big")
        for shift, bridges in prefixes.items():
            if (bridge := bridges.get(number >> shift)) is not None:
                return bridge
        return None

    def port(self, address: str) -> str | None:
        """The bridge port behind which the address is, None where that is not known or not certain."""
        neighbour = self.neighbours.get(address)
        if neighbour is None or address in self.contested:
            return None
        return self.fdb.get((neighbour.bridge, neighbour.mac))

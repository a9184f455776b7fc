"""What route netlink says about this host, as a frozen value, and the tables that it is made from.

`Tables` takes netlink messages one after the other (a dump, then the changes) and gives a `HostView`.  It is pure: no
socket, no clock.  Three things the kernel does not tell, so the tables know them:
- IPv4 routes go without a message when their interface goes down or away or loses its last IPv4 address, and when
  their source address goes.
- A replaced route goes without a message.  The new one carries a flag, which says not which of several it replaced.
- Neighbours and forwarding entries of pods that are silent for some minutes age out.  That says nothing about where the
  pod is, so what was learned once is kept until the port goes or leaves its bridge, the MAC address speaks on another
  port, another MAC address speaks on this port, or the address has another neighbour.
"""

from __future__ import annotations

import socket
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_interface, ip_network
from typing import NamedTuple

from netpold.host.netlink import (
    AddressMessage,
    FdbMessage,
    LinkMessage,
    Message,
    NeighbourMessage,
    RouteMessage,
    host_length,
)
from netpold.policy.model import Family, Network

KEPT = 1 << 16  # neighbours at most: a pod that makes up addresses must not fill the memory
_MAIN = 254


@dataclass(frozen=True, slots=True)
class Link:
    """An interface; `kind` None for a physical one; `master` only where that is a bridge."""

    name: str
    index: int
    kind: str | None = None
    master: str | None = None


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
    `fdb`: (bridge, MAC) -> port.  `own`: the host's own addresses but for IPv6 link-local ones.
    `bridge_nf_call`: the families for which iptables sees bridged packets (net.bridge.bridge-nf-call-iptables).
    """

    links: Mapping[str, Link] = field(default_factory=dict)
    routes: Mapping[str, str] = field(default_factory=dict)
    subnets: Mapping[Network, str] = field(default_factory=dict)
    neighbours: Mapping[str, Neighbour] = field(default_factory=dict)
    fdb: Mapping[tuple[str, str], str] = field(default_factory=dict)
    own: frozenset[str] = frozenset()
    bridge_nf_call: frozenset[Family] = frozenset()
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
        """The bridge port behind which the address's neighbour is, None where that is not known."""
        neighbour = self.neighbours.get(address)
        return self.fdb.get((neighbour.bridge, neighbour.mac)) if neighbour is not None else None


class _Route(NamedTuple):
    local: bool
    table: int
    tos: int
    priority: int
    source: str | None
    device: int


class Tables:
    """The mutable side: apply messages, take a view."""

    def __init__(self) -> None:
        self.doubtful = False  # a message left open which route it meant: ask for everything again
        self._links: dict[int, LinkMessage] = {}
        self._addresses: set[tuple[int, str, int]] = set()  # device, address, prefix length
        self._routes: dict[tuple[str, int], set[_Route]] = {}  # by destination, prefix length
        self._by_device: defaultdict[int, set[tuple[str, int]]] = defaultdict(set)
        self._neighbours: dict[str, dict[int, str]] = {}  # address -> bridge -> MAC, the latest last
        self._fixed: set[tuple[str, int]] = set()  # neighbours (address, bridge) that were written down
        self._stations: Counter[tuple[int, str]] = Counter()  # how many neighbours have this bridge and MAC
        self._fdb: dict[tuple[int, str], int] = {}  # bridge, MAC -> port
        self._ports: dict[int, dict[tuple[int, str], bool]] = {}  # port -> its entries: whether aged out

    def apply(self, message: Message) -> bool:
        """Take a change in.  Whether it can move a pod, now, or change what is the host's own.

        Most entries of a busy bridge's forwarding database do neither: nobody has asked for their addresses.
        """
        match message:
            case LinkMessage():
                return self._apply_link(message)
            case AddressMessage():
                return self._apply_address(message)
            case RouteMessage():
                return self._apply_route(message)
            case NeighbourMessage():
                return self._apply_neighbour(message)
            case FdbMessage():
                return self._apply_fdb(message)

    def inherit(self, old: Tables) -> None:
        """Keep what earlier tables had learned and these (made from a fresh dump) no longer show."""
        heard = set(self._ports)
        for (bridge, mac), port in old._fdb.items():
            link = self._links.get(port)
            if link is not None and link.master == bridge and port not in heard and (bridge, mac) not in self._fdb:
                self._fdb[bridge, mac] = port
                self._ports.setdefault(port, {})[bridge, mac] = True
        for address, stations in old._neighbours.items():
            for station in stations.items():
                if station in self._fdb and station[0] not in self._neighbours.get(address, {}):
                    self._set_neighbour(address, *station, fixed=False)

    def view(self, bridge_nf_call: frozenset[Family] = frozenset()) -> HostView:
        """The tables as a frozen value."""
        names = {index: link.name for index, link in self._links.items()}
        bridges = {index: link.name for index, link in self._links.items() if link.kind == "bridge"}
        routes: dict[str, str] = {}
        subnets: dict[Network, str] = {}
        own: set[str] = set()
        for bridge, address, length in sorted(self._addresses):
            if bridge in bridges and length < host_length(address):
                subnets.setdefault(ip_interface(f"{address}/{length}").network, bridges[bridge])
        for (destination, length), candidates in self._routes.items():
            unicast = [route for route in candidates if not route.local and route.device in names]
            device = min(unicast, key=_preference).device if unicast else 0
            if length == host_length(destination):
                if unicast:
                    routes[destination] = names[device]
                if any(route.local for route in candidates):
                    own.add(destination)
            elif device in bridges:
                subnets[ip_network(f"{destination}/{length}")] = bridges[device]
        return HostView(
            {
                link.name: Link(link.name, link.device, link.kind, bridges.get(link.master))
                for link in self._links.values()
            },
            routes,
            subnets,
            {
                address: Neighbour(mac, bridges[bridge], (address, bridge) in self._fixed)
                for address in self._neighbours
                for bridge, mac in (self._station(address),)
                if bridge in bridges
            },
            {
                (bridges[bridge], mac): names[port]
                for (bridge, mac), port in self._fdb.items()
                if bridge in bridges and port in names
            },
            frozenset(own),
            bridge_nf_call,
        )

    def _apply_link(self, link: LinkMessage) -> bool:
        old = self._links.pop(link.device, None)
        if not link.gone:
            self._links[link.device] = link
        elif old is None:
            return False
        changed = old is None or (old.name, old.kind, old.master) != (link.name, link.kind, link.master)
        if link.gone or (old is not None and old.up and not link.up):
            changed |= self._drop_routes(
                self._by_device[link.device],
                lambda route: route.device == link.device and (link.gone or not route.local),  # local IPv4 ones stay
            )
        for bridge, mac in [key for key in self._ports.get(link.device, {}) if link.gone or key[0] != link.master]:
            self._forget(bridge, mac)
        if link.gone and link.kind == "bridge":
            for address in [address for address, stations in self._neighbours.items() if link.device in stations]:
                self._drop_neighbour(address, link.device)
        return changed or link.gone

    def _apply_address(self, message: AddressMessage) -> bool:
        entry = (message.device, message.address, message.length)
        if message.gone == (entry not in self._addresses):
            return False
        changed = self._is_bridge(message.device)
        if not message.gone:
            self._addresses.add(entry)
            return changed
        self._addresses.remove(entry)
        if ":" in message.address:
            return changed
        left = [(device, address) for device, address, _ in self._addresses if ":" not in address]
        if all(address != message.address for _, address in left):
            changed |= self._drop_routes(self._routes, lambda route: route.source == message.address)
        if all(device != message.device for device, _ in left):
            ipv4 = [key for key in self._by_device[message.device] if ":" not in key[0]]
            changed |= self._drop_routes(ipv4, lambda route: route.device == message.device)
        return changed

    def _apply_route(self, message: RouteMessage) -> bool:
        key = (message.destination, message.length)
        rank = (message.table, message.tos, message.priority)
        routes = self._routes.get(key, set())
        new = routes
        if message.replaces:
            new = {route for route in routes if route[1:4] != rank}
            self.doubtful |= len(routes) - len(new) > 1
        one = {_Route(message.local, *rank, message.source, message.device)}
        return self._set_routes(key, new - one if message.gone else new | one)

    def _set_routes(self, key: tuple[str, int], new: set[_Route]) -> bool:
        """Whether a host route, an own address or a bridge's subnet is another one now."""
        old = self._routes.pop(key, set())
        for route in old:
            self._by_device[route.device].discard(key)
        for route in new:
            self._by_device[route.device].add(key)
        if new:
            self._routes[key] = new
        host = key[1] == host_length(key[0])
        return any(host or self._is_bridge(route.device) for route in old ^ new)

    def _drop_routes(self, keys: Iterable[tuple[str, int]], goes: Callable[[_Route], bool]) -> bool:
        changed = False
        for key in list(keys):
            gone = {route for route in self._routes[key] if goes(route)}
            if gone:
                changed |= self._set_routes(key, self._routes[key] - gone)
        return changed

    def _apply_neighbour(self, message: NeighbourMessage) -> bool:
        address, bridge = message.address, message.device
        if message.mac is None:
            mac = self._neighbours.get(address, {}).get(bridge)
            if mac is not None and (bridge, mac) not in self._fdb:
                self._drop_neighbour(address, bridge)
            return False
        if not self._is_bridge(bridge):
            return False
        before = self._station(address) if address in self._neighbours else None
        self._set_neighbour(address, bridge, message.mac, message.fixed)
        return self._station(address) != before

    def _set_neighbour(self, address: str, bridge: int, mac: str, fixed: bool) -> None:
        self._drop_neighbour(address, bridge)
        if fixed:
            self._fixed.add((address, bridge))
        self._neighbours.setdefault(address, {})[bridge] = mac
        self._stations[bridge, mac] += 1
        if len(self._neighbours) > KEPT:
            oldest = next(iter(self._neighbours))
            for other in list(self._neighbours[oldest]):
                self._drop_neighbour(oldest, other)

    def _drop_neighbour(self, address: str, bridge: int) -> None:
        stations = self._neighbours.get(address, {})
        mac = stations.pop(bridge, None)
        if mac is None:
            return
        self._fixed.discard((address, bridge))
        if not stations:
            del self._neighbours[address]
        self._stations[bridge, mac] -= 1
        if not self._stations[bridge, mac]:
            del self._stations[bridge, mac]

    def _station(self, address: str) -> tuple[int, str]:
        """The bridge and MAC of an address: the latest with a known port, else the latest."""
        stations = list(self._neighbours[address].items())
        return next((station for station in reversed(stations) if station in self._fdb), stations[-1])

    def _apply_fdb(self, message: FdbMessage) -> bool:
        key = (message.bridge, message.mac)
        old = self._fdb.get(key)
        if message.gone:
            if old != message.port:
                return False
            entries = self._ports[old]
            if len(entries) == 1:
                entries[key] = True
                return False
            self._forget(*key)
            return key in self._stations or len(entries) == 1
        if old == message.port:
            self._ports[old][key] = False
            return False
        if old is not None:
            self._forget(*key)
        aged = [other for other, is_aged in self._ports.get(message.port, {}).items() if is_aged]
        for other in aged:
            self._forget(*other)
        self._fdb[key] = message.port
        entries = self._ports.setdefault(message.port, {})
        entries[key] = False
        return len(entries) == 2 or not self._stations.keys().isdisjoint((key, *aged))

    def _forget(self, bridge: int, mac: str) -> None:
        port = self._fdb.pop((bridge, mac))
        entries = self._ports[port]
        del entries[bridge, mac]
        if not entries:
            del self._ports[port]

    def _is_bridge(self, index: int) -> bool:
        link = self._links.get(index)
        return link is not None and link.kind == "bridge"


def _preference(route: _Route) -> tuple[bool, int, int, int]:
    return route.table != _MAIN, route.priority, route.table, route.device

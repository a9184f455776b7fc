"""The tables that a `HostView` is made from: netlink messages in, a dump first and then the changes; views out.

Pure: no socket, no clock.  What the kernel does not tell, and the tables therefore know:
- IPv4 routes go without a message when their interface goes down or away or loses its last IPv4 address, and when
  their source address goes.
- A replaced route goes without a message.  The new one carries a flag, which says not which of several it replaced.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
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
from netpold.host.stations import Stations
from netpold.host.view import HostView, Link, Neighbour
from netpold.policy.model import Family, Network

_MAIN = 254


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
        self._devices: dict[tuple[str, int], int] = {}  # the device of the route that counts
        self._own: set[str] = set()
        self._by_device: defaultdict[int, set[tuple[str, int]]] = defaultdict(set)
        self._stations = Stations()

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
                return self._is_bridge(message.device) and self._stations.apply_neighbour(message)
            case FdbMessage():
                return self._is_bridge(message.bridge) and self._stations.apply_fdb(message)

    def inherit(self, old: Tables) -> None:
        """Keep what earlier tables had learned and these (made from a fresh dump) no longer show."""
        self._stations.inherit(old._stations, self._bridge_of)

    def view(
        self, bridge_nf_call: frozenset[Family] = frozenset(), bridge_nf_misses: frozenset[str] = frozenset()
    ) -> HostView:
        """The tables as a frozen value."""
        names = {index: link.name for index, link in self._links.items()}
        bridges = {index: link.name for index, link in self._links.items() if link.kind == "bridge"}
        neighbours = {}
        contested = {}
        for address, (bridge, mac), fixed, ports in self._stations.neighbours():
            neighbours[address] = Neighbour(mac, bridges[bridge], fixed)
            if len(ports) > 1:
                contested[address] = tuple(sorted(names[port] for port in ports if port in names))
        return HostView(
            port_macs=frozenset(link.mac for link in self._links.values() if link.master in bridges and link.mac),
            links={
                link.name: Link(link.name, link.device, link.kind, bridges.get(link.master), link.away)
                for link in self._links.values()
            },
            routes={
                destination: names[device]
                for (destination, length), device in self._devices.items()
                if length == host_length(destination) and device in names
            },
            subnets=self._subnets(bridges),
            neighbours=neighbours,
            fdb={
                (bridges[bridge], mac): names[port]
                for (bridge, mac), port in self._stations.ports.items()
                if port in names
            },
            contested=contested,
            own=frozenset(self._own),
            bridge_nf_call=bridge_nf_call,
            bridge_nf_misses=bridge_nf_misses,
        )

    def _subnets(self, bridges: Mapping[int, str]) -> dict[Network, str]:
        """What bridges have on-link, by their addresses, or as the routes say."""
        subnets: dict[Network, str] = {}
        for bridge, address, length in sorted(self._addresses):
            if bridge in bridges and length < host_length(address):
                subnets.setdefault(ip_interface(f"{address}/{length}").network, bridges[bridge])
        for (destination, length), bridge in self._devices.items():
            if bridge in bridges and length < host_length(destination):
                subnets[ip_network(f"{destination}/{length}")] = bridges[bridge]
        return subnets

    def _apply_link(self, link: LinkMessage) -> bool:
        old = self._links.pop(link.device, None)
        if not link.gone:
            self._links[link.device] = link
        elif old is None:
            return False
        changed = old is None or (old.name, old.kind, old.master) != (link.name, link.kind, link.master)
        if link.gone or (old is not None and old.up and not link.up):
            changed |= self._drop_routes(
                self._by_device.get(link.device, ()),
                lambda route: route.device == link.device and (link.gone or not route.local),  # local IPv4 ones stay
            )
        self._stations.port_is_in(link.device, 0 if link.gone else link.master)
        if link.gone and link.kind == "bridge":
            self._stations.bridge_is_gone(link.device)
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
            ipv4 = [key for key in self._by_device.get(message.device, ()) if ":" not in key[0]]
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
            if not self._by_device[route.device]:
                del self._by_device[route.device]
        for route in new:
            self._by_device[route.device].add(key)
        if new:
            self._routes[key] = new
        if device := _best(new):
            self._devices[key] = device
        else:
            self._devices.pop(key, None)
        host = key[1] == host_length(key[0])
        if host and any(route.local for route in new):
            self._own.add(key[0])
        elif host:
            self._own.discard(key[0])
        return any(route.device and (host or self._is_bridge(route.device)) for route in old ^ new)

    def _drop_routes(self, keys: Iterable[tuple[str, int]], goes: Callable[[_Route], bool]) -> bool:
        changed = False
        for key in list(keys):
            gone = {route for route in self._routes[key] if goes(route)}
            if gone:
                changed |= self._set_routes(key, self._routes[key] - gone)
        return changed

    def _bridge_of(self, port: int) -> int:
        link = self._links.get(port)
        return link.master if link is not None and self._is_bridge(link.master) else 0

    def _is_bridge(self, index: int) -> bool:
        link = self._links.get(index)
        return link is not None and link.kind == "bridge"


def _best(routes: Iterable[_Route]) -> int:
    """The device of the route that counts: the main table's first, then the lowest metric; 0 where there is none."""
    direct = [route for route in routes if route.device and not route.local]
    return min(direct, key=_preference).device if direct else 0


def _preference(route: _Route) -> tuple[bool, int, int, int]:
    return route.table != _MAIN, route.priority, route.table, route.device

"""Who was heard where on the host's bridges: neighbours (address to MAC) and forwarding entries (MAC to port).

The kernel forgets a pod that is silent for some minutes.  That says nothing about where the pod is, so what was learned
once is kept here until the port goes or leaves its bridge, or another MAC address speaks on it.

The kernel also believes whoever spoke last.  A pod could take another one's place with one forged ARP packet, and the
other's rules would leave it.  So where an address or a MAC address was heard on two ports that both exist, both are
kept, and the address is contested until one of the ports goes.
"""

from __future__ import annotations

from collections.abc import Callable

from netpold.host.netlink import FdbMessage, NeighbourMessage

KEPT = 1 << 16  # addresses at most: a pod that makes them up must not fill the memory

Station = tuple[int, str]
"""A bridge and a MAC address behind it."""


class Stations:
    """Takes changes in, and says what is known."""

    def __init__(self) -> None:
        self.ports: dict[Station, int] = {}
        self._entries: dict[int, dict[Station, bool]] = {}  # by port: its stations, and whether they aged out
        self._rivals: dict[Station, set[int]] = {}  # other ports that a station was heard on
        self._claims: dict[str, dict[Station, None]] = {}  # by address: who claimed it, the latest last
        self._addresses: dict[Station, set[str]] = {}
        self._fixed: set[tuple[str, Station]] = set()  # claims that were written down

    def neighbours(self) -> list[tuple[str, Station, bool, set[int]]]:
        """Address, its station, whether that was written down, and the ports that it was heard on."""
        return [
            (address, station, (address, station) in self._fixed, self._heard_on(address))
            for address, claims in self._claims.items()
            for station in (next((each for each in reversed(claims) if each in self.ports), next(reversed(claims))),)
        ]

    def apply_neighbour(self, message: NeighbourMessage) -> bool:
        """Take a neighbour of a bridge in; whether that can move a pod."""
        address = message.address
        claims = self._claims.get(address, {})
        if message.mac is None:
            for station in [each for each in claims if each[0] == message.device and each not in self.ports]:
                self._drop(address, station)
            return False
        station = (message.device, message.mac)
        known = bool(claims) and next(reversed(claims)) == station
        if not known:
            for other in [each for each in claims if each == station or each not in self.ports]:
                self._drop(address, other)
            self._add(address, station)
        if message.fixed:
            self._fixed.add((address, station))
        else:
            self._fixed.discard((address, station))
        return not known

    def apply_fdb(self, message: FdbMessage) -> bool:
        """Take a forwarding entry in; whether that can move a pod (most of a busy bridge's entries are nobody's)."""
        station, port = (message.bridge, message.mac), message.port
        old = self.ports.get(station)
        entries = self._entries.get(port, {})
        if message.gone:
            if old != port:
                return False
            if len(entries) == 1:
                entries[station] = True
                return False
            self._forget(station)
            return station in self._addresses or len(entries) == 1  # no uplink any more
        if old == port:
            entries[station] = False
            return False
        rivals = self._rivals.get(station, set()) | {old} - {port} if old is not None else set()
        aged = [other for other, is_aged in entries.items() if is_aged]
        concerned = not self._addresses.keys().isdisjoint((station, *aged))
        for other in (station, *aged):
            self._forget(other)
        self._remember(station, port, aged=False)
        if rivals:
            self._rivals[station] = rivals
        return concerned or len(self._entries[port]) == 2  # an uplink now

    def port_is_in(self, port: int, bridge: int) -> None:
        """A port is a port of that bridge alone (0: of none)."""
        for station in [each for each in self._entries.get(port, {}) if each[0] != bridge]:
            self._forget(station)
        for station in [each for each, ports in self._rivals.items() if port in ports and each[0] != bridge]:
            self._rivals[station].remove(port)
            if not self._rivals[station]:
                del self._rivals[station]

    def bridge_is_gone(self, bridge: int) -> None:
        for address, claims in list(self._claims.items()):
            for station in [each for each in claims if each[0] == bridge]:
                self._drop(address, station)

    def inherit(self, old: Stations, bridge_of: Callable[[int], int]) -> None:
        """Keep what `old` had learned and this, made from a fresh dump, does not show; `bridge_of` a port, else 0."""
        heard = set(self._entries)
        for station, port in old.ports.items():
            if bridge_of(port) == station[0] and port not in heard and station not in self.ports:
                self._remember(station, port, aged=True)
        for station, port in self.ports.items():
            ports = {old.ports.get(station, port), *old._rivals.get(station, ())} - {port}
            if rivals := {each for each in ports if bridge_of(each) == station[0]}:
                self._rivals[station] = rivals
        for address, claims in old._claims.items():
            newer = list(self._claims.get(address, ()))
            for station in [each for each in claims if each in self.ports and each not in newer]:
                self._add(address, station)
            for station in newer:
                self._claims[address][station] = self._claims[address].pop(station)

    def _heard_on(self, address: str) -> set[int]:
        ports: set[int] = set()
        for station in self._claims[address]:
            if station in self.ports:
                ports |= {self.ports[station]} | self._rivals.get(station, set())
        return ports

    def _remember(self, station: Station, port: int, aged: bool) -> None:
        self.ports[station] = port
        self._entries.setdefault(port, {})[station] = aged

    def _forget(self, station: Station) -> None:
        """A station's port is unknown now; who else claims one of its addresses has won."""
        port = self.ports.pop(station, None)
        if port is None:
            return
        del self._entries[port][station]
        if not self._entries[port]:
            del self._entries[port]
        self._rivals.pop(station, None)
        for address in list(self._addresses.get(station, ())):
            if len(self._claims[address]) > 1:
                self._drop(address, station)

    def _add(self, address: str, station: Station) -> None:
        self._claims.setdefault(address, {})[station] = None
        self._addresses.setdefault(station, set()).add(address)
        if len(self._claims) > KEPT:
            oldest = next(iter(self._claims))
            for other in list(self._claims[oldest]):
                self._drop(oldest, other)

    def _drop(self, address: str, station: Station) -> None:
        del self._claims[address][station]
        if not self._claims[address]:
            del self._claims[address]
        self._addresses[station].discard(address)
        if not self._addresses[station]:
            del self._addresses[station]
        self._fixed.discard((address, station))

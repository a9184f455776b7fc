"""The addresses of one family, cut where any rule cuts them.

A piece is a prefix that some rule names, without the smaller ones inside it: all addresses of a piece are in the same
networks.  Pieces stand in the order of their prefixes, so everything below a prefix is a run of pieces, and a set of
pieces is a number with a bit for each.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from ipaddress import ip_address, ip_network

from netpold.policy.model import Family, IPBlock, Network

_ALL: Mapping[Family, Network] = {4: ip_network("0.0.0.0/0"), 6: ip_network("::/0")}


class Space:
    """`everything`: all pieces.  `taken`: the bits of those in which nothing is left but what others are inside, or
    addresses of the given pods."""

    def __init__(self, family: Family, prefixes: Iterable[Network], pods: Iterable[str]) -> None:
        wanted = {_ALL[family], *prefixes}
        self._prefixes = sorted(wanted, key=lambda each: (int(each.network_address), each.prefixlen))
        self._number = {prefix: number for number, prefix in enumerate(self._prefixes)}
        self._bits = self._prefixes[0].max_prefixlen
        self._by_length: list[tuple[int, dict[int, int]]] = []  # longest first: shift, and piece by prefix
        by_length: dict[int, dict[int, int]] = {}
        for number, prefix in enumerate(self._prefixes):
            shift = self._bits - prefix.prefixlen
            by_length.setdefault(shift, {})[int(prefix.network_address) >> shift] = number
        self._by_length = sorted(by_length.items())
        self._end = list(range(1, len(self._prefixes) + 1))  # the first piece behind those below each
        self._parent: list[int] = []
        self._place()
        self.everything = (1 << len(self._prefixes)) - 1
        self.taken = self._without_room(pods)

    def _place(self) -> None:
        around: list[int] = []
        for number, prefix in enumerate(self._prefixes):
            while around and not prefix.subnet_of(self._prefixes[around[-1]]):  # type: ignore[arg-type]
                around.pop()
            self._parent.append(around[-1] if around else -1)
            around.append(number)
        for number in range(len(self._prefixes) - 1, 0, -1):
            parent = self._parent[number]
            self._end[parent] = max(self._end[parent], self._end[number])

    def _without_room(self, pods: Iterable[str]) -> int:
        room = [prefix.num_addresses for prefix in self._prefixes]
        for number, parent in enumerate(self._parent):
            if parent >= 0:
                room[parent] -= self._prefixes[number].num_addresses
        for address in pods:
            room[self.piece(address)] -= 1
        return sum(1 << number for number, left in enumerate(room) if left <= 0)

    def piece(self, address: str) -> int:
        """The number of the piece that an address is in."""
        number = int(ip_address(address))
        return next(pieces[number >> shift] for shift, pieces in self._by_length if number >> shift in pieces)

    def single(self) -> Iterator[tuple[str, int]]:
        """The pieces that are one address, and their bits."""
        for number, prefix in enumerate(self._prefixes):
            if prefix.prefixlen == self._bits:
                yield str(prefix.network_address), 1 << number

    def of(self, table: Mapping[Network, bool]) -> int:
        """The pieces of a longest-prefix table (True: inside), all prefixes of which are known here."""
        found = 0
        for prefix in sorted(table, key=lambda each: each.prefixlen):
            number = self._number[prefix]
            below = (1 << self._end[number]) - (1 << number)
            found = found | below if table[prefix] else found & ~below
        return found

    def blocks(self, pieces: int) -> tuple[IPBlock, ...]:
        """The pieces as blocks with excepts.  Pieces without room are in or out as is shorter."""
        inside = self._filled(pieces)
        cidrs: dict[int, list[Network]] = {}
        open_at: list[int] = []  # by piece, the block that it is in, or -1
        for number, prefix in enumerate(self._prefixes):
            parent = self._parent[number]
            block = open_at[parent] if parent >= 0 else -1
            if inside[number] and block < 0:
                cidrs[number], block = [], number
            elif not inside[number] and block >= 0:
                cidrs[block].append(prefix)
                block = -1
            open_at.append(block)
        return tuple(IPBlock(self._prefixes[number], tuple(excepts)) for number, excepts in cidrs.items())

    def _filled(self, pieces: int) -> list[bool]:
        """Whether each piece is inside; one without room is when all in it are, or else as what is around it."""
        count = len(self._prefixes)
        below: list[bool | None] = [None] * count  # whether all with room in the piece's prefix are inside
        for number in range(count - 1, -1, -1):
            has_room = not self.taken >> number & 1
            own = bool(pieces >> number & 1) if has_room else None
            below[number] = _both(own, below[number])
            parent = self._parent[number]
            if parent >= 0:
                below[parent] = _both(below[parent], below[number])
        inside: list[bool] = []
        for number, parent in enumerate(self._parent):
            if not self.taken >> number & 1:
                inside.append(bool(pieces >> number & 1))
            elif below[number] is None:  # nothing in it is anybody's
                inside.append(parent >= 0 and inside[parent])
            else:
                inside.append(bool(below[number]))
        return inside


def _both(one: bool | None, other: bool | None) -> bool | None:
    if one is None or other is None:
        return one if other is None else other
    return one and other

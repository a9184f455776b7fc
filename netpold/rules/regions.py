"""Unions of ipBlocks as one longest-prefix table.

Several blocks with their excepts describe a region of the address space; hash:net sets with `nomatch` entries answer
by the longest prefix.  Only prefixes that are written somewhere can be a border of the region, so one sweep over them,
outermost first, with the blocks that are open at each, gives an exact table with no more entries than were written.
(A set with all cidrs and all excepts as they stand is wrong: one block's except would cut into another block.)
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from netpold.policy.model import Family, IPBlock, Network

# Longest prefix wins: True inside the region, False (nomatch) outside; what no prefix covers is outside.
Region = dict[Network, bool]


def region(blocks: Iterable[IPBlock], family: Family) -> Region:
    """The union of the blocks of one family; empty when there are none."""
    opens: dict[Network, set[int]] = defaultdict(set)
    closes: dict[Network, set[int]] = defaultdict(set)
    for number, block in enumerate(blocks):
        if block.cidr.version == family:
            opens[block.cidr].add(number)
            for excepted in block.excepts:
                closes[excepted].add(number)
    table: Region = {}
    around: list[tuple[Network, frozenset[int]]] = []  # the written prefixes that hold the current one, and open blocks
    for prefix in sorted(opens.keys() | closes.keys(), key=lambda net: (int(net.network_address), net.prefixlen)):
        while around and not _within(prefix, around[-1][0]):
            around.pop()
        outer = around[-1][1] if around else frozenset()
        here = (outer | opens.get(prefix, set())) - closes.get(prefix, set())
        if bool(here) != bool(outer):
            table[prefix] = bool(here)
        around.append((prefix, here))
    return table


def entries(table: Region) -> frozenset[str]:
    """The table as members of a hash:net set, which takes no prefix of length 0: that one becomes its two halves."""
    halved = dict(table)
    for prefix, inside in table.items():
        if prefix.prefixlen == 0:
            del halved[prefix]
            for half in prefix.subnets():
                halved.setdefault(half, inside)
    return frozenset(member(prefix) + ("" if inside else " nomatch") for prefix, inside in halved.items())


def member(prefix: Network) -> str:
    """A prefix as ipset prints it: a host without its length."""
    return str(prefix.network_address) if prefix.prefixlen == prefix.max_prefixlen else str(prefix)


def _within(inner: Network, outer: Network) -> bool:
    return inner.prefixlen >= outer.prefixlen and (
        int(inner.network_address) >> (inner.max_prefixlen - outer.prefixlen)
        == int(outer.network_address) >> (outer.max_prefixlen - outer.prefixlen)
    )

"""From a packet's interface or address to its pod's chain in O(log n) steps.

iptables has no maps; a list of all interfaces costs every packet its length.  So names go into a tree by their
letters, and addresses into a tree by their bits: each inner node is a chain, each step a wildcard (`-i cali3+`) or
a network (`-d 10.1.0.0/26`) that goes to the next chain.  A leaf is the rules of one name or address.

All steps are gotos: what returns from a leaf's chain comes back to where the chain with the tree's first rules was
jumped to.  What misses falls out of the last chain; a tree of names can send it on to another chain from there.

No tree is deeper than LEVELS chains: nf_tables refuses rules where chains lead to each other more than 16 deep
(NFT_JUMP_STACK_SIZE; gotos count, and one tree can follow the other).  So the more addresses there are, the more a
node is split into; names that share their beginnings too many times over are listed in the last node.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from ipaddress import ip_address, ip_network
from itertools import groupby

from netpold.rules.ruleset import Address, Goto, Match, Rule, Side, short_hash

# By name or address, the rules of one leaf: each with a match on it.
Leaves = Mapping[str, tuple[Rule, ...]]

# A chain with so few leaves is not split further: a comparison costs less than a goto and another chain.
FEW = 4

LEVELS = 4  # of chains in one tree; one less where more chains follow behind (shared.py)

_Numbered = tuple[int, str]  # an address as a number and as text


def names(
    root: str, leaves: Leaves, begins: Callable[[str], Match], missed: str = "", most: int = LEVELS
) -> tuple[Sequence[Rule], dict[str, tuple[Rule, ...]]]:
    """A tree over interface names.

    `root` begins the names of its chains; `begins` makes the match of all names that begin so; `missed` is the chain
    to go to from inside the tree when no leaf matches; `most`: how deep it may be.
    Returns the tree's first rules, and its chains.
    """
    otherwise = (Rule((), Goto(missed)),) if missed else ()
    chains: dict[str, tuple[Rule, ...]] = {}

    def build(group: list[str], levels: int) -> list[Rule]:
        if len(group) <= FEW or not levels:
            return [rule for name in group for rule in leaves[name]]
        depth = len(_common_prefix(group))
        parts = (list(part) for _, part in groupby(group, key=lambda name: name[: depth + 1]))
        return [rule for part in parts for rule in step(part, levels)]

    def step(group: list[str], levels: int) -> Sequence[Rule]:
        if len(group) == 1:
            return leaves[group[0]]
        prefix = _common_prefix(group)
        chain = f"{root}{prefix}"
        chains[chain] = (*build(group, levels - 1), *otherwise)
        return [Rule((begins(prefix),), Goto(chain))]

    ordered = sorted(leaves)
    if not ordered:
        return [], {}
    return (step(ordered, most) if _common_prefix(ordered) else build(ordered, most)), chains


def addresses(
    root: str, leaves: Leaves, side: Side, most: int = LEVELS
) -> tuple[Sequence[Rule], dict[str, tuple[Rule, ...]]]:
    """The same over addresses of one family, by their bits."""
    chains: dict[str, tuple[Rule, ...]] = {}
    ordered = sorted((_number(text), text) for text in leaves)
    width = 128 if any(":" in text for text in leaves) else 32
    # a node looks at so many bits, and not at how many addresses are on each side: so one address changes few nodes
    bits = 2
    while FEW << bits * (most - 1) < len(leaves):
        bits += 1

    def build(group: list[_Numbered], levels: int) -> list[Rule]:
        if len(group) <= FEW or not levels:
            return [rule for _, address in group for rule in leaves[address]]
        shift = max(width - _common_length(group, width) - bits, 0)
        parts = (list(part) for _, part in groupby(group, key=lambda each: each[0] >> shift))
        return [rule for part in parts for rule in step(part, levels)]

    def step(group: list[_Numbered], levels: int) -> Sequence[Rule]:
        if len(group) == 1:
            return leaves[group[0][1]]
        network = _network(group[0][1], _common_length(group, width))
        chain = f"{root}{_hash(network)}"
        chains[chain] = tuple(build(group, levels - 1))
        return [Rule((Address(side, network),), Goto(chain))]

    return (build(ordered, most) if ordered else []), chains


def _common_prefix(ordered: list[str]) -> str:
    """The longest beginning that sorted names share."""
    first, last = ordered[0], ordered[-1]
    length = next((place for place, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), None)
    return first[:length]  # None: `first` is the beginning of all


def _common_length(group: list[_Numbered], width: int) -> int:
    """The length of the longest prefix of sorted addresses."""
    return width - (group[0][0] ^ group[-1][0]).bit_length()


@lru_cache(maxsize=1 << 16)
def _number(address: str) -> int:
    return int(ip_address(address))


@lru_cache(maxsize=1 << 14)
def _network(address: str, length: int) -> str:
    return str(ip_network(f"{address}/{length}", strict=False))


_hash = lru_cache(maxsize=1 << 14)(short_hash)

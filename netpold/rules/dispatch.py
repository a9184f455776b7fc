"""From a packet's interface or address to its pod's chain in O(log n) steps.

iptables has no maps; a list of all interfaces costs every packet its length.  So names go into a tree by their
letters, and addresses into a tree by their bits: each inner node is a chain, each step a wildcard (`-i cali3+`) or
a network (`-d 10.1.0.0/26`) that goes to the next chain.  A leaf is the rules of one name or address.

All steps are gotos: what returns from a leaf's chain comes back to where the chain with the tree's first rules was
jumped to.  What misses falls out of the last chain; a tree of names can send it on to another chain from there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from itertools import groupby

from netpold.policy.model import Network
from netpold.rules.ruleset import Address, Goto, Match, Rule, Side, short_hash

# The rules of one leaf, without the match on the name or address: that is put in front of each.
Leaves = Mapping[str, tuple[Rule, ...]]

# A chain with so few leaves is not split further: a comparison costs less than a goto and another chain.
FEW = 4

IPAddress = IPv4Address | IPv6Address


def names(
    root: str, leaves: Leaves, match: Callable[[str, bool], Match], missed: str = ""
) -> tuple[list[Rule], dict[str, tuple[Rule, ...]]]:
    """A tree over interface names.

    `root` begins the names of its chains; `match(name, prefix)` makes the match of a leaf or an inner step; `missed`
    is the chain to go to from inside the tree when no leaf matches.
    Returns the tree's first rules, and its chains.
    """
    otherwise = (Rule((), Goto(missed)),) if missed else ()
    chains: dict[str, tuple[Rule, ...]] = {}

    def build(group: list[str]) -> list[Rule]:
        if len(group) <= FEW:
            return [rule for name in group for rule in leaf(name)]
        depth = len(_common_prefix(group))
        rules: list[Rule] = []
        for _, part in groupby(group, key=lambda name: name[: depth + 1]):
            rules += step(list(part))
        return rules

    def step(group: list[str]) -> list[Rule]:
        if len(group) == 1:
            return leaf(group[0])
        prefix = _common_prefix(group)
        chain = f"{root}{prefix}"
        chains[chain] = (*build(group), *otherwise)
        return [Rule((match(prefix, True),), Goto(chain))]

    def leaf(name: str) -> list[Rule]:
        return [_with(match(name, False), rule) for rule in leaves[name]]

    ordered = sorted(leaves)
    if not ordered:
        return [], {}
    if not _common_prefix(ordered):
        rules = [rule for _, part in groupby(ordered, key=lambda name: name[0]) for rule in step(list(part))]
        return rules, chains
    return step(ordered), chains


def addresses(root: str, leaves: Leaves, side: Side) -> tuple[list[Rule], dict[str, tuple[Rule, ...]]]:
    """The same over addresses of one family, by their bits."""
    chains: dict[str, tuple[Rule, ...]] = {}
    texts = {ip_address(text): text for text in leaves}

    def build(group: list[IPAddress]) -> list[Rule]:
        if len(group) <= FEW:
            return [rule for address in group for rule in leaf(texts[address])]
        whole = _common(group)
        _, high = whole.subnets()
        middle = next(place for place, address in enumerate(group) if address in high)
        # the lower half in a chain of its own, the upper half just goes on: one rule a level
        return [*step(group[:middle]), *build(group[middle:])]

    def step(group: list[IPAddress]) -> list[Rule]:
        if len(group) == 1:
            return leaf(texts[group[0]])
        network = _common(group)
        chain = f"{root}{short_hash(str(network))}"
        chains[chain] = tuple(build(group))
        return [Rule((Address(side, str(network)),), Goto(chain))]

    def leaf(address: str) -> list[Rule]:
        return [_with(Address(side, address), rule) for rule in leaves[address]]

    ordered = sorted(texts, key=int)
    return (step(ordered), chains) if ordered else ([], {})


def _common_prefix(ordered: list[str]) -> str:
    """The longest beginning that sorted names share."""
    first, last = ordered[0], ordered[-1]
    length = next((place for place, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), None)
    return first[:length]  # None: `first` is the beginning of all


def _common(ordered: list[IPAddress]) -> Network:
    """The longest prefix of sorted addresses."""
    first, last = ordered[0], ordered[-1]
    length = first.max_prefixlen - (int(first) ^ int(last)).bit_length()
    return ip_network(f"{first}/{length}", strict=False)


def _with(match: Match, rule: Rule) -> Rule:
    return Rule((match, *rule.matches), rule.target, rule.comment, rule.origin)

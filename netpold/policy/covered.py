"""Rules that other rules make superfluous, found without comparing each with each.

A rule can cover another only in the same namespace and direction, and only if it has a peer that can hold the other's
first peer.  So each rule hangs at what its peers ask for (a label's value, a block), and a rule looks for others where
its own first peer would have to be found.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator
from functools import lru_cache
from typing import NamedTuple

from netpold.policy.covers import implies, rule_within
from netpold.policy.model import (
    Direction,
    IPBlock,
    Namespace,
    Operator,
    Peer,
    PodPeer,
    Policy,
    PolicyRule,
    Selector,
    World,
)

_implies = lru_cache(maxsize=1 << 16)(implies)
_ALL, _ANY = "all", "any"


class Placed(NamedTuple):
    """A rule and where it stands."""

    policy: Policy
    direction: Direction
    number: int
    rule: PolicyRule

    def __str__(self) -> str:
        return f"{self.policy.key} {self.direction}[{self.number}]"


def covered(world: World) -> Iterator[tuple[Placed, Placed]]:
    """Each rule that is covered, and one that covers it.  Of rules that say the same, the first covers the others (by
    the policies' names), so that all that are given may go together."""
    groups: dict[tuple[str, Direction], list[Placed]] = defaultdict(list)
    for _, policy in sorted(world.policies.items()):
        if not isinstance(policy, Policy):
            continue
        for direction in Direction:
            rules = () if policy.quarantined else policy.rules(direction) or ()
            groups[policy.namespace, direction] += [
                Placed(policy, direction, number, rule) for number, rule in enumerate(rules)
            ]
    for (name, _), together in sorted(groups.items()):
        if len(together) > 1:
            yield from _covered(together, world.namespace(name))


def _covered(rules: list[Placed], namespace: Namespace) -> Iterator[tuple[Placed, Placed]]:
    """`rules`: of one namespace and direction, in their order."""
    hanging: dict[Hashable, list[int]] = defaultdict(list)
    lengths: set[tuple[int, int]] = set()  # family and prefix length of the blocks
    for at, placed in enumerate(rules):
        for hook in dict.fromkeys(_hooks(placed.rule.peers)):
            hanging[hook].append(at)
        blocks = (peer.cidr for peer in placed.rule.peers or () if isinstance(peer, IPBlock))
        lengths.update((cidr.version, cidr.prefixlen) for cidr in blocks)
    for at, placed in enumerate(rules):
        for hook in (_ALL, *_looked_up(placed.rule.peers, namespace, lengths)):
            found = next((each for each in hanging.get(hook, ()) if _covers(rules, each, at, namespace)), None)
            if found is not None:
                yield placed, rules[found]
                break


def _covers(rules: list[Placed], wide: int, narrow: int, namespace: Namespace) -> bool:
    if wide == narrow or not _allows_all(rules[narrow], rules[wide], namespace):
        return False
    return wide < narrow or not _allows_all(rules[wide], rules[narrow], namespace)


def _allows_all(narrow: Placed, wide: Placed, namespace: Namespace) -> bool:
    return _implies(narrow.policy.selector, wide.policy.selector) and rule_within(narrow.rule, wide.rule, namespace)


def _hooks(peers: Iterable[Peer] | None) -> Iterator[Hashable]:
    """Where a rule hangs: at one thing that all have whom one of its peers selects."""
    if peers is None:
        yield _ALL
        return
    for peer in peers:
        if isinstance(peer, IPBlock):
            yield peer.cidr
            continue
        pods = _values("pod", peer.pods)
        yield from pods or (_values("namespace", peer.namespaces) if peer.namespaces else []) or [_ANY]


def _looked_up(
    peers: tuple[Peer, ...] | None, namespace: Namespace, lengths: set[tuple[int, int]]
) -> Iterator[Hashable]:
    """Where the rules hang that can hold the first of these peers."""
    if not peers:
        return
    first = peers[0]
    if isinstance(first, IPBlock):
        for version, length in sorted(lengths):
            if version == first.cidr.version and length <= first.cidr.prefixlen:
                yield first.cidr.supernet(new_prefix=length)
        return
    yield from _values("pod", first.pods, first_only=True)
    yield from _of_namespaces(first, namespace)
    yield _ANY


def _of_namespaces(peer: PodPeer, namespace: Namespace) -> Iterable[Hashable]:
    if peer.namespaces is None:
        return [("namespace", *label) for label in namespace.labels.items()]
    return _values("namespace", peer.namespaces, first_only=True)


def _values(kind: str, selector: Selector, *, first_only: bool = False) -> list[Hashable]:
    """The label values that a selector asks for: all of its first such requirement; or one of each."""
    asked = [each for each in selector.requirements if each.operator is Operator.IN]
    if first_only:
        return [(kind, each.key, each.values[0]) for each in asked]
    return [(kind, asked[0].key, value) for value in asked[0].values] if asked else []

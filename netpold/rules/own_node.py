"""What pods may send to their own node otherwise, where the rest of a comparison (difference.py) does not tell it.

NetworkPolicies leave that to the tiers (at_home.py).  So a pod that they isolate may reach its own node and no other
address, and what a tier denies there is a change for that pair alone.  What the rest tells of that pair is not told
again.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from ipaddress import ip_network
from typing import NamedTuple

from netpold.policy.index import Index
from netpold.policy.model import Action, Direction, Network
from netpold.rules import cause
from netpold.rules.cause import Causes
from netpold.rules.judged import Judges
from netpold.rules.pieces import End, Pieces, ones
from netpold.rules.said import Said


class AtHome(NamedTuple):
    """`pods`: all on `node`; `addresses`: bits of addresses of it; `opens`, `closes`: bits of services."""

    node: str
    pods: frozenset[str]
    addresses: int
    opens: int
    closes: int
    causes: Causes


class OwnNodes:
    """Where the pods of two worlds are, as far as that is the same in both."""

    def __init__(self, old: Index, new: Index) -> None:
        self._worlds = old, new

    def addresses(self, ends: Iterable[End]) -> set[Network]:
        """Of the nodes of those that other rules judge now as senders, where there are tiers: to be given to Pieces."""
        if not any(each.has_tiers for each in self._worlds):
            return set()
        nodes = {self._node(each.pod) for each in ends if each.judges[0] is not each.judges[1]} - {""}
        found: set[str] = set()
        for world in (each.world for each in self._worlds) if nodes else ():
            found.update(address for name in nodes & world.nodes.keys() for address in world.nodes[name].addresses)
            hosts = (pod for pod in world.pods.values() if pod.host_network and pod.node in nodes)
            found.update(address for pod in hosts for address in pod.addresses)
        return {ip_network(each) for each in found}

    def changes(self, pieces: Pieces) -> Iterator[AtHome]:
        """What is not told by what changes between these pods and any addresses."""
        own: dict[str, int] = defaultdict(int)
        for address, piece in pieces.single():
            own[self._node_at(address)] |= piece
        own.pop("", None)
        for (before, after), mask in pieces.by_judges(Direction.EGRESS).items() if own else ():
            if before is after:
                continue
            at: dict[str, set[str]] = defaultdict(set)
            for pod in pieces.pods(mask):
                at[self._node(pod)].add(pod)
            for node in at.keys() & own.keys():
                found: dict[tuple[int, int], int] = defaultdict(int)
                for piece in ones(own[node]):
                    found[_effect(pieces, before, after, piece)] |= piece
                for (opens, closes), addresses in found.items():
                    if opens or closes:
                        why = _why(pieces, before, after, addresses, opens, closes)
                        yield AtHome(node, frozenset(at[node]), addresses, opens, closes, why)

    def _node(self, pod: str) -> str:
        nodes = {each.world.pods[pod].node for each in self._worlds}
        return (nodes.pop() or "") if len(nodes) == 1 else ""

    def _node_at(self, address: str) -> str:
        nodes = {each.node_at(address) for each in self._worlds}
        return nodes.pop() if len(nodes) == 1 else ""


def _effect(pieces: Pieces, before: Judges, after: Judges, piece: int) -> tuple[int, int]:
    """What opens and what closes at home and nowhere else."""
    (was, now), (was_away, now_away) = (
        [_at(pieces.says(world, judges, at_home, piece)) for world, judges in enumerate((before, after))]
        for at_home in (True, False)
    )
    return now & ~was & ~(now_away & ~was_away), was & ~now & ~(was_away & ~now_away)


def _at(said: Said) -> int:
    """What is allowed to the one end that is spoken of."""
    (services,) = said
    return services


def _why(pieces: Pieces, before: Judges, after: Judges, addresses: int, opens: int, closes: int) -> Causes:
    """What the rules of tiers do now, or did; or which policies isolate, for then Baseline is not asked."""
    was, now = (
        {each for each in pieces.about(world, judges, addresses, opens | closes) if each.tier}
        for world, judges in enumerate((before, after))
    )
    does = {(Action.ACCEPT, True), (Action.PASS, True), (Action.DENY, False)} if opens else set()
    does |= {(Action.ACCEPT, False), (Action.PASS, False), (Action.DENY, True)} if closes else set()
    rules = [(each, is_now) for is_now, some in ((False, was), (True, now)) for each in some
             if (each.action, is_now) in does]  # fmt: skip
    if others := [(each, is_now) for each, is_now in rules if each in was ^ now]:
        return cause.rules(others)
    isolating = set(before.isolating), set(after.isolating)
    found = cause.isolation(Direction.EGRESS, isolating[0] - isolating[1], now=False)
    found |= cause.isolation(Direction.EGRESS, isolating[1] - isolating[0], now=True)
    return found or cause.rules(rules)  # the same rules, in another order

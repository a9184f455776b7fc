"""What lies within what, whatever pods there are: selectors, peers, blocks, ports, and so rules.

Every answer "yes" is certain; a "no" may only mean that it can't be told from what is written (two selectors can select
the same pods by different labels).  Pods that come later make no difference, so whoever takes out what is covered loses
nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from netpold.policy.model import (
    Family,
    IPBlock,
    Namespace,
    NodePeer,
    Operator,
    PodPeer,
    PolicyPort,
    PolicyRule,
    Requirement,
    Selector,
    TierPeer,
    TierRule,
)
from netpold.policy.selector import matches

_Rule = PolicyRule | TierRule
Span = tuple[int, int]  # both ends are inside


def implies(narrow: Selector, wide: Selector) -> bool:
    """Whether `wide` selects all that `narrow` selects."""
    return all(any(_holds_with(each, wanted) for each in narrow.requirements) for wanted in wide.requirements)


def _holds_with(given: Requirement, wanted: Requirement) -> bool:
    """Whether labels that meet `given` meet `wanted`."""
    if given.key != wanted.key:
        return False
    mine, theirs = set(given.values), set(wanted.values)
    match wanted.operator:
        case Operator.IN:
            return given.operator is Operator.IN and mine <= theirs
        case Operator.EXISTS:
            return given.operator in (Operator.IN, Operator.EXISTS)
        case Operator.DOES_NOT_EXIST:
            return given.operator is Operator.DOES_NOT_EXIST
        case Operator.NOT_IN:
            return (
                given.operator is Operator.DOES_NOT_EXIST
                or (given.operator is Operator.NOT_IN and mine >= theirs)
                or (given.operator is Operator.IN and mine.isdisjoint(theirs))
            )


def merged(spans: Iterable[Span]) -> list[Span]:
    """The same numbers in as few spans as can be, sorted."""
    result: list[Span] = []
    for low, high in sorted(spans):
        if result and low <= result[-1][1] + 1:
            result[-1] = (result[-1][0], max(high, result[-1][1]))
        else:
            result.append((low, high))
    return result


def addresses(blocks: Iterable[IPBlock], family: Family) -> list[Span]:
    """The addresses of a family in any of the blocks, as numbers."""
    return merged(span for block in blocks if block.cidr.version == family for span in _left(block))


def _left(block: IPBlock) -> list[Span]:
    """What the excepts leave of a block."""
    at, last = int(block.cidr.network_address), int(block.cidr.broadcast_address)
    found: list[Span] = []
    for low, high in merged((int(each.network_address), int(each.broadcast_address)) for each in block.excepts):
        if low > at:
            found.append((at, low - 1))
        at = high + 1
    return [*found, (at, last)] if at <= last else found


def is_empty(block: IPBlock) -> bool:
    """Whether the excepts leave nothing of a block."""
    return not _left(block)


def spans_within(narrow: Sequence[Span], wide: Sequence[Span]) -> bool:
    """Whether all of `narrow` is in `wide`; both merged."""
    return all(any(low <= first and last <= high for low, high in wide) for first, last in narrow)


def rule_within(narrow: _Rule, wide: _Rule, namespace: Namespace) -> bool:
    """Whether `wide` matches all that `narrow` does, both in policies of that namespace, or of the cluster (then it
    does not matter which), for the same pods and in the same direction."""
    return _ports_within(narrow.ports, wide.ports) and _peers_within(narrow, wide, namespace)


def _ports_within(narrow: tuple[PolicyPort, ...] | None, wide: tuple[PolicyPort, ...] | None) -> bool:
    if wide is None:
        return True
    return narrow is not None and all(_port_within(port, wide) for port in narrow)


def _port_within(port: PolicyPort, wide: tuple[PolicyPort, ...]) -> bool:
    same = [each for each in wide if each.protocol == port.protocol]
    if any(each.port is None or each == port for each in same):
        return True
    spans = merged((each.port, each.end_port or each.port) for each in same if isinstance(each.port, int))
    wanted = (1, 65535) if port.port is None else (port.port, port.end_port or port.port)
    return not isinstance(wanted[0], str) and spans_within([(int(wanted[0]), int(wanted[1]))], spans)


def _peers_within(narrow: _Rule, wide: _Rule, namespace: Namespace) -> bool:
    if wide.peers is None:
        return True
    if narrow.peers is None:
        return False
    blocks = [[peer for peer in rule.peers or () if isinstance(peer, IPBlock)] for rule in (narrow, wide)]
    if blocks[0]:
        families: tuple[Family, Family] = (4, 6)
        for family in families:
            mine, theirs = (addresses(each, family) for each in blocks)
            if not spans_within(mine, theirs):
                return False
    return all(
        any(_pods_or_nodes_within(peer, each, namespace) for each in wide.peers)
        for peer in narrow.peers
        if not isinstance(peer, IPBlock)
    )


def _pods_or_nodes_within(narrow: PodPeer | NodePeer, wide: TierPeer, namespace: Namespace) -> bool:
    if isinstance(narrow, NodePeer):
        return isinstance(wide, NodePeer) and implies(narrow.nodes, wide.nodes)
    return isinstance(wide, PodPeer) and _pods_within(narrow, wide, namespace)


def _pods_within(narrow: PodPeer, wide: PodPeer, namespace: Namespace) -> bool:
    if not implies(narrow.pods, wide.pods):
        return False
    if wide.namespaces is None:
        return narrow.namespaces is None
    if narrow.namespaces is None:
        return not namespace.quarantined and matches(wide.namespaces, namespace.labels)
    return implies(narrow.namespaces, wide.namespaces)

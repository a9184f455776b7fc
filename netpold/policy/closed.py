"""What is in force of an object whose manifests contradict each other: whatever any of them may forbid."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import reduce
from typing import cast

from netpold.policy.model import (
    EVERYTHING,
    NAME_LABEL,
    Action,
    AnyPolicy,
    ClusterPolicy,
    Namespace,
    Node,
    Pod,
    PodPeer,
    Policy,
    Tier,
    TierRule,
)


def closed_any_policy(copies: Sequence[AnyPolicy]) -> AnyPolicy:
    """The closed version of copies that have one key, and so are of one kind."""
    if isinstance(copies[0], ClusterPolicy):
        return closed_cluster_policy(cast(Sequence[ClusterPolicy], copies))
    return closed_policy(cast(Sequence[Policy], copies))


def closed_policy(copies: Sequence[Policy]) -> Policy:
    """What all copies may select, in all their directions, and no grant."""
    first = copies[0]
    return Policy(
        first.namespace,
        first.name,
        first.selector if all(copy.selector == first.selector for copy in copies) else EVERYTHING,
        None if all(copy.ingress is None for copy in copies) else (),
        None if all(copy.egress is None for copy in copies) else (),
        first.position,
        quarantined=True,
    )


def closed_cluster_policy(copies: Sequence[ClusterPolicy]) -> ClusterPolicy:
    """What any copy denies, for all that any may be about, before what any comes before; and nothing that is granted or
    passed."""
    first = copies[0]
    return ClusterPolicy(
        first.name,
        first.tier if all(copy.tier is first.tier for copy in copies) else Tier.ADMIN,
        min(copy.priority for copy in copies),
        first.subject if all(copy.subject == first.subject for copy in copies) else PodPeer(EVERYTHING, EVERYTHING),
        _denials(copy.ingress for copy in copies),
        _denials(copy.egress for copy in copies),
        first.kind,
        first.position,
        quarantined=True,
    )


def _denials(several: Iterable[tuple[TierRule, ...]]) -> tuple[TierRule, ...]:
    """Each once, or one that denies everything; they all say the same, so their order does not matter."""
    found = tuple(dict.fromkeys(rule for rules in several for rule in rules if rule.action is Action.DENY))
    return next(((rule,) for rule in found if rule.peers is None and rule.ports is None), found)


def closed_pod(copies: Sequence[Pod]) -> Pod:
    """Wherever any copy says that it is; an address that only a copy on the host's network has is the host's."""
    first = copies[0]
    host_network = all(copy.host_network for copy in copies)
    placed = copies if host_network else [copy for copy in copies if not copy.host_network]
    return Pod(
        first.namespace,
        first.name,
        dict(reduce(lambda common, copy: common & copy.labels.items(), copies, set(first.labels.items()))),
        tuple(dict.fromkeys(address for copy in placed for address in copy.addresses)),
        first.node if all(copy.node == first.node for copy in copies) else None,
        host_network,
        all(copy.finished for copy in copies),
        (),
        tuple(dict.fromkeys(interface for copy in placed for interface in copy.interfaces)),
        first.position,
        quarantined=True,
    )


def closed_namespace(copies: Sequence[Namespace]) -> Namespace:
    """No selector finds it."""
    first = copies[0]
    return Namespace(first.name, {NAME_LABEL: first.name}, first.position, quarantined=True)


def closed_node(copies: Sequence[Node]) -> Node:
    """Whoever any copy says that it is; its labels are unknown."""
    first = copies[0]
    addresses = tuple(dict.fromkeys(address for copy in copies for address in copy.addresses))
    return Node(first.name, {}, addresses, first.position, quarantined=True)

"""A policy of the cluster as the one manifest that says it.

Rules of closed policies may deny all, whoever it is.  The API has no words for that: such a rule names no peers, which
the reader refuses, and then takes for just this.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from netpold.policy.canonical_parts import Tree, mode_tree, selector_tree
from netpold.policy.cluster_forms import BASELINE, FORMS, Form
from netpold.policy.model import (
    ClusterPolicy,
    Direction,
    IPBlock,
    NodePeer,
    PodPeer,
    PolicyPort,
    TierPeer,
    TierRule,
)
from netpold.policy.policy_rules import PEERS

_NETWORKS = 25  # in one peer


def cluster_policy(policy: ClusterPolicy) -> Tree:
    """The manifest, in the form of its kind."""
    form = FORMS[policy.kind]
    spec: Tree = {"subject": _pods(policy.subject)}
    if form.tier is None:
        spec["tier"] = policy.tier.value
    if form is not BASELINE:
        spec["priority"] = policy.priority
    for direction in Direction:
        rules = policy.rules(direction)
        if rules:
            spec[direction.value] = [_rule(rule, direction, form) for rule in rules]
    return {
        "apiVersion": form.versions[0],
        "kind": policy.kind,
        "metadata": {"name": policy.name, **mode_tree(policy.mode)},
        "spec": spec,
    }


def _rule(rule: TierRule, direction: Direction, form: Form) -> Tree:
    tree: Tree = {"action": next(word for word, action in form.actions.items() if action is rule.action)}
    if rule.name:
        tree["name"] = rule.name
    if rule.peers is not None:
        tree[PEERS[direction]] = list(_peers(rule.peers))
    if rule.ports is not None:
        ports = (_old_port(port) if form.is_old else _port(port) for port in rule.ports)
        tree[form.ports] = [port for port in ports if port is not None]
    return tree


def _peers(peers: tuple[TierPeer, ...]) -> Iterator[Tree]:
    networks: list[str] = []  # of the blocks that stand together
    for peer in peers:
        if isinstance(peer, IPBlock):
            if not networks or len(networks) == _NETWORKS:
                networks = []
                yield {"networks": networks}  # and filled while there are more
            networks.append(str(peer.cidr))
            continue
        networks = []
        yield {"nodes": selector_tree(peer.nodes)} if isinstance(peer, NodePeer) else _pods(peer)


def _pods(peer: PodPeer) -> Tree:
    namespaces: Any = {} if peer.namespaces is None else selector_tree(peer.namespaces)
    if not peer.pods.requirements:
        return {"namespaces": namespaces}
    return {"pods": {"namespaceSelector": namespaces, "podSelector": selector_tree(peer.pods)}}


def _port(port: PolicyPort) -> Tree | None:
    """None for a name in another protocol than the first: it stands for all of them."""
    if isinstance(port.port, str):
        return {"destinationNamedPort": port.port} if port.protocol == "TCP" else None
    number = {"number": port.port} if port.end_port is None else {"range": {"start": port.port, "end": port.end_port}}
    return {port.protocol.lower(): {"destinationPort": number}}


def _old_port(port: PolicyPort) -> Tree | None:
    if isinstance(port.port, str):
        return {"namedPort": port.port} if port.protocol == "TCP" else None
    if port.end_port is None:
        return {"portNumber": {"protocol": port.protocol, "port": port.port}}
    return {"portRange": {"protocol": port.protocol, "start": port.port, "end": port.end_port}}

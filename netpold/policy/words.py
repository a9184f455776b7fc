"""Policy rules in words, for a person: whom they let in or out, and on which ports."""

from __future__ import annotations

from netpold.policy.model import Direction, IPBlock, NodePeer, PodPeer, PolicyPort, PolicyRule, TierPeer, TierRule
from netpold.policy.selector import describe


def rule_text(rule: PolicyRule | TierRule, direction: Direction, namespace: str) -> str:
    """`from pods app=web of shop or 10.0.0.0/8, on 80/TCP`; of one of the cluster `Deny to nodes role=api, on 80/TCP`.
    `namespace`: the policy's."""
    action = f"{rule.action} " if isinstance(rule, TierRule) else ""
    return f"{action}{peers_text(rule, direction, namespace)}, on {ports_text(rule)}"


def peers_text(rule: PolicyRule | TierRule, direction: Direction, namespace: str) -> str:
    """`from anybody`, `to pods app=web of shop or 10.0.0.0/8`."""
    way = "from" if direction is Direction.INGRESS else "to"
    if rule.peers is None:
        return f"{way} anybody"
    return f"{way} {' or '.join(peer_text(each, namespace) for each in rule.peers) or 'nobody'}"


def peer_text(peer: TierPeer, namespace: str) -> str:
    """`pods app=web of shop`, `all pods of namespaces team=a`, `10.0.0.0/8 but for 10.1.0.0/16`, `nodes role=api`."""
    if isinstance(peer, IPBlock):
        but = f" but for {', '.join(map(str, peer.excepts))}" if peer.excepts else ""
        return f"{peer.cidr}{but}"
    if isinstance(peer, NodePeer):
        return f"nodes {describe(peer.nodes)}" if peer.nodes.requirements else "all nodes"
    pods = f"pods {describe(peer.pods)}" if peer.pods.requirements else "all pods"
    return f"{pods} {_where(peer, namespace)}"


def _where(peer: PodPeer, namespace: str) -> str:
    if peer.namespaces is None:
        return f"of {namespace}"
    if not peer.namespaces.requirements:
        return "of all namespaces"
    return f"of namespaces {describe(peer.namespaces)}"


def ports_text(rule: PolicyRule | TierRule) -> str:
    """`every port and protocol`, `80/TCP, 1000-2000/UDP, http/TCP`."""
    if rule.ports is None:
        return "every port and protocol"
    shown = (str(each.port) if _of_any_protocol(rule, each) else port_text(each) for each in rule.ports)
    return ", ".join(dict.fromkeys(shown))


def _of_any_protocol(rule: PolicyRule | TierRule, port: PolicyPort) -> bool:
    """A port's name in a rule of the cluster, which comes once for each protocol."""
    return isinstance(rule, TierRule) and isinstance(port.port, str)


def port_text(port: PolicyPort) -> str:
    if port.port is None:
        return f"every {port.protocol} port"
    if port.end_port is not None and port.end_port != port.port:
        return f"{port.port}-{port.end_port}/{port.protocol}"
    return f"{port.port}/{port.protocol}"

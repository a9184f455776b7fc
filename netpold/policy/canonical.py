"""An object as the one manifest that says it, for keeping, and back through the strict reader.

What was good once may be read by another release, years later.  So it is kept in the one form that every release reads:
a Kubernetes manifest, as JSON, with nothing in it but what netpold goes by.  Equal objects give equal text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from netpold.policy.manifest import Object, parse
from netpold.policy.model import (
    INTERFACE_ANNOTATION,
    MODE_ANNOTATION,
    ContainerPort,
    IPBlock,
    Mode,
    Namespace,
    Peer,
    Pod,
    Policy,
    PolicyPort,
    PolicyRule,
    Position,
    Selector,
)

KINDS: Mapping[type[Object], str] = {Policy: "NetworkPolicy", Namespace: "Namespace", Pod: "Pod"}

_Tree = dict[str, Any]
_dumps = json.JSONEncoder(separators=(",", ":"), sort_keys=True, check_circular=False).encode


def written(each: Object) -> str:
    """The manifest of an object, in one line of ASCII.  Its position, and whether it is quarantined, are not in it."""
    if isinstance(each, Pod):
        return _dumps(_pod(each))
    return _dumps(_policy(each) if isinstance(each, Policy) else _namespace(each))


def read_back(manifest: bytes, position: Position, quarantined: bool) -> Object | None:
    """The object that a manifest says, as it stood at that position; None where the reader refuses it, or it is not
    exactly one."""
    says = parse(manifest, position.file)
    if says.truncated or len(says.objects) != 1 or says.objects[0].quarantined:
        return None
    found = replace(says.objects[0], position=position, quarantined=quarantined)
    if isinstance(found, Policy):
        return replace(found, ingress=_placed(found.ingress, position), egress=_placed(found.egress, position))
    return found


def _placed(rules: tuple[PolicyRule, ...] | None, position: Position) -> tuple[PolicyRule, ...] | None:
    """The rules at the policy's own place: the lines where they stood are those of a file that is there no more."""
    return rules and tuple([replace(rule, position=position) for rule in rules])


def _namespace(namespace: Namespace) -> _Tree:
    return {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": namespace.name, "labels": dict(namespace.labels), **_mode(namespace.mode)},
        **({"status": {"phase": "Terminating"}} if namespace.terminating else {}),
    }


def _mode(mode: Mode | None) -> _Tree:
    return {} if mode is None else {"annotations": {MODE_ANNOTATION: mode}}


def _pod(pod: Pod) -> _Tree:
    metadata: _Tree = {"namespace": pod.namespace, "name": pod.name, "labels": dict(pod.labels)}
    if pod.interfaces:
        metadata["annotations"] = {INTERFACE_ANNOTATION: ",".join(pod.interfaces)}
    spec: _Tree = {"containers": _containers(pod.ports)} if pod.ports else {}
    if pod.node is not None:
        spec["nodeName"] = pod.node
    if pod.host_network:
        spec["hostNetwork"] = True
    status: _Tree = {"podIPs": [{"ip": address} for address in pod.addresses]}
    if pod.finished:
        status["phase"] = "Succeeded"
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec, "status": status}


def _containers(ports: tuple[ContainerPort, ...]) -> list[_Tree]:
    """A name stands once in a container, so one that comes again begins the next."""
    groups: list[dict[str, ContainerPort]] = [{}]
    for port in ports:
        if port.name in groups[-1]:
            groups.append({})
        groups[-1][port.name] = port
    return [
        {"name": f"c{number}", "ports": [_container_port(port) for port in group.values()]}
        for number, group in enumerate(groups)
    ]


def _container_port(port: ContainerPort) -> _Tree:
    return {"name": port.name, "protocol": port.protocol, "containerPort": port.port}


def _policy(policy: Policy) -> _Tree:
    spec: _Tree = {"podSelector": _selector(policy.selector), "policyTypes": []}
    for name, rules, peers in (("Ingress", policy.ingress, "from"), ("Egress", policy.egress, "to")):
        if rules is not None:
            spec["policyTypes"].append(name)
            spec[name.lower()] = [_rule(rule, peers) for rule in rules]
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"namespace": policy.namespace, "name": policy.name, **_mode(policy.mode)},
        "spec": spec,
    }


def _rule(rule: PolicyRule, peers: str) -> _Tree:
    tree: _Tree = {}
    if rule.peers is not None:
        tree[peers] = [_peer(peer) for peer in rule.peers]
    if rule.ports is not None:
        tree["ports"] = [_port(port) for port in rule.ports]
    return tree


def _peer(peer: Peer) -> _Tree:
    if isinstance(peer, IPBlock):
        return {"ipBlock": {"cidr": str(peer.cidr), "except": [str(each) for each in peer.excepts]}}
    tree: _Tree = {"podSelector": _selector(peer.pods)}
    if peer.namespaces is not None:
        tree["namespaceSelector"] = _selector(peer.namespaces)
    return tree


def _port(port: PolicyPort) -> _Tree:
    tree: _Tree = {"protocol": port.protocol}
    if port.port is not None:
        tree["port"] = port.port
    if port.end_port is not None:
        tree["endPort"] = port.end_port
    return tree


def _selector(selector: Selector) -> _Tree:
    """All as expressions, which can say what labels say."""
    expressions = [
        {"key": each.key, "operator": each.operator.value, **({"values": list(each.values)} if each.values else {})}
        for each in selector.requirements
    ]
    return {"matchExpressions": expressions} if expressions else {}

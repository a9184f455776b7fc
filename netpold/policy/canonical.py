"""An object as the one manifest that says it, for keeping, and back through the strict reader.

What was good once may be read by another release, years later.  So it is kept in the one form that every release reads:
a Kubernetes manifest, as JSON, with nothing in it but what netpold goes by.  Equal objects give equal text.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TypeVar

from netpold.policy.canonical_parts import Tree, mode_tree, selector_tree
from netpold.policy.cluster_canonical import cluster_policy
from netpold.policy.manifest import Object, parse
from netpold.policy.model import (
    INTERFACE_ANNOTATION,
    ClusterPolicy,
    ContainerPort,
    IPBlock,
    Namespace,
    Node,
    Peer,
    Pod,
    Policy,
    PolicyPort,
    PolicyRule,
    Position,
    TierRule,
)

_Rule = TypeVar("_Rule", PolicyRule, TierRule)
_dumps = json.JSONEncoder(separators=(",", ":"), sort_keys=True, check_circular=False).encode


def written(each: Object) -> str:
    """The manifest of an object, in one line of ASCII.  Its position, and whether it is quarantined, are not in it."""
    return _dumps(_tree(each))


def kind_of(each: Object) -> str:
    """The kind of an object: with its key, that tells it from all others."""
    return each.kind if isinstance(each, Policy | ClusterPolicy) else type(each).__name__


def title(each: Object) -> str:
    """`Kind namespace/name`, or `Kind name`, for people."""
    return f"{kind_of(each)} {each.key.removeprefix(f'{kind_of(each)}/')}"


def _tree(each: Object) -> Tree:
    if isinstance(each, Pod):
        return _pod(each)
    if isinstance(each, Policy):
        return _policy(each)
    if isinstance(each, ClusterPolicy):
        return cluster_policy(each)
    return _namespace(each) if isinstance(each, Namespace) else _node(each)


def read_back(manifest: bytes, position: Position, quarantined: bool) -> Object | None:
    """The object that a manifest says, as it stood at that position; None where the reader refuses it, or it is not
    exactly one."""
    says = parse(manifest, position.file)
    if says.truncated or len(says.objects) != 1 or not _is_said(says.objects[0], manifest, quarantined):
        return None
    found = replace(says.objects[0], position=position, quarantined=quarantined)
    if isinstance(found, Policy):
        ingress, egress = (rules and _placed(rules, position) for rules in (found.ingress, found.egress))
        return replace(found, ingress=ingress, egress=egress)
    if isinstance(found, ClusterPolicy):
        return replace(found, ingress=_placed(found.ingress, position), egress=_placed(found.egress, position))
    return found


def _is_said(found: Object, manifest: bytes, quarantined: bool) -> bool:
    """Whether a manifest says this object and nothing else.  That of a closed policy may have rules that the reader
    refuses: then what becomes of it has to be what was written."""
    if not found.quarantined:
        return True
    try:
        return quarantined and isinstance(found, ClusterPolicy) and _tree(found) == json.loads(manifest)
    except ValueError:  # no JSON: `written` did not write it
        return False


def _placed(rules: tuple[_Rule, ...], position: Position) -> tuple[_Rule, ...]:
    """The rules at the policy's own place: the lines where they stood are those of a file that is there no more."""
    return tuple([replace(rule, position=position) for rule in rules])


def _namespace(namespace: Namespace) -> Tree:
    return {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": namespace.name, "labels": dict(namespace.labels), **mode_tree(namespace.mode)},
        **({"status": {"phase": "Terminating"}} if namespace.terminating else {}),
    }


def _node(node: Node) -> Tree:
    addresses = [{"type": "InternalIP", "address": address} for address in node.addresses]
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": node.name, "labels": dict(node.labels)},
        "status": {"addresses": addresses},
    }


def _pod(pod: Pod) -> Tree:
    metadata: Tree = {"namespace": pod.namespace, "name": pod.name, "labels": dict(pod.labels)}
    if pod.interfaces:
        metadata["annotations"] = {INTERFACE_ANNOTATION: ",".join(pod.interfaces)}
    spec: Tree = {"containers": _containers(pod.ports)} if pod.ports else {}
    if pod.node is not None:
        spec["nodeName"] = pod.node
    if pod.host_network:
        spec["hostNetwork"] = True
    status: Tree = {"podIPs": [{"ip": address} for address in pod.addresses]}
    if pod.finished:
        status["phase"] = "Succeeded"
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec, "status": status}


def _containers(ports: tuple[ContainerPort, ...]) -> list[Tree]:
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


def _container_port(port: ContainerPort) -> Tree:
    return {"name": port.name, "protocol": port.protocol, "containerPort": port.port}


def _policy(policy: Policy) -> Tree:
    spec: Tree = {"podSelector": selector_tree(policy.selector), "policyTypes": []}
    for name, rules, peers in (("Ingress", policy.ingress, "from"), ("Egress", policy.egress, "to")):
        if rules is not None:
            spec["policyTypes"].append(name)
            spec[name.lower()] = [_rule(rule, peers) for rule in rules]
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"namespace": policy.namespace, "name": policy.name, **mode_tree(policy.mode)},
        "spec": spec,
    }


def _rule(rule: PolicyRule, peers: str) -> Tree:
    tree: Tree = {}
    if rule.peers is not None:
        tree[peers] = [_peer(peer) for peer in rule.peers]
    if rule.ports is not None:
        tree["ports"] = [_port(port) for port in rule.ports]
    return tree


def _peer(peer: Peer) -> Tree:
    if isinstance(peer, IPBlock):
        return {"ipBlock": {"cidr": str(peer.cidr), "except": [str(each) for each in peer.excepts]}}
    tree: Tree = {"podSelector": selector_tree(peer.pods)}
    if peer.namespaces is not None:
        tree["namespaceSelector"] = selector_tree(peer.namespaces)
    return tree


def _port(port: PolicyPort) -> Tree:
    tree: Tree = {"protocol": port.protocol}
    if port.port is not None:
        tree["port"] = port.port
    if port.end_port is not None:
        tree["endPort"] = port.end_port
    return tree

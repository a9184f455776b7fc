"""A world as Kubernetes objects and back: plain dictionaries, as kubectl would print them.

Both ways are written apart from netpold's own reader, so that it can be checked against them: reading the manifests of
a world has to give that world. `to_world` takes well-formed objects only; what is wrong in a manifest is the reader's
business.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from ipaddress import ip_address, ip_network
from typing import Any

import yaml

from netpold.policy.model import (
    INTERFACE_ANNOTATION,
    MODE_ANNOTATION,
    NAME_LABEL,
    ContainerPort,
    IPBlock,
    Namespace,
    Operator,
    Peer,
    Pod,
    PodPeer,
    Policy,
    PolicyPort,
    PolicyRule,
    Requirement,
    Selector,
    World,
)

Object = dict[str, Any]


def to_yaml(objects: Iterable[Object]) -> str:
    """One file with a document for each object."""
    return yaml.dump_all(objects, Dumper=_Dumper, sort_keys=False, explicit_start=True)


class _Dumper(yaml.CSafeDumper):
    """Quotes y and n as kubectl does: in YAML 1.1 they are truth values, though PyYAML does not think so.  No anchors
    for parts that come twice: netpold reads none."""

    def ignore_aliases(self, data: object) -> bool:
        return True


_Dumper.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile("[yYnN]"), list("yYnN"))


# A world as objects ---------------------------------------------------------------------------------------------------


def to_manifests(world: World) -> list[Object]:
    """Every object of the world, in the order namespaces, pods, policies. Quarantined ones have no manifest."""
    everything: list[Namespace | Pod | Policy] = [
        *world.namespaces.values(),
        *world.pods.values(),
        *world.policies.values(),
    ]
    broken = [item.key for item in everything if item.quarantined]
    if broken:
        raise ValueError(f"{', '.join(broken)}: a quarantined object has no valid manifest")
    return [
        *(namespace_object(namespace) for namespace in world.namespaces.values()),
        *(pod_object(pod) for pod in world.pods.values()),
        *(policy_object(policy) for policy in world.policies.values()),
    ]


def namespace_object(namespace: Namespace) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": namespace.name, "labels": dict(namespace.labels), **_mode_object(namespace)},
        **({"status": {"phase": "Terminating"}} if namespace.terminating else {}),
    }


def _mode_object(item: Namespace | Policy) -> Object:
    return {"annotations": {MODE_ANNOTATION: item.mode}} if item.mode else {}


def pod_object(pod: Pod) -> Object:
    metadata: Object = {"namespace": pod.namespace, "name": pod.name, "labels": dict(pod.labels)}
    if pod.interfaces:
        metadata["annotations"] = {INTERFACE_ANNOTATION: ",".join(pod.interfaces)}
    spec: Object = {"containers": _containers(pod)}
    if pod.node is not None:
        spec["nodeName"] = pod.node
    if pod.host_network:
        spec["hostNetwork"] = True
    status: Object = {"phase": "Succeeded" if pod.finished else "Running"}
    if pod.addresses:
        status["podIP"] = pod.addresses[0]
        status["podIPs"] = [{"ip": address} for address in pod.addresses]
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec, "status": status}


def _containers(pod: Pod) -> list[Object]:
    """Names of ports are unique within a container, so a name that comes again begins a further one."""
    ports: list[list[ContainerPort]] = [[]]
    for port in pod.ports:
        if any(port.name == other.name for other in ports[-1]):
            ports.append([])
        ports[-1].append(port)
    return [
        {
            "name": f"container-{number}",
            "image": "registry.example/image",
            "ports": [{"name": port.name, "containerPort": port.port, "protocol": port.protocol} for port in group],
        }
        for number, group in enumerate(ports)
    ]


def policy_object(policy: Policy) -> Object:
    spec: Object = {"podSelector": selector_object(policy.selector), "policyTypes": []}
    if policy.ingress is not None:
        spec["policyTypes"].append("Ingress")
        spec["ingress"] = [_rule_object(rule, "from") for rule in policy.ingress]
    if policy.egress is not None:
        spec["policyTypes"].append("Egress")
        spec["egress"] = [_rule_object(rule, "to") for rule in policy.egress]
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"namespace": policy.namespace, "name": policy.name, **_mode_object(policy)},
        "spec": spec,
    }


def _rule_object(rule: PolicyRule, far_end: str) -> Object:
    written: Object = {}
    if rule.peers is not None:
        written[far_end] = [_peer_object(peer) for peer in rule.peers]
    if rule.ports is not None:
        written["ports"] = [_port_object(port) for port in rule.ports]
    return written


def _peer_object(peer: Peer) -> Object:
    if isinstance(peer, IPBlock):
        block: Object = {"cidr": str(peer.cidr)}
        if peer.excepts:
            block["except"] = [str(network) for network in peer.excepts]
        return {"ipBlock": block}
    written: Object = {"podSelector": selector_object(peer.pods)}
    if peer.namespaces is not None:
        written["namespaceSelector"] = selector_object(peer.namespaces)
        if not peer.pods.requirements:
            del written["podSelector"]  # means the same, and is how people write it
    return written


def _port_object(port: PolicyPort) -> Object:
    written: Object = {"protocol": port.protocol}
    if port.port is not None:
        written["port"] = port.port
    if port.end_port is not None:
        written["endPort"] = port.end_port
    return written


def selector_object(selector: Selector) -> Object:
    """`In` with one value as matchLabels where the key is free, everything else as matchExpressions."""
    labels: dict[str, str] = {}
    expressions: list[Object] = []
    for requirement in selector.requirements:
        if requirement.operator is Operator.IN and len(requirement.values) == 1 and requirement.key not in labels:
            labels[requirement.key] = requirement.values[0]
        else:
            expression: Object = {"key": requirement.key, "operator": str(requirement.operator)}
            if requirement.values:
                expression["values"] = list(requirement.values)
            expressions.append(expression)
    written: Object = {}
    if labels:
        written["matchLabels"] = labels
    if expressions:
        written["matchExpressions"] = expressions
    return written


# Objects as a world ---------------------------------------------------------------------------------------------------


def to_world(objects: Iterable[Object]) -> World:
    """The world that valid objects describe; an object that comes twice is an error."""
    pods: dict[str, Pod] = {}
    namespaces: dict[str, Namespace] = {}
    policies: dict[str, Policy] = {}
    for written in objects:
        match written["kind"]:
            case "Pod":
                _put(pods, to_pod(written))
            case "Namespace":
                _put(namespaces, to_namespace(written))
            case "NetworkPolicy":
                _put(policies, to_policy(written))
            case kind:
                raise ValueError(f"{kind} is no kind that netpold reads")
    return World(pods, namespaces, policies)


def _put(into: dict[str, Any], item: Any) -> None:
    if item.key in into:
        raise ValueError(f"{item.key} is there twice")
    into[item.key] = item


def to_namespace(written: Object) -> Namespace:
    metadata = written["metadata"]
    ends = (written.get("status") or {}).get("phase") == "Terminating"
    labels = {**(metadata.get("labels") or {}), NAME_LABEL: metadata["name"]}
    return Namespace(metadata["name"], labels, terminating=ends, mode=_mode(metadata))


def _mode(metadata: Object) -> Any:
    return (metadata.get("annotations") or {}).get(MODE_ANNOTATION)


def to_pod(written: Object) -> Pod:
    metadata, spec, status = written["metadata"], written.get("spec") or {}, written.get("status") or {}
    addresses = [entry["ip"] for entry in status.get("podIPs") or ()]
    if "podIP" in status:
        addresses.insert(0, status["podIP"])
    stay = [container for container in spec.get("initContainers") or () if container.get("restartPolicy") == "Always"]
    interfaces = (metadata.get("annotations") or {}).get(INTERFACE_ANNOTATION, "")
    return Pod(
        namespace=metadata["namespace"],
        name=metadata["name"],
        labels=metadata.get("labels") or {},
        addresses=tuple(dict.fromkeys(str(ip_address(address)) for address in addresses)),
        node=spec.get("nodeName"),
        host_network=spec.get("hostNetwork", False),
        finished=status.get("phase") in ("Succeeded", "Failed"),
        ports=tuple(
            ContainerPort(port["name"], port.get("protocol", "TCP"), port["containerPort"])
            for container in [*(spec.get("containers") or ()), *stay]
            for port in container.get("ports") or ()
            if "name" in port
        ),
        interfaces=tuple(name.strip() for name in interfaces.split(",") if name.strip()),
    )


def to_policy(written: Object) -> Policy:
    metadata, spec = written["metadata"], written.get("spec") or {}
    types = spec.get("policyTypes") or ["Ingress", *(["Egress"] if spec.get("egress") else [])]
    return Policy(
        namespace=metadata["namespace"],
        name=metadata["name"],
        selector=to_selector(spec.get("podSelector") or {}),
        ingress=_rules(spec.get("ingress"), "from") if "Ingress" in types else None,
        egress=_rules(spec.get("egress"), "to") if "Egress" in types else None,
        mode=_mode(metadata),
    )


def _rules(written: list[Object] | None, far_end: str) -> tuple[PolicyRule, ...]:
    return tuple(
        PolicyRule(
            peers=tuple(_peer(peer) for peer in rule[far_end]) if rule.get(far_end) else None,
            ports=tuple(_port(port) for port in rule["ports"]) if rule.get("ports") else None,
        )
        for rule in written or ()
    )


def _peer(written: Object) -> Peer:
    if "ipBlock" in written:
        block = written["ipBlock"]
        excepts = sorted(map(ip_network, block.get("except") or ()), key=str)
        return IPBlock(ip_network(block["cidr"]), tuple(excepts))
    namespaces = written.get("namespaceSelector")
    return PodPeer(
        to_selector(written.get("podSelector") or {}), None if namespaces is None else to_selector(namespaces)
    )


def _port(written: Object) -> PolicyPort:
    return PolicyPort(written.get("protocol", "TCP"), written.get("port"), written.get("endPort"))


def to_selector(written: Mapping[str, Any]) -> Selector:
    requirements = {
        Requirement(key, Operator.IN, (value,)) for key, value in (written.get("matchLabels") or {}).items()
    } | {
        Requirement(
            expression["key"], Operator(expression["operator"]), tuple(sorted(set(expression.get("values") or ())))
        )
        for expression in written.get("matchExpressions") or ()
    }
    return Selector(tuple(sorted(requirements)))

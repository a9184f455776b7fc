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
    CLUSTER_KINDS,
    EVERYTHING,
    INTERFACE_ANNOTATION,
    MODE_ANNOTATION,
    NAME_LABEL,
    Action,
    AnyPolicy,
    ClusterPolicy,
    ContainerPort,
    IPBlock,
    Namespace,
    Node,
    NodePeer,
    Operator,
    Peer,
    Pod,
    PodPeer,
    Policy,
    PolicyPort,
    PolicyRule,
    Requirement,
    Selector,
    Tier,
    TierPeer,
    TierRule,
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
    """Every object of the world, in the order namespaces, nodes, pods, policies. Quarantined ones have no manifest."""
    everything: list[Namespace | Node | Pod | AnyPolicy] = [
        *world.namespaces.values(),
        *world.nodes.values(),
        *world.pods.values(),
        *world.policies.values(),
    ]
    broken = [item.key for item in everything if item.quarantined]
    if broken:
        raise ValueError(f"{', '.join(broken)}: a quarantined object has no valid manifest")
    return [
        *(namespace_object(namespace) for namespace in world.namespaces.values()),
        *(node_object(node) for node in world.nodes.values()),
        *(pod_object(pod) for pod in world.pods.values()),
        *(any_policy_object(policy) for policy in world.policies.values()),
    ]


def any_policy_object(policy: AnyPolicy) -> Object:
    return policy_object(policy) if isinstance(policy, Policy) else cluster_policy_object(policy)


def namespace_object(namespace: Namespace) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": namespace.name, "labels": dict(namespace.labels), **_mode_object(namespace)},
        **({"status": {"phase": "Terminating"}} if namespace.terminating else {}),
    }


def node_object(node: Node) -> Object:
    addresses = [{"type": "Hostname", "address": node.name}]
    addresses += [{"type": "InternalIP", "address": address} for address in node.addresses]
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": node.name, "labels": dict(node.labels)},
        "status": {"addresses": addresses},
    }


def _mode_object(item: Namespace | AnyPolicy) -> Object:
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


def cluster_policy_object(policy: ClusterPolicy) -> Object:
    """As its kind and the version of that write it."""
    old = policy.kind != "ClusterNetworkPolicy"
    spec: Object = {"subject": _tier_pods_object(policy.subject)}
    if policy.kind != "BaselineAdminNetworkPolicy":
        spec["priority"] = policy.priority
    if not old:
        spec["tier"] = str(policy.tier)
    if policy.ingress:
        spec["ingress"] = [_tier_rule_object(rule, "from", old) for rule in policy.ingress]
    if policy.egress:
        spec["egress"] = [_tier_rule_object(rule, "to", old) for rule in policy.egress]
    return {
        "apiVersion": f"policy.networking.k8s.io/{'v1alpha1' if old else 'v1alpha2'}",
        "kind": policy.kind,
        "metadata": {"name": policy.name, **_mode_object(policy)},
        "spec": spec,
    }


def _tier_rule_object(rule: TierRule, far_end: str, old: bool) -> Object:
    if rule.peers is None:
        raise ValueError(f"{rule}: only a closed policy has a rule for anybody")
    action = "Allow" if old and rule.action is Action.ACCEPT else str(rule.action)
    written: Object = {"action": action, far_end: [_tier_peer_object(peer) for peer in rule.peers]}
    if rule.name:
        written["name"] = rule.name
    if rule.ports is not None:
        ports = _named_once(rule.ports)
        if old:
            written["ports"] = [_old_port_object(port) for port in ports]
        else:
            written["protocols"] = [_protocol_object(port) for port in ports]
    return written


def _named_once(ports: tuple[PolicyPort, ...]) -> list[PolicyPort | str]:
    """A port name in place of that of each protocol."""
    found: list[PolicyPort | str] = []
    for port in ports:
        each = port.port if isinstance(port.port, str) else port
        if not isinstance(each, str) or each not in found:
            found.append(each)
    return found


def _protocol_object(port: PolicyPort | str) -> Object:
    if isinstance(port, str):
        return {"destinationNamedPort": port}
    at = {"number": port.port} if port.end_port is None else {"range": {"start": port.port, "end": port.end_port}}
    return {port.protocol.lower(): {"destinationPort": at}}


def _old_port_object(port: PolicyPort | str) -> Object:
    if isinstance(port, str):
        return {"namedPort": port}
    if port.end_port is None:
        return {"portNumber": {"protocol": port.protocol, "port": port.port}}
    return {"portRange": {"protocol": port.protocol, "start": port.port, "end": port.end_port}}


def _tier_peer_object(peer: TierPeer) -> Object:
    if isinstance(peer, IPBlock):
        return {"networks": [str(peer.cidr)]}
    if isinstance(peer, NodePeer):
        return {"nodes": selector_object(peer.nodes)}
    return _tier_pods_object(peer)


def _tier_pods_object(peer: PodPeer) -> Object:
    assert peer.namespaces is not None
    if not peer.pods.requirements:
        return {"namespaces": selector_object(peer.namespaces)}  # means the same, and is how people write it
    namespaces, pods = selector_object(peer.namespaces), selector_object(peer.pods)
    return {"pods": {"namespaceSelector": namespaces, "podSelector": pods}}


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
    policies: dict[str, AnyPolicy] = {}
    nodes: dict[str, Node] = {}
    for written in objects:
        match written["kind"]:
            case "Pod":
                _put(pods, to_pod(written))
            case "Namespace":
                _put(namespaces, to_namespace(written))
            case "NetworkPolicy":
                _put(policies, to_policy(written))
            case kind if kind in CLUSTER_KINDS:
                _put(policies, to_cluster_policy(written))
            case "Node":
                _put(nodes, to_node(written))
            case kind:
                raise ValueError(f"{kind} is no kind that netpold reads")
    return World(pods, namespaces, policies, nodes)


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


def to_node(written: Object) -> Node:
    addresses = [
        str(ip_address(entry["address"]))
        for entry in (written.get("status") or {}).get("addresses") or ()
        if entry["type"] in ("InternalIP", "ExternalIP")
    ]
    return Node(written["metadata"]["name"], written["metadata"].get("labels") or {}, tuple(dict.fromkeys(addresses)))


def to_cluster_policy(written: Object) -> ClusterPolicy:
    """An old kind says neither tier nor, if it is the baseline, priority; it comes last there."""
    kind, metadata, spec = written["kind"], written["metadata"], written["spec"]
    tier = {"AdminNetworkPolicy": "Admin", "BaselineAdminNetworkPolicy": "Baseline"}.get(kind) or spec["tier"]
    return ClusterPolicy(
        name=metadata["name"],
        tier=Tier(tier),
        priority=spec.get("priority", 1000),
        subject=_tier_pods(spec["subject"]),
        ingress=tuple(_tier_rule(rule, "from") for rule in spec.get("ingress") or ()),
        egress=tuple(_tier_rule(rule, "to") for rule in spec.get("egress") or ()),
        kind=kind,
        mode=_mode(metadata),
    )


def _tier_rule(written: Object, far_end: str) -> TierRule:
    ports = written.get("protocols") or written.get("ports")
    return TierRule(
        action=Action("Accept" if written["action"] == "Allow" else written["action"]),
        peers=_once(peer for entry in written[far_end] for peer in _tier_peers(entry)),
        ports=tuple(port for entry in ports for port in _tier_ports(entry)) if ports else None,
        name=written.get("name", ""),
    )


def _once(several: Iterable[TierPeer]) -> tuple[TierPeer, ...]:
    """What is written twice counts once."""
    return tuple(dict.fromkeys(several))


def _tier_peers(written: Object) -> list[TierPeer]:
    if "networks" in written:
        return [IPBlock(ip_network(cidr)) for cidr in written["networks"]]
    if "nodes" in written:
        return [NodePeer(to_selector(written["nodes"]))]
    return [_tier_pods(written)]


def _tier_pods(written: Object) -> PodPeer:
    if "namespaces" in written:
        return PodPeer(EVERYTHING, to_selector(written["namespaces"]))
    pods = written["pods"]
    return PodPeer(to_selector(pods["podSelector"]), to_selector(pods.get("namespaceSelector") or {}))


def _tier_ports(written: Object) -> list[PolicyPort]:
    """Of either version; a name is one of each protocol."""
    name = written.get("destinationNamedPort") or written.get("namedPort")
    if name:
        return [PolicyPort("TCP", name), PolicyPort("UDP", name), PolicyPort("SCTP", name)]
    if "portNumber" in written:
        return [PolicyPort(written["portNumber"].get("protocol", "TCP"), written["portNumber"]["port"])]
    if "portRange" in written:
        span = written["portRange"]
        return [PolicyPort(span.get("protocol", "TCP"), span["start"], span["end"])]
    [(protocol, at)] = written.items()
    port = at["destinationPort"]
    if "range" in port:
        return [PolicyPort(protocol.upper(), port["range"]["start"], port["range"]["end"])]
    return [PolicyPort(protocol.upper(), port["number"])]


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

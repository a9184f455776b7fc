"""Mixtures of all three tiers at random, as manifests: what nobody has thought of.

One number gives one mixture, always the same.  Pods have the addresses that they are given; everything else is made up:
namespaces, labels, ports and their names, nodes, policies of the cluster of all kinds with equal and different
priorities, NetworkPolicies.  Few names and labels, so that they meet.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

Object = dict[str, Any]

NAMESPACES = ("alpha", "beta", "gamma")
APPS = ("web", "api", "db")
STAGES = ("prod", "test")
PORTS: tuple[tuple[str, int], ...] = (
    ("TCP", 80),
    ("TCP", 81),
    ("TCP", 8080),
    ("UDP", 53),
    ("UDP", 80),
    ("SCTP", 9003),
    ("ICMP", 0),
)
_PORT_NAMES = ("http", "dns")
_SERVED = [port for port in PORTS if port[0] != "ICMP"]
_PRIORITIES = (0, 10, 10, 20, 1000)
_ACTIONS = ("Accept", "Accept", "Deny", "Deny", "Deny", "Pass")


@dataclass(frozen=True)
class Place:
    """Where a pod is: its node, and its addresses."""

    node: str
    addresses: tuple[str, ...]


def mixture(
    number: int,
    places: Sequence[Place],
    nodes: dict[str, tuple[str, ...]],
    networks: Sequence[str],
    steady: bool = False,
) -> list[Object]:
    """Objects of all kinds; `nodes` have addresses, `networks` are what policies name.

    `steady`: the same pods and namespaces in all mixtures, so that one can follow the other on a node: pods that are
    still there when their manifest or namespace goes keep the policies that they had.
    """
    return _Mixture(Random(number), nodes, networks, steady).objects(places)


class _Mixture:
    def __init__(
        self, chance: Random, nodes: dict[str, tuple[str, ...]], networks: Sequence[str], steady: bool
    ) -> None:
        self._chance = chance
        self._nodes = nodes
        self._networks = networks
        self._steady = steady

    def objects(self, places: Sequence[Place]) -> list[Object]:
        chance = self._chance
        found = [self._namespace(name) for name in NAMESPACES if chance.random() < 0.9 or self._steady]
        found += [self._node(name) for name in self._nodes if chance.random() < 0.9]
        found += [self._pod(f"p{number}", place) for number, place in enumerate(places)]
        found += [self._host_pod(f"host{number}", name) for number, name in enumerate(self._nodes)]
        found += [self._cluster_policy(f"c{number}") for number in range(chance.randint(1, 5))]
        if chance.random() < 0.3:
            found.append(self._old_admin())
        if chance.random() < 0.3:
            found.append(self._old_baseline())
        found += [self._network_policy(f"n{number}") for number in range(chance.randint(0, 3))]
        return found

    # Who there is -----------------------------------------------------------------------------------------------------

    def _namespace(self, name: str) -> Object:
        labels = {"stage": self._chance.choice(STAGES)}
        return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}

    def _node(self, name: str) -> Object:
        addresses = [{"type": "InternalIP", "address": address} for address in self._nodes[name]]
        return {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": name, "labels": {"stage": self._chance.choice(STAGES)}},
            "status": {"addresses": [{"type": "Hostname", "address": name}, *addresses]},
        }

    def _pod(self, name: str, place: Place) -> Object:
        chance = self._chance
        served = chance.sample(_SERVED, chance.randint(0, 3))
        ports = [
            {"name": label, "protocol": protocol, "containerPort": number}
            for label, (protocol, number) in zip((*_PORT_NAMES, "third"), served, strict=False)
        ]
        labels = {"app": chance.choice(APPS), "stage": chance.choice(STAGES)}
        return _pod_object(self._home(name), name, labels, place, {"containers": [_container(ports)]})

    def _host_pod(self, name: str, node: str) -> Object:
        """Its labels are like those of others; policies don't mean it."""
        chance = self._chance
        labels = {"app": chance.choice(APPS), "stage": chance.choice(STAGES)}
        spec = {"hostNetwork": True, "containers": [_container([])]}
        return _pod_object(self._home(name), name, labels, Place(node, self._nodes[node]), spec)

    def _home(self, name: str) -> str:
        home = self._chance.choice(NAMESPACES)
        return NAMESPACES[int(name[-1]) % len(NAMESPACES)] if self._steady else home

    # Selectors --------------------------------------------------------------------------------------------------------

    def _selector(self, **labels: Sequence[str]) -> Object:
        """Of one or two labels, or for everything."""
        chance = self._chance
        key = chance.choice(sorted(labels))
        match chance.choice(("all", "label", "label", "in", "not", "there")):
            case "label":
                return {"matchLabels": {key: chance.choice(labels[key])}}
            case "in":
                return _expression(key, "In", chance.sample(labels[key], min(2, len(labels[key]))))
            case "not":
                return _expression(key, "NotIn", [chance.choice(labels[key])])
            case "there":
                return _expression(key, chance.choice(("Exists", "Exists", "DoesNotExist")))
        return {}

    def _pods(self) -> Object:
        """Of a policy of the cluster: its subject, or a peer."""
        in_namespaces = self._selector(stage=STAGES, **{"kubernetes.io/metadata.name": NAMESPACES})
        if self._chance.random() < 0.4:
            return {"namespaces": in_namespaces}
        pods: Object = {"podSelector": self._selector(app=APPS, stage=STAGES)}
        if self._chance.random() < 0.6:
            pods["namespaceSelector"] = in_namespaces
        return {"pods": pods}

    # Policies of the cluster ------------------------------------------------------------------------------------------

    def _cluster_policy(self, name: str) -> Object:
        chance = self._chance
        spec: Object = {
            "tier": chance.choice(("Admin", "Admin", "Baseline")),
            "priority": chance.choice(_PRIORITIES),
            "subject": self._pods(),
        }
        for direction in ("ingress", "egress"):
            rules = [self._rule(direction, _ACTIONS, new=True) for _ in range(chance.choice((0, 1, 2, 4)))]
            if rules:
                spec[direction] = rules
        return {
            "apiVersion": "policy.networking.k8s.io/v1alpha2",
            "kind": "ClusterNetworkPolicy",
            "metadata": {"name": name},
            "spec": spec,
        }

    def _old_admin(self) -> Object:
        spec = {"priority": self._chance.choice(_PRIORITIES), "subject": self._old_pods()}
        actions = ["Allow" if action == "Accept" else action for action in _ACTIONS]
        return self._old("AdminNetworkPolicy", "old", spec, actions)

    def _old_baseline(self) -> Object:
        return self._old("BaselineAdminNetworkPolicy", "default", {"subject": self._old_pods()}, ["Allow", "Deny"])

    def _old(self, kind: str, name: str, spec: Object, actions: Sequence[str]) -> Object:
        for direction in ("ingress", "egress"):
            spec[direction] = [self._rule(direction, actions, new=False) for _ in range(self._chance.randint(1, 2))]
        return {
            "apiVersion": "policy.networking.k8s.io/v1alpha1",
            "kind": kind,
            "metadata": {"name": name},
            "spec": spec,
        }

    def _old_pods(self) -> Object:
        pods = self._pods()
        if "pods" in pods:
            pods["pods"].setdefault("namespaceSelector", {})  # left out in the newer version alone
        return pods

    def _rule(self, direction: str, actions: Sequence[str], new: bool) -> Object:
        chance = self._chance
        peers = [self._peer(direction, new) for _ in range(chance.choice((1, 1, 2)))]
        rule: Object = {"action": chance.choice(actions), "from" if direction == "ingress" else "to": peers}
        if chance.random() < 0.3:
            rule["name"] = "a rule"
        named = all("namespaces" in peer or "pods" in peer for peer in peers)
        if chance.random() < 0.6:
            several = [self._port(named, new) for _ in range(chance.choice((1, 1, 2, 3)))]
            rule["protocols" if new else "ports"] = several
        return rule

    def _peer(self, direction: str, new: bool) -> Object:
        chance = self._chance
        kind = chance.choice(("pods", "pods", "networks", "nodes")) if direction == "egress" else "pods"
        if kind == "networks":
            return {"networks": chance.sample(self._networks, chance.choice((1, 1, 2)))}
        if kind == "nodes":
            return {"nodes": self._selector(stage=STAGES)}
        return self._pods() if new else self._old_pods()

    def _port(self, named: bool, new: bool) -> Object:
        chance = self._chance
        protocol, number = chance.choice(_SERVED)
        match chance.choice(("number", "range", "name" if named else "number")):
            case "name":
                return {"destinationNamedPort" if new else "namedPort": chance.choice(_PORT_NAMES)}
            case "range":
                start, end = number - chance.choice((0, 1, 40)), number + chance.choice((1, 2, 8000))
                if new:
                    return {protocol.lower(): {"destinationPort": {"range": {"start": start, "end": end}}}}
                return {"portRange": {"protocol": protocol, "start": start, "end": end}}
        if new:
            return {protocol.lower(): {"destinationPort": {"number": number}}}
        return {"portNumber": {"protocol": protocol, "port": number}}

    # NetworkPolicies --------------------------------------------------------------------------------------------------

    def _network_policy(self, name: str) -> Object:
        chance = self._chance
        spec: Object = {"podSelector": self._selector(app=APPS, stage=STAGES)}
        types = chance.choice((["Ingress"], ["Egress"], ["Ingress", "Egress"]))
        spec["policyTypes"] = types
        for kind in types:
            spec[kind.lower()] = [self._grant(kind) for _ in range(chance.choice((0, 1, 1, 2)))]
        return {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": {"namespace": chance.choice(NAMESPACES), "name": name},
            "spec": spec,
        }

    def _grant(self, kind: str) -> Object:
        chance = self._chance
        rule: Object = {}
        if chance.random() < 0.8:
            rule["from" if kind == "Ingress" else "to"] = [self._granted() for _ in range(chance.choice((1, 2)))]
        if chance.random() < 0.5:
            protocol, number = chance.choice(_SERVED)
            port: object = chance.choice((number, number, chance.choice(_PORT_NAMES)))
            rule["ports"] = [{"protocol": protocol, "port": port}]
        return rule

    def _granted(self) -> Object:
        if self._chance.random() < 0.3:
            return {"ipBlock": {"cidr": self._chance.choice(self._networks)}}
        peer: Object = {"podSelector": self._selector(app=APPS, stage=STAGES)}
        if self._chance.random() < 0.6:
            peer["namespaceSelector"] = self._selector(stage=STAGES)
        return peer


def _expression(key: str, operator: str, values: Sequence[str] = ()) -> Object:
    return {"matchExpressions": [{"key": key, "operator": operator, **({"values": list(values)} if values else {})}]}


def _container(ports: Sequence[Object]) -> Object:
    return {"name": "main", "image": "registry.example/image", "ports": list(ports)}


def _pod_object(namespace: str, name: str, labels: Object, place: Place, spec: Object) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"namespace": namespace, "name": name, "labels": labels},
        "spec": {"nodeName": place.node, **spec},
        "status": {
            "phase": "Running",
            "podIP": place.addresses[0],
            "podIPs": [{"ip": address} for address in place.addresses],
        },
    }

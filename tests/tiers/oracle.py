"""The second oracle: what the API's text says of a packet, from manifests as YAML gives them.

Nothing of netpold is imported, nor what uses it: no model, no reader, no selector.  Valid objects only, and one
pod for each address; what is broken, and what is claimed twice, is the first oracle's business (tests/reference.py).

A rule of a policy of the cluster, of either version, is looked at as it is written.  `Side.by` names what decides:
`(policy's kind and name, index of the rule)`, so that not only the verdict of an explanation can be checked.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import Any, NamedTuple

Object = Mapping[str, Any]

_TIERS = {"AdminNetworkPolicy": "Admin", "BaselineAdminNetworkPolicy": "Baseline"}
_BASELINE_ALONE = 1000  # the priority of a BaselineAdminNetworkPolicy, which has none: it comes last
_AUDIT = "netpold.io/mode"


class Question(NamedTuple):
    """The first packet of a connection: addresses, TCP, UDP, SCTP or another name, the destination's port."""

    source: str
    destination: str
    protocol: str
    port: int | None


class Side(NamedTuple):
    """One direction's verdict and what decided: of a NetworkPolicy without a rule's number; None: nothing did.
    `passed`: the rules that left their tier before."""

    allowed: bool
    by: tuple[str, int] | str | None
    passed: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True)
class Cluster:
    """Everything that there is."""

    objects: tuple[Object, ...]

    @staticmethod
    def of(objects: Iterable[Object]) -> Cluster:
        return Cluster(tuple(objects))

    def allows(self, asked: Question) -> bool:
        """Whether both ends let it pass."""
        return self.side(asked, "egress").allowed and self.side(asked, "ingress").allowed

    def side(self, asked: Question, direction: str, at_home: bool = False) -> Side:
        """What is said on behalf of the sender (`egress`) or the receiver (`ingress`).

        `at_home`: the destination is the pod's own node.  That NetworkPolicies leave to the pods that they isolate, and
        so does what comes after them: netpold's choice, which the API leaves to NetworkPolicy's implementations.
        """
        near, far = (asked.source, asked.destination) if direction == "egress" else (asked.destination, asked.source)
        pod = self._pod_at(near)
        if pod is None or (asked.source in _addresses(pod) and asked.destination in _addresses(pod)):
            return Side(True, None)
        passed: tuple[tuple[str, int], ...] = ()
        admin = self._tier("Admin", pod, direction, far, asked)
        if admin and admin[0] != "Pass":
            return Side(admin[0] == "Accept", admin[1])
        if admin:
            passed = (admin[1],)
        if at_home and any(_isolates(each, pod, direction) for each in self._all("NetworkPolicy")):
            return Side(True, None, passed)
        middle = self._network_policies(pod, direction, far, asked)
        if middle:
            return middle._replace(passed=passed)
        baseline = self._tier("Baseline", pod, direction, far, asked)
        if baseline and baseline[0] != "Pass":
            return Side(baseline[0] == "Accept", baseline[1], passed)
        return Side(True, None, (*passed, baseline[1]) if baseline else passed)

    # Policies of the cluster ------------------------------------------------------------------------------------------

    def _tier(
        self, tier: str, pod: Object, direction: str, far: str, asked: Question
    ) -> tuple[str, tuple[str, int]] | None:
        """The action of the first rule that matches, and which it is."""
        for policy in sorted((each for each in self.objects if _tier_of(each) == tier), key=_order):
            if not self._chosen(policy["spec"]["subject"], pod):
                continue
            for number, rule in enumerate(policy["spec"].get(direction) or ()):
                action = {"Allow": "Accept"}.get(rule["action"], rule["action"])
                if action == "Deny" and _mode(policy) == "audit":
                    continue
                if self._rule_matches(rule, pod, direction, far, asked):
                    return action, (f"{policy['kind']} {policy['metadata']['name']}", number)
        return None

    def _rule_matches(self, rule: Object, pod: Object, direction: str, far: str, asked: Question) -> bool:
        owner = pod if direction == "ingress" else self._pod_at(far)
        protocols = rule.get("protocols") or rule.get("ports")
        if protocols and not any(_protocol_matches(each, owner, asked) for each in protocols):
            return False
        peers = rule["from" if direction == "ingress" else "to"]
        return any(self._is_peer(peer, far) for peer in peers)

    def _is_peer(self, peer: Object, far: str) -> bool:
        if "networks" in peer:
            return any(ip_address(far) in ip_network(cidr) for cidr in peer["networks"])
        if "nodes" in peer:
            return any(far in _node_addresses(node) and _selects(peer["nodes"], node) for node in self._all("Node"))
        pod = self._pod_at(far)
        return pod is not None and self._chosen(peer, pod)

    def _chosen(self, choice: Object, pod: Object) -> bool:
        """Of a subject or a peer: `namespaces`, or `pods` whose namespaceSelector may be left out."""
        if "namespaces" in choice:
            return self._in_namespaces(choice["namespaces"], pod)
        pods = choice["pods"]
        return self._in_namespaces(pods.get("namespaceSelector") or {}, pod) and _selects(pods["podSelector"], pod)

    # NetworkPolicies --------------------------------------------------------------------------------------------------

    def _network_policies(self, pod: Object, direction: str, far: str, asked: Question) -> Side | None:
        """Final where one isolates the pod; those that are audited only grant, but forbid nothing."""
        enforced = False
        key = "from" if direction == "ingress" else "to"
        isolating = [each for each in self._all("NetworkPolicy") if _isolates(each, pod, direction)]
        for policy in isolating:
            for rule in policy["spec"].get(direction) or ():
                if self._grants(policy, rule, rule.get(key) or (), pod, direction, far, asked):
                    return Side(True, "NetworkPolicy")
            home = next((each for each in self._all("Namespace") if _name(each) == _home(policy)), {})
            enforced |= (_mode(policy) or _mode(home)) != "audit"
        return Side(False, "NetworkPolicy") if enforced else None

    def _grants(
        self,
        policy: Object,
        rule: Object,
        peers: Iterable[Object],
        pod: Object,
        direction: str,
        far: str,
        asked: Question,
    ) -> bool:
        other = self._pod_at(far)
        owner = pod if direction == "ingress" else other
        ports = rule.get("ports") or ()
        if not peers:
            return not ports or any(_port_matches(port, owner, asked) for port in ports)
        for peer in peers:
            if "ipBlock" in peer:
                block = peer["ipBlock"]
                inside = ip_address(far) in ip_network(block["cidr"])
                if not inside or any(ip_address(far) in ip_network(each) for each in block.get("except") or ()):
                    continue
                # what is in a block is no pod, and so has no names of ports
                here = pod if direction == "ingress" else None
            else:
                if other is None or not self._is_policy_peer(policy, peer, other):
                    continue
                here = owner
            if not ports or any(_port_matches(port, here, asked) for port in ports):
                return True
        return False

    def _is_policy_peer(self, policy: Object, peer: Object, pod: Object) -> bool:
        if not _selects(peer.get("podSelector") or {}, pod):
            return False
        if peer.get("namespaceSelector") is None:
            return _home(pod) == _home(policy)
        return self._in_namespaces(peer["namespaceSelector"], pod)

    # Objects ----------------------------------------------------------------------------------------------------------

    def _all(self, kind: str) -> Iterable[Object]:
        return (each for each in self.objects if each["kind"] == kind)

    def _pod_at(self, address: str) -> Object | None:
        """The pod that has the address, unless it is on the host's network, or has finished."""
        found = [
            pod
            for pod in self._all("Pod")
            if address in _addresses(pod)
            and not (pod.get("spec") or {}).get("hostNetwork")
            and (pod.get("status") or {}).get("phase") not in ("Succeeded", "Failed")
        ]
        if len(found) > 1:
            raise ValueError(f"{address} is the address of several pods")
        return found[0] if found else None

    def _in_namespaces(self, selector: Object, pod: Object) -> bool:
        name = _home(pod)
        labels: dict[str, str] = {}
        for namespace in self._all("Namespace"):
            if _name(namespace) == name:
                labels = namespace["metadata"].get("labels") or {}
        return _matches(selector, {**labels, "kubernetes.io/metadata.name": name})


def _name(each: Object) -> str:
    return str(each["metadata"]["name"])


def _home(each: Object) -> str:
    return str(each["metadata"].get("namespace") or "default")


def _mode(each: Object) -> str | None:
    annotations = (each.get("metadata") or {}).get("annotations") or {}
    mode = annotations.get(_AUDIT)
    return None if mode is None else str(mode)


def _tier_of(each: Object) -> str | None:
    if each["kind"] == "ClusterNetworkPolicy":
        return str(each["spec"]["tier"])
    return _TIERS.get(each["kind"])


def _order(policy: Object) -> tuple[int, str]:
    """Of one priority the order is netpold's own: by name, the old kinds' before it."""
    kind, name = policy["kind"], _name(policy)
    key = name if kind == "ClusterNetworkPolicy" else f"{kind}/{name}"
    return policy["spec"].get("priority", _BASELINE_ALONE), key


def _addresses(pod: Object) -> list[str]:
    status = pod.get("status") or {}
    found = [entry["ip"] for entry in status.get("podIPs") or ()]
    return found or ([status["podIP"]] if "podIP" in status else [])


def _node_addresses(node: Object) -> list[str]:
    entries = (node.get("status") or {}).get("addresses") or ()
    return [entry["address"] for entry in entries if entry["type"].endswith("IP")]


def _isolates(policy: Object, pod: Object, direction: str) -> bool:
    spec = policy["spec"]
    types = spec.get("policyTypes") or ["Ingress", *(["Egress"] if spec.get("egress") else [])]
    here = _home(policy) == _home(pod) and _selects(spec.get("podSelector") or {}, pod)
    return here and direction.capitalize() in types


def _protocol_matches(written: Object, owner: Object | None, asked: Question) -> bool:
    """An entry of `protocols` (v1alpha2), or of `ports` (v1alpha1)."""
    name = written.get("destinationNamedPort") or written.get("namedPort")
    if name:
        return _has_port(owner, name, asked)
    if "portNumber" in written or "portRange" in written:
        old = written.get("portNumber") or written["portRange"]
        protocol, first = old.get("protocol", "TCP"), old.get("port", old.get("start"))
        last = old.get("end", first)
    else:
        [(protocol, said)] = written.items()
        at = said["destinationPort"]
        first, last = (at["number"],) * 2 if "number" in at else (at["range"]["start"], at["range"]["end"])
    return asked.protocol == protocol.upper() and asked.port is not None and first <= asked.port <= last


def _port_matches(written: Object, owner: Object | None, asked: Question) -> bool:
    """An entry of a NetworkPolicy's `ports`."""
    if asked.protocol != written.get("protocol", "TCP"):
        return False
    port = written.get("port")
    if port is None:
        return True
    if isinstance(port, str):
        return _has_port(owner, port, asked)
    return asked.port is not None and port <= asked.port <= written.get("endPort", port)


def _has_port(pod: Object | None, name: str, asked: Question) -> bool:
    if pod is None:
        return False
    spec = pod.get("spec") or {}
    stay = [each for each in spec.get("initContainers") or () if each.get("restartPolicy") == "Always"]
    return any(
        port.get("name") == name
        and port.get("protocol", "TCP") == asked.protocol
        and port["containerPort"] == asked.port
        for container in [*(spec.get("containers") or ()), *stay]
        for port in container.get("ports") or ()
    )


def _selects(selector: Object, each: Object) -> bool:
    return _matches(selector, each["metadata"].get("labels") or {})


def _matches(selector: Object, labels: Mapping[str, str]) -> bool:
    for key, value in (selector.get("matchLabels") or {}).items():
        if labels.get(key) != value:
            return False
    for said in selector.get("matchExpressions") or ():
        has, among = said["key"] in labels, labels.get(said["key"]) in (said.get("values") or ())
        holds = {"In": has and among, "NotIn": not (has and among), "Exists": has, "DoesNotExist": not has}
        if not holds[said["operator"]]:
            return False
    return True

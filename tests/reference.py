"""The oracle: whether Kubernetes' API text allows a packet, worked out from scratch for every packet.

Naive on purpose. Every question walks all pods and all policies again; nothing is cached, indexed or shared with
netpold's own rules and selectors, so that an error there cannot hide here. Each function names the sentence that it
implements. The text is that of the API reference of networking.k8s.io/v1 NetworkPolicy and of the concept page
"Network Policies" (kubernetes.io); where it leaves something open, the choice is netpold's and says so.

A packet is judged by addresses alone: which interface it takes is the business of the code under test. The pods that an
address stands for are its claimants: the pods that list it, are not finished and are not on the host's network.
Where two pods claim one address the closed reading holds: the policies of both have to allow, and a rule that speaks of
it as a pod's address (by selector, or by a port's name) has to hold for both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from typing import NamedTuple

from netpold.policy.model import (
    EVERYTHING,
    NAME_LABEL,
    Direction,
    IPBlock,
    Operator,
    Pod,
    PodPeer,
    Policy,
    PolicyPort,
    PolicyRule,
    Requirement,
    Selector,
    World,
)


@dataclass(frozen=True, slots=True)
class Packet:
    """The first packet of a flow. `protocol` is TCP, UDP, SCTP or another name; `port` is the destination's, if any."""

    source: str
    destination: str
    protocol: str = "TCP"
    port: int | None = None

    def __str__(self) -> str:
        port = "" if self.port is None else f"{self.port}/"
        return f"{self.source} -> {self.destination} {port}{self.protocol}"


class Verdicts(NamedTuple):
    """What the policies of the sender and those of the receiver say."""

    egress: bool
    ingress: bool


def allowed(world: World, packet: Packet) -> bool:
    """Whether the packet passes.

    "For a connection from a source pod to a destination pod to be allowed, both the egress policy on the source pod
    and the ingress policy on the destination pod need to allow the connection."
    """
    return all(verdicts(world, packet))


def verdicts(world: World, packet: Packet) -> Verdicts:
    """Both sides' verdicts; an address that no pod claims has no policies, so its side allows."""
    if (":" in packet.source) != (":" in packet.destination):
        raise ValueError(f"{packet}: a packet has one address family")
    return Verdicts(
        egress=all(pod_allows(world, pod, Direction.EGRESS, packet) for pod in claimants(world, packet.source)),
        ingress=all(pod_allows(world, pod, Direction.INGRESS, packet) for pod in claimants(world, packet.destination)),
    )


def claimants(world: World, address: str) -> list[Pod]:
    """The pods that an address stands for.

    "NetworkPolicies apply to a connection with a pod on one or both ends". A pod on the host's network has the node's
    address: "Network policy behaviour for hostNetwork pods is undefined"; netpold's choice is the usual one, to treat
    their traffic as the node's. A finished pod has given its address back, so that another pod may have it.
    """
    return [
        pod for pod in world.pods.values() if address in pod.addresses and not pod.host_network and not pod.finished
    ]


def pod_allows(world: World, pod: Pod, direction: Direction, packet: Packet) -> bool:
    """What one pod's policies say about a packet that it sends (egress) or receives (ingress)."""
    # "A pod cannot block access to itself".
    if packet.source in pod.addresses and packet.destination in pod.addresses:
        return True
    if pod.quarantined:
        # netpold's choice: its labels are not to be trusted, so whatever might isolate it does, and nothing grants.
        return not any(
            policy.namespace == pod.namespace and policy.rules(direction) is not None and is_enforced(world, policy)
            for policy in world.policies.values()
        )
    # "By default, a pod is non-isolated for egress [ingress]; all outbound [inbound] connections are allowed. A pod is
    # isolated for egress [ingress] if there is any NetworkPolicy that both selects the pod and has "Egress"
    # ["Ingress"] in its policyTypes".
    isolating = [
        policy
        for policy in world.policies.values()
        if policy_selects(policy, pod) and policy.rules(direction) is not None
    ]
    # netpold's audit mode: policies that are all in name only isolate nobody.
    if not any(is_enforced(world, policy) for policy in isolating):
        return True
    # "Network policies do not conflict; they are additive. [...] the connections allowed in that direction from that
    # pod is the union of what the applicable policies allow."
    return any(policy_grants(world, policy, pod, direction, packet) for policy in isolating)


def is_enforced(world: World, policy: Policy) -> bool:
    """Netpold's own: the annotation netpold.io/mode of a policy, or else of its namespace, may say `audit`; never that
    of a policy that could not be read."""
    namespace = world.namespaces.get(policy.namespace)
    mode = policy.mode or (namespace.mode if namespace else None) or "enforce"
    return policy.quarantined or mode == "enforce"


def policy_selects(policy: Policy, pod: Pod) -> bool:
    """ "podSelector selects the pods to which this NetworkPolicy object applies. [...] An empty selector matches all
    pods in the policy's namespace." """
    return policy.namespace == pod.namespace and selector_matches(policy.selector, pod.labels)


def policy_grants(world: World, policy: Policy, pod: Pod, direction: Direction, packet: Packet) -> bool:
    """ "traffic is allowed [...] if the traffic matches at least one ingress [egress] rule"; "If this field is empty
    then this NetworkPolicy does not allow any traffic"."""
    if policy.quarantined:
        return False  # netpold's choice: a policy that could not be read isolates and grants nothing
    rules = policy.rules(direction) or ()
    return any(rule_matches(world, policy, rule, pod, direction, packet) for rule in rules)


def rule_matches(
    world: World, policy: Policy, rule: PolicyRule, pod: Pod, direction: Direction, packet: Packet
) -> bool:
    """ "The traffic must match both ports and from [to]." """
    far_end = packet.source if direction is Direction.INGRESS else packet.destination
    far_pods = claimants(world, far_end)
    # Named ports are "on a pod", and that pod is the destination: the selected pod for ingress ("ports which should be
    # made accessible on the pods selected for this rule"), the far end for egress.
    owners = [pod] if direction is Direction.INGRESS else far_pods
    if rule.peers is None:
        # "If this field is empty or missing, this rule matches all sources [destinations]". netpold's choice: together
        # with a port's name, all destinations are the pods of all namespaces, as `namespaceSelector: {}` says it.
        if direction is Direction.EGRESS and not all(
            namespace_matches(world, EVERYTHING, far_pod.namespace) for far_pod in far_pods
        ):
            owners = []
        return ports_match(rule.ports, packet, owners)
    # "Items in this list are combined using a logical OR operation."
    blocks = [peer for peer in rule.peers if isinstance(peer, IPBlock)]
    # Addresses in an ipBlock are no pods, so that names of ports at the far end mean nothing there.
    owners_in_block = [pod] if direction is Direction.INGRESS else []
    if any(block_holds(block, far_end) for block in blocks) and ports_match(rule.ports, packet, owners_in_block):
        return True
    pod_peers = [peer for peer in rule.peers if isinstance(peer, PodPeer)]
    return (
        bool(far_pods)
        and all(any(pod_is_peer(world, policy, peer, far_pod) for peer in pod_peers) for far_pod in far_pods)
        and ports_match(rule.ports, packet, owners)
    )


def block_holds(block: IPBlock, address: str) -> bool:
    """ "IPBlock describes a particular CIDR [...]. The except entry describes CIDRs that should not be included within
    this rule." An address of the other family is in no block (and `in` of the ipaddress module says so)."""
    where = ip_address(address)
    return where in block.cidr and not any(where in network for network in block.excepts)


def pod_is_peer(world: World, policy: Policy, peer: PodPeer, pod: Pod) -> bool:
    """ "If namespaceSelector is also set, then the NetworkPolicyPeer as a whole selects the pods matching podSelector
    in the namespaces selected by namespaceSelector. Otherwise it selects the pods matching podSelector in the
    policy's own namespace." """
    if pod.quarantined:
        return False
    if peer.namespaces is None:
        if pod.namespace != policy.namespace:
            return False
    elif not namespace_matches(world, peer.namespaces, pod.namespace):
        return False
    return selector_matches(peer.pods, pod.labels)


def namespace_matches(world: World, selector: Selector, name: str) -> bool:
    """ "namespaceSelector selects namespaces using cluster-scoped labels [...]; if present but empty, it selects all
    namespaces." "The Kubernetes control plane sets an immutable label kubernetes.io/metadata.name on all namespaces,
    the value of the label is the namespace name." """
    namespace = world.namespaces.get(name)
    if namespace is None:
        return selector_matches(selector, {NAME_LABEL: name})
    return not namespace.quarantined and selector_matches(selector, namespace.labels)


def ports_match(ports: tuple[PolicyPort, ...] | None, packet: Packet, owners: list[Pod]) -> bool:
    """ "Each item in this list is combined using a logical OR. If this field is empty or missing, this rule matches all
    ports (traffic not restricted by port)." Traffic without ports (ICMP) matches then, and only then."""
    if ports is None:
        return True
    return any(port_matches(port, packet, owners) for port in ports)


def port_matches(port: PolicyPort, packet: Packet, owners: list[Pod]) -> bool:
    """ "If present, only traffic on the specified protocol AND port will be matched."

    "If this field [port] is not provided, this matches all port names and numbers." "endPort indicates that the range
    of ports from port to endPort if set, inclusive, should be allowed by the policy."
    """
    if packet.protocol != port.protocol:
        return False
    if port.port is None:
        return True
    if packet.port is None:
        return False
    if isinstance(port.port, str):
        return bool(owners) and all(pod_names_port(owner, port.port, packet) for owner in owners)
    last = port.port if port.end_port is None else port.end_port
    return port.port <= packet.port <= last


def pod_names_port(pod: Pod, name: str, packet: Packet) -> bool:
    """Whether a container of the pod has a port of that name with the packet's protocol and number."""
    if pod.quarantined:
        return False  # netpold's choice: what a bad manifest says of ports is not to be trusted either
    return any(
        port.name == name and port.protocol == packet.protocol and port.port == packet.port for port in pod.ports
    )


def selector_matches(selector: Selector, labels: Mapping[str, str]) -> bool:
    """ "matchLabels and matchExpressions are ANDed. An empty label selector matches all objects." """
    return all(requirement_holds(requirement, labels) for requirement in selector.requirements)


def requirement_holds(requirement: Requirement, labels: Mapping[str, str]) -> bool:
    """Label selector operators: with `NotIn`, "all resources [...] with no labels with the key" match too."""
    present = requirement.key in labels
    if requirement.operator == Operator.EXISTS:
        return present
    if requirement.operator == Operator.DOES_NOT_EXIST:
        return not present
    among = present and labels[requirement.key] in requirement.values
    if requirement.operator == Operator.IN:
        return among
    if requirement.operator == Operator.NOT_IN:
        return not among
    raise ValueError(f"{requirement.operator} is no label selector operator")

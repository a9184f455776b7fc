"""The oracle: whether Kubernetes' API text allows a packet, worked out from scratch for every packet.

Naive on purpose. Every question walks all pods and all policies again; nothing is cached, indexed or shared with
netpold's own rules and selectors, so that an error there cannot hide here. Each function names the sentence that it
implements. The text is that of the API reference of networking.k8s.io/v1 NetworkPolicy and of the concept page
"Network Policies" (kubernetes.io); where it leaves something open, the choice is netpold's and says so.

Of ClusterNetworkPolicies the text is that of the types in kubernetes-sigs/network-policy-api; there is a second
oracle of them, over plain manifests (tests/tiers/oracle.py), and both are held against each other.

A packet is judged by addresses alone: which interface it takes is the business of the code under test. The pods that an
address stands for are its claimants: the pods that list it, are not finished and are not on the host's network.
Where two pods claim one address the closed reading holds: the policies of both have to allow, and a rule that speaks of
it as a pod's address (by selector, or by a port's name) has to hold for both; a rule that denies, for any.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from typing import NamedTuple

from netpold.policy.model import (
    EVERYTHING,
    NAME_LABEL,
    Action,
    ClusterPolicy,
    Direction,
    IPBlock,
    NodePeer,
    Operator,
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
    # "The Admin tier takes precedence over all other policies. [...] If Admin tier has made a final decision (Accept
    # or Deny) on a connection, then no further evaluation is done."
    admin = tier_says(world, Tier.ADMIN, pod, direction, packet)
    if admin in (Action.ACCEPT, Action.DENY):
        return admin is Action.ACCEPT
    # "v1.NetworkPolicy always makes a final decision for selected pods. Further evaluation only happens for Pods not
    # selected by a v1.NetworkPolicy."
    network_policies = network_policies_say(world, pod, direction, packet)
    if network_policies is not None:
        return network_policies
    # "If a given connection wasn't allowed or denied by any of the tiers, the default kubernetes policy is applied,
    # which says that all pods can communicate with each other."
    return tier_says(world, Tier.BASELINE, pod, direction, packet) is not Action.DENY


def network_policies_say(world: World, pod: Pod, direction: Direction, packet: Packet) -> bool | None:
    """The verdict of the NetworkPolicies; None where none isolates the pod, or only audited ones that do not allow."""
    policies = [policy for policy in world.policies.values() if isinstance(policy, Policy)]
    if pod.quarantined:
        # netpold's choice: its labels are not to be trusted, so whatever might isolate it does, and nothing grants.
        isolated = any(
            policy.namespace == pod.namespace and policy.rules(direction) is not None and is_enforced(world, policy)
            for policy in policies
        )
        return False if isolated else None
    # "By default, a pod is non-isolated for egress [ingress]; all outbound [inbound] connections are allowed. A pod is
    # isolated for egress [ingress] if there is any NetworkPolicy that both selects the pod and has "Egress"
    # ["Ingress"] in its policyTypes".
    isolating = [policy for policy in policies if policy_selects(policy, pod) and policy.rules(direction) is not None]
    # "Network policies do not conflict; they are additive. [...] the connections allowed in that direction from that
    # pod is the union of what the applicable policies allow."
    if any(policy_grants(world, policy, pod, direction, packet) for policy in isolating):
        return True
    # netpold's audit mode: policies that are all in name only isolate nobody.
    return False if any(is_enforced(world, policy) for policy in isolating) else None


# The tiers of ClusterNetworkPolicies ----------------------------------------------------------------------------------


def tier_says(world: World, tier: Tier, pod: Pod, direction: Direction, packet: Packet) -> Action | None:
    """What the first rule of a tier does that matches, None where none does.

    "Policies with lower priority values have higher precedence, and are checked before policies with higher priority
    values in the same tier." "If two (or more) policies in the same tier with the same priority could match a
    connection, then the implementation can apply any of the matching policies": netpold's choice is the order of keys.
    "The relative precedence of ingress rules within a single CNP object [...] will be determined by the order in which
    the rule is written." "Pass: Skips all further ClusterNetworkPolicy rules in the current tier".
    """
    policies = [each for each in world.policies.values() if isinstance(each, ClusterPolicy) and each.tier is tier]
    for policy in sorted(policies, key=lambda each: (each.priority, each.key)):
        for rule in policy.rules(direction):
            denies = rule.action is Action.DENY
            if not is_subject(world, policy, pod, denies):
                continue
            if not tier_rule_matches(world, rule, pod, direction, packet):
                continue
            if denies and policy.mode == "audit" and not policy.quarantined:
                continue  # netpold's own: it only says what it would drop
            return rule.action
    return None


def is_subject(world: World, policy: ClusterPolicy, pod: Pod, denies: bool) -> bool:
    """netpold's choice: all namespaces hold one whose labels are unknown, too; that can't be said of all pods, for what
    could not be read of a pod may be more than its labels."""
    if policy.subject.namespaces == EVERYTHING and not pod.quarantined:
        return selector_matches(policy.subject.pods, pod.labels)
    return pods_chosen(world, policy.subject, pod, denies)


def pods_chosen(world: World, chosen: PodPeer, pod: Pod, denies: bool) -> bool:
    """Whether a pod is among those of a subject or peer. "Note that host-networked pods are not included"; those are
    no claimants of an address. netpold's choice: one whose labels, or whose namespace's, are unknown may be any, so it
    is where rules deny, and nowhere else."""
    assert chosen.namespaces is not None
    namespace = world.namespaces.get(pod.namespace)
    if namespace is not None and namespace.quarantined:
        in_namespaces = denies
    else:
        in_namespaces = namespace_matches(world, chosen.namespaces, pod.namespace)
    return in_namespaces and (denies if pod.quarantined else selector_matches(chosen.pods, pod.labels))


def tier_rule_matches(world: World, rule: TierRule, pod: Pod, direction: Direction, packet: Packet) -> bool:
    """Whether any of the peers is the far end, and the packet one of the protocols. "If unspecified, protocol-specific
    attributes will not be used to match traffic." """
    far_end = packet.source if direction is Direction.INGRESS else packet.destination
    far_pods = claimants(world, far_end)
    denies = rule.action is Action.DENY
    # "DestinationNamedPort selects a destination port on a pod based on the ContainerPort name."
    owners = [pod] if direction is Direction.INGRESS else far_pods
    ports_of = dict.fromkeys((owner.key for owner in owners), False)
    for owner in owners:
        ports_of[owner.key] = tier_ports_match(rule.ports, packet, owner, denies)
    without_pod = tier_ports_match(rule.ports, packet, pod if direction is Direction.INGRESS else None, denies)
    if rule.peers is None:
        several = [ports_of[owner.key] for owner in owners]
        return (any(several) if denies else all(several)) if several else without_pod
    if without_pod and any(address_is_peer(world, peer, far_end, denies) for peer in rule.peers):
        return True
    if denies and may_be_anybodys(far_end, direction):
        unread = Pod("", "", {}, (), quarantined=True)
        may_be = direction is Direction.EGRESS and tier_ports_match(rule.ports, packet, unread, denies)
        if any(not isinstance(peer, IPBlock) for peer in rule.peers) and (without_pod or may_be):
            return True
    pod_peers = [peer for peer in rule.peers if isinstance(peer, PodPeer)]
    found = [
        any(pods_chosen(world, peer, far_pod, denies) for peer in pod_peers)
        and (without_pod if direction is Direction.INGRESS else ports_of[far_pod.key])
        for far_pod in far_pods
    ]
    return bool(found) and (any(found) if denies else all(found))


def may_be_anybodys(address: str, direction: Direction) -> bool:
    """netpold's choice: whose an IPv6 link-local address is no manifest tells, and what is sent to a group or to all on
    a link any pod or node may get."""
    where = ip_address(address)
    if direction is Direction.EGRESS and (where.is_multicast or address == "255.255.255.255"):
        return True
    return where.version == 6 and where.is_link_local


def address_is_peer(world: World, peer: TierPeer, address: str, denies: bool) -> bool:
    """Networks: "cluster-internal traffic will be checked against the rule as well". Nodes: "matching on the IPs
    present in the node.Status.Addresses field of the node"; netpold's choice: a node whose labels are unknown is any
    node where rules deny, and none elsewhere."""
    if isinstance(peer, IPBlock):
        return block_holds(peer, address)
    return isinstance(peer, NodePeer) and any(
        address in node.addresses and (denies if node.quarantined else selector_matches(peer.nodes, node.labels))
        for node in world.nodes.values()
    )


def tier_ports_match(ports: tuple[PolicyPort, ...] | None, packet: Packet, owner: Pod | None, denies: bool) -> bool:
    """Whether the packet goes to one of the ports, where the destination is that pod, or no pod. netpold's choice: of a
    pod whose manifest could not be read any port may have any name, where rules deny."""
    if ports is None:
        return True
    for port in ports:
        if isinstance(port.port, str) and owner is not None and owner.quarantined:
            if denies and packet.protocol == port.protocol and packet.port is not None:
                return True
        elif port_matches(port, packet, [owner] if owner else []):
            return True
    return False


# NetworkPolicies ------------------------------------------------------------------------------------------------------


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

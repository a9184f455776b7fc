"""Pods and nodes that a peer selects, as values: what sets of addresses are made from."""

from __future__ import annotations

from dataclasses import dataclass

from netpold.policy.model import (
    EVERYTHING,
    ClusterPolicy,
    Namespace,
    Node,
    NodePeer,
    Pod,
    PodPeer,
    Policy,
    Selector,
)
from netpold.policy.selector import describe, matches


@dataclass(frozen=True, slots=True, order=True)
class PodGroup:
    """Pods that one peer selects, told apart by meaning: `namespace` is the policy's own where the peer names none;
    otherwise it is '' and `namespaces` selects by label.

    `possible`: those count too that may be among them for all that is known (pods and namespaces that are quarantined),
    and an address that several pods claim counts with any of them.  So is denied what may have to be."""

    namespace: str
    namespaces: Selector
    pods: Selector
    possible: bool = False

    @staticmethod
    def of(peer: PodPeer, policy: Policy | ClusterPolicy, possible: bool = False) -> PodGroup:
        if peer.namespaces is None:
            assert isinstance(policy, Policy)
            return PodGroup(policy.namespace, EVERYTHING, peer.pods)
        return PodGroup("", peer.namespaces, peer.pods, possible)

    def has_labels_of(self, pod: Pod) -> bool:
        """Whether the pod's labels are those of the group, or may be."""
        return (self.possible and pod.quarantined) or matches(self.pods, pod.labels)

    def may_hold(self, pod: Pod) -> bool:
        """Whether the pod is one of the group for all that its own manifest says."""
        return self.possible if pod.quarantined else matches(self.pods, pod.labels)

    def reaches(self, namespace: Namespace) -> bool:
        """Whether pods of the namespace can be in the group, which names none."""
        return self.possible if namespace.quarantined else matches(self.namespaces, namespace.labels)

    def __str__(self) -> str:
        where = f"namespace {self.namespace}" if self.namespace else f"namespaces {describe(self.namespaces)}"
        return f"pods {describe(self.pods)} in {where}{_OR_UNKNOWN if self.possible else ''}"


@dataclass(frozen=True, slots=True, order=True)
class NodeGroup:
    """Nodes that one peer selects; `possible`: with those that are quarantined."""

    nodes: Selector
    possible: bool = False

    @staticmethod
    def of(peer: NodePeer, possible: bool = False) -> NodeGroup:
        return NodeGroup(peer.nodes, possible)

    def holds(self, node: Node) -> bool:
        return self.possible if node.quarantined else matches(self.nodes, node.labels)

    def __str__(self) -> str:
        return f"nodes {describe(self.nodes)}{_OR_UNKNOWN if self.possible else ''}"


Group = PodGroup | NodeGroup
_OR_UNKNOWN = ", or of unknown labels"
EVERY_POD = PodGroup("", EVERYTHING, EVERYTHING)

"""Which policies judge a pod: those that isolate it, and those of the tiers that are about it."""

from __future__ import annotations

from dataclasses import dataclass

from netpold.policy.model import EVERYTHING, AnyPolicy, ClusterPolicy, Namespace, Pod, Policy, Selector
from netpold.policy.selector import matches


@dataclass(frozen=True, slots=True)
class Isolation:
    """What holds for one pod in one direction: the policies that isolate it (by key), and whether they may grant.

    A quarantined pod is isolated by whatever might select it, and granted nothing.
    `admin`, `baseline`: the ClusterNetworkPolicies with rules for it, in the order in which they count; of those in
    `denying` (keys), which only may select it for all that is known, only what they deny counts.
    """

    policies: tuple[Policy, ...]
    grants: bool = True
    admin: tuple[ClusterPolicy, ...] = ()
    baseline: tuple[ClusterPolicy, ...] = ()
    denying: frozenset[str] = frozenset()

    def __bool__(self) -> bool:
        """Whether anything judges the pod."""
        return bool(self.policies or self.admin or self.baseline)

    @property
    def tiers(self) -> tuple[ClusterPolicy, ...]:
        """Those of both tiers."""
        return self.admin + self.baseline

    @property
    def all(self) -> tuple[AnyPolicy, ...]:
        """All of them, in the order in which they are asked; Baseline is not where NetworkPolicies decide."""
        return (*self.admin, *self.policies, *self.baseline)


def selects(policy: ClusterPolicy, pod: Pod, namespace: Namespace) -> bool | None:
    """Whether the policy is about the pod, which is in that namespace: True, None for no, False for: it may be."""
    spaces, pods = policy.subject.namespaces or EVERYTHING, policy.subject.pods
    surely = (spaces == EVERYTHING or chosen(spaces, namespace)) and (pods == EVERYTHING or _has(pods, pod))
    if surely:
        return True
    may_be = (namespace.quarantined or matches(spaces, namespace.labels)) and (
        pod.quarantined or matches(pods, pod.labels)
    )
    return False if may_be else None


def _has(selector: Selector, pod: Pod) -> bool:
    return not pod.quarantined and matches(selector, pod.labels)


def chosen(selector: Selector, namespace: Namespace) -> bool:
    """Whether a selector of namespaces selects this one; one of which the labels are not known, never."""
    return not namespace.quarantined and matches(selector, namespace.labels)

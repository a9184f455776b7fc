"""What the manifests say no more, and holds on all the same, as frozen values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from netpold.policy.index import Isolation
from netpold.policy.model import Direction, Pod, Policy
from netpold.policy.selector import matches
from netpold.rules.endpoint import Endpoint


@dataclass(frozen=True, slots=True)
class Gone:
    """A pod whose manifest is gone while its interface is still there: nobody's peer, but isolated as it was.

    `pod`: as it was last; `endpoint`: its addresses, and the interfaces that are left.
    """

    pod: Pod
    endpoint: Endpoint


@dataclass(frozen=True, slots=True)
class Past:
    """`pods`: by a name that no pod has (`namespace/name@interface`).  `policies`: by key, those that are in the world
    no more and hold for these pods, and for all pods of the namespaces in `ending`."""

    pods: Mapping[str, Gone] = field(default_factory=dict)
    policies: Mapping[str, Policy] = field(default_factory=dict)
    ending: frozenset[str] = frozenset()

    def isolating(self, isolation: Isolation, key: str, pod: Pod, direction: Direction) -> Isolation:
        """What holds for the pod of that name: `isolation`, and the kept policies that isolate it, too."""
        if not self.policies or (key not in self.pods and pod.namespace not in self.ending):
            return isolation
        kept = [
            each
            for each in self.policies.values()
            if each.namespace == pod.namespace
            and each.rules(direction) is not None
            and (pod.quarantined or matches(each.selector, pod.labels))
        ]
        policies = sorted((*isolation.policies, *kept), key=lambda policy: policy.key)
        return Isolation(tuple(policies), isolation.grants)


NO_PAST = Past()

"""A pod of this node, as a frozen value: all that its rules depend on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from netpold.policy.isolation import Isolation
from netpold.policy.model import Action, AnyPolicy, ClusterPolicy, ContainerPort, Direction, Family
from netpold.rules.audit import all_audited
from netpold.rules.endpoint import Endpoint


@dataclass(frozen=True, slots=True)
class Local:
    """A pod of this node with what its rules depend on.  `audited`: the keys of those of its policies that are."""

    key: str
    ports: tuple[ContainerPort, ...]
    endpoint: Endpoint
    isolation: Mapping[Direction, Isolation]
    audited: frozenset[str] = frozenset()

    def is_isolated(self, direction: Direction) -> bool:
        """Whether NetworkPolicies isolate it, and not in name only."""
        return not all_audited(self.isolation[direction].policies, self.audited)

    def closes(self, direction: Direction) -> bool:
        """Whether it is isolated or anything denied to it, and not in name only."""
        return not self.audited.issuperset(self.dropping(direction))

    def dropping(self, direction: Direction) -> tuple[str, ...]:
        """The keys of the policies that may have packets dropped, audited ones included; of the Baseline tier none
        where NetworkPolicies decide."""
        isolation = self.isolation[direction]
        asked = isolation.baseline if all_audited(isolation.policies, self.audited) else ()
        found: tuple[AnyPolicy, ...] = (*isolation.admin, *isolation.policies, *asked)
        return tuple(policy.key for policy in found if _drops(policy, direction))

    @property
    def has_tiers(self) -> bool:
        """Whether any ClusterNetworkPolicy is about it."""
        return any(isolation.tiers for isolation in self.isolation.values())

    def own(self, family: Family) -> list[str]:
        return [address for address in self.endpoint.addresses if (":" in address) == (family == 6)]

    def judged_at(self, family: Family) -> list[str]:
        """Its own addresses and those that it lost."""
        return [address for address in self.endpoint.judged_at if (":" in address) == (family == 6)]


def _drops(policy: AnyPolicy, direction: Direction) -> bool:
    if isinstance(policy, ClusterPolicy):
        return any(rule.action is Action.DENY for rule in policy.rules(direction))
    return policy.rules(direction) is not None

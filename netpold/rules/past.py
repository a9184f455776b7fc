"""What the manifests say no more, and holds on all the same, as frozen values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from netpold.policy.isolation import Isolation, selects
from netpold.policy.model import Action, AnyPolicy, ClusterPolicy, Direction, Namespace, Pod, Policy, Tier, TierRule
from netpold.policy.selector import matches
from netpold.rules.endpoint import Endpoint


@dataclass(frozen=True, slots=True)
class Gone:
    """A pod whose manifest is gone while its interface is still there: nobody's peer, but isolated as it was.

    `pod`: as it was last, in `namespace`; `endpoint`: its addresses, and the interfaces that are left.
    """

    pod: Pod
    endpoint: Endpoint
    namespace: Namespace


@dataclass(frozen=True, slots=True)
class Past:
    """`pods`: by a name that no pod has (`namespace/name@interface`).  `policies`: by key, those that are in the world
    no more and hold for these pods, and for all pods of the namespaces in `ending`.  `namespaces`: by name, as they
    were, those whose objects are gone while pods of theirs are not, on whatever node.  `lost`: by address, pods whose
    manifests say it no more, with their namespaces; their endpoints have these addresses, too."""

    pods: Mapping[str, Gone] = field(default_factory=dict)
    policies: Mapping[str, AnyPolicy] = field(default_factory=dict)
    ending: frozenset[str] = frozenset()
    namespaces: Mapping[str, Namespace] = field(default_factory=dict)
    lost: Mapping[str, tuple[tuple[Pod, Namespace], ...]] = field(default_factory=dict)

    def lasting(self) -> dict[str, tuple[Policy, ...]]:
        """By namespace, the policies that hold for all pods of these in `ending`."""
        found = [each for each in self.policies.values() if isinstance(each, Policy) and each.namespace in self.ending]
        return {name: tuple(each for each in found if each.namespace == name) for name in self.ending}

    def left(self) -> dict[str, tuple[tuple[Pod, Namespace], ...]]:
        """By address, the pods that are left there."""
        found: dict[str, tuple[tuple[Pod, Namespace], ...]] = dict(self.lost)
        for each in self.pods.values():
            for address in each.endpoint.addresses:
                found[address] = (*found.get(address, ()), (each.pod, each.namespace))
        return found

    def isolating(self, isolation: Isolation, key: str, pod: Pod, direction: Direction) -> Isolation:
        """What holds for the pod of that name: `isolation`, and the kept policies that isolate it, too."""
        if not self.policies or (key not in self.pods and pod.namespace not in self.ending):
            return isolation
        kept = [
            each
            for each in self.policies.values()
            if isinstance(each, Policy)
            and each.namespace == pod.namespace
            and each.rules(direction) is not None
            and (pod.quarantined or matches(each.selector, pod.labels))
        ]
        by_key = {policy.key: policy for policy in (*isolation.policies, *kept)}
        policies = [by_key[key] for key in sorted(by_key)]
        found = replace(isolation, policies=tuple(policies))
        if key not in self.pods:
            return found
        return self._with_tiers(found, self.pods[key], direction, _is_closed(isolation, direction))

    def _with_tiers(self, isolation: Isolation, gone: Gone, direction: Direction, is_closed: bool) -> Isolation:
        """With the kept ClusterNetworkPolicies that are about it.  `is_closed`: by others that are still there, which
        these are not to open: then only what they deny counts."""
        kept = {
            _denials(each) if is_closed else each: selects(each, gone.pod, gone.namespace)
            for each in self.policies.values()
            if isinstance(each, ClusterPolicy) and each.rules(direction)
        }
        by_tier = {
            tier: [each for each, chosen in kept.items() if each.tier is tier and chosen is not None] for tier in Tier
        }
        return replace(
            isolation,
            admin=tuple(sorted((*isolation.admin, *by_tier[Tier.ADMIN]), key=lambda each: each.order)),
            baseline=tuple(sorted((*isolation.baseline, *by_tier[Tier.BASELINE]), key=lambda each: each.order)),
            denying=isolation.denying | {each.key for each, chosen in kept.items() if chosen is False},
        )


def _is_closed(isolation: Isolation, direction: Direction) -> bool:
    """Whether anything may be denied."""
    rules = (rule for policy in isolation.tiers for rule in policy.rules(direction))
    return bool(isolation.policies) or any(rule.action is Action.DENY for rule in rules)


def _denials(policy: ClusterPolicy) -> ClusterPolicy:
    """The policy with rules that deny, at their places; the others match nothing."""

    def kept(rules: tuple[TierRule, ...]) -> tuple[TierRule, ...]:
        return tuple(rule if rule.action is Action.DENY else replace(rule, peers=()) for rule in rules)

    return replace(policy, ingress=kept(policy.ingress), egress=kept(policy.egress))


NO_PAST = Past()

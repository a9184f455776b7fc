"""Who matches whom.

Built over one world.  Pods are found by inverted indexes (namespace, label value, label key), so that a selector is
compared only with the smallest group of pods that can meet it; answers are kept for the life of the index.  Only
selectors that somebody asks for cost anything.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from netpold.policy.model import (
    EVERYTHING,
    Direction,
    Namespace,
    Operator,
    Pod,
    PodPeer,
    Policy,
    Selector,
    World,
)
from netpold.policy.selector import describe, matches


@dataclass(frozen=True, slots=True, order=True)
class PodGroup:
    """Pods that one peer selects, told apart by meaning: `namespace` is the policy's own where the peer names none;
    otherwise it is '' and `namespaces` selects by label."""

    namespace: str
    namespaces: Selector
    pods: Selector

    @staticmethod
    def of(peer: PodPeer, policy: Policy) -> PodGroup:
        if peer.namespaces is None:
            return PodGroup(policy.namespace, EVERYTHING, peer.pods)
        return PodGroup("", peer.namespaces, peer.pods)

    def __str__(self) -> str:
        where = f"namespace {self.namespace}" if self.namespace else f"namespaces {describe(self.namespaces)}"
        return f"pods {describe(self.pods)} in {where}"


EVERY_POD = PodGroup("", EVERYTHING, EVERYTHING)


@dataclass(frozen=True, slots=True)
class Isolation:
    """What holds for one pod in one direction: the policies that isolate it (by key), and whether they may grant.

    A quarantined pod is isolated by whatever might select it, and granted nothing.
    """

    policies: tuple[Policy, ...]
    grants: bool = True

    def __bool__(self) -> bool:
        return bool(self.policies)


class Index:
    """Answers for one world; the world must not change under it."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._pods_by_namespace: dict[str, list[Pod]] = defaultdict(list)
        self._by_address: dict[str, list[Pod]] = defaultdict(list)
        for pod in world.pods.values():
            if not pod.takes_part:
                continue
            self._pods_by_namespace[pod.namespace].append(pod)
            for address in pod.addresses:
                self._by_address[address].append(pod)
        self._policies_by_namespace: dict[str, list[Policy]] = defaultdict(list)
        for key in sorted(world.policies):
            policy = world.policies[key]
            self._policies_by_namespace[policy.namespace].append(policy)
        self._by_label: dict[tuple[str, str], list[Pod]] | None = None
        self._members: dict[PodGroup, frozenset[str]] = {}
        self._namespaces: dict[Selector, frozenset[str]] = {}

    def isolation(self, pod: Pod, direction: Direction) -> Isolation:
        """The policies that isolate the pod in that direction, sorted by key."""
        policies = tuple(
            policy
            for policy in self._policies_by_namespace.get(pod.namespace, ())
            if policy.rules(direction) is not None and (pod.quarantined or matches(policy.selector, pod.labels))
        )
        return Isolation(policies, grants=not pod.quarantined)

    def members(self, group: PodGroup) -> frozenset[str]:
        """The keys of the pods in a group.  Quarantined pods, and namespaces where labels select them, are in none."""
        found = self._members.get(group)
        if found is None:
            found = frozenset(pod.key for pod in self._candidates(group) if self._matches(group, pod))
            self._members[group] = found
        return found

    def claimants(self, address: str) -> list[Pod]:
        """The live pods whose address that is: one, or none, or (closed until it is mended) several."""
        return self._by_address.get(address, [])

    def addresses(self, groups: Iterable[PodGroup]) -> frozenset[str]:
        """The addresses of the pods in any of the groups.  One that several pods claim counts only when all match."""
        members = frozenset[str]().union(*(self.members(group) for group in groups))
        return frozenset(
            address
            for key in members
            for address in self.world.pods[key].addresses
            if all(pod.key in members for pod in self._by_address[address])
        )

    def _matches(self, group: PodGroup, pod: Pod) -> bool:
        if pod.quarantined or not matches(group.pods, pod.labels):
            return False
        if group.namespace:
            return pod.namespace == group.namespace
        return pod.namespace in self._selected_namespaces(group.namespaces)

    def _selected_namespaces(self, selector: Selector) -> frozenset[str]:
        found = self._namespaces.get(selector)
        if found is None:
            found = frozenset(
                name for name in self._pods_by_namespace if _selects(selector, self.world.namespace(name))
            )
            self._namespaces[selector] = found
        return found

    def _candidates(self, group: PodGroup) -> Iterable[Pod]:
        """The smallest group of pods at hand that holds every member."""
        if group.namespace:
            return self._pods_by_namespace.get(group.namespace, ())
        smallest: Iterable[Pod] | None = None
        size = 0
        for requirement in group.pods.requirements:
            if requirement.operator is Operator.IN:
                lists = [self._labels().get((requirement.key, value), []) for value in requirement.values]
                total = sum(map(len, lists))
                if smallest is None or total < size:
                    smallest, size = (pod for pods in lists for pod in pods), total
        names = self._selected_namespaces(group.namespaces)
        if smallest is None or sum(len(self._pods_by_namespace[name]) for name in names) < size:
            return (pod for name in names for pod in self._pods_by_namespace[name])
        return smallest

    def _labels(self) -> Mapping[tuple[str, str], list[Pod]]:
        if self._by_label is None:
            by_label: dict[tuple[str, str], list[Pod]] = defaultdict(list)
            for pods in self._pods_by_namespace.values():
                for pod in pods:
                    for label in pod.labels.items():
                        by_label[label].append(pod)
            self._by_label = by_label
        return self._by_label


def _selects(selector: Selector, namespace: Namespace) -> bool:
    return not namespace.quarantined and matches(selector, namespace.labels)

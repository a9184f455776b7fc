"""Who matches whom, kept up to date.

Pods are found by inverted indexes (namespace, and value of those labels that a selector asked for), so that a selector
is compared only with the smallest group of pods that can meet it.  The other way round, groups of pods that somebody
watches are found by what a pod must have to be among them, so that a pod that changes is compared only with selectors
that mention what changed (`watches.py`).  What nobody asks for costs nothing.

`world` is read, never written: whoever changes it tells `update` what changed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass

from netpold.policy.changes import Changes, difference
from netpold.policy.claims import Claims
from netpold.policy.groups import PodGroup
from netpold.policy.model import Direction, Namespace, Operator, Pod, Policy, Selector, World
from netpold.policy.selector import holds, matches
from netpold.policy.watches import Watches

# Of labels that no selector asks for any more so many stay indexed: they may be asked for again.
KEPT_LABELS = 16


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
    """Answers for the world as of the last `update`."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.claims = Claims()
        self._pods: dict[str, set[str]] = {}  # by namespace, the keys of the pods that take part
        self._quarantined: set[str] = set()
        self._policies: dict[str, set[str]] = {}
        self._labelled: dict[str, dict[str, set[str]]] = {}  # by label key, for those that were asked for, and value
        self._selected: dict[Selector, frozenset[str]] = {}  # by selector of namespaces, the names of those with pods
        self._watches = Watches()
        self.update(difference(World(), world))

    def update(self, changes: Changes) -> Mapping[PodGroup, Set[str]]:
        """Take in what changed in the world.

        Returns, for each group that is watched, the addresses at which it may be another one now (too many, never too
        few).
        """
        for key, (before, after) in changes.policies.items():
            if before is None and after is not None:
                self._policies.setdefault(after.namespace, set()).add(key)
            elif after is None and before is not None:
                _discard(self._policies, before.namespace, key)
        moved: list[tuple[str, Pod | None, Pod | None]] = []
        for key, (before_pod, after_pod) in changes.pods.items():
            old = before_pod if before_pod is not None and before_pod.takes_part else None
            new = after_pod if after_pod is not None and after_pod.takes_part else None
            if old is not new and (old is None or new is None or old != new):
                self._move(key, old, new)
                if self._watches:
                    moved.append((key, old, new))
        if changes.namespaces:
            self._selected.clear()
        if not self._watches:
            return {}
        affected: dict[PodGroup, set[str]] = defaultdict(set)
        for name, spaces in changes.namespaces.items():
            self._relabelled(name, *spaces, affected)
        for key, old, new in moved:
            self._changed(key, old, new, affected)
        self._shared(moved, affected)
        return affected

    def watch(self, group: PodGroup) -> None:
        """From now on, `update` tells of this group."""
        self._watches.add(group)

    def unwatch(self, group: PodGroup) -> None:
        self._watches.remove(group)
        unused = self._labelled.keys() - self._watches.label_keys.keys()
        if len(unused) > KEPT_LABELS:
            for label in unused:
                del self._labelled[label]
        for selector in self._selected.keys() - self._watches.by_namespace_selector.keys():
            del self._selected[selector]

    # Questions ----------------------------------------------------------------------------------------------------

    def isolation(self, pod: Pod, direction: Direction) -> Isolation:
        """The policies that isolate the pod in that direction, sorted by key."""
        policies = (self.world.policies[key] for key in sorted(self._policies.get(pod.namespace, ())))
        return Isolation(
            tuple(
                policy
                for policy in policies
                if policy.rules(direction) is not None and (pod.quarantined or matches(policy.selector, pod.labels))
            ),
            grants=not pod.quarantined,
        )

    def members(self, group: PodGroup) -> frozenset[str]:
        """The keys of the pods in a group.  Quarantined pods, and namespaces where labels select them, are in none."""
        exact: list[Set[str]] = []  # all members are in each of these
        rest = [each for each in group.pods.requirements if each.operator is not Operator.IN]
        for requirement in group.pods.requirements:
            if requirement.operator is Operator.IN:
                by_value = self._by_value(requirement.key)
                exact.append(_union([by_value[value] for value in requirement.values if value in by_value]))
        names: frozenset[str] | None = None
        if group.namespace:
            exact.append(self._pods.get(group.namespace, frozenset()))
        else:
            names = self._selected_namespaces(group.namespaces)
            named = [self._pods[name] for name in names]
            if not exact or sum(map(len, named)) < min(map(len, exact)):
                exact.append(_union(named))
                names = None
        exact.sort(key=len)
        found = frozenset(exact[0]).intersection(*exact[1:]) - self._quarantined
        if not rest and names is None:
            return found
        pods = self.world.pods
        return frozenset(
            key
            for key in found
            if (names is None or pods[key].namespace in names)
            and all(holds(requirement, pods[key].labels) for requirement in rest)
        )

    def claimants(self, address: str) -> list[Pod]:
        """The live pods whose address that is: one, or none, or (closed until it is mended) several."""
        return [self.world.pods[key] for key in self.claims.of(address)]

    def addresses(self, groups: Iterable[PodGroup]) -> frozenset[str]:
        """The addresses of the pods in any of the groups.  One that several pods claim counts only when all match."""
        members = _union([self.members(group) for group in groups])
        found = {address for key in members for address in self.world.pods[key].addresses}
        contested = self.claims.contested
        return frozenset(found - {address for address in found & contested.keys() if not contested[address] <= members})

    def holds(self, groups: Iterable[PodGroup], address: str) -> bool:
        """Whether the address is one of `addresses(groups)`."""
        claimants = self.claimants(address)
        return bool(claimants) and all(any(self._matches(group, pod) for group in groups) for pod in claimants)

    def _matches(self, group: PodGroup, pod: Pod) -> bool:
        if pod.quarantined or not matches(group.pods, pod.labels):
            return False
        if group.namespace:
            return pod.namespace == group.namespace
        return _selects(group.namespaces, self.world.namespace(pod.namespace))

    def _selected_namespaces(self, selector: Selector) -> frozenset[str]:
        found = self._selected.get(selector)
        if found is None:
            found = frozenset(name for name in self._pods if _selects(selector, self.world.namespace(name)))
            self._selected[selector] = found
        return found

    def _by_value(self, label: str) -> dict[str, set[str]]:
        if label not in self._labelled:
            by_value: dict[str, set[str]] = {}
            pods = self.world.pods
            for keys in self._pods.values():
                for key in keys:
                    value = pods[key].labels.get(label)
                    if value is not None:
                        by_value.setdefault(value, set()).add(key)
            self._labelled[label] = by_value
        return self._labelled[label]

    # Changes ------------------------------------------------------------------------------------------------------

    def _move(self, key: str, old: Pod | None, new: Pod | None) -> None:
        """Put a pod where it belongs now; None: it takes no part."""
        if old is not None:
            self.claims.remove(key, old.addresses)
        if new is not None:
            self.claims.add(key, new.addresses)
        if old is None and new is not None:
            if new.namespace not in self._pods:
                self._selected.clear()
            self._pods.setdefault(new.namespace, set()).add(key)
        elif new is None and old is not None:
            _discard(self._pods, old.namespace, key)
            if old.namespace not in self._pods:
                self._selected.clear()
        if new is not None and new.quarantined:
            self._quarantined.add(key)
        elif self._quarantined:
            self._quarantined.discard(key)
        for label, by_value in self._labelled.items():
            before, after = (each.labels.get(label) if each else None for each in (old, new))
            if before != after:
                if before is not None:
                    _discard(by_value, before, key)
                if after is not None:
                    by_value.setdefault(after, set()).add(key)

    def _changed(self, key: str, old: Pod | None, new: Pod | None, affected: dict[PodGroup, set[str]]) -> None:
        """Note the groups that a pod may have left or joined, and at which addresses."""
        addresses, labels_alone = _addresses(old, new), _labels_alone(old, new)
        candidates = {group for each in (old, new) if each for group in self._watches.candidates(each)}
        for group in candidates:
            was, is_now = (each is not None and matches(group.pods, each.labels) for each in (old, new))
            if was != is_now or (was and not labels_alone):
                affected[group] |= addresses

    def _shared(self, moved: Iterable[tuple[str, Pod | None, Pod | None]], affected: dict[PodGroup, set[str]]) -> None:
        """Note the groups of those that claim an address of a pod that moved: it is in a set only where all are."""
        shared: dict[str, tuple[str, ...]] = {}  # each once, however many pods claim it
        for key, old, new in moved:
            if _labels_alone(old, new):
                continue
            for address in _addresses(old, new) - shared.keys():
                claimants = self.claims.of(address)
                if claimants and claimants != (key,):
                    shared[address] = claimants
        for address, claimants in shared.items():
            for group in {group for each in claimants for group in self._watches.candidates(self.world.pods[each])}:
                affected[group].add(address)

    def _relabelled(
        self, name: str, old: Namespace | None, new: Namespace | None, affected: dict[PodGroup, set[str]]
    ) -> None:
        """Note the groups that the pods of a namespace left or joined."""
        bare = World().namespace(name)
        before, after = old or bare, new or bare
        for selector, groups in self._watches.by_namespace_selector.items():
            if _selects(selector, before) == _selects(selector, after):
                continue
            for pod in map(self.world.pods.__getitem__, self._pods.get(name, ())):
                for group in groups:
                    if not pod.quarantined and matches(group.pods, pod.labels):
                        affected[group].update(pod.addresses)


def _selects(selector: Selector, namespace: Namespace) -> bool:
    return not namespace.quarantined and matches(selector, namespace.labels)


def _but_labels(pod: Pod) -> tuple[object, ...]:
    return pod.addresses, pod.ports, pod.quarantined


def _labels_alone(old: Pod | None, new: Pod | None) -> bool:
    return old is not None and new is not None and _but_labels(old) == _but_labels(new)


def _addresses(*pods: Pod | None) -> set[str]:
    return {address for each in pods if each for address in each.addresses}


def _union(several: Sequence[Set[str]]) -> Set[str]:
    return several[0] if len(several) == 1 else frozenset[str]().union(*several)


def _discard(sets: dict[str, set[str]], name: str, key: str) -> None:
    sets[name].discard(key)
    if not sets[name]:
        del sets[name]

"""Who matches whom, kept up to date.

Pods are found by inverted indexes (namespace, and value of those labels that a selector asked for), so that a selector
is compared only with the smallest group of pods that can meet it.  The other way round, groups of pods that somebody
watches are found by what a pod must have to be among them, so that a pod that changes is compared only with selectors
that mention what changed (`watches.py`).  What nobody asks for costs nothing.

`world` is read, never written: whoever changes it tells `update` what changed.
"""

from __future__ import annotations

from bisect import insort
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set

from netpold.policy.changes import Changes, difference
from netpold.policy.claims import Claims
from netpold.policy.groups import Group, NodeGroup, PodGroup
from netpold.policy.isolation import Isolation, chosen, selects
from netpold.policy.model import (
    ClusterPolicy,
    Direction,
    Namespace,
    Node,
    Operator,
    Pod,
    Policy,
    Selector,
    Tier,
    World,
)
from netpold.policy.nodes_at import NodesAt
from netpold.policy.selector import holds, matches
from netpold.policy.watches import Watches

# Of labels that no selector asks for any more so many stay indexed: they may be asked for again.
KEPT_LABELS = 16


Left = tuple[tuple[Pod, Namespace], ...]


class Index:
    """Answers for the world as of the last `update`."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.kept: Mapping[str, Namespace] = {}  # as they were, those whose objects are gone before their pods
        self.lasting: Mapping[str, tuple[Policy, ...]] = {}  # by namespace, those that are gone and hold for its pods
        self._left: Mapping[str, Left] = {}  # by address, pods whose manifests are gone, with their namespaces
        self.claims = Claims()
        self._pods: dict[str, set[str]] = {}  # by namespace, the keys of the pods that take part
        self._quarantined: set[str] = set()
        self._policies: dict[str, set[str]] = {}
        self._tiers: dict[Tier, list[ClusterPolicy]] = {tier: [] for tier in Tier}  # in order
        self._node_groups: Counter[NodeGroup] = Counter()  # watched
        self._nodes_at = NodesAt()
        self._labelled: dict[str, dict[str, set[str]]] = {}  # by label key, for those that were asked for, and value
        # by selector of namespaces, and whether one that is possible counts, the names of those with pods
        self._selected: dict[tuple[Selector, bool], frozenset[str]] = {}
        self._watches = Watches()
        self.update(difference(World(), world))

    def update(self, changes: Changes) -> Mapping[Group, Set[str]]:
        """Take in what changed in the world.

        Returns, for each group that is watched, the addresses at which it may be another one now (too many, never too
        few).
        """
        for key, (before, after) in changes.policies.items():
            if isinstance(before, ClusterPolicy):
                self._tiers[before.tier].remove(before)
            elif after is None and before is not None:
                _discard(self._policies, before.namespace, key)
            if isinstance(after, ClusterPolicy):
                insort(self._tiers[after.tier], after, key=lambda policy: policy.order)
            elif before is None and after is not None:
                self._policies.setdefault(after.namespace, set()).add(key)
        moved: list[tuple[str, Pod | None, Pod | None]] = []
        for key, (before_pod, after_pod) in changes.pods.items():
            self._nodes_at.pod_changed(before_pod, after_pod)
            old = before_pod if before_pod is not None and before_pod.takes_part else None
            new = after_pod if after_pod is not None and after_pod.takes_part else None
            if old is not new and (old is None or new is None or old != new):
                self._move(key, old, new)
                if self._watches:
                    moved.append((key, old, new))
        if changes.namespaces:
            self._selected.clear()
        affected: dict[Group, set[str]] = defaultdict(set)
        for key, nodes in changes.nodes.items():
            self._node_changed(key, *nodes, affected)
        if not self._watches:
            return affected
        for name, spaces in changes.namespaces.items():
            self._relabelled(name, *spaces, affected)
        for key, old, new in moved:
            self._changed(key, old, new, affected)
        self._shared(moved, affected)
        return affected

    def linger(self, left: Mapping[str, Left], kept: Mapping[str, Namespace]) -> Mapping[Group, Set[str]]:
        """Take in which pods are still there though their manifests are gone, by address, and which namespaces are
        `kept`: what is denied to groups is denied to the former, too, and by what the latter were.  Returns what
        `update` does."""
        affected: dict[Group, set[str]] = defaultdict(set)
        changed = {each for each in left.keys() | self._left.keys() if left.get(each) != self._left.get(each)}
        if changed:
            affected.update((group, set(changed)) for group in self._watches.possible)
        spaces = {name: (self.kept.get(name), kept.get(name)) for name in self.kept.keys() | kept.keys()}
        self._left, self.kept = left, kept
        if any(old != new for old, new in spaces.values()):
            self._selected.clear()
            for name, (old, new) in spaces.items():
                self._kept_anew(name, old, new, affected)
        return affected

    def watch(self, group: Group) -> None:
        """From now on, `update` tells of this group."""
        if isinstance(group, NodeGroup):
            self._node_groups[group] += 1
        else:
            self._watches.add(group)

    def unwatch(self, group: Group) -> None:
        if isinstance(group, NodeGroup):
            self._node_groups[group] -= 1
            self._node_groups += Counter()  # without those of none
            return
        self._watches.remove(group)
        unused = self._labelled.keys() - self._watches.label_keys.keys()
        if len(unused) > KEPT_LABELS:
            for label in unused:
                del self._labelled[label]
        for key in [each for each in self._selected if each[0] not in self._watches.by_namespace_selector]:
            del self._selected[key]

    # Questions ----------------------------------------------------------------------------------------------------

    def isolation(self, pod: Pod, direction: Direction, namespace: Namespace | None = None) -> Isolation:
        """The policies that isolate the pod in that direction, sorted by key, and those of the tiers.

        `namespace`: the pod's, where that is not the one in the world (then without `lasting`)."""
        policies = [self.world.policies[key] for key in sorted(self._policies.get(pod.namespace, ()))]
        if self.lasting and namespace is None:
            policies = sorted((*policies, *self.lasting.get(pod.namespace, ())), key=lambda policy: policy.key)
        isolating = tuple(
            policy
            for policy in policies
            if isinstance(policy, Policy)
            and policy.rules(direction) is not None
            and (pod.quarantined or matches(policy.selector, pod.labels))
        )
        if not any(self._tiers.values()):
            return Isolation(isolating, grants=not pod.quarantined)
        home = namespace or self._home(pod)
        tiers = {
            tier: tuple(each for each in policies if each.rules(direction) and selects(each, pod, home) is not None)
            for tier, policies in self._tiers.items()
        }
        unsure = (each.key for policies in tiers.values() for each in policies if selects(each, pod, home) is False)
        grants = not pod.quarantined
        return Isolation(isolating, grants, tiers[Tier.ADMIN], tiers[Tier.BASELINE], frozenset(unsure))

    def selects(self, policy: ClusterPolicy, pod: Pod) -> bool:
        """Whether the policy is about the pod, or may be."""
        return selects(policy, pod, self._home(pod)) is not None

    def _home(self, pod: Pod) -> Namespace:
        """The pod's namespace, as policies that are about its pods see it."""
        return self.kept.get(pod.namespace) or self.world.namespace(pod.namespace)

    def node_at(self, address: str) -> str:
        """The name of the node that has the address, as Node objects say, or else pods on its network: the first of
        them; '' for none."""
        return self._nodes_at.name(address)

    @property
    def has_tiers(self) -> bool:
        """Whether there is any ClusterNetworkPolicy."""
        return any(self._tiers.values())

    @property
    def cluster_policies(self) -> int:
        """How many there are, of all kinds."""
        return sum(map(len, self._tiers.values()))

    def members(self, group: PodGroup) -> frozenset[str]:
        """The keys of the pods in a group.  Quarantined pods, and namespaces where labels select them, are in none,
        but for groups of those that are possible."""
        found = self._certain(group)
        return found.union(self._unknown(group)) if group.possible else found

    def _unknown(self, group: PodGroup) -> Iterator[str]:
        """Those of which it is not known whether they are in the group."""
        return (key for key in self._quarantined if self._matches(group, self.world.pods[key]))

    def _certain(self, group: PodGroup) -> frozenset[str]:
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
            names = self._selected_namespaces(group)
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

    def addresses(self, groups: Iterable[Group]) -> frozenset[str]:
        """The addresses of the pods and nodes in any of the groups.  One that several pods claim counts only when all
        match, but for groups of those that are possible."""
        certain, possible = (self._addresses(groups, only) for only in (False, True))
        left = {address for address in self._left if self._is_left(groups, address)}
        return certain | possible | left | self._node_addresses(groups)

    def _addresses(self, groups: Iterable[Group], possible: bool) -> frozenset[str]:
        some = [group for group in groups if isinstance(group, PodGroup) and group.possible is possible]
        if not some:
            return frozenset()
        members = _union([self.members(group) for group in some])
        found = {address for key in members for address in self.world.pods[key].addresses}
        contested = {} if possible else self.claims.contested
        return frozenset(found - {address for address in found & contested.keys() if not contested[address] <= members})

    def _node_addresses(self, groups: Iterable[Group]) -> frozenset[str]:
        some = [group for group in groups if isinstance(group, NodeGroup)]
        nodes = self.world.nodes.values() if some else ()
        return frozenset(
            address for node in nodes if any(group.holds(node) for group in some) for address in node.addresses
        )

    def holds(self, groups: Iterable[Group], address: str) -> bool:
        """Whether the address is one of `addresses(groups)`."""
        claimants = self.claimants(address)
        certain, possible = (
            [group for group in groups if isinstance(group, PodGroup) and group.possible is only]
            for only in (False, True)
        )
        nodes = [self.world.nodes[key] for key in self._nodes_at.keys(address)]
        return (
            (bool(claimants) and all(any(self._matches(group, pod) for group in certain) for pod in claimants))
            or any(self._matches(group, pod) for group in possible for pod in claimants)
            or self._is_left(possible, address)
            or any(group.holds(node) for group in groups if isinstance(group, NodeGroup) for node in nodes)
        )

    def _matches(self, group: PodGroup, pod: Pod) -> bool:
        if not group.may_hold(pod):
            return False
        if group.namespace:
            return pod.namespace == group.namespace
        return self._reaches(group, pod.namespace)

    def _reaches(self, group: PodGroup, name: str) -> bool:
        """Whether the group is of pods of that namespace."""
        kept = self.kept.get(name) if group.possible else None
        return group.reaches(kept or self.world.namespace(name))

    def _is_left(self, groups: Iterable[Group], address: str) -> bool:
        """Whether one that is left at the address may be in any of the groups."""
        possible = [group for group in groups if isinstance(group, PodGroup) and group.possible]
        return any(
            group.may_hold(pod) and group.reaches(namespace)
            for pod, namespace in self._left.get(address, ())
            for group in possible
        )

    def left_at(self, address: str) -> list[Pod]:
        """The pods that are left there though their manifests are gone."""
        return [pod for pod, _ in self._left.get(address, ())]

    def _selected_namespaces(self, group: PodGroup) -> frozenset[str]:
        key = group.namespaces, group.possible
        found = self._selected.get(key)
        if found is None:
            found = self._selected[key] = frozenset(name for name in self._pods if self._reaches(group, name))
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

    def _node_changed(self, key: str, old: Node | None, new: Node | None, affected: dict[Group, set[str]]) -> None:
        """Note the groups that a node may have left or joined, and at which addresses."""
        self._nodes_at.node_changed(key, old, new)
        if old != new:
            addresses = {address for each in (old, new) if each for address in each.addresses}
            for group in self._node_groups:
                if any(each is not None and group.holds(each) for each in (old, new)):
                    affected[group] |= addresses

    def _changed(self, key: str, old: Pod | None, new: Pod | None, affected: dict[Group, set[str]]) -> None:
        """Note the groups that a pod may have left or joined, and at which addresses."""
        addresses, labels_alone = _addresses(old, new), _labels_alone(old, new)
        candidates = {group for each in (old, new) if each for group in self._watches.candidates(each)}
        for group in candidates:
            was, is_now = (each is not None and group.has_labels_of(each) for each in (old, new))
            if was != is_now or (was and not labels_alone):
                affected[group] |= addresses

    def _shared(self, moved: Iterable[tuple[str, Pod | None, Pod | None]], affected: dict[Group, set[str]]) -> None:
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
        self, name: str, old: Namespace | None, new: Namespace | None, affected: dict[Group, set[str]]
    ) -> None:
        """Note the groups that the pods of a namespace left or joined."""
        bare = World().namespace(name)
        before, after = old or bare, new or bare
        for selector, groups in self._watches.by_namespace_selector.items():
            if before.quarantined != after.quarantined or chosen(selector, before) != chosen(selector, after):
                self._concerned(name, groups, affected)

    def _kept_anew(
        self, name: str, old: Namespace | None, new: Namespace | None, affected: dict[Group, set[str]]
    ) -> None:
        """Note the groups of possible pods that those of a namespace left or joined since another is kept of it, or
        none."""
        before, after = (each or self.world.namespace(name) for each in (old, new))
        for groups in self._watches.by_namespace_selector.values():
            possible = [group for group in groups if group.possible]
            if any(group.reaches(before) != group.reaches(after) for group in possible):
                self._concerned(name, possible, affected)

    def _concerned(self, name: str, groups: Iterable[PodGroup], affected: dict[Group, set[str]]) -> None:
        """Note the addresses of the pods of a namespace that the groups may have by their own manifests."""
        for pod in map(self.world.pods.__getitem__, self._pods.get(name, ())):
            for group in groups:
                if group.may_hold(pod):
                    affected[group].update(pod.addresses)


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

"""The pods and namespaces that there are, as lint asks about them: each question is worked out once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Set

from netpold.policy.fields import nearest
from netpold.policy.groups import PodGroup
from netpold.policy.index import Index
from netpold.policy.model import Operator, Pod, PolicyPort, Protocol, Selector, World
from netpold.policy.selector import matches

Labels = Mapping[str, Set[str]]  # by key, the values that occur

_MOST_NAMED = 3


class Inventory:
    """Of a world that does not change.  `pods`: those that take part, by namespace; `namespaces`: all, by name."""

    def __init__(self, index: Index) -> None:
        self._index, self._world = index, index.world
        self.pods: dict[str, list[Pod]] = defaultdict(list)  # by namespace
        for pod in self._world.pods.values():
            if pod.takes_part:
                self.pods[pod.namespace].append(pod)
        self.namespaces = sorted({*self._world.namespaces, *self.pods})
        self._members: dict[PodGroup, frozenset[str]] = {}
        self._ports: dict[PodGroup, frozenset[tuple[str, Protocol]]] = {}
        self._chosen: dict[Selector, list[str]] = {}
        self._labels: dict[tuple[str, ...], Labels] = {}

    def of(self, group: PodGroup) -> frozenset[str]:
        """The keys of the pods in a group."""
        found = self._members.get(group)
        if found is None:
            found = self._members[group] = self._index.members(group)
        return found

    def matching(self, selector: Selector) -> list[str]:
        """The names of the namespaces that a selector selects."""
        found = self._chosen.get(selector)
        if found is None:
            spaces = [self._world.namespace(name) for name in self.namespaces]
            found = [each.name for each in spaces if not each.quarantined and matches(selector, each.labels)]
            self._chosen[selector] = found
        return found

    def pod_labels(self, names: tuple[str, ...]) -> Labels:
        """Those of the pods in these namespaces."""
        if names not in self._labels:
            self._labels[names] = values_of(pod.labels for name in names for pod in self.pods.get(name, ()))
        return self._labels[names]

    def ports_of(self, group: PodGroup) -> frozenset[tuple[str, Protocol]]:
        """The ports that containers of the pods in a group have by name."""
        if group not in self._ports:
            pods = self._world.pods
            self._ports[group] = frozenset(
                (port.name, port.protocol) for key in self.of(group) for port in pods[key].ports
            )
        return self._ports[group]


def selector_cure(selector: Selector, labels: Labels, who: str) -> str:
    """What may have been meant by the first requirement that nobody meets."""
    for each in selector.requirements:
        if each.operator not in (Operator.IN, Operator.EXISTS):
            continue
        there = labels.get(each.key, frozenset())
        if not there:
            meant = nearest(each.key, labels)
            return f"write the label `{meant}`" if meant else f"{who} no label `{each.key}`: correct it"
        if each.operator is Operator.IN and there.isdisjoint(each.values):
            meant = nearest(each.values[0], there)
            return f"write `{each.key}: {meant}`" if meant else f"{who} {each.key} {named(sorted(there))}"
    return "correct the labels: each of them occurs, but not together"


def namespace_cure(there: Inventory, world: World, selector: Selector) -> str:
    """What may have been meant by a selector that selects no namespace."""
    labels = values_of(world.namespace(name).labels for name in there.namespaces)
    cure = selector_cure(selector, labels, "namespaces have")
    bare = [name for name in there.namespaces if name not in world.namespaces]
    if bare:
        cure += f"; there is no Namespace object for {named(bare)}, so no label but the name"
    return cure


def values_of(several: Iterator[Mapping[str, str]]) -> Labels:
    """All labels together."""
    found: dict[str, set[str]] = defaultdict(set)
    for labels in several:
        for key, value in labels.items():
            found[key].add(value)
    return found


def named(names: list[str]) -> str:
    """The names in words, of many the first."""
    if len(names) <= _MOST_NAMED:
        return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
    return f"{', '.join(names[:_MOST_NAMED])} and {len(names) - _MOST_NAMED} more"


def port_cure(port: PolicyPort, there: Set[tuple[str, Protocol]]) -> str:
    """What may have been meant by a port's name that no container has; `there`: those that they have."""
    names = {name for name, protocol in there if protocol == port.protocol}
    other = sorted(protocol for name, protocol in there if name == port.port)
    if other:
        return f"write `protocol: {other[0]}`"
    meant = nearest(str(port.port), names)
    if meant:
        return f"write `port: {meant}`"
    if names:
        return f"name it in the containers, or write one that they have: {named(sorted(names))}"
    return "name it in the pods' containers, or write its number"

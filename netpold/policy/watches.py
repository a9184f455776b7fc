"""Groups of pods that somebody watches, found by what a pod must have to be among them.

Each group hangs at one thing that every member has: the group's namespace, else one of the values of a label, else a
label.  Only groups that say nothing of the kind have to be compared with every pod.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator

from netpold.policy.groups import PodGroup
from netpold.policy.model import Operator, Pod, Selector

_ANYWHERE = ""


class Watches:
    """Groups, each as often as it was added."""

    def __init__(self) -> None:
        self.by_namespace_selector: dict[Selector, set[PodGroup]] = {}
        self.label_keys: Counter[str] = Counter()  # how many groups mention each
        self.possible: set[PodGroup] = set()  # those that pods of unknown labels may be in
        self._count: dict[PodGroup, int] = {}
        # by namespace, by (label, value), by (label,), or anywhere
        self._hanging: dict[Hashable, set[PodGroup]] = {}

    def __bool__(self) -> bool:
        return bool(self._count)

    def add(self, group: PodGroup) -> None:
        self._count[group] = self._count.get(group, 0) + 1
        if self._count[group] > 1:
            return
        for hook in _hooks(group):
            self._hanging.setdefault(hook, set()).add(group)
        if group.possible:
            self.possible.add(group)
        self.label_keys.update(requirement.key for requirement in group.pods.requirements)
        if not group.namespace:
            self.by_namespace_selector.setdefault(group.namespaces, set()).add(group)

    def remove(self, group: PodGroup) -> None:
        """Take back one `add`."""
        self._count[group] -= 1
        if self._count[group]:
            return
        del self._count[group]
        self.possible.discard(group)
        for hook in _hooks(group):
            self._hanging[hook].discard(group)
            if not self._hanging[hook]:
                del self._hanging[hook]
        self.label_keys.subtract(requirement.key for requirement in group.pods.requirements)
        self.label_keys += Counter()  # without those of none
        if not group.namespace:
            same = self.by_namespace_selector[group.namespaces]
            same.discard(group)
            if not same:
                del self.by_namespace_selector[group.namespaces]

    def candidates(self, pod: Pod) -> Iterator[PodGroup]:
        """All groups that the pod can be in, and some others; a group may come twice."""
        hanging = self._hanging
        if pod.quarantined:
            yield from self.possible
        yield from hanging.get(_ANYWHERE, ())
        yield from hanging.get(pod.namespace, ())
        for label in pod.labels.items():
            yield from hanging.get(label, ())
            yield from hanging.get(label[:1], ())


def _hooks(group: PodGroup) -> list[Hashable]:
    if group.namespace:
        return [group.namespace]
    found: list[Hashable] = [_ANYWHERE]
    for requirement in group.pods.requirements:
        if requirement.operator is Operator.IN:
            return [(requirement.key, value) for value in requirement.values]
        if requirement.operator is Operator.EXISTS:
            found = [(requirement.key,)]
    return found

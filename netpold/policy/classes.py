"""Pods that no selector tells apart, as one.

Most labels of a pod are asked for by nobody.  Of those that the policies of a namespace or of the cluster ask for, few
combinations occur, so what a policy's selector says is worked out once for each combination, and not for each pod.
"""

from __future__ import annotations

from collections import defaultdict
from itertools import chain

from netpold.policy.index import Index
from netpold.policy.isolation import Isolation
from netpold.policy.model import Direction, Pod, Policy

_Class = tuple[str, Direction, bool, tuple[tuple[str, str | None], ...]]


class Isolations:
    """The answers of Index.isolation, each worked out once.  Only as long as the index does not change."""

    def __init__(self, index: Index) -> None:
        self._index = index
        self._known: dict[_Class, Isolation] = {}
        keys: dict[str, set[str]] = defaultdict(set)
        everywhere: set[str] = set()  # what policies of the cluster ask for
        for policy in chain(index.world.policies.values(), *index.lasting.values()):
            if isinstance(policy, Policy):
                keys[policy.namespace].update(each.key for each in policy.selector.requirements)
            else:
                everywhere.update(each.key for each in policy.subject.pods.requirements)
        self._everywhere = tuple(sorted(everywhere))
        self._keys = {namespace: tuple(sorted(names | everywhere)) for namespace, names in keys.items()}

    def of(self, pod: Pod, direction: Direction) -> Isolation:
        labels = tuple([(key, pod.labels.get(key)) for key in self._keys.get(pod.namespace, self._everywhere)])
        which = pod.namespace, direction, pod.quarantined, labels
        found = self._known.get(which)
        if found is None:
            found = self._known[which] = self._index.isolation(pod, direction)
        return found

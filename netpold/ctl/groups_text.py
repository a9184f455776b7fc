"""Many pods in few words: `shop/*`, `shop/{app=web}`, `every pod but those of shop`.

The words are exact: what they say of the inventory is just these pods.  Where no words are found, some are named and
the others counted.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Set
from itertools import combinations

from netpold.policy.model import Family, Pod, PodPeer, Policy, World
from netpold.rules.difference import Party

_MOST_NAMED = 3
_MOST_GROUPS = 3
_MOST_VALUES = 4
_NOBODY: set[str] = set()


class Names:
    """The words for groups of these pods (by key)."""

    def __init__(self, pods: Mapping[str, Pod], world: World) -> None:
        """`pods`: all that there are to tell apart; `world`: what they are in, and whose policies have the words that
        people know."""
        self._pods = pods
        self._spaces = {pod.namespace: world.namespace(pod.namespace) for pod in pods.values()}
        self._asked = frozenset(_asked_labels(world))
        self._all = frozenset(pods)
        self._by_namespace: dict[str, set[str]] = defaultdict(set)
        for key, pod in pods.items():
            self._by_namespace[pod.namespace].add(key)
        self._by_label: dict[tuple[str, str], set[str]] = defaultdict(set)
        for key, pod in pods.items():
            for label in pod.labels.items():
                self._by_label[label].add(key)
        self._known: dict[frozenset[str], str] = {}

    def party(self, party: Party) -> str:
        """One side of a change."""
        parts = [self.pods(party.pods)] if party.pods else []
        blocks = [str(block.cidr) + _excepts(block.excepts) for block in party.outside]
        if is_anywhere(party):
            blocks = ["anywhere outside"]
        if len(blocks) > _MOST_NAMED:
            blocks = [*blocks[:_MOST_NAMED], f"{len(blocks) - _MOST_NAMED} more blocks"]
        return ", ".join([*parts, *blocks])

    def could(self, family: Family, party: Party) -> bool:
        """Whether any of the pods has an address of that family, or where there are none, it is about anywhere."""
        if not party.pods:
            return is_anywhere(party)
        addresses = (address for key in party.pods for address in self._pods[key].addresses)
        return any((":" in address) == (family == 6) for address in addresses)

    def pods(self, some: frozenset[str]) -> str:
        """A group of pods."""
        found = self._known.get(some)
        if found is None:
            found = self._known[some] = self._words(some)
        return found

    def _words(self, some: frozenset[str]) -> str:
        if some == self._all and len(some) > 1:
            return "every pod"
        if len(some) <= _MOST_NAMED:
            return ", ".join(sorted(some))
        spaces: dict[str, set[str]] = defaultdict(set)
        for key in some:
            spaces[self._pods[key].namespace].add(key)
        return f"{self._in_words(some, spaces)} ({len(some)} pods)"

    def _in_words(self, some: frozenset[str], spaces: Mapping[str, set[str]]) -> str:
        if len(spaces) <= _MOST_GROUPS:
            return ", ".join(self._in_namespace(name, spaces[name]) for name in sorted(spaces))
        partly = [name for name, keys in self._by_namespace.items() if len(spaces.get(name, ())) < len(keys)]
        if len(partly) <= _MOST_GROUPS:
            missing = [self._in_namespace(name, self._by_namespace[name] - some) for name in sorted(partly)]
            return f"every pod but {', '.join(missing)}"
        everybody = set().union(*(self._by_namespace[name] for name in spaces))
        labels = "every pod" if some == everybody else self._labels(some, everybody)
        if labels:
            return f"{labels.replace('*', 'every pod', 1)} of {self._namespaces_in_words(set(spaces))}"
        return f"{', '.join(sorted(some)[:2])} and others of {self._namespaces_in_words(set(spaces))}"

    def _in_namespace(self, name: str, keys: set[str]) -> str:
        """Pods of one namespace."""
        everybody = self._by_namespace[name]
        if keys == everybody:
            return f"{name}/*"
        if len(keys) <= _MOST_NAMED:
            return ", ".join(sorted(keys))
        if labels := self._labels(keys, everybody):
            return f"{name}/{labels}"
        return f"{', '.join(sorted(keys)[:2])} and {len(keys) - 2} more of {name}"

    def _namespaces_in_words(self, names: set[str]) -> str:
        everybody = self._by_namespace.keys()
        if names == everybody:
            return "every namespace"
        if len(everybody - names) <= _MOST_GROUPS:
            return f"every namespace but {', '.join(sorted(everybody - names))}"
        first, *rest = (self._spaces[name].labels.items() for name in names)
        for key, value in sorted(set(first).intersection(*rest)):
            if sum(self._spaces[name].labels.get(key) == value for name in everybody) == len(names):
                return f"namespaces with {key}={value}"
        return f"{len(names)} namespaces ({', '.join(sorted(names)[:2])}, ...)"

    # Labels that just some pods have ------------------------------------------------------------------------------

    def _labels(self, keys: Set[str], everybody: Set[str]) -> str:
        """What of everybody only these have: `{app=web}`, `{app in (a,b)}`, `* but {app=web}`; or ''."""
        if found := self._all_of(keys, everybody):
            return found
        without = self._all_of(everybody - keys, everybody)
        return without and f"* but {without}"

    def _all_of(self, keys: Set[str], everybody: Set[str]) -> str:
        common = self._common(keys)
        for size in (1, 2):
            for labels in combinations(common, size):
                if self._count(labels, everybody) == len(keys):
                    return _braced(f"{key}={value}" for key, value in labels)
        for label in (None, *common):
            for key in sorted(self._asked):
                values = {self._pods[pod].labels.get(key, "") for pod in keys}
                if not 1 < len(values) <= _MOST_VALUES:
                    continue
                others = [label] if label else []
                if sum(self._count([*others, (key, value)], everybody) for value in values) == len(keys):
                    some = f"{key} in ({','.join(sorted(values))})"
                    return _braced([*(f"{key}={value}" for key, value in others), some])
        return ""

    def _count(self, labels: Iterable[tuple[str, str]], everybody: Set[str]) -> int:
        return len(set.intersection(*(self._by_label.get(label, _NOBODY) for label in labels)) & everybody)

    def _common(self, keys: Iterable[str]) -> list[tuple[str, str]]:
        """The labels that all of them have: first those that are asked for, and of these the rarest."""
        first, *rest = (self._pods[key].labels.items() for key in keys)
        common = set(first)
        for labels in rest:
            common &= labels
            if not common:
                break
        return sorted(common, key=lambda label: (label[0] not in self._asked, len(self._by_label[label]), label))[:6]


def is_anywhere(party: Party) -> bool:
    """Whether it is about all addresses that are no pods'."""
    return bool(party.outside) and all(not block.cidr.prefixlen and not block.excepts for block in party.outside)


def _braced(words: Iterable[str]) -> str:
    return f"{{{','.join(words)}}}"


def _asked_labels(world: World) -> Iterator[str]:
    """The keys of labels that policies ask pods for."""
    for policy in world.policies.values():
        rules = (*(policy.ingress or ()), *(policy.egress or ()))
        peers = [peer.pods for rule in rules for peer in rule.peers or () if isinstance(peer, PodPeer)]
        selected = policy.selector if isinstance(policy, Policy) else policy.subject.pods
        for selector in (selected, *peers):
            yield from (requirement.key for requirement in selector.requirements)


def _excepts(excepts: Iterable[object]) -> str:
    listed = [str(each) for each in excepts]
    if len(listed) > _MOST_NAMED:
        listed = [*listed[:_MOST_NAMED], f"{len(listed) - _MOST_NAMED} more"]
    return f" except {' and '.join(listed)}" if listed else ""

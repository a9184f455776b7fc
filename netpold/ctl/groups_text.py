"""Many pods in few words: `shop/*`, `shop/{app=web}`, `every pod but those of shop`.

The words are exact: what they say of the inventory is just these pods.  Where no words are found, some are named and
the others counted.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Set
from itertools import combinations

from netpold.policy.model import Family, Pod, PodPeer, World
from netpold.rules.difference import Party
from netpold.rules.services import Span

_MOST_NAMED = 3
_MOST_GROUPS = 3


class Names:
    """The words for groups of these pods (by key)."""

    def __init__(self, pods: Mapping[str, Pod], asked: Set[str]) -> None:
        """`asked`: keys of labels that selectors ask for, which are the words that people know."""
        self._pods = pods
        self._asked = asked
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
        families = {block.cidr.version for block in party.outside}
        if all(block.cidr.prefixlen == 0 and not block.excepts for block in party.outside) and blocks:
            blocks = ["anywhere outside" if len(families) == 2 else f"anywhere outside (IPv{families.pop()})"]
        if len(blocks) > _MOST_NAMED:
            blocks = [*blocks[:_MOST_NAMED], f"{len(blocks) - _MOST_NAMED} more blocks"]
        return ", ".join([*parts, *blocks])

    def has(self, family: Family, party: Party) -> bool:
        """Whether any of the pods has an address of that family."""
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
        count = f"({len(some)} pods)"
        if len(spaces) <= _MOST_GROUPS:
            return f"{', '.join(self._in_namespace(name, spaces[name]) for name in sorted(spaces))} {count}"
        partly = {name for name, keys in self._by_namespace.items() if len(spaces.get(name, ())) < len(keys)}
        if 0 < len(partly) <= _MOST_GROUPS:
            missing = [self._in_namespace(name, self._by_namespace[name] - some) for name in sorted(partly)]
            return f"every pod but {', '.join(missing)} {count}"
        common = self._common(some)
        label = next((each for each in common if len(self._by_label[each]) == len(some)), None)
        if label:
            return f"every pod with {label[0]}={label[1]} {count}"
        return f"{len(some)} pods of {len(spaces)} namespaces ({', '.join(sorted(some)[:2])}, ...)"

    def _in_namespace(self, name: str, keys: set[str]) -> str:
        """Pods of one namespace."""
        everybody = self._by_namespace[name]
        if keys == everybody:
            return f"{name}/*"
        if len(keys) <= _MOST_NAMED:
            return ", ".join(sorted(keys))
        common = self._common(keys)
        for size in (1, 2, 3):
            for labels in combinations(common, size):
                if set.intersection(*(self._by_label[label] & everybody for label in labels)) == keys:
                    return f"{name}/{{{','.join(f'{key}={value}' for key, value in labels)}}}"
        return f"{', '.join(sorted(keys)[:2])} and {len(keys) - 2} more of {name}"

    def _common(self, keys: Iterable[str]) -> list[tuple[str, str]]:
        """The labels that all of them have: first those that are asked for, and of these the rarest."""
        first, *rest = (self._pods[key].labels.items() for key in keys)
        common = set(first)
        for labels in rest:
            common &= labels
            if not common:
                break
        return sorted(common, key=lambda label: (label[0] not in self._asked, len(self._by_label[label]), label))[:8]


def asked_labels(world: World) -> Iterator[str]:
    """The keys of labels that policies ask pods for."""
    for policy in world.policies.values():
        rules = (*(policy.ingress or ()), *(policy.egress or ()))
        peers = [peer.pods for rule in rules for peer in rule.peers or () if isinstance(peer, PodPeer)]
        for selector in (policy.selector, *peers):
            yield from (requirement.key for requirement in selector.requirements)


def _excepts(excepts: Iterable[object]) -> str:
    listed = [str(each) for each in excepts]
    if len(listed) > _MOST_NAMED:
        listed = [*listed[:_MOST_NAMED], f"{len(listed) - _MOST_NAMED} more"]
    return f" except {' and '.join(listed)}" if listed else ""


_PROTOCOLS = ("TCP", "UDP", "SCTP", "other")
_LAST = 65535


def services(spans: tuple[Span, ...]) -> str:
    """Protocols and ports: `80/TCP, 8000-8999/TCP`, `everything`, `everything but 22/TCP`."""
    by_protocol = {protocol: [span for span in spans if span.protocol == protocol] for protocol in _PROTOCOLS}
    missing = [gap for protocol, given in by_protocol.items() for gap in _gaps(protocol, given)]
    if not missing:
        return "everything"
    if len(missing) < len(spans) and sum(span.is_whole for span in missing) < 2:
        return f"everything but {', '.join(map(_span, missing))}"
    words: list[str] = []
    for protocol, given in by_protocol.items():
        gaps = _gaps(protocol, given)
        if given and len(gaps) < len(given) and not given[0].is_whole:
            ports = ", ".join(_ports(gap) for gap in gaps)
            words.append(f"every {protocol} port but {ports}")
        else:
            words += map(_span, given)
    return ", ".join(words)


def _gaps(protocol: str, given: list[Span]) -> list[Span]:
    """What a protocol has beside these spans, which are in order."""
    if protocol == "other":
        return [] if given else [Span(protocol, 0, 0)]
    ends = [0, *(number for span in given for number in (span.first - 1, span.last)), _LAST]
    pairs = zip(ends[::2], ends[1::2], strict=True)
    return [Span(protocol, low + 1, high) for low, high in pairs if low < high]


def _span(span: Span) -> str:
    if span.protocol == "other":
        return "ICMP and other protocols"
    return f"every {span.protocol} port" if span.is_whole else f"{_ports(span)}/{span.protocol}"


def _ports(span: Span) -> str:
    return f"{span.first}-{span.last}" if span.first != span.last else str(span.first)

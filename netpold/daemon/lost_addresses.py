"""Addresses that a pod's manifest says no more while its interface is there: the pod may well have them still.

So its policies go on to hold for what is sent there, and so do rules of tiers that deny to it, or from it; with what
changes of them and of its labels, for it has a manifest.  Nobody is granted anything by such an address, and what the
pod itself sends from there is not from an address of its own.

That ends address by address where a pod claims it again, whichever, or the host has it; and altogether when the
interface is gone or another pod's alone.  A pod that goes itself leaves these addresses behind, too (lingering.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from netpold.host.view import HostView
from netpold.policy.model import Namespace, Pod, World
from netpold.rules.endpoint import Endpoint

_MOST_NAMED = 3


@dataclass(frozen=True, slots=True)
class Lost:
    """`addresses` that a pod (by key) had when it was behind the interfaces with the indexes `links`."""

    pod: str
    addresses: tuple[str, ...]
    links: frozenset[int]


class LostAddresses:
    """`found`: by the pods' keys, the addresses, sorted."""

    def __init__(self) -> None:
        self.found: Mapping[str, tuple[str, ...]] = {}
        self._lost: dict[str, Lost] = {}

    def of(self, key: str) -> tuple[str, ...]:
        """Those of one pod; none as a rule."""
        return self.found.get(key, ())

    def take(self, key: str) -> tuple[str, ...]:
        """The same of a pod that goes, or is another one from now on."""
        lost = self._lost.pop(key, None)
        return lost.addresses if lost else ()

    def update(
        self,
        more: Iterable[Lost],
        is_claimed: Callable[[str], bool],
        here: Mapping[str, Endpoint],
        view: HostView,
    ) -> None:
        """Take in what more pods may have lost; `is_claimed`: whether any pod has an address now; `here`, `view`: where
        the local pods are, and the host."""
        for each in more:
            before = self._lost.get(each.pod, Lost(each.pod, (), frozenset()))
            addresses = dict.fromkeys((*before.addresses, *each.addresses))
            self._lost[each.pod] = Lost(each.pod, tuple(sorted(addresses)), before.links | each.links)
        if self._lost:
            self._lost = {each.pod: each for each in self._still_lost(is_claimed, here, view)}
        self.found = {key: each.addresses for key, each in self._lost.items()}

    def _still_lost(
        self, is_claimed: Callable[[str], bool], here: Mapping[str, Endpoint], view: HostView
    ) -> Iterator[Lost]:
        claimed = {interface.name for each in here.values() for interface in each.interfaces}
        names = {link.index: name for name, link in view.links.items()}
        for each in self._lost.values():
            place = here.get(each.pod)
            if place is None:
                continue
            own = {interface.name for interface in place.interfaces}
            others = claimed - own
            links = frozenset(index for index in each.links if index in names and names[index] not in others)
            addresses = tuple(at for at in each.addresses if at not in view.own and not is_claimed(at))
            if links and addresses:
                yield Lost(each.pod, addresses, links)

    def at(self, world: World, kept: Mapping[str, Namespace]) -> dict[str, tuple[tuple[Pod, Namespace], ...]]:
        """By address, the pods, with their namespaces; `kept`: as they were, those whose objects are gone."""
        found: dict[str, tuple[tuple[Pod, Namespace], ...]] = {}
        for key, addresses in self.found.items():
            pod = world.pods[key]
            space = kept.get(pod.namespace) or world.namespace(pod.namespace)
            for address in addresses:  # that several pods may have claimed, and lost
                found[address] = (*found.get(address, ()), (pod, space))
        return found

    def warnings(self) -> list[str]:
        """What a person should look at, one sentence."""
        if not self.found:
            return []
        said = [f"{key} ({' and '.join(self.found[key])})" for key in sorted(self.found)]
        named, more = said[:_MOST_NAMED], len(said) - _MOST_NAMED
        if more > 0:
            named.append(f"{more} more")
        head = "the manifest says" if len(said) == 1 else "the manifests say"
        return [
            f"{head} an address of {_joined(named)} no more, and the interface is there: what is denied there stays "
            "denied; put it back into status.podIPs, or restart the pod"
        ]


def _joined(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"

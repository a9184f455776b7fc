"""A pod keeps its policies until its interface is gone (CVE-2024-7598), whatever becomes of manifests meanwhile.

A pod whose manifest goes, or says something else of another pod of that name now, lingers as long as an interface that
was found for it is there and no other pod has it: isolated by the policies that select it, with their changes, and by
those that selected it when they were removed.  It is nobody's peer any more, for an address takes no rights along.  As
soon as another pod claims its address, what the interfaces of the old one send can't be told from what the new one
does, so they are closed, until they are gone or a pod claims them.  So is an interface that a pod has left for another
one: a new one is there, and what is left of the old one is nobody's.  A pod of the old one's name with another address
may be behind the old one's interface until it is found elsewhere: it counts as there, beside the old one.  One that is
found behind it has the old one's addresses as those that its manifest says no more (lost_addresses.py).

So does a pod keep the ClusterNetworkPolicies that were about it when they were removed, after it has gone from the
manifests; and what namespace labels say of it is what they said when it went, or, where the Namespace object went
before it, when that did (kept_namespaces.py).

A policy that goes while its namespace is being deleted (phase Terminating), or in one change with its Namespace object,
goes because the namespace does: the pods of this node that are still there keep it.

What is so is told by the changes and the world after them; `past` is what the compiler takes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from types import MappingProxyType

from netpold.daemon.lost_addresses import Lost, LostAddresses
from netpold.host.locate import is_same
from netpold.host.remains import Left, Remains
from netpold.host.view import HostView
from netpold.policy.changes import Changes
from netpold.policy.claims import Claims
from netpold.policy.isolation import selects
from netpold.policy.model import AnyPolicy, ClusterPolicy, Namespace, Pod, Policy, World, policy_title
from netpold.policy.refusals import closed
from netpold.policy.selector import matches
from netpold.rules.endpoint import Endpoint, Interface
from netpold.rules.past import NO_PAST, Gone, Past

_NOTHING: Mapping[str, str] = MappingProxyType({})
_NO_NAMESPACES: Mapping[str, Namespace] = MappingProxyType({})


class Lingering:
    """Owns what lingers, for one thread.

    `past` is another object when anything in it changed.  `heirs`: pods that have the name of one in it, and were not
    found yet: by key, the interfaces of that one.  `lost`: addresses that the manifests of pods say no more.  `closed`:
    interfaces through which nothing may pass unless a pod claims them.
    """

    def __init__(self, remains: Remains) -> None:
        """`remains`: from before the daemon's start."""
        self._remains: Remains | None = remains
        self.past: Past = NO_PAST
        self.heirs: Mapping[str, tuple[Interface, ...]] = {}
        self.lost = LostAddresses()
        self.closed: frozenset[Interface] = frozenset()
        self._left: dict[str, Left] = {}
        self._refused: set[str] = set()  # by the kernel, of the kept policies

    def update(
        self,
        changes: Changes,
        world: World,
        claims: Claims,
        places: tuple[Mapping[str, Endpoint], Mapping[str, Endpoint]],
        views: tuple[HostView, HostView],
        abandoned: Mapping[str, str] = _NOTHING,
        namespaces: Mapping[str, Namespace] = _NO_NAMESPACES,
    ) -> None:
        """Take in a change.  `world` is the one after it, `claims` are those before it; `places` (endpoints of the
        local pods by key) and `views` are those before and after it; `abandoned`: see Places; `namespaces`: see Past,
        after it."""
        _, here = places
        lost: list[Lost] = []
        if self._remains is not None:
            lost += self._take_up(self._remains, world, here)
            self._remains = None
        for left in self._leaving(changes, world, places, views[0]):
            taken = any(_is_claimed(claims, world, address) for address in left.addresses)
            self._left[left.name] = replace(left, closed=taken)
        self._close(abandoned, changes, world, views[1])
        lost += [*_losing(changes, places, views[0]), *self._back(here, views[1])]
        if lost or self.lost.found:
            now = partial(_is_claimed, claims, world, came=_came(changes))
            self.lost.update(lost, now, here, views[1])
        lingers = self._left or self.past.policies or namespaces or self.lost.found
        if not lingers and not _with_namespace(changes, world):
            self.past, self.heirs, self.closed = NO_PAST, {}, frozenset()
            return
        self._left = dict(self._still_there(changes, here, views[1]))
        self.closed = frozenset(
            interface for left in self._left.values() if left.closed for interface in _interfaces(left, views[1])
        )
        pods = {
            name: Gone(left.pod, Endpoint(name, left.addresses, _interfaces(left, views[1])), left.namespace)
            for name, left in self._left.items()
            if not left.closed
        }
        ending = frozenset(self._ending(changes, world, here))
        self.heirs = dict(_heirs(pods.values(), here))
        kept = dict(self._kept(changes, world, ending))
        past = Past(pods, kept, ending, namespaces, self.lost.at(world, namespaces))
        if past != self.past:
            self.past = past

    def placed(self, endpoints: Mapping[str, Endpoint]) -> Mapping[str, Endpoint]:
        """The endpoints of local pods with what is theirs beside what was found: interfaces of heirs, addresses."""
        more = {key: replace(endpoints[key], interfaces=at) for key, at in self.heirs.items() if key in endpoints}
        for key, addresses in self.lost.found.items():
            if key in endpoints:
                more[key] = replace(more.get(key, endpoints[key]), lost=addresses)
        return {**endpoints, **more} if more else endpoints

    def refuse(self, keys: Iterable[str]) -> bool:
        """The kernel refuses these policies: have those close that hold for what lingers alone.  Whether any did not
        yet."""
        found = {key: self.past.policies[key] for key in keys if key in self.past.policies}
        refused = {key: closed(policy) for key, policy in found.items() if not policy.quarantined}
        self._refused |= refused.keys()
        if refused:
            self.past = replace(self.past, policies={**self.past.policies, **refused})
        return bool(refused)

    def remains(self, world: World, here: Mapping[str, Endpoint], isolating: Iterable[str], view: HostView) -> Remains:
        """What is to be known after a restart; `isolating`: the keys of the policies that isolate any pod here."""
        if self._remains is not None:
            return self._remains
        living = (
            Left(
                pod, self._namespace(pod.namespace, world), (*place.addresses, *self.lost.of(key)), _links(place, view)
            )
            for key, pod, place in ((key, world.pods[key], place) for key, place in here.items())
            if place.interfaces
        )
        policies = {
            key: world.policies.get(key) or self.past.policies.get(key) for key in (*self.past.policies, *isolating)
        }
        return Remains(
            tuple(each for each in (*living, *self._left.values()) if each.links),
            tuple(_with_mode(each, world.namespaces) for each in policies.values() if each),
            self.past.ending,
        )

    def _namespace(self, name: str, world: World) -> Namespace:
        return self.past.namespaces.get(name) or world.namespace(name)

    def _take_up(self, remains: Remains, world: World, here: Mapping[str, Endpoint]) -> Iterator[Lost]:
        """What was left behind when the daemon ran last, and what was since; gives what pods may have lost."""
        for left in remains.pods:
            if left.closed or not _is_still(left.pod, world.pods.get(left.pod.key), here):
                self._left[left.name] = left
            else:
                yield Lost(left.pod.key, left.addresses, frozenset(left.links.values()))
        gone = {each.key: each for each in remains.policies if each.key not in world.policies}
        namespaces = {each.namespace for each in gone.values() if isinstance(each, Policy)}
        ending = {name for name in namespaces if world.namespace(name).terminating}
        self.past = Past({}, gone, remains.ending | ending)

    def _close(self, abandoned: Mapping[str, str], changes: Changes, world: World, view: HostView) -> None:
        """Interfaces that no pod has left behind as it went, and that are nobody's all the same."""
        known = {index for left in self._left.values() for index in left.links.values()}
        for name, key in abandoned.items():
            index = view.links[name].index
            pod = world.pods.get(key) or changes.pods.get(key, (None, None))[0]
            if index not in known and pod is not None:
                left = Left(pod, world.namespace(pod.namespace), (), {name: index}, closed=True)
                self._left[left.name] = left

    def warnings(self) -> list[str]:
        """What a person should look at, one sentence each."""
        shut = [left for left in self._left.values() if left.closed]
        refused = [
            f"the kernel refuses {policy_title(key)}, whose manifest is gone: what it selected and is still there is "
            "isolated, and it grants nothing"
            for key in sorted(self._refused & self.past.policies.keys())
        ]
        return [*self.lost.warnings(), *refused] + [
            f"interface {name} is closed: the pod {left.pod.key} that had it is elsewhere or gone; remove it, or "
            "name it in annotation netpold.io/interface of the pod that has it"
            for left in sorted(shut, key=lambda left: left.name)
            for name in left.links
        ]

    def _leaving(
        self,
        changes: Changes,
        world: World,
        places: tuple[Mapping[str, Endpoint], Mapping[str, Endpoint]],
        view: HostView,
    ) -> Iterator[Left]:
        """The pods that leave interfaces behind, for all that their manifests say."""
        before, here = places
        for key, (old, new) in changes.pods.items():
            place = before.get(key)
            if old is None or place is None or not place.interfaces or _is_still(old, new, here):
                continue
            addresses = (*place.addresses, *self.lost.take(key))
            links = _links(place, view)
            if links:
                space, _ = changes.namespaces.get(old.namespace, (None, None))
                yield Left(old, space or self._namespace(old.namespace, world), addresses, links)

    def _back(self, here: Mapping[str, Endpoint], view: HostView) -> Iterator[Lost]:
        """What is left of pods of whose names there are pods behind the same interfaces again."""
        for left in self._left.values():
            key = left.pod.key
            if not left.closed and key in here:
                links = frozenset(_links(here[key], view).values()).intersection(left.links.values())
                if links:
                    yield Lost(key, left.addresses, links)

    def _still_there(
        self, changes: Changes, here: Mapping[str, Endpoint], view: HostView
    ) -> Iterator[tuple[str, Left]]:
        claimed = {interface.name for each in here.values() for interface in each.interfaces}
        came = _came(changes)
        names = {link.index: name for name, link in view.links.items()}  # an interface may get another name
        for left in self._left.values():
            there = {names[index]: index for index in left.links.values() if index in names}
            links = {name: index for name, index in there.items() if name not in claimed}
            if links:
                now = replace(left, links=links, closed=left.closed or not came.isdisjoint(left.addresses))
                yield now.name, now

    def _ending(self, changes: Changes, world: World, here: Mapping[str, Endpoint]) -> Iterator[str]:
        """Namespaces that go with their policies, and of which there are pods here."""
        inhabited = {key.partition("/")[0] for key in here}
        for name in self.past.ending | _with_namespace(changes, world):
            if name in inhabited and _is_ending(world, name):
                yield name

    def _kept(self, changes: Changes, world: World, ending: frozenset[str]) -> Iterator[tuple[str, AnyPolicy]]:
        namespaces = {**world.namespaces, **{name: old for name, (old, _) in changes.namespaces.items() if old}}
        gone = {
            key: _with_mode(old, namespaces)
            for key, (old, new) in changes.policies.items()
            if old is not None and new is None
        }
        with_namespace = _with_namespace(changes, world)
        for key, policy in {**self.past.policies, **gone}.items():
            if key in world.policies:
                continue
            known = key in self.past.policies or (isinstance(policy, Policy) and policy.namespace in with_namespace)
            goes_with = isinstance(policy, Policy) and policy.namespace in ending and known
            if goes_with or any(_selects(policy, left) for left in self._left.values()):
                yield key, policy


def _with_mode(policy: AnyPolicy, namespaces: Mapping[str, Namespace]) -> AnyPolicy:
    """The policy with what its namespace says of it, which may go with it."""
    namespace = namespaces.get(policy.namespace) if isinstance(policy, Policy) else None
    return replace(policy, mode=namespace.mode) if namespace and namespace.mode and not policy.mode else policy


def _is_still(old: Pod, new: Pod | None, here: Mapping[str, Endpoint]) -> bool:
    """Whether what a manifest says now is still the same pod, or the new name of another one."""
    return new is not None and new.key in here and is_same(old.addresses, new.addresses)


def _heirs(gone: Iterable[Gone], here: Mapping[str, Endpoint]) -> Iterator[tuple[str, tuple[Interface, ...]]]:
    """Pods of the name of one that is gone, which may be behind what that one left: they were not found elsewhere."""
    for each in gone:
        heir = here.get(each.pod.key)
        if heir is not None and heir.addresses and not heir.interfaces:
            yield heir.pod, each.endpoint.interfaces


def _with_namespace(changes: Changes, world: World) -> frozenset[str]:
    """Namespaces of which policies went, and which are being deleted or whose objects went in the same change."""
    lost = {old.namespace for old, new in changes.policies.values() if isinstance(old, Policy) and new is None}
    return frozenset(
        name for name in lost if _is_ending(world, name) and (name in world.namespaces or name in changes.namespaces)
    )


def _is_ending(world: World, namespace: str) -> bool:
    found = world.namespaces.get(namespace)
    return found is None or found.terminating


def _links(place: Endpoint, view: HostView) -> dict[str, int]:
    return {each.name: view.links[each.name].index for each in place.interfaces if each.name in view.links}


def _interfaces(left: Left, view: HostView) -> tuple[Interface, ...]:
    return tuple(Interface(name, view.links[name].master is not None) for name in left.links)


def _losing(
    changes: Changes, places: tuple[Mapping[str, Endpoint], Mapping[str, Endpoint]], view: HostView
) -> Iterator[Lost]:
    """The pods that are still there with fewer of their addresses; `view` is the one before the change."""
    before, here = places
    for key, (old, new) in changes.pods.items():
        place = before.get(key)
        if old is None or new is None or place is None or not _is_still(old, new, here):
            continue
        addresses = tuple(address for address in place.addresses if address not in new.addresses)
        if addresses:
            yield Lost(key, addresses, frozenset(_links(place, view).values()))


def _came(changes: Changes) -> frozenset[str]:
    """The addresses of all pods that changed, as they are now."""
    pods = (pod for _, pod in changes.pods.values() if pod is not None and pod.takes_part)
    return frozenset(address for pod in pods for address in pod.addresses)


def _is_claimed(claims: Claims, world: World, address: str, came: frozenset[str] = frozenset()) -> bool:
    """Whether any pod that claimed the address before a change does so after it; or any of those that `came`."""
    pods = (world.pods.get(key) for key in claims.of(address))
    return address in came or any(pod and pod.takes_part and address in pod.addresses for pod in pods)


def _selects(policy: AnyPolicy, left: Left) -> bool:
    pod = left.pod
    if isinstance(policy, ClusterPolicy):
        return selects(policy, pod, left.namespace) is not None
    return policy.namespace == pod.namespace and (pod.quarantined or matches(policy.selector, pod.labels))

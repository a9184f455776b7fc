"""Policies to ruleset.  A pure function of the world, of where its pods are, and of a few settings.

`Compiler` keeps what it made, and makes again only what a change concerns: it brings the sets up to date that a changed
pod may have joined or left, and looks again at the local pods that changed, whose place did, or in whose namespace a
policy did.  Only when something changed for one of these are chains made (chains.py), and of them only its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field

from netpold.policy.changes import Changes
from netpold.policy.groups import Group
from netpold.policy.index import Index
from netpold.policy.isolation import Isolation
from netpold.policy.model import ClusterPolicy, Direction, Policy
from netpold.rules.audit import Audited, is_audited, modes_changed
from netpold.rules.chains import Chains
from netpold.rules.count import Isolated, counting_sets
from netpold.rules.endpoint import Endpoint
from netpold.rules.local import Local
from netpold.rules.past import NO_PAST, Past
from netpold.rules.peers import PolicyRules
from netpold.rules.revoke import REVOKED, revoked_set
from netpold.rules.ruleset import (
    FAMILIES,
    IPSet,
    Ruleset,
    SetChange,
)
from netpold.rules.sets import Sets
from netpold.rules.settings import CompileSettings
from netpold.rules.unclaimed import NOTHING, Unclaimed


@dataclass(frozen=True, slots=True)
class Compiled:
    """A ruleset, and how it came from the one before.

    `changed`: by name, what became of the members of sets that were there before.  `lost`: addresses of which flows may
    be refused now that were allowed before.  `isolated`: for whom packets may be dropped.
    """

    ruleset: Ruleset
    changed: Mapping[str, SetChange] = field(default_factory=dict)
    lost: frozenset[str] = frozenset()
    isolated: tuple[Isolated, ...] = ()


def compile_ruleset(
    index: Index,
    endpoints: Mapping[str, Endpoint],
    settings: CompileSettings,
    past: Past = NO_PAST,
    unclaimed: Unclaimed = NOTHING,
) -> Ruleset:
    """The ruleset for a node whose local pods are `endpoints` (by pod key; all of them in the index's world)."""
    return Compiler(index, settings).update(Changes(), endpoints, past, unclaimed).ruleset


class Compiler:
    """Compiles again only what a change concerns; the ruleset is always the one that `compile_ruleset` gives."""

    def __init__(self, index: Index, settings: CompileSettings) -> None:
        self.index = index
        self._settings = settings
        self.audited = Audited(index.world, settings.mode)
        self._sets = Sets(index)
        self._rules = PolicyRules(self._sets)
        self._families = [Chains(family, settings, self._sets, self._rules) for family in FAMILIES]
        self._endpoints: Mapping[str, Endpoint] = {}
        self._local: dict[str, Local] = {}
        self._past = NO_PAST
        self._unclaimed = NOTHING
        self._active = False
        self._isolated: tuple[Isolated, ...] = ()
        self._ruleset: Ruleset | None = None

    def update(
        self,
        changes: Changes,
        endpoints: Mapping[str, Endpoint],
        past: Past = NO_PAST,
        unclaimed: Unclaimed = NOTHING,
    ) -> Compiled:
        """The ruleset after these changes of the index's world (which the index is told here), with these local pods
        (by pod key; all of them in the world), and beside them what is `past`, and what is closed as `unclaimed`."""
        affected = self.index.update(changes)
        self.audited.update(changes)
        if past is not self._past:
            affected = _merged(affected, self.index.linger(past.left(), past.namespaces))
        changed = self._sets.follow(affected)
        lost = {address for name, change in changed.items() for address in self._lost(name, change)}
        moved = self._localise(changes, endpoints, past)
        active = self._enforces(past)
        if self._ruleset is None or moved or active != self._active or unclaimed != self._unclaimed:
            self._active, self._unclaimed = active, unclaimed
            lost.update(address for each in moved for address in each.endpoint.judged_at)
            changed |= self._build()
        assert self._ruleset is not None
        return Compiled(self._ruleset, changed, frozenset(lost), self._isolated)

    def _lost(self, name: str, change: SetChange) -> Iterator[str]:
        """The addresses to or from which less may be allowed since a set changed."""
        larger = self._sets.sets[name].larger
        yield from (member.split(",")[0] for member in change.removed if larger != "forbids")
        yield from (member.split(",")[0] for member in change.added if larger != "allows")

    def close(self) -> None:
        """Have the index watch for this compiler no longer; it is not to be asked again."""
        self._sets.retain(frozenset())

    def _enforces(self, past: Past) -> bool:
        """Whether there is any policy that is not audited."""
        world, mode = self.index.world, self._settings.mode
        kept = past.policies.values()
        return len(world.policies) > len(self.audited.keys) or not all(is_audited(each, world, mode) for each in kept)

    def isolated(self) -> int:
        """How many local pods that have a manifest some NetworkPolicy isolates that is not audited."""
        return sum(any(map(each.is_isolated, Direction)) for each in self._declared())

    def in_tiers(self) -> int:
        """How many local pods that have a manifest ClusterNetworkPolicies are about."""
        return sum(each.has_tiers for each in self._declared())

    def isolation(self, key: str) -> Mapping[Direction, Isolation]:
        """What holds for a local pod, by direction."""
        return self._local[key].isolation

    def _declared(self) -> Iterator[Local]:
        return (each for key, each in self._local.items() if key not in self._past.pods)

    def _localise(self, changes: Changes, living: Mapping[str, Endpoint], past: Past) -> list[Local]:
        """Bring `_local` up to date; returns what was there and is no more, and what is there now and was not."""
        endpoints = {**living, **{key: gone.endpoint for key, gone in past.pods.items()}}
        touched = {key for key in changes.pods if key in endpoints or key in self._local}
        touched |= {key for key, _ in endpoints.items() ^ self._endpoints.items()}
        policies = [each for pair in changes.policies.values() for each in pair if each is not None]
        namespaces = modes_changed(changes)
        if self.index.has_tiers or any(isinstance(each, ClusterPolicy) for each in policies):
            namespaces |= changes.namespaces.keys()  # also where the last one goes: it was about other labels
        if past is not self._past:
            policies += [each for old in (past, self._past) for each in old.policies.values()]
            namespaces |= past.ending ^ self._past.ending
            namespaces |= past.namespaces.keys() ^ self._past.namespaces.keys()
        namespaces |= {each.namespace for each in policies if isinstance(each, Policy)}
        if namespaces:
            touched |= {key for key in self._local if key.partition("/")[0] in namespaces}
        touched |= self._subjects([each for each in policies if isinstance(each, ClusterPolicy)])
        self._endpoints, self._past = endpoints, past
        moved: list[Local] = []
        for key in touched:
            before, now = self._local.get(key), self._find(key)
            if before == now:
                continue
            moved += [each for each in (before, now) if each is not None]
            if now is None:
                del self._local[key]
            else:
                self._local[key] = now
        return moved

    def _subjects(self, policies: list[ClusterPolicy]) -> set[str]:
        """The local pods that any of these may be about, or was."""
        if not policies:
            return set()
        world, found = self.index.world, set()
        for key in self._local:
            pod = world.pods.get(key)
            if pod is None or any(self.index.selects(each, pod) for each in policies):
                found.add(key)
        return found

    def _find(self, key: str) -> Local | None:
        if key not in self._endpoints:
            return None
        gone = self._past.pods.get(key)
        pod = gone.pod if gone else self.index.world.pods[key]
        namespace = gone.namespace if gone else None
        isolation = {
            direction: self._past.isolating(self.index.isolation(pod, direction, namespace), key, pod, direction)
            for direction in Direction
        }
        world, mode = self.index.world, self._settings.mode
        policies = {policy.key: policy for each in isolation.values() for policy in each.all}
        audited = frozenset(key for key, policy in policies.items() if is_audited(policy, world, mode))
        return Local(key, pod.ports, self._endpoints[key], isolation, audited)

    def _build(self) -> dict[str, SetChange]:
        """Make the chains; returns what became of sets that were there before."""
        local = [self._local[key] for key in sorted(self._local)]
        chains = {each.family: each.build(local, self._active, self._unclaimed) for each in self._families}
        uses = {each.family: each.uses for each in self._families}
        # a policy that allows everybody makes the peers of the others superfluous
        used = {name for family in FAMILIES for names in uses[family].values() for name in names}
        self._isolated = tuple(_isolated(local))
        fixed = {REVOKED[family]: revoked_set(family) for family in FAMILIES} | counting_sets(self._isolated)
        fixed = {name: ipset for name, ipset in fixed.items() if name in used}
        changed = self._sets.retain(used - fixed.keys())
        if self._ruleset is not None:
            changed |= _compare(self._ruleset.sets, fixed)
        self._rules.retain(used)
        hooks = {"FORWARD": "NETPOLD-FORWARD", "INPUT": "NETPOLD-INPUT"}
        if self._settings.host_to_pods == "policy":
            hooks["OUTPUT"] = "NETPOLD-OUTPUT"
        self._ruleset = Ruleset(chains, self._sets.sets | fixed, hooks, uses)
        return changed


def _isolated(local: Iterable[Local]) -> Iterator[Isolated]:
    for each in local:
        for direction in Direction:
            if policies := each.dropping(direction):
                yield Isolated(each.key, direction, each.endpoint.judged_at, policies)


def _compare(before: Mapping[str, IPSet], now: Mapping[str, IPSet]) -> dict[str, SetChange]:
    """What became of the members of sets that are in both."""
    both = ((name, before[name].members, now[name].members) for name in now.keys() & before.keys())
    return {name: SetChange(frozenset(new - old), frozenset(old - new)) for name, old, new in both if old != new}


def _merged(one: Mapping[Group, Set[str]], other: Mapping[Group, Set[str]]) -> Mapping[Group, Set[str]]:
    """The addresses of both."""
    return {group: {*one.get(group, ()), *other.get(group, ())} for group in one.keys() | other.keys()}

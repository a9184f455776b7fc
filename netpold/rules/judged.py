"""What one world says of each pod, before it is asked about any pair: the kernel rules of all that judge it.

The rules are those that the compiler makes for the policies that judge the pod (peers.py); few pods have rules that
no other has, so they are kept once for all that have the same.  An address that several pods claim is judged by all of
them.

Of two worlds with the same pods, most of what policies say is the same, too: that is worked out once, and is one value
in both, so that nobody has to compare it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from netpold.policy.classes import Isolations
from netpold.policy.index import Index
from netpold.policy.isolation import Isolation
from netpold.policy.model import Action, AnyPolicy, ClusterPolicy, ContainerPort, Direction, Family, Mode, Pod
from netpold.rules.audit import is_audited
from netpold.rules.peers import PolicyRules
from netpold.rules.ruleset import IPSet, Rule, sets_used
from netpold.rules.sets import Sets


class Judge(NamedTuple):
    """One who judges, in this order: the rules of the Admin tier, in order; those of the NetworkPolicies, each of which
    allows, and if they `isolate` nothing else is allowed; the rules of the Baseline tier, in order.  What a rule does
    is its origin's action.  `selected`: NetworkPolicies select the pod, if only in audit mode."""

    admin: tuple[Rule, ...]
    policies: tuple[Rule, ...]
    isolate: bool
    baseline: tuple[Rule, ...]
    selected: bool

    @property
    def rules(self) -> tuple[Rule, ...]:
        return self.admin + self.policies + self.baseline


@dataclass(frozen=True, slots=True, eq=False)
class Judges:
    """Who judges a pod in a direction, all of whom have to allow; with none, everything is allowed.

    `isolating`: the keys of the NetworkPolicies that isolate it.  `own`: addresses with which all is free, where these
    are not the pod's alone.  Compared by identity: there is one value for all pods that it is the same for.
    """

    judges: tuple[Judge, ...]
    isolating: tuple[str, ...]
    own: frozenset[str]


_Of = tuple[tuple[str, ...], bool, frozenset[str], tuple[ContainerPort, ...]]
_Key = tuple[Direction, Family, tuple[_Of, ...], frozenset[str]]
_FREE = Isolation(())
_NO_PORTS: tuple[ContainerPort, ...] = ()


def _alike(judge: Judge) -> object:
    """What is the same for judges that say the same."""
    rules = (tuple(map(id, each)) for each in (judge.admin, judge.policies, judge.baseline))
    return (*rules, judge.isolate, judge.selected)


def _same_inventory(one: Index, other: Index) -> bool:
    """Whether what sets hold is the same in both."""
    worlds = one.world, other.world
    pods, namespaces, nodes = ([getattr(each, what) for each in worlds] for what in ("pods", "namespaces", "nodes"))
    lingers = one.lasting or other.lasting or one.kept or other.kept
    return not lingers and pods[0] == pods[1] and namespaces[0] == namespaces[1] and nodes[0] == nodes[1]


def _changed(one: Index, other: Index) -> frozenset[str]:
    """The keys of the policies that are not the same in both."""
    before, after = one.world.policies, other.world.policies
    return frozenset(key for key in before.keys() | after.keys() if before.get(key) != after.get(key))


def _says_the_same(one: AnyPolicy, other: AnyPolicy, direction: Direction) -> bool:
    """Whether their rules of a direction are the same, whoever is judged by them, and when."""
    tiers = [each.tier if isinstance(each, ClusterPolicy) else None for each in (one, other)]
    same = tiers[0] == tiers[1] and one.quarantined == other.quarantined
    return same and one.rules(direction) == other.rules(direction)


class Judged:
    """One world.  Pods are asked about first; then `fill` makes the sets that their rules look peers up in."""

    def __init__(self, index: Index, mode: Mode, beside: Judged | None = None) -> None:
        """`beside`: another world, which is asked about each pod before this one.  Where it has the same pods,
        namespaces and nodes, the two have their sets in common, and what is the same in both is one value."""
        self.index = index
        self._mode = mode
        self._like = beside if beside and beside._mode == mode and _same_inventory(beside.index, index) else None
        self._sets: Sets = self._like._sets if self._like else Sets(index)
        self._kin: list[Judged] = self._like._kin if self._like else []  # those that have these sets in common
        self._kin.append(self)
        self._changed = _changed(self._like.index, index) if self._like else frozenset()
        self._rules = PolicyRules(self._sets)
        self._isolations = Isolations(index)
        self._enforced: dict[int, Isolation] = {}  # by isolation
        self._known: dict[_Key, Judges] = {}
        self._by_rules: dict[object, Judges] = self._like._by_rules if self._like else {}
        self._seen: dict[object, Judges] = {}  # the same, by the isolations themselves: these are kept as long

    def judges(self, pod: Pod, address: str, direction: Direction) -> Judges:
        """Who judges what this pod sends from, or gets at, that address of its."""
        family: Family = 6 if ":" in address else 4
        pods, own = [pod], frozenset[str]()
        if address in self.index.claims.contested or not pod.takes_part:  # on the host's network nobody judges
            pods = self.index.claimants(address)
        isolated = [(each, isolation) for each in pods if (isolation := self._isolation(each, direction))]
        if isolated and self._shares(pods):
            # as the kernel's rules are made (chains.py): also for those whose policies are all audited
            judged = (each for each in pods if self._isolations.of(each, direction))
            own = frozenset.intersection(*(frozenset(each.addresses) for each in judged))
        ports = direction is Direction.INGRESS
        same = (
            direction,
            family,
            own,
            tuple([(id(isolation), each.ports if ports else ()) for each, isolation in isolated]),
        )
        found = self._seen.get(same)
        if found is None:
            found = self._seen[same] = self._judges(isolated, direction, family, own)
        return found

    def _judges(
        self, isolated: list[tuple[Pod, Isolation]], direction: Direction, family: Family, own: frozenset[str]
    ) -> Judges:
        key = (direction, family, tuple([self._key(each, isolation, direction) for each, isolation in isolated]), own)
        found = self._known.get(key) or self._beside(isolated, key)
        if found is None:
            isolating = tuple(
                dict.fromkeys(policy.key for _, each in isolated for policy in each.policies if self._holds(policy))
            )
            judges = tuple(self._judge(each, isolation, direction, family) for each, isolation in isolated)
            # pods with other ports have the same rules where these name none
            same = isolating, own, tuple([_alike(each) for each in judges])
            found = self._known[key] = self._by_rules.setdefault(same, Judges(judges, isolating, own))
        return found

    def _beside(self, isolated: list[tuple[Pod, Isolation]], key: _Key) -> Judges | None:
        """Those of the world beside this one, where they are the same."""
        if self._like is None or any(policy.key in self._changed for _, each in isolated for policy in each.all):
            return None
        return self._like._known.get(key)

    def shares_sets(self, other: Judged) -> bool:
        """Whether both have the same sets, and the same pods at the same addresses."""
        return self._sets is other._sets

    def rules(self) -> Iterator[Rule]:
        """All rules of those that were asked about, each once; but for those of the world beside this one."""
        found: dict[int, Rule] = {}
        for each in self._known.values():
            for judge in each.judges:
                found.update((id(rule), rule) for rule in judge.rules)
        yield from found.values()

    def own(self) -> frozenset[str]:
        """The addresses with which anything is free to any of those that were asked about, in all worlds that have
        the sets in common."""
        return frozenset[str]().union(*(each.own for world in self._kin for each in world._known.values()))

    def fill(self) -> None:
        """Make the sets of these rules, and of those of all worlds that have them in common."""
        self._sets.retain(sets_used([tuple(each.rules()) for each in self._kin]))

    @property
    def sets(self) -> dict[str, IPSet]:
        """By logical name, after `fill`."""
        return self._sets.sets

    def _shares(self, pods: Iterable[Pod]) -> bool:
        """Whether any of their addresses is another pod's, too."""
        contested = self.index.claims.contested
        return bool(contested) and any(address in contested for pod in pods for address in pod.addresses)

    def _isolation(self, pod: Pod, direction: Direction) -> Isolation:
        """What holds for a pod; nothing where all that judges it is in audit mode."""
        found = self._isolations.of(pod, direction)
        if not found:
            return found
        enforced = self._enforced.get(id(found))
        if enforced is None:
            enforced = found if any(self._holds(policy) for policy in found.all) else _FREE
            self._enforced[id(found)] = enforced
        return enforced

    def _holds(self, policy: AnyPolicy) -> bool:
        """Whether it is enforced, and not only audited."""
        return not is_audited(policy, self.index.world, self._mode)

    def _key(self, pod: Pod, isolation: Isolation, direction: Direction) -> _Of:
        ports = pod.ports if direction is Direction.INGRESS else _NO_PORTS
        keys = tuple([policy.key for policy in isolation.all])
        return keys, isolation.grants, isolation.denying, ports

    def _judge(self, pod: Pod, isolation: Isolation, direction: Direction, family: Family) -> Judge:
        isolate = any(map(self._holds, isolation.policies))
        return Judge(
            self._tier(isolation.admin, pod, isolation, direction, family),
            tuple(self._allowing(pod, isolation, direction, family)),
            isolate,
            () if isolate else self._tier(isolation.baseline, pod, isolation, direction, family),
            bool(isolation.policies),
        )

    def _allowing(self, pod: Pod, isolation: Isolation, direction: Direction, family: Family) -> Iterable[Rule]:
        if isolation.grants:
            for policy in isolation.policies:
                if not policy.quarantined:
                    yield from self._rules_of(policy, direction, pod.ports, family)

    def _rules_of(
        self, policy: AnyPolicy, direction: Direction, ports: tuple[ContainerPort, ...] | None, family: Family
    ) -> tuple[Rule, ...]:
        """Those of the world beside this one, where the policy says the same in this direction."""
        other = self._like.index.world.policies.get(policy.key) if self._like else None
        if self._like and other and _says_the_same(policy, other, direction):
            return self._like._rules.of(other, direction, ports, family)
        return self._rules.of(policy, direction, ports, family)

    def _tier(
        self,
        policies: Iterable[ClusterPolicy],
        pod: Pod,
        isolation: Isolation,
        direction: Direction,
        family: Family,
    ) -> tuple[Rule, ...]:
        rules: list[Rule] = []
        ports = pod.ports if isolation.grants else None
        for policy in policies:
            sure = isolation.grants and policy.key not in isolation.denying and not policy.quarantined
            holds = self._holds(policy)
            rules += (
                rule
                for rule in self._rules_of(policy, direction, ports, family)
                if rule.origin and (holds if rule.origin.action is Action.DENY else sure)
            )
        return tuple(rules)

"""What one world says of each pod, before it is asked about any pair: the kernel rules of all that judge it.

The rules are those that the compiler makes for the policies that isolate the pod (peers.py); few pods have rules that
no other has, so they are kept once for all that have the same.  An address that several pods claim is judged by all of
them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from netpold.policy.classes import Isolations
from netpold.policy.index import Index, Isolation
from netpold.policy.model import ContainerPort, Direction, Family, Mode, Pod
from netpold.rules.audit import is_audited
from netpold.rules.peers import PolicyRules
from netpold.rules.ruleset import IPSet, Rule, sets_used
from netpold.rules.sets import Sets


@dataclass(frozen=True, slots=True, eq=False)
class Judges:
    """Who judges a pod in a direction: for each of them the rules that allow; with none, everything is allowed.

    `isolating`: the keys of their policies.  `own`: addresses with which all is free, where these are not
    the pod's alone.  Compared by identity: there is one value for all pods that it is the same for.
    """

    rules: tuple[tuple[Rule, ...], ...]
    isolating: tuple[str, ...]
    own: frozenset[str]


_Key = tuple[Direction, Family, tuple[tuple[tuple[str, ...], bool, tuple[ContainerPort, ...]], ...], frozenset[str]]
_FREE = Isolation(())
_NO_PORTS: tuple[ContainerPort, ...] = ()


class Judged:
    """One world.  Pods are asked about first; then `fill` makes the sets that their rules look peers up in."""

    def __init__(self, index: Index, mode: Mode) -> None:
        self.index = index
        self._mode = mode
        self._sets = Sets(index)
        self._rules = PolicyRules(self._sets)
        self._isolations = Isolations(index)
        self._enforced: dict[int, bool] = {}  # by isolation
        self._known: dict[_Key, Judges] = {}
        self._by_rules: dict[object, Judges] = {}
        self._seen: dict[object, Judges] = {}  # the same, by the isolations themselves: these are kept as long

    def judges(self, pod: Pod, address: str, direction: Direction) -> Judges:
        """Who judges what this pod sends from, or gets at, that address of its."""
        family: Family = 6 if ":" in address else 4
        pods, own = [pod], frozenset[str]()
        if address in self.index.claims.contested:
            pods = self.index.claimants(address)
        isolated = [(each, isolation) for each in pods if (isolation := self._isolation(each, direction))]
        if isolated and self._shares(pods):
            own = frozenset.intersection(*(frozenset(each.addresses) for each, _ in isolated))
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
        found = self._known.get(key)
        if found is None:
            isolating = tuple(dict.fromkeys(policy.key for _, each in isolated for policy in each.policies))
            rules = tuple(tuple(self._allowing(each, isolation, direction, family)) for each, isolation in isolated)
            # pods with other ports have the same rules where these name none
            same = isolating, own, tuple([tuple(map(id, each)) for each in rules])
            found = self._known[key] = self._by_rules.setdefault(same, Judges(rules, isolating, own))
        return found

    def rules(self) -> Iterator[Rule]:
        """All rules of those that were asked about, each once."""
        found: dict[int, Rule] = {}
        for each in self._known.values():
            for rules in each.rules:
                found.update(zip(map(id, rules), rules, strict=True))
        yield from found.values()

    def own(self) -> frozenset[str]:
        """The addresses with which anything is free to any of those that were asked about."""
        return frozenset[str]().union(*(each.own for each in self._known.values()))

    def fill(self) -> None:
        """Make the sets of these rules."""
        self._sets.retain(sets_used([tuple(self.rules())]))

    @property
    def sets(self) -> dict[str, IPSet]:
        """By logical name, after `fill`."""
        return self._sets.sets

    def _shares(self, pods: Iterable[Pod]) -> bool:
        """Whether any of their addresses is another pod's, too."""
        contested = self.index.claims.contested
        return bool(contested) and any(address in contested for pod in pods for address in pod.addresses)

    def _isolation(self, pod: Pod, direction: Direction) -> Isolation:
        """What holds for a pod; nothing where all that isolates it is in audit mode."""
        found = self._isolations.of(pod, direction)
        if not found:
            return found
        enforced = self._enforced.get(id(found))
        if enforced is None:
            world = self.index.world
            enforced = not all(is_audited(policy, world, self._mode) for policy in found.policies)
            self._enforced[id(found)] = enforced
        return found if enforced else _FREE

    def _key(
        self, pod: Pod, isolation: Isolation, direction: Direction
    ) -> tuple[tuple[str, ...], bool, tuple[ContainerPort, ...]]:
        ports = pod.ports if direction is Direction.INGRESS else _NO_PORTS
        return tuple([policy.key for policy in isolation.policies]), isolation.grants, ports

    def _allowing(self, pod: Pod, isolation: Isolation, direction: Direction, family: Family) -> Iterable[Rule]:
        if isolation.grants:
            for policy in isolation.policies:
                if not policy.quarantined:
                    yield from self._rules.of(policy, direction, pod.ports, family)

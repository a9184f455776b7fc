"""The kernel's rules that judge a pod, small enough to travel with a matrix (page.py).

Each is a step: which of the ends it matches on which of the ports, and the policy rule that it was made from, which
says what the step does.  Of a tier's steps the first that matches counts, of the NetworkPolicies' any that matches
allows.  Both follow from the chains (shared.py) and from what the sets hold, so that nothing is decided here again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Literal, NamedTuple

from netpold.policy.model import Action, Family, Tier
from netpold.rules.audit import lets_through
from netpold.rules.ends import End, first_packet
from netpold.rules.matrix import Matrix
from netpold.rules.ruleset import FAMILIES, Address, Goto, InSet, Jump, Log, Match, Origin, Rule, Ruleset
from netpold.rules.walk import Packet, holds

Otherwise = Literal["deny", "audit", ""]


class Program(NamedTuple):
    """One who judges, as rules of the kernel in their order.

    `otherwise`: what becomes of what `policies` do not allow: deny; audit: it is reported, and goes on to `baseline`;
    '': it goes on.  `why`: the kernel's comment on that.
    """

    admin: tuple[Rule, ...]
    policies: tuple[Rule, ...]
    otherwise: Otherwise
    why: str
    baseline: tuple[Rule, ...]


class Step(NamedTuple):
    """`ends`, `ports`: those that it matches, by number, as bits.  `audit`: it denies in name only."""

    origin: Origin
    ends: int
    ports: int
    audit: bool


def program(chains: Mapping[str, tuple[Rule, ...]], first: str) -> Program:
    """What a chain says, and those that it leads to."""
    tiers: dict[Tier, list[Rule]] = {tier: [] for tier in Tier}
    policies: list[Rule] = []
    otherwise: Otherwise = ""
    why, chain = "", first
    while chain:
        behind = ""
        for rule in _in_order(chains, chain):
            if rule.origin is None and isinstance(rule.target, Goto):
                behind = rule.target.chain
            elif rule.origin is None and lets_through(rule):
                otherwise, why = "audit", rule.comment
            elif rule.origin is None and rule.target == "DROP":
                otherwise, why = "deny", rule.comment
            elif rule.origin is not None and rule.origin.tier is None:
                policies.append(rule)
            elif rule.origin is not None and rule.origin.tier is not None:
                tiers[rule.origin.tier].append(rule)
                if rule.origin.action is Action.PASS and isinstance(rule.target, Goto):
                    behind = rule.target.chain
        chain = behind
    return Program(tuple(tiers[Tier.ADMIN]), tuple(policies), otherwise, why, tuple(tiers[Tier.BASELINE]))


def _in_order(chains: Mapping[str, tuple[Rule, ...]], chain: str) -> Iterator[Rule]:
    """Its rules, and in their places those of the chains that it jumps to, which come back."""
    for rule in chains[chain]:
        if isinstance(rule.target, Jump):
            yield from _in_order(chains, rule.target.chain)
        else:
            yield rule


class KernelSteps:
    """Those of the ends and ports of a matrix."""

    def __init__(self, ruleset: Ruleset, matrix: Matrix) -> None:
        self._ruleset = ruleset
        self._every_port = range(len(matrix.ports))
        self._packets = {family: _packets(matrix, family) for family in FAMILIES}
        self._ends = {
            family: [(number, address) for number, each in enumerate(matrix.ends) if (address := each.address(family))]
            for family in FAMILIES
        }
        self._all = {family: sum(1 << number for number, _ in self._ends[family]) for family in FAMILIES}
        self._matched: dict[tuple[Family, Match], int] = {}
        self._made: dict[tuple[Family, int], tuple[tuple[Step, ...], Rule]] = {}  # by rule, which is kept

    def of(self, rules: Sequence[Rule], family: Family) -> Iterator[Step]:
        """Rules as steps, but for those that match nothing.  One that looks for ports of a name is several."""
        for rule in rules:
            key = family, id(rule)
            if key not in self._made:
                self._made[key] = tuple(self._steps(rule, family)), rule
            yield from self._made[key][0]

    def _steps(self, rule: Rule, family: Family) -> Iterator[Step]:
        assert rule.origin is not None
        ports = (1 << len(self._every_port)) - 1
        for match in rule.matches:
            if ports and not isinstance(match, InSet | Address):
                ports &= self._of_port(match, family)
        ends = self._all[family] if ports else 0
        named = None
        for match in rule.matches:
            if isinstance(match, InSet) and match.side == "dst,dst":
                named = match
            elif ends and isinstance(match, InSet | Address):
                ends &= self._of_address(match, family)
        audit = isinstance(rule.target, Log)
        if not ends:
            return
        if named is None:
            yield Step(rule.origin, ends, ports, audit)
            return
        for port in self._every_port:
            found = ends & self._having(named, family, port) if ports >> port & 1 else 0
            if found:
                yield Step(rule.origin, found, 1 << port, audit)

    def _of_address(self, match: InSet | Address, family: Family) -> int:
        """The ends that a match is met by, whatever the port."""
        if (family, match) not in self._matched:
            self._matched[family, match] = self._where(match, family, next(iter(self._packets[family]), None))
        return self._matched[family, match]

    def _having(self, match: InSet, family: Family, port: int) -> int:
        return self._where(match, family, self._packets[family][port])

    def _where(self, match: Match, family: Family, packet: Packet | None) -> int:
        found = 0
        for number, address in self._ends[family] if packet else ():
            assert packet is not None
            if holds(match, replace(packet, source=address, destination=address), self._ruleset):
                found |= 1 << number
        return found

    def _of_port(self, match: Match, family: Family) -> int:
        packets = enumerate(self._packets[family])
        return sum(1 << port for port, packet in packets if holds(match, packet, self._ruleset))


def _packets(matrix: Matrix, family: Family) -> list[Packet]:
    """For each port the first packet of a flow, from nowhere."""
    nowhere = End("", None, ())
    return [first_packet(nowhere, nowhere, family, *port) for port in matrix.ports]

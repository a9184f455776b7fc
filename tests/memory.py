"""A kernel in memory that takes plans in the smallest steps there are, and refuses what the kernel refuses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from netpold.policy.model import Family
from netpold.rules.plan import ChangeSet, CreateSet, DestroySets, Plan, RemoveChains, ReplaceChains
from netpold.rules.ruleset import FAMILIES, Goto, InSet, IPSet, Jump, Rule, Ruleset


class Refused(Exception):
    """What ipset or iptables would say."""


class MemoryKernel:
    """Sets by their names in the kernel, and chains that refer to them by these."""

    def __init__(self) -> None:
        self.sets: dict[str, IPSet] = {}
        self.chains: dict[Family, dict[str, tuple[Rule, ...]]] = {4: {}, 6: {}}
        self.hooks: dict[Family, dict[str, str]] = {4: {}, 6: {}}

    def ruleset(self) -> Ruleset:
        """What a packet meets now."""
        return Ruleset({family: dict(self.chains[family]) for family in FAMILIES}, dict(self.sets), dict(self.hooks[4]))

    def carry_out(self, plan: Plan) -> Iterator[None]:
        """The plan, pausing wherever a packet could come by: between members of a set, and between commits."""
        for step in plan.steps:
            match step:
                case CreateSet(name, ipset):
                    if name in self.sets:
                        raise Refused(f"set {name} exists")
                    self.sets[name] = replace(ipset, name=name, members=frozenset(ipset.members))
                case ChangeSet(name, add, remove):
                    for member in sorted(add):
                        self.sets[name] = replace(
                            self.sets[name], members=frozenset(self.sets[name].members | {member})
                        )
                        yield
                    for member in sorted(remove):
                        self.sets[name] = replace(
                            self.sets[name], members=frozenset(self.sets[name].members - {member})
                        )
                        yield
                case ReplaceChains(family, chains, hooks, unhook):
                    self._replace(family, {name: _named(rules, plan.names) for name, rules in chains.items()})
                    self.hooks[family] |= hooks
                    self.hooks[family] = {k: v for k, v in self.hooks[family].items() if v not in unhook}
                case RemoveChains(family, chains):
                    for name in chains:
                        self.chains[family][name] = ()
                    for name in chains:
                        if name in self._targets(family) or name in self.hooks[family].values():
                            raise Refused(f"chain {name} is referred to")
                        del self.chains[family][name]
                case DestroySets(names):
                    for name in names:
                        if name in self._used():
                            raise Refused(f"set {name} is in use")
                        del self.sets[name]
            yield

    def _replace(self, family: Family, chains: Mapping[str, tuple[Rule, ...]]) -> None:
        self.chains[family] |= chains
        missing = self._targets(family) - self.chains[family].keys()
        if missing:
            raise Refused(f"no chain {missing}")
        if self._used() - self.sets.keys():
            raise Refused(f"no set {self._used() - self.sets.keys()}")

    def _targets(self, family: Family) -> set[str]:
        return {
            rule.target.chain
            for rules in self.chains[family].values()
            for rule in rules
            if isinstance(rule.target, Jump | Goto)
        }

    def _used(self) -> set[str]:
        return {
            match.name
            for chains in self.chains.values()
            for rules in chains.values()
            for rule in rules
            for match in rule.matches
            if isinstance(match, InSet)
        }


def _named(rules: tuple[Rule, ...], names: Mapping[str, str]) -> tuple[Rule, ...]:
    return tuple(
        replace(
            rule,
            matches=tuple(
                replace(match, name=names[match.name]) if isinstance(match, InSet) else match for match in rule.matches
            ),
        )
        for rule in rules
    )

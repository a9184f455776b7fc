"""From what the kernel holds to what it should hold, as data: ordered steps, each with the reason why it is safe.

The order that makes every packet see the old or the new ruleset and never a mix:
  1. Sets that only grow, or only shrink, while no rule changes: in place.  Every set holds peers that are allowed
     (see `_one_way`) and a verdict is a monotone function of the look-ups, so what a packet meets half-way lies between
     the old and the new.
  2. Anything else: new sets are built beside the old ones, where no rule refers to them yet; then one commit per
     family rewrites all chains that changed or that refer to a set under its new name.
  3. What nothing refers to any more goes afterwards: chains in a commit of their own (some versions of iptables-nft
     delete a chain only when it was unreferenced before the transaction began), then sets.

Chains are compared by name and content, sets by name and members; the kernel is not read back for that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from netpold.policy.model import Family
from netpold.rules.ruleset import EMPTY, FAMILIES, Chains, InSet, IPSet, Rule, Ruleset


@dataclass(frozen=True, slots=True)
class Installed:
    """What the kernel holds of netpold's.

    `ruleset` is what was applied last, `names` its sets' names in the kernel by logical name.  `stray_chains` and
    `stray_sets` are there too, with unknown content: left over from before, or from a plan that failed.
    """

    ruleset: Ruleset = EMPTY
    names: Mapping[str, str] = field(default_factory=dict)
    stray_chains: Mapping[Family, frozenset[str]] = field(default_factory=dict)
    stray_sets: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class CreateSet:
    name: str
    ipset: IPSet
    why: str


@dataclass(frozen=True, slots=True)
class ChangeSet:
    """Members to add to or to delete from a set that rules may be using."""

    name: str
    add: frozenset[str]
    remove: frozenset[str]
    why: str


@dataclass(frozen=True, slots=True)
class ReplaceChains:
    """One commit: these chains get these rules; `hooks` are put first in the built-in chains, `unhook` taken out."""

    family: Family
    chains: Mapping[str, tuple[Rule, ...]]
    hooks: Mapping[str, str]
    unhook: tuple[str, ...]
    why: str


@dataclass(frozen=True, slots=True)
class RemoveChains:
    family: Family
    chains: tuple[str, ...]
    why: str


@dataclass(frozen=True, slots=True)
class DestroySets:
    names: tuple[str, ...]
    why: str


Step = CreateSet | ChangeSet | ReplaceChains | RemoveChains | DestroySets


@dataclass(frozen=True, slots=True)
class Plan:
    """Steps in order, and what the kernel holds when all of them are done.  `names`: logical to kernel set names."""

    steps: tuple[Step, ...]
    result: Installed

    @property
    def names(self) -> Mapping[str, str]:
        return self.result.names

    @property
    def takes_away(self) -> bool:
        """Whether a packet that was allowed may now be refused: not when sets only grow."""
        return any(not isinstance(step, ChangeSet) or step.remove for step in self.steps)


def plan(installed: Installed, desired: Ruleset) -> Plan:
    """The steps from `installed` to `desired`; none where they are the same."""
    old = installed.ruleset
    changed = [
        name for name, ipset in desired.sets.items() if name in old.sets and old.sets[name].members != ipset.members
    ]
    same_rules = old.chains == desired.chains and old.hooks == desired.hooks
    steps: list[Step] = []
    if same_rules and _one_way(old, desired, changed):
        names = dict(installed.names)
        steps += [_in_place(names[name], old.sets[name], desired.sets[name]) for name in changed]
    else:
        names = _new_names(installed, desired, changed)
        steps += [
            CreateSet(names[name], ipset, "no rule refers to it yet")
            for name, ipset in desired.sets.items()
            if installed.names.get(name) != names[name]
        ]
        for family in FAMILIES:
            steps += _commit(family, installed, desired, names)
    steps += _leftovers(installed, desired, names)
    return Plan(tuple(steps), Installed(desired, names))


def _one_way(old: Ruleset, desired: Ruleset, changed: list[str]) -> bool:
    """Whether the changed sets all only grow or all only shrink.

    Each use of a set in the ruleset allows more when the set grows: peers and named ports (RETURN when inside), a
    pod's own addresses (dropped when outside).  hash:net sets, whose `nomatch` entries would count the other way, are
    named by their content and never change.
    """
    grows = all(old.sets[name].members < desired.sets[name].members for name in changed)
    shrinks = all(old.sets[name].members > desired.sets[name].members for name in changed)
    return grows or shrinks


def _in_place(name: str, old: IPSet, new: IPSet) -> ChangeSet:
    return ChangeSet(
        name, new.members - old.members, old.members - new.members, "one-way: every look-up is the old or the new one"
    )


def _new_names(installed: Installed, desired: Ruleset, changed: list[str]) -> dict[str, str]:
    """Kernel names: what does not change keeps its name, what does gets one that no set has."""
    taken = set(installed.names.values()) | installed.stray_sets
    names: dict[str, str] = {}
    for name in desired.sets:
        if name in installed.names and name not in changed:
            names[name] = installed.names[name]
            continue
        generation, fresh = 0, name
        while fresh in taken:
            generation += 1
            fresh = f"{name}.{generation}"
        names[name] = fresh
    return names


def _commit(family: Family, installed: Installed, desired: Ruleset, names: Mapping[str, str]) -> list[Step]:
    before: Chains = installed.ruleset.chains[family]
    renamed = {name for name in names if installed.names.get(name) != names[name]}
    chains = {
        chain: rules
        for chain, rules in desired.chains[family].items()
        if before.get(chain) != rules or _refers(rules, renamed)
    }
    hooks = {} if installed.ruleset.hooks == desired.hooks else desired.hooks
    unhook = tuple(own for own in installed.ruleset.hooks.values() if own not in desired.hooks.values())
    if not chains and not hooks and not unhook:
        return []
    return [ReplaceChains(family, chains, hooks, unhook, "one transaction: a packet meets all of it or nothing of it")]


def _refers(rules: tuple[Rule, ...], names: set[str]) -> bool:
    return any(isinstance(match, InSet) and match.name in names for rule in rules for match in rule.matches)


def _leftovers(installed: Installed, desired: Ruleset, names: Mapping[str, str]) -> list[Step]:
    steps: list[Step] = []
    for family in FAMILIES:
        present = installed.ruleset.chains[family].keys() | installed.stray_chains.get(family, frozenset())
        gone = tuple(sorted(present - desired.chains[family].keys()))
        if gone:
            steps.append(RemoveChains(family, gone, "nothing refers to them since the commit"))
    sets = (set(installed.names.values()) | installed.stray_sets) - set(names.values())
    if sets:
        steps.append(DestroySets(tuple(sorted(sets)), "no rule refers to them since the commit"))
    return steps

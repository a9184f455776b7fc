"""From what the kernel holds to what it should hold, as data: ordered steps, each with the reason why it is safe.

What makes every packet see the old or the new ruleset and never a mix (docs/design.md has the argument):
  1. Sets of which all changes go one way, while no rule changes: in place.  One way means that all changed sets allow
     more after it, or all allow less (a larger set of peers allows more, a larger set of what is refused allows less).
     A verdict is a monotone function of the look-ups, so what a packet meets half-way lies between the old and the new.
     That is asked of each address alone where no local pod's is among them: a packet that is judged has one local end.
     Sets that only count have no say in that, and never are built anew, which would lose what they counted: new
     members come before everything else, and old ones are left over.
  2. Anything else: new sets are built beside the old ones, where no rule refers to them yet; then one commit per
     family rewrites all chains that changed or that refer to a set under its new name.

What nothing refers to any more is noted as left over, and taken away later by `leftovers`: chains in a commit of their
own (some versions of iptables-nft delete a chain only when it was unreferenced before the transaction began), then
sets, and members of sets that count.  It costs no packet anything, and in nf_tables the next commit would wait for it.

Chains are compared by name and content, sets by name and members; the kernel is not read back for that.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, field

from netpold.policy.model import Family
from netpold.rules.ruleset import EMPTY, FAMILIES, HEADS, Chains, IPSet, Rule, Ruleset, SetChange


@dataclass(frozen=True, slots=True)
class Installed:
    """What the kernel holds of netpold's.

    `ruleset` is what was applied last, `names` its sets' names in the kernel by logical name.  `stray_chains` and
    `stray_sets` are there too, and are to go: left over from a change, from before, or from a plan that failed.
    So are `stray_members`, by the logical name of their set: nothing is counted for them any more.
    """

    ruleset: Ruleset = EMPTY
    names: Mapping[str, str] = field(default_factory=dict)
    stray_chains: Mapping[Family, frozenset[str]] = field(default_factory=dict)
    stray_sets: frozenset[str] = frozenset()
    stray_members: Mapping[str, frozenset[str]] = field(default_factory=dict)


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


def plan(
    installed: Installed,
    desired: Ruleset,
    changed: Mapping[str, SetChange] | None = None,
    local: Set[str] | None = None,
) -> Plan:
    """The steps from `installed` to `desired`; none where they are the same.

    `changed`: what became of sets since `installed.ruleset`, by logical name; without it, members are compared.
    `local`: all addresses of which packets are judged; None: these are not known.
    """
    old = installed.ruleset
    if changed is None:
        changed = _compare(old, desired)
    changed = {name: change for name, change in changed.items() if name in desired.sets and name in installed.names}
    counted = {name: changed.pop(name) for name in list(changed) if desired.sets[name].larger == "counts"}
    same_rules = old.chains == desired.chains and old.hooks == desired.hooks
    steps: list[Step] = [
        ChangeSet(installed.names[name], change.added, frozenset(), "it only counts what is dropped")
        for name, change in counted.items()
        if change.added
    ]
    names = installed.names
    if not same_rules or not _one_way(desired, changed, local):
        names = _new_names(installed, desired, changed)
        steps += [
            CreateSet(names[name], ipset, "no rule refers to it yet")
            for name, ipset in desired.sets.items()
            if installed.names.get(name) != names[name]
        ]
        for family in FAMILIES:
            steps += _commit(family, installed, desired, names)
    else:
        steps += [_in_place(names[name], change) for name, change in changed.items()]
    return Plan(tuple(steps), _result(installed, desired, names, counted))


def _compare(old: Ruleset, desired: Ruleset) -> dict[str, SetChange]:
    found: dict[str, SetChange] = {}
    for name, ipset in desired.sets.items():
        if name in old.sets and old.sets[name].members != ipset.members:
            before, now = frozenset(old.sets[name].members), frozenset(ipset.members)
            found[name] = SetChange(now - before, before - now)
    return found


def _one_way(desired: Ruleset, changed: Mapping[str, SetChange], local: Set[str] | None) -> bool:
    """Whether all these changes allow more, or all allow less; or whether that is so for each address, where no packet
    can meet the changes of two."""
    ways: dict[str, set[str]] = {}
    for name, change in changed.items():
        larger = desired.sets[name].larger
        if larger is None:
            return False
        for members, way in ((change.added, "more"), (change.removed, "less")):
            allows = way if larger == "allows" else {"more": "less", "less": "more"}[way]
            for member in members:
                ways.setdefault(member.split(",")[0], set()).add(allows)
    if len(set().union(*ways.values())) <= 1:
        return True
    return local is not None and ways.keys().isdisjoint(local) and all(len(way) == 1 for way in ways.values())


def _in_place(name: str, change: SetChange) -> ChangeSet:
    return ChangeSet(name, change.added, change.removed, "one-way: every look-up is the old or the new one")


def _result(
    installed: Installed, desired: Ruleset, names: Mapping[str, str], counted: Mapping[str, SetChange]
) -> Installed:
    chains: dict[Family, frozenset[str]] = {}
    for family in FAMILIES:
        before, now = installed.ruleset.chains[family], desired.chains[family]
        stray = installed.stray_chains.get(family, frozenset())
        if before is not now:
            stray = (stray | before.keys()) - now.keys()
        if stray:
            chains[family] = stray
    sets = installed.stray_sets
    if names is not installed.names:
        sets = (sets | frozenset(installed.names.values())) - frozenset(names.values())
    members: dict[str, frozenset[str]] = {}
    for name in installed.stray_members.keys() | counted.keys():
        gone = counted[name].removed if name in counted else frozenset()
        stray = installed.stray_members.get(name, frozenset()) | gone
        if name in desired.sets and (left := stray - desired.sets[name].members):
            members[name] = left
    return Installed(desired, names, chains, sets, members)


def _new_names(installed: Installed, desired: Ruleset, changed: Mapping[str, SetChange]) -> dict[str, str]:
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
    chains: dict[str, tuple[Rule, ...]] = {}
    if before is not desired.chains[family]:
        chains = {chain: rules for chain, rules in desired.chains[family].items() if before.get(chain) != rules}
    if renamed:
        for chain, used in desired.uses[family].items():
            if not renamed.isdisjoint(used):
                chains[chain] = desired.chains[family][chain]
    hooks = {} if installed.ruleset.hooks == desired.hooks else desired.hooks
    # of what was read only names are known: a jump that an earlier life made may still lead to an old head
    heads = (HEADS & installed.stray_chains.get(family, frozenset())) | set(installed.ruleset.hooks.values())
    unhook = tuple(sorted(heads - set(desired.hooks.values())))
    if not chains and not hooks and not unhook:
        return []
    return [ReplaceChains(family, chains, hooks, unhook, "one transaction: a packet meets all of it or nothing of it")]


def leftovers(installed: Installed) -> Plan:
    """The steps that take away what is left over."""
    steps: list[Step] = [
        RemoveChains(family, tuple(sorted(chains)), "nothing refers to them since the last commit")
        for family, chains in installed.stray_chains.items()
        if chains
    ]
    steps += [
        ChangeSet(installed.names[name], frozenset(), members, "nothing is counted for them since the last commit")
        for name, members in installed.stray_members.items()
    ]
    if installed.stray_sets:
        steps.append(DestroySets(tuple(sorted(installed.stray_sets)), "no rule refers to them since the last commit"))
    return Plan(tuple(steps), Installed(installed.ruleset, installed.names))

"""From what another program has hurt in the kernel to the steps that mend it: only what is hurt is written again.

Sets come first, since a chain's rules can't refer to a set that is not there; then one commit per family rewrites the
chains that may be other than they should be, and puts back the jumps to them.  A chain whose content is as it was costs
nothing but its writing, so when in doubt it counts as hurt.  What is there and should not be is noted as left over.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from netpold.policy.model import Family
from netpold.rules.plan import ChangeSet, CreateSet, Installed, Plan, ReplaceChains, Step
from netpold.rules.ruleset import FAMILIES, HEADS

_WHY = "another program changed it"


@dataclass(frozen=True, slots=True)
class Members:
    """What a set lacks, and what it has that it should not have."""

    missing: frozenset[str]
    extra: frozenset[str]


@dataclass(frozen=True, slots=True)
class Damage:
    """What in the kernel may be other than it should be.

    `chains`: own chains by their names, also such as should not be there; `hooks`: the families in which a jump from a
    built-in chain is not the first rule, or (`unhooked`, in any of them) not there.  By their names in the kernel,
    `sets`: what is wrong with their members; `gone`: sets that are not there; `strays`: sets that should not be.
    """

    chains: Mapping[Family, frozenset[str]] = field(default_factory=dict)
    hooks: frozenset[Family] = frozenset()
    unhooked: bool = False
    sets: Mapping[str, Members] = field(default_factory=dict)
    gone: frozenset[str] = frozenset()
    strays: frozenset[str] = frozenset()

    def __bool__(self) -> bool:
        return bool(any(self.chains.values()) or self.hooks or self.sets or self.gone or self.strays)

    @property
    def opens(self) -> bool:
        """Whether netpold's verdicts are others; with a jump that is only not the first rule any more they are not."""
        return bool(any(self.chains.values()) or self.unhooked or self.sets or self.gone)


def mend(installed: Installed, damage: Damage) -> Plan:
    """The steps that make the kernel hold again what `installed` says."""
    ruleset = installed.ruleset
    logical = {kernel: name for name, kernel in installed.names.items()}
    steps: list[Step] = [
        CreateSet(name, ruleset.sets[logical[name]], _WHY) for name in sorted(damage.gone & logical.keys())
    ]
    steps += [
        ChangeSet(name, members.missing, members.extra, _WHY)
        for name, members in damage.sets.items()
        if name in logical
    ]
    renewed = {logical[name] for name in damage.gone & logical.keys()}
    strays = dict(installed.stray_chains)
    for family in FAMILIES:
        hurt = damage.chains.get(family, frozenset())
        own = ruleset.chains[family]
        if renewed:  # rules know a set by its index, and a new one has another
            hurt |= {chain for chain, used in ruleset.uses[family].items() if not renewed.isdisjoint(used)}
        unknown = hurt - own.keys()
        if unknown:
            strays[family] = strays.get(family, frozenset()) | unknown
        chains = {chain: own[chain] for chain in sorted(hurt & own.keys())}
        hooks = ruleset.hooks if family in damage.hooks else {}
        unhook = tuple(sorted(HEADS & unknown))  # who puts back an old head puts back the jump to it
        if chains or hooks or unhook:
            steps.append(ReplaceChains(family, chains, hooks, unhook, _WHY))
    result = replace(installed, stray_chains=strays, stray_sets=installed.stray_sets | damage.strays)
    return Plan(tuple(steps), result)

"""A plan that the kernel refuses, taken apart into what could be to blame: policies, interfaces of pods, sets.

A part can be tried alone, under names that no packet meets: its rules in chains with a MARK behind their names, to
which nothing leads, and which lead nowhere.  The names still begin and read as netpold's own, so what is left of a
trial that was interrupted is taken away like any other leftover, and a refusal that has to do with a name shows.

A policy is told by its rules' origin.  The rule that drops what no policy allows names all the policies of its chain in
its comment: it is tried with each of them alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from netpold.policy.model import Family
from netpold.rules.plan import CreateSet, Plan, ReplaceChains
from netpold.rules.ruleset import (
    BridgePort,
    Goto,
    InSet,
    Interface,
    IPSet,
    Jump,
    Log,
    Rule,
    sets_used,
)

MARK = "~"  # no name of an interface has it, so no other chain is called so


@dataclass(frozen=True, slots=True)
class Suspect:
    """A rule of a chain.  `sets`: by logical name, those that it looks up; `names`: theirs in the kernel."""

    family: Family
    chain: str
    rule: Rule
    sets: Mapping[str, IPSet]
    names: Mapping[str, str]

    @property
    def trial_chain(self) -> str:
        return self.chain + MARK

    @property
    def trial_rule(self) -> Rule:
        """The same matches and comment; it leads nowhere."""
        return replace(self.rule, target="RETURN") if isinstance(self.rule.target, Jump | Goto) else self.rule


@dataclass(frozen=True, slots=True)
class Part:
    """Rules that have one object to blame: `policy` (key) or `interface` (name); neither: nobody."""

    suspects: tuple[Suspect, ...]
    policy: str = ""
    interface: str = ""


def parts(plan: Plan, without: frozenset[str] = frozenset()) -> tuple[list[Part], list[Part]]:
    """The rules that a plan writes, but for those that look up a set in `without` (logical names): first the parts
    with one object to blame and those with none, then those that name several policies."""
    policies: dict[str, list[Suspect]] = {}
    interfaces: dict[str, list[Suspect]] = {}
    others: list[Part] = []
    naming: list[Part] = []
    for suspect in _suspects(plan):
        if suspect.sets.keys() & without:
            continue
        interface = _interface(suspect)
        if suspect.rule.origin is not None:
            policies.setdefault(suspect.rule.origin.policy, []).append(suspect)
        elif interface:
            interfaces.setdefault(interface, []).append(suspect)
        elif named(suspect.rule):
            naming.append(Part((suspect,)))
        else:
            others.append(Part((suspect,)))
    found = [Part(tuple(some), policy=key) for key, some in policies.items()]
    found += [Part(tuple(some), interface=name) for name, some in interfaces.items()]
    return found + others, naming


def named(rule: Rule) -> list[str]:
    """The keys of the policies that a rule's comment names."""
    if isinstance(rule.target, Log) or rule.target != "DROP":
        return []
    return [word for word in rule.comment.split() if "/" in word]


def each_named(part: Part) -> Iterator[Part]:
    """A rule that names several policies, with each of them alone."""
    (suspect,) = part.suspects
    for key in named(suspect.rule):
        yield Part((replace(suspect, rule=replace(suspect.rule, comment=key)),), policy=key)


def users(plan: Plan, name: str) -> set[str]:
    """The keys of the policies with rules that look up the set of that logical name."""
    return {
        rule.origin.policy
        for chains in plan.result.ruleset.chains.values()
        for rules in chains.values()
        for rule in rules
        if rule.origin is not None and any(isinstance(each, InSet) and each.name == name for each in rule.matches)
    }


def created(plan: Plan) -> list[CreateSet]:
    return [step for step in plan.steps if isinstance(step, CreateSet)]


def _suspects(plan: Plan) -> Iterator[Suspect]:
    ruleset, names = plan.result.ruleset, plan.names
    for step in plan.steps:
        if isinstance(step, ReplaceChains):
            for chain, rules in step.chains.items():
                for rule in rules:
                    used = _used((rule,))
                    sets = {name: ruleset.sets[name] for name in used}
                    yield Suspect(step.family, chain, rule, sets, {name: names[name] for name in used})


def _used(rules: Iterable[Rule]) -> frozenset[str]:
    return sets_used([tuple(rules)])


def _interface(suspect: Suspect) -> str:
    """The interface whose chain it is in, or that it matches."""
    for prefix in ("NP-IN-", "NP-OUT-"):
        if suspect.chain.startswith(prefix) and not suspect.chain.startswith(f"{prefix}@"):
            return suspect.chain.removeprefix(prefix)
    matched = (each for each in suspect.rule.matches if isinstance(each, Interface | BridgePort) and not each.prefix)
    return next((each.name for each in matched), "")

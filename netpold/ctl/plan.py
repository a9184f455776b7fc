"""`netpoldctl plan`: the steps in which the kernel comes from one state to another, each with the reason why it is
safe.

They are computed as the daemon computes its own (rules/plan.py).  But for the daemon nobody knows interfaces, so on
both sides pods are told apart by address, as in `render`.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any

from netpold.config import compile_settings
from netpold.ctl.compared import with_pods
from netpold.ctl.failure import Exit, Failure
from netpold.ctl.findings import number
from netpold.ctl.offline import settings_of
from netpold.ctl.output import paint, say, say_json, wrapped
from netpold.ctl.progress import progress
from netpold.ctl.sides import Side, sides
from netpold.policy.index import Index
from netpold.policy.model import Family
from netpold.printable import printable
from netpold.rules.offline import offline_ruleset
from netpold.rules.plan import (
    ChangeSet,
    CreateSet,
    DestroySets,
    Installed,
    Plan,
    RemoveChains,
    ReplaceChains,
    Step,
    leftovers,
    plan,
)
from netpold.rules.render import text
from netpold.rules.ruleset import Address, Chains, Goto, Rule, Ruleset
from netpold.rules.settings import CompileSettings

_MOST_LINES = 400  # of rules and members, for a person
_MOST_MEMBERS = 6
_OF_PODS = ("NP-IN-@", "NP-OUT-@", "NP-HOST-@")


def run(arguments: argparse.Namespace) -> Exit:
    """Raises Failure."""
    settings = settings_of(arguments)
    names = [arguments.source, str(arguments.destination or settings.manifests)]
    old, new = with_pods(sides(names, arguments.inventory, settings, arguments.socket))
    if not new.index.world.pods and (old.index.world.policies or new.index.world.policies):
        hint = "name the manifests of the pods with --inventory DIR"
        raise Failure("neither side says which pods there are, and rules are made for pods", hint, Exit.USAGE)
    node = arguments.node or old.node or new.node
    with progress("compiling") as bar:
        bar.tell(0.0)
        before = _ruleset(old, node, compile_settings(settings))
        bar.tell(1 / 3)
        after = _ruleset(new, node, compile_settings(settings))
        bar.tell(2 / 3)
        found = plan(Installed(before, {name: name for name in before.sets}), after, local=_local(new, node))
        rest = leftovers(found.result)
    told = _Told(before.chains, found.names, dict([*_owners(before, old.index), *_owners(after, new.index)]))
    if arguments.output == "json":
        head = {"version": 1, "from": old.name, "to": new.name, "node": node}
        steps = {"steps": found.steps, "afterwards": rest.steps}
        say_json(head | {name: [_step_json(step, told) for step in some] for name, some in steps.items()})
    else:
        say(*_text(found, rest, told))
    return Exit.FINE


@dataclass(frozen=True, slots=True)
class _Told:
    """What is needed to tell of steps: the chains from before, the sets' names afterwards, and by chain whose it is."""

    before: Mapping[Family, Chains]
    names: Mapping[str, str]
    owners: Mapping[str, str]

    def lines(self, rules: Iterable[Rule], family: Family) -> list[str]:
        """Rules as they are to be."""
        return [text(rule, family, self.names.__getitem__) for rule in rules]

    def lines_before(self, family: Family, chain: str) -> list[str] | None:
        rules = self.before[family].get(chain)
        return None if rules is None else [text(rule, family) for rule in rules]


def _owners(ruleset: Ruleset, index: Index) -> Iterator[tuple[str, str]]:
    """The pods whose chains are found by an address."""
    for chains in ruleset.chains.values():
        for rules in chains.values():
            for rule in rules:
                match rule.matches, rule.target:
                    case (Address(_, address),), Goto(chain) if chain.startswith(_OF_PODS):
                        yield chain, " ".join(pod.key for pod in index.claimants(address))


def _ruleset(side: Side, node: str | None, settings: CompileSettings) -> Ruleset:
    return offline_ruleset(side.index, None if node is None else _pods(side, node), settings)


def _pods(side: Side, node: str) -> list[str]:
    """Those that may be on the node: where none is written, that is found by their interfaces."""
    return [key for key, pod in side.index.world.pods.items() if pod.node in (node, None)]


def _local(side: Side, node: str | None) -> frozenset[str]:
    pods = side.index.world.pods
    keys = pods if node is None else _pods(side, node)
    return frozenset(address for key in keys for address in pods[key].addresses)


# Text -----------------------------------------------------------------------------------------------------------------


def _text(found: Plan, rest: Plan, told: _Told) -> Iterator[str]:
    if not found.steps and not rest.steps:
        yield "nothing to do: the kernel's rules are the same"
        return
    for count, each in enumerate(_lines(found, rest, told)):
        if count == _MOST_LINES:
            yield "...; -o json has all"
            break
        yield each
    yield f"{number(len(found.steps), 'step')}, and {len(rest.steps)} to clean up"


def _lines(found: Plan, rest: Plan, told: _Told) -> Iterator[str]:
    yield from _steps(found.steps, told, 1)
    if rest.steps:
        yield ""
        yield paint("afterwards, when there is nothing else to do", "dim")
        yield from _steps(rest.steps, told, len(found.steps) + 1)


def _steps(steps: tuple[Step, ...], told: _Told, first: int) -> Iterator[str]:
    for count, step in enumerate(steps, first):
        head, details = _step(step, told)
        yield f"{count}. {paint(printable(head), 'bold')}"
        yield from (paint(f"   {part}", "dim") for part in wrapped(step.why, 3))
        yield from (f"   {printable(line)}" for line in details)


def _step(step: Step, told: _Told) -> tuple[str, Iterator[str]]:
    """What a step does, in a line, and the lines below that."""
    match step:
        case CreateSet(name, ipset):
            head = f"create the set {name} ({ipset.kind}, {number(len(ipset.members), 'member')})"
            return head, iter([f"= {ipset.meaning}"])
        case ChangeSet(name, add, remove):
            return f"change the set {name} in place", iter([*_members("+", add), *_members("-", remove)])
        case ReplaceChains(family):
            head = f"commit to IPv{family}'s filter table: {number(len(step.chains), 'chain')}"
            return head, _commit(step, told)
        case RemoveChains(family, names):
            return f"remove {number(len(names), 'chain')} of IPv{family}", iter(names)
        case DestroySets(names):
            return f"destroy {number(len(names), 'set')}", iter(names)


def _members(sign: str, members: frozenset[str]) -> Iterator[str]:
    told = sorted(members)
    yield from (f"{sign} {each}" for each in told[:_MOST_MEMBERS])
    if len(told) > _MOST_MEMBERS:
        yield f"{sign} and {len(told) - _MOST_MEMBERS} more"


def _commit(step: ReplaceChains, told: _Told) -> Iterator[str]:
    for built_in, own in sorted(step.hooks.items()):
        yield f"{built_in}: first rule jumps to {own}"
    for own in step.unhook:
        yield f"no built-in chain jumps to {own} any more"
    for name, rules in sorted(step.chains.items()):
        before = told.lines_before(step.family, name)
        about = [told.owners.get(name, ""), "new" if before is None else ""]
        words = ", ".join(word for word in about if word)
        yield f"{name} ({words})" if words else name
        yield from (f"  {line}" for line in _rules(before or [], told.lines(rules, step.family)))


def _rules(was: list[str], now: list[str]) -> Iterator[str]:
    """The rules that go and that come; of those that stay, how many."""
    for kind, low, high, first, last in SequenceMatcher(None, was, now, autojunk=False).get_opcodes():
        if kind == "equal":
            yield f"= {number(high - low, 'rule')} as before"
            continue
        yield from (f"- {line}" for line in was[low:high])
        yield from (f"+ {line}" for line in now[first:last])


# JSON -----------------------------------------------------------------------------------------------------------------


def _step_json(step: Step, told: _Told) -> dict[str, Any]:
    return {**_what_json(step, told), "why": step.why}


def _what_json(step: Step, told: _Told) -> dict[str, Any]:
    match step:
        case CreateSet(name, ipset):
            about = {"family": f"IPv{ipset.family}", "type": ipset.kind, "meaning": ipset.meaning}
            return {"step": "create-set", "name": name, **about, "members": sorted(ipset.members)}
        case ChangeSet(name, add, remove):
            return {"step": "change-set", "name": name, "add": sorted(add), "remove": sorted(remove)}
        case ReplaceChains(family, chains, hooks, unhook):
            return {
                "step": "commit",
                "family": f"IPv{family}",
                "chains": {name: told.lines(chains[name], family) for name in sorted(chains)},
                "before": {name: told.lines_before(family, name) for name in sorted(chains)},
                "hooks": dict(hooks),
                "unhook": list(unhook),
            }
        case RemoveChains(family, names):
            return {"step": "remove-chains", "family": f"IPv{family}", "chains": list(names)}
        case DestroySets(names):
            return {"step": "destroy-sets", "names": list(names)}

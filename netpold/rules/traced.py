"""A packet's way through the kernel, as the kernel told it, held against the way that the model has for this packet.

The way is a list of steps: rules that matched, and policies of built-in chains, of all programs' tables.  Of netpold's
own chains each step is looked up in the model by what its rule says, so that a rule which another program has put
there, or changed, is known as such.  The model's way is the one of `walk`, for the packet as it was seen, with its
interfaces.  The first step that differs is where the two part.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from netpold.policy.model import Action
from netpold.rules.explain import Decision
from netpold.rules.render import text
from netpold.rules.ruleset import CHAIN_PREFIXES, Goto, Jump, Log, Origin, Rule, Ruleset
from netpold.rules.saved import canonical
from netpold.rules.walk import Packet, walk

Fate = Literal["passed", "dropped", "lost"]
Hook = Literal["FORWARD", "INPUT", "OUTPUT", ""]  # where netpold judges; '': the packet did not come so far

_TABLES = frozenset(("ip", "ip6"))


@dataclass(frozen=True, slots=True)
class Step:
    """A rule that matched, `number` (from 1) of its chain, in the words of its tool; or a chain's policy, without both.

    `family`: of the table, as nft calls it; `verdict`: what it does with the packet, with the `target` chain.
    """

    family: str
    table: str
    chain: str
    number: int | None
    text: str
    verdict: str
    target: str = ""

    @property
    def is_own(self) -> bool:
        """Whether it stands in a chain of netpold's."""
        return self.table == "filter" and self.family in _TABLES and self.chain.startswith(CHAIN_PREFIXES)

    @property
    def place(self) -> str:
        """Where it stands, in words."""
        table = "" if self.is_own else f", table {self.table}{'' if self.family in _TABLES else f' ({self.family})'}"
        return (
            f"rule {self.number} of chain {self.chain}{table}" if self.number else f"the policy of {self.chain}{table}"
        )


@dataclass(frozen=True, slots=True)
class Way:
    """What became of a packet.

    `steps`: in order.  `met`: the filter table of the hook that netpold judges at.  `filtered`: it came out of that.
    `ended`: it was seen at the end of the way, about to leave or to be handed to the node.  `by_rules`: the steps are
    all there are; else those of legacy tables are not known.
    """

    packet: Packet
    hook: Hook
    steps: tuple[Step, ...]
    met: bool
    filtered: bool
    ended: bool
    by_rules: bool


@dataclass(frozen=True, slots=True)
class Parting:
    """Where kernel and model part: the chain and rule that comes next in each, None where the way ends there."""

    kernel: Step | None
    model_chain: str
    model: Rule | None


@dataclass(frozen=True, slots=True)
class Compared:
    """What of a way is netpold's doing.

    `verdict`: of netpold's chains, None: the packet did not come so far; `judged`: by rules that were seen.  `fate`:
    what became of it in the end, `by`: the step that dropped it.  `model`: the model's verdict of this very packet, by
    `rule` of `chain`; `says`: what each step means, in words.
    """

    verdict: Decision | None
    judged: bool
    fate: Fate
    by: Step | None
    model: Decision
    chain: str
    rule: Rule | None
    parting: Parting | None
    says: tuple[str, ...]


def compare(ruleset: Ruleset, names: Mapping[str, str], way: Way) -> Compared:
    """The kernel's way against the model's; `names`: of sets in the kernel, by logical name."""
    packet = way.packet
    found = {step: _rule(ruleset, names, packet, step) for step in way.steps if step.is_own}
    own = [step for step in way.steps if step.is_own]
    head = ruleset.hooks.get(way.hook, "")
    modelled = walk(ruleset, head, packet)
    by = next((step for step in way.steps if step.verdict == "drop"), None)
    is_queued = bool(way.steps) and way.steps[-1].verdict == "queue"
    is_dropped = by is not None or (way.met and not way.filtered and not is_queued)
    return Compared(
        verdict=_verdict(way, own, head, by),
        judged=bool(own),
        fate="passed" if way.ended else "dropped" if is_dropped else "lost",
        by=by,
        model="deny" if modelled.verdict == "DROP" else "allow",
        chain=modelled.chain,
        rule=modelled.rule,
        parting=_parting([(step, found[step]) for step in own], modelled.passed) if way.by_rules and own else None,
        says=tuple(_says(step, found.get(step)) for step in way.steps),
    )


def _verdict(way: Way, own: Sequence[Step], head: str, by: Step | None) -> Decision | None:
    if own:
        return "deny" if own[-1].verdict == "drop" else "allow"
    if way.filtered:
        return "allow"
    # where rules of legacy tables were not told, whoever dropped it in the filter table: likely netpold, if it is there
    return "deny" if way.met and head and by is None and not way.by_rules else None


def _rule(ruleset: Ruleset, names: Mapping[str, str], packet: Packet, step: Step) -> Rule | None:
    """The model's rule that a step is; None: it has no such one."""
    rules = ruleset.chains[packet.family].get(step.chain, ())
    form = canonical(step.text)
    first = rules[step.number - 1 : step.number] if step.number else ()
    for rule in (*first, *rules):
        if canonical(text(rule, packet.family, lambda name: names.get(name, name))) == form:
            return rule
    return None


def _parting(kernel: Sequence[tuple[Step, Rule | None]], model: Sequence[tuple[str, Rule]]) -> Parting | None:
    for place in range(max(len(kernel), len(model))):
        step, rule = kernel[place] if place < len(kernel) else (None, None)
        chain, wanted = model[place] if place < len(model) else ("", None)
        if step is None or wanted is None or rule != wanted or step.chain != chain:
            return Parting(step, chain, wanted)
    return None


# In words -------------------------------------------------------------------------------------------------------------


def _says(step: Step, rule: Rule | None) -> str:
    """What a step does with the packet."""
    if rule is not None:
        return meaning(rule)
    alien = "not netpold's rule: " if step.is_own else ""
    if step.number is None:
        return "dropped" if step.verdict == "drop" else "goes on"
    if step.verdict in ("jump", "goto"):
        return f"{alien}goes on in {step.target}"
    words = {"drop": "dropped", "accept": "accepted", "return": "goes back", "queue": "handed to a program"}
    return alien + words.get(step.verdict, "goes on")


def meaning(rule: Rule) -> str:
    """What a rule of netpold's does with the packets that match."""
    why = f": {_said(rule.origin)}" if rule.origin else f": {rule.comment}" if rule.comment else ""
    match rule.target:
        case Jump(chain) | Goto(chain):
            return f"goes on in {chain}{why}"
        case Log():
            audited = f": audited, {rule.origin.place} would deny it" if rule.origin else ""
            return f"copied, for `netpoldctl monitor`{audited}"
        case "RETURN":
            return f"passes{why}"
        case "ACCEPT":
            return f"accepted{why}"
        case _:
            return f"dropped{why}"


_DOES = {Action.ACCEPT: "accepts it", Action.DENY: "denies it", Action.PASS: "passes it on"}


def _said(origin: Origin) -> str:
    """What a policy's rule says of a packet that it matches."""
    return f"{origin.place} {_DOES[origin.action] if origin.tier else 'allows it'}"

"""Two sides that are compared: what `diff` has to tell, whatever the format."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from netpold.ctl.groups_text import Names
from netpold.ctl.sides import Side
from netpold.policy.index import Index
from netpold.policy.model import Pod, Policy, Position, World
from netpold.rules.difference import Cause, Change

Kind = Literal["opens", "changes", "closes"]

KINDS: tuple[Kind, ...] = ("opens", "changes", "closes")


@dataclass(frozen=True, slots=True)
class Diff:
    """The two sides and what is between them.  `changes` are in the order in which they are shown."""

    old: Side
    new: Side
    policies: list[tuple[str, Policy | None, Policy | None]]
    added: list[str]
    gone: list[str]
    changes: list[Change]
    compared: int
    names: Names

    def of(self, kind: Kind) -> list[Change]:
        return [each for each in self.changes if kind_of(each) == kind]


def with_pods(both: Sequence[Side]) -> list[Side]:
    """A side that holds policies alone is taken with the other one's inventory."""
    filled = []
    for side, other in zip(both, reversed(both), strict=True):
        mine, theirs = side.index.world, other.index.world
        if theirs.pods and not mine.pods:
            world = World(theirs.pods, {**theirs.namespaces, **mine.namespaces}, mine.policies)
            side = replace(side, index=Index(world))
        filled.append(side)
    return filled


def compared(old: Side, new: Side, changes: list[Change]) -> Diff:
    """What there is to tell of these changes."""
    before, after = old.index.world, new.index.world
    keys = sorted(before.policies.keys() | after.policies.keys())
    policies = [(key, before.policies.get(key), after.policies.get(key)) for key in keys]
    policies = [(key, was, now) for key, was, now in policies if was != now]
    both = {key: pod for key, pod in after.pods.items() if _is_end(pod) and _is_end(before.pods.get(key))}
    names = Names(both, World(after.pods, after.namespaces, {**before.policies, **after.policies}))
    added, gone = sorted(after.pods.keys() - before.pods.keys()), sorted(before.pods.keys() - after.pods.keys())
    ordered = sorted(changes, key=lambda each: (KINDS.index(kind_of(each)), _causes_key(each), -each.pairs))
    return Diff(old, new, policies, added, gone, ordered, len(both), names)


def _is_end(pod: Pod | None) -> bool:
    return pod is not None and pod.takes_part and bool(pod.addresses)


def _causes_key(change: Change) -> list[tuple[str, str, int]]:
    return [(cause.policy, str(cause.direction), cause.rule) for cause in change.causes]


def kind_of(change: Change) -> Kind:
    """Whether something opens, closes, or both."""
    if change.opens and change.closes:
        return "changes"
    return "opens" if change.opens else "closes"


def cause_place(found: Diff, cause: Cause) -> tuple[Side, Position | None]:
    """The side that a cause is of, and where its rule is written there, or else its policy."""
    side = found.new if cause.does in ("allows", "isolates") else found.old
    policy = side.index.world.policies[cause.policy]
    rules = policy.rules(cause.direction) or ()
    rule = rules[cause.rule] if cause.rule >= 0 else None
    return side, (rule and rule.position) or policy.position

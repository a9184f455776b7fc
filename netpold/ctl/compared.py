"""Two sides that are compared: what `diff` has to tell, whatever the format."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

from netpold.ctl.groups_text import Names
from netpold.ctl.sides import Side
from netpold.policy.index import Index
from netpold.policy.model import AnyPolicy, Family, Namespace, Node, Pod, Position, World
from netpold.rules.cause import Cause
from netpold.rules.difference import Change
from netpold.rules.pieces import can_be_compared, own_address
from netpold.rules.ruleset import FAMILIES

_T = TypeVar("_T")
Kind = Literal["opens", "changes", "closes"]

KINDS: tuple[Kind, ...] = ("opens", "changes", "closes")


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A pod (key) of both sides that is not compared, or not in that `family`, and why: it is `finished in new`."""

    pod: str
    family: Family | None
    why: str


@dataclass(frozen=True, slots=True)
class Diff:
    """The two sides and what is between them: objects that are not the same, by key, and what that changes.

    `pods`: those that are on both sides, and not the same.  `added`, `gone`: pods of one side, which are not compared;
    `left_out`: those of both that are not.  `compared`: how many are.  `changes` are in the order in which they are
    shown.
    """

    old: Side
    new: Side
    policies: list[tuple[str, AnyPolicy | None, AnyPolicy | None]]
    namespaces: list[tuple[str, Namespace | None, Namespace | None]]
    nodes: list[tuple[str, Node | None, Node | None]]
    pods: list[tuple[str, Pod | None, Pod | None]]
    added: list[str]
    gone: list[str]
    left_out: list[LeftOut]
    changes: list[Change]
    compared: int
    names: Names

    @property
    def differs(self) -> bool:
        """Whether any object is not the same."""
        return bool(self.policies or self.namespaces or self.nodes or self.pods or self.added or self.gone)

    def of(self, kind: Kind) -> list[Change]:
        return [each for each in self.changes if kind_of(each) == kind]


def with_pods(both: Sequence[Side]) -> list[Side]:
    """A side that holds policies alone is taken with the other one's inventory."""
    filled = []
    for side, other in zip(both, reversed(both), strict=True):
        mine, theirs = side.index.world, other.index.world
        if theirs.pods and not mine.pods:
            world = World(
                theirs.pods, {**theirs.namespaces, **mine.namespaces}, mine.policies, mine.nodes or theirs.nodes
            )
            side = replace(side, index=Index(world))
        filled.append(side)
    return filled


def compared(old: Side, new: Side, changes: list[Change]) -> Diff:
    """What there is to tell of these changes."""
    before, after = old.index.world, new.index.world
    left_out = list(_left_out(old, new))
    not_at_all = {each.pod for each in left_out if each.family is None}
    both = {key: pod for key, pod in after.pods.items()
            if key not in not_at_all and (was := before.pods.get(key)) and _is_meant(was, pod)}  # fmt: skip
    names = Names(both, World(after.pods, after.namespaces, {**before.policies, **after.policies}))
    added, gone = sorted(after.pods.keys() - before.pods.keys()), sorted(before.pods.keys() - after.pods.keys())
    ordered = sorted(changes, key=lambda each: (KINDS.index(kind_of(each)), _causes_key(each), -each.pairs))
    pods = [each for each in _others(before.pods, after.pods) if each[1] and each[2]]
    policies, namespaces = _others(before.policies, after.policies), _others(before.namespaces, after.namespaces)
    nodes = _others(before.nodes, after.nodes)
    return Diff(old, new, policies, namespaces, nodes, pods, added, gone, left_out, ordered, len(both), names)


def _others(before: Mapping[str, _T], after: Mapping[str, _T]) -> list[tuple[str, _T | None, _T | None]]:
    """The objects that are not the same, wherever they stand."""
    keys = sorted(before.keys() | after.keys())
    both = ((key, before.get(key), after.get(key)) for key in keys)
    return [(key, was, now) for key, was, now in both if was != now]


def _is_meant(was: Pod, now: Pod) -> bool:
    """Whether policies select it on any side."""
    return was.takes_part or now.takes_part


def _left_out(old: Side, new: Side) -> Iterator[LeftOut]:
    """The pods of both sides that policies select on any, and that are not compared, or not in a family."""
    for key, was in sorted(old.index.world.pods.items()):
        now = new.index.world.pods.get(key)
        if now is None or not _is_meant(was, now):
            continue
        had, has = _families(old, was), _families(new, now)
        if not can_be_compared(was, now):
            yield LeftOut(key, None, f"finished in {(old if was.finished else new).name}")
        elif not had and not has:
            yield LeftOut(key, None, "without an address")
        elif not had or not has:
            yield LeftOut(key, None, f"without an address in {(new if had else old).name}")
        elif not had & has:
            yield LeftOut(key, None, "without addresses of one family on both sides")
        else:
            for family in [each for each in FAMILIES if each in had ^ has]:
                yield LeftOut(key, family, f"without an IPv{family} address in {(new if family in had else old).name}")


def _families(side: Side, pod: Pod) -> set[Family]:
    return {family for family in FAMILIES if own_address(side.index, pod, family)}


def _causes_key(change: Change) -> list[tuple[str, str, int]]:
    return [(cause.policy, str(cause.direction), cause.rule) for cause in change.causes]


def kind_of(change: Change) -> Kind:
    """Whether something opens, closes, or both."""
    if change.opens and change.closes:
        return "changes"
    return "opens" if change.opens else "closes"


def cause_place(found: Diff, cause: Cause) -> tuple[Side, Position | None]:
    """The side that a cause is of, and where its rule is written there, or else its policy."""
    side = found.new if cause.does in ("allows", "isolates", "denies", "passes") else found.old
    policy = side.index.world.policies[cause.policy]
    rules = policy.rules(cause.direction) or ()
    rule = rules[cause.rule] if cause.rule >= 0 else None
    return side, (rule and rule.position) or policy.position

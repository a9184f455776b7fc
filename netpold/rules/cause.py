"""Why a comparison of two worlds (difference.py) finds a verdict to be another one: policies, and their rules."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple

from netpold.policy.model import Action, Direction
from netpold.rules.ruleset import Origin

Does = Literal["allows", "isolates", "denies", "passes", "allowed", "isolated", "denied", "passed"]
_DOES: Mapping[tuple[Action, bool], Does] = {
    (Action.ACCEPT, True): "allows",
    (Action.DENY, True): "denies",
    (Action.PASS, True): "passes",
    (Action.ACCEPT, False): "allowed",
    (Action.DENY, False): "denied",
    (Action.PASS, False): "passed",
}


class Cause(NamedTuple):
    """Why a verdict is another one: what a policy does now (`allows`, `isolates`, `denies`, `passes`), or did before.
    `rule`: its index in that direction, -1 where the policy as a whole is meant."""

    policy: str
    direction: Direction
    rule: int
    does: Does


Causes = frozenset[Cause]


def rules(found: Iterable[tuple[Origin, bool]]) -> Causes:
    """What these rules do now (True), or did before."""
    return frozenset(Cause(each.policy, each.direction, each.index, _DOES[each.action, now]) for each, now in found)


def isolation(direction: Direction, policies: Iterable[str], *, now: bool) -> Causes:
    """That these policies (keys) isolate now, or did before."""
    does: Does = "isolates" if now else "isolated"
    return frozenset(Cause(key, direction, -1, does) for key in policies)

"""In which lines the rules of a policy are written: what its one manifest (canonical.py) does not say.

They go beside it, as `{"ingress": [12, 15], "egress": []}`, and back into the policy that was read from it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, TypeVar

from netpold.policy.manifest import Object
from netpold.policy.model import ClusterPolicy, Direction, Policy, PolicyRule, Position, TierRule

_T = TypeVar("_T", PolicyRule, TierRule)


def rule_lines(each: Object) -> dict[str, list[int]]:
    """The line of each rule, by direction; nothing of what has no rules."""
    if not isinstance(each, Policy | ClusterPolicy):
        return {}
    at = each.position or Position("", 1)
    return {
        str(direction): [(rule.position or at).line for rule in each.rules(direction) or ()] for direction in Direction
    }


def with_rule_lines(found: Object, lines: Any) -> Object:
    """The policy with its rules in these lines of its file, as far as they are known."""
    if not isinstance(lines, dict) or not isinstance(found, Policy | ClusterPolicy) or found.position is None:
        return found
    at, ingress, egress = found.position, lines.get("ingress"), lines.get("egress")
    if isinstance(found, ClusterPolicy):
        return replace(found, ingress=_placed(found.ingress, at, ingress), egress=_placed(found.egress, at, egress))
    return replace(
        found,
        ingress=found.ingress and _placed(found.ingress, at, ingress),
        egress=found.egress and _placed(found.egress, at, egress),
    )


def _placed(rules: tuple[_T, ...], at: Position, lines: Any) -> tuple[_T, ...]:
    if not rules or not isinstance(lines, list) or len(lines) != len(rules):
        return rules
    return tuple(
        [
            replace(rule, position=Position(at.file, line)) if isinstance(line, int) else rule
            for rule, line in zip(rules, lines, strict=True)
        ]
    )

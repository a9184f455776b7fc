"""In which lines the rules of a policy are written: what its one manifest (canonical.py) does not say.

They go beside it, as `{"ingress": [12, 15], "egress": []}`, and back into the policy that was read from it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from netpold.policy.manifest import Object
from netpold.policy.model import Direction, Policy, PolicyRule, Position


def rule_lines(each: Object) -> dict[str, list[int]]:
    """The line of each rule, by direction; nothing of what has no rules."""
    if not isinstance(each, Policy):
        return {}
    return {
        str(direction): [
            (rule.position or each.position or Position("", 1)).line for rule in each.rules(direction) or ()
        ]
        for direction in Direction
    }


def with_rule_lines(found: Object, lines: Any) -> Object:
    """The policy with its rules in these lines of its file, as far as they are known."""
    if not isinstance(found, Policy) or not isinstance(lines, dict):
        return found
    return replace(
        found,
        ingress=_placed(found.ingress, found.position, lines.get("ingress")),
        egress=_placed(found.egress, found.position, lines.get("egress")),
    )


def _placed(rules: tuple[PolicyRule, ...] | None, at: Position | None, lines: Any) -> tuple[PolicyRule, ...] | None:
    if not rules or at is None or not isinstance(lines, list) or len(lines) != len(rules):
        return rules
    return tuple(
        [
            replace(rule, position=Position(at.file, line)) if isinstance(line, int) else rule
            for rule, line in zip(rules, lines, strict=True)
        ]
    )

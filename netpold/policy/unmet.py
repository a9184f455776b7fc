"""What labels lack to meet a selector: the requirements that fail, in words, and labels that would meet it."""

from __future__ import annotations

from collections.abc import Mapping, Set
from itertools import count

from netpold.policy.model import Operator, Requirement, Selector
from netpold.policy.selector import describe, holds


def unmet(selector: Selector, labels: Mapping[str, str]) -> list[Requirement]:
    """The requirements that the labels do not meet."""
    return [each for each in selector.requirements if not holds(each, labels)]


def satisfying(selector: Selector, labels: Mapping[str, str], fixed: Set[str] = frozenset()) -> dict[str, str] | None:
    """The labels with as little changed as it takes to meet the selector; None where no labels can, or none without
    another value of a `fixed` key."""
    changed = dict(labels)
    for key in {each.key for each in unmet(selector, labels)}:
        if key in fixed:
            return None
        about = [each for each in selector.requirements if each.key == key]
        excluded = {value for each in about if each.operator is Operator.NOT_IN for value in each.values}
        lists = [set(each.values) for each in about if each.operator is Operator.IN]
        operators = {each.operator for each in about}
        if lists:
            possible = set.intersection(*lists) - excluded
            if not possible or Operator.DOES_NOT_EXIST in operators:
                return None
            changed[key] = min(possible)
        elif Operator.EXISTS in operators:
            if Operator.DOES_NOT_EXIST in operators:
                return None
            changed[key] = next(value for value in map(str, count(1)) if value not in excluded)
        else:  # must not be there, or not with that value
            del changed[key]
    return changed


def lacks(name: str, failing: list[Requirement], labels: Mapping[str, str]) -> str:
    """`monitoring lacks the label team=ops`, `shop/a has app=api, not app=web`."""
    return f"{name} {' and '.join(_lack(each, labels) for each in failing)}"


def _lack(requirement: Requirement, labels: Mapping[str, str]) -> str:
    wanted = describe(Selector((requirement,)))
    has = f"{requirement.key}={labels.get(requirement.key)}"
    match requirement.operator:
        case Operator.IN if requirement.key in labels:
            return f"has {has}, not {wanted}"
        case Operator.IN | Operator.EXISTS:
            return f"lacks the label {wanted}"
        case Operator.NOT_IN | Operator.DOES_NOT_EXIST:
            return f"has the label {has}, which it must not have"

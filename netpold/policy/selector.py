"""Label selectors (meta/v1 LabelSelector): whether labels meet them."""

from __future__ import annotations

from collections.abc import Mapping

from netpold.policy.model import Operator, Requirement, Selector


def holds(requirement: Requirement, labels: Mapping[str, str]) -> bool:
    """Whether labels meet one requirement.  NotIn and DoesNotExist hold where the key is absent."""
    match requirement.operator:
        case Operator.IN:
            return labels.get(requirement.key) in requirement.values
        case Operator.NOT_IN:
            return labels.get(requirement.key) not in requirement.values
        case Operator.EXISTS:
            return requirement.key in labels
        case Operator.DOES_NOT_EXIST:
            return requirement.key not in labels


def matches(selector: Selector, labels: Mapping[str, str]) -> bool:
    """Whether labels meet every requirement of the selector (the empty one matches everything)."""
    return all(holds(requirement, labels) for requirement in selector.requirements)


def describe(selector: Selector) -> str:
    """The selector as kubectl writes it: `app=web,tier in (a,b),!debug`; `(all)` for the empty one."""
    return ",".join(_describe(requirement) for requirement in selector.requirements) or "(all)"


def _describe(requirement: Requirement) -> str:
    values = ",".join(requirement.values)
    match requirement.operator:
        case Operator.IN if len(requirement.values) == 1:
            return f"{requirement.key}={values}"
        case Operator.IN:
            return f"{requirement.key} in ({values})"
        case Operator.NOT_IN if len(requirement.values) == 1:
            return f"{requirement.key}!={values}"
        case Operator.NOT_IN:
            return f"{requirement.key} notin ({values})"
        case Operator.EXISTS:
            return requirement.key
        case Operator.DOES_NOT_EXIST:
            return f"!{requirement.key}"

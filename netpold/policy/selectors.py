"""Label selectors as manifests have them (meta/v1 LabelSelector), to model.Selector.

Checked as in Kubernetes' apis/meta/v1/validation, but null is refused: to the API server it is as if nothing were
written, and a selector with nothing written in it selects everything.
"""

from __future__ import annotations

from collections.abc import Collection

from netpold.policy.checks import label_key, label_value, labels
from netpold.policy.fields import Fields, nearest
from netpold.policy.model import EVERYTHING, Operator, Requirement, Selector
from netpold.policy.tree import Map, Node, Scalar, Seq, is_flow, is_null, shown

_SELECTOR = frozenset({"matchLabels", "matchExpressions"})
_EXPRESSION = frozenset({"key", "operator", "values"})
_OPERATORS = {operator.value: operator for operator in Operator}
_SELECTOR_CURE = "write `matchLabels:` and the labels below it, or `{}` for everything"
_EXPRESSION_CURE = "write `key:`, `operator:` and, for In and NotIn, `values:`"


def selector(fields: Fields, node: Node) -> Selector | None:
    """A label selector; None where any of it is wrong or could not be read."""
    failed, fields.failed = fields.failed, False
    requirements = _selector(fields, node)
    right = not fields.failed
    fields.failed = failed or not right
    if not right:
        return None
    return Selector(tuple(sorted(set(requirements)))) if requirements else EVERYTHING


def beside(found: Map, names: Collection[str]) -> dict[str, str]:
    """The cures for parts of a selector (one of `names`) that stand beside it where nothing stands below it."""
    cures, above = {}, ""
    for key, value in found.items():
        if key in names:
            above = key if is_null(value) else ""
        elif key in _SELECTOR and above and is_flow(found):
            cures[key] = f"put it into braces behind `{above}:`"
        elif key in _SELECTOR and above:
            cures[key] = f"indent `{key}:` two more, so that it stands below `{above}:`"
    return cures


def _selector(fields: Fields, node: Node) -> list[Requirement]:
    found = fields.map(node, _SELECTOR_CURE) if fields.required(node, _SELECTOR_CURE) else None
    if found is None:
        return []
    _whole(fields, found)
    fields.known(found, _SELECTOR, otherwise="write `matchLabels:` and this label below it")
    requirements = []
    pairs = found.get("matchLabels")
    if pairs is not None and not _nothing_written(fields, pairs, "matchLabels"):
        _whole(fields, pairs)
        requirements = [Requirement(key, Operator.IN, (value,)) for key, value in labels(fields, pairs).items()]
    expressions = found.get("matchExpressions")
    if expressions is not None and not _nothing_written(fields, expressions, "matchExpressions"):
        _whole(fields, expressions)
        for expression in fields.seq(expressions, f"write a list; below `- ` {_EXPRESSION_CURE}") or ():
            requirement = _expression(fields, expression)
            if requirement:
                requirements.append(requirement)
    return requirements


def _nothing_written(fields: Fields, node: Node, name: str) -> bool:
    """Whether a part of the selector is null: to the API it is then as if it were not there (many examples have an
    empty `matchLabels:` where they mean all)."""
    if not is_null(node):
        return False
    fault = f"nothing stands below `{name}:`, so it is as if it were not there"
    fields.warn(node, "nothing-written", fault, "take it out if all is meant, or write what it lacks below it")
    return True


def _whole(fields: Fields, node: Node) -> None:
    """What could not be read to its end (the reader has said so) may have more requirements."""
    if isinstance(node, Map | Seq) and not node.whole:
        fields.failed = True


def _expression(fields: Fields, node: Node) -> Requirement | None:
    found = fields.map(node, _EXPRESSION_CURE) if fields.required(node, _EXPRESSION_CURE) else None
    if found is None:
        return None
    _whole(fields, found)
    fields.known(found, _EXPRESSION)
    key, operator = _key(fields, found), _operator(fields, found)
    values = _values(fields, found, operator)
    return Requirement(key, operator, values) if key is not None and operator else None


def _key(fields: Fields, found: Map) -> str | None:
    node = found.get("key")
    if node is None or is_null(node):
        fields.missing(found, "key", "write `key:` and a label's key")
        return None
    return label_key(fields, node) if isinstance(node, Scalar) else fields.text(node)


def _operator(fields: Fields, found: Map) -> Operator | None:
    node = found.get("operator")
    if node is None or is_null(node):
        fields.missing(found, "operator", "write `operator:` and one of In, NotIn, Exists, DoesNotExist")
        return None
    name = fields.text(node)
    if name is not None and name not in _OPERATORS:
        meant = nearest(name, _OPERATORS)
        cure = f"write `{meant}`" if meant else "operators are In, NotIn, Exists and DoesNotExist"
        fields.error(node, "selector-operator", f'there is no operator "{shown(name)}"', cure)
    return _OPERATORS.get(name or "")


def _values(fields: Fields, found: Map, operator: Operator | None) -> tuple[str, ...]:
    node = found.get("values")
    values = fields.seq(node, "write a list: `values: [a, b]`")
    if values is not None:
        _whole(fields, values)
    if operator in (Operator.IN, Operator.NOT_IN) and not values:
        if node is None or is_null(node):
            fields.missing(found, "values", f"write `values: [a, b]`, {operator.value} needs them")
        elif values is not None:
            fields.error(node, "selector-values", f"{operator.value} needs values", "write `values: [a, b]`")
    elif operator in (Operator.EXISTS, Operator.DOES_NOT_EXIST) and values:
        cure = "take `values` out, or write In or NotIn"
        fields.error(found.scalars["values"], "selector-values", f"{operator.value} takes no values", cure)
    checked = [label_value(fields, value) for value in values or ()]
    return tuple(sorted({value for value in checked if value is not None}))

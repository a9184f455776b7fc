"""Parts of manifests that several kinds have, in their one form."""

from __future__ import annotations

from typing import Any

from netpold.policy.model import MODE_ANNOTATION, Mode, Selector

Tree = dict[str, Any]


def mode_tree(mode: Mode | None) -> Tree:
    """What of the metadata says the mode."""
    return {} if mode is None else {"annotations": {MODE_ANNOTATION: mode}}


def selector_tree(selector: Selector) -> Tree:
    """All as expressions, which can say what labels say."""
    expressions = [
        {"key": each.key, "operator": each.operator.value, **({"values": list(each.values)} if each.values else {})}
        for each in selector.requirements
    ]
    return {"matchExpressions": expressions} if expressions else {}

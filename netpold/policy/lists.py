"""Lists where people write something else: a map or one value stands where a list belongs."""

from __future__ import annotations

from collections.abc import Callable

from netpold.policy.fields import Fields
from netpold.policy.tree import Map, Node, Scalar, Seq, is_flow, is_null, new_seq, shown


def entries(
    fields: Fields,
    node: Node | None,
    key: str,
    empty: str,
    *,
    of_text: bool = False,
    meant: Callable[[str], str | None] = lambda text: None,
) -> Seq | None:
    """The list at `key`, and where a map or one value stands there instead, how to make it one.

    `of_text`: its entries are texts, and no maps.  `empty`: what to write for an empty one; `meant`: what was likely
    meant by one text that stands alone.
    """
    if isinstance(node, Map):
        if node and is_flow(node):
            cure = f"put it into brackets: `[{{{_key_as_written(node)}: ...}}]`"
        elif node:
            first = next(iter(node))
            cure = f"write `- ` before `{shown(first)}:`, so that below `{key}:` stands `- {shown(first)}: ...`"
        else:
            cure = f"write {empty}"
        fields.error(node, "map-for-list", f"`{key}` is a list, here is a map", cure)
        return _only(node) if node and not of_text else None
    if isinstance(node, Scalar) and not is_null(node):
        cure = f"write `{key}: [{meant(node.value) or shown(node.value)}]`"
        fields.error(node, "wrong-type", f"`{key}` is a list, here is one value", cure)
        return _only(node) if of_text else None
    return fields.seq(node)


def _key_as_written(node: Map) -> str:
    """The first key of a map, in quotes where it is (in JSON)."""
    first = next(iter(node.scalars.values()))
    return shown(first.value) if first.implicit[0] else f'"{shown(first.value)}"'


def _only(node: Map | Scalar) -> Seq:
    """A list with one entry: what stands where a list should is looked through as if it were its entry."""
    found = new_seq(node.start_mark)
    found.append(node)
    return found

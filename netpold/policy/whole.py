"""Maps and lists of which every part matters: what could not be read to its end does not count as read."""

from __future__ import annotations

from collections.abc import Collection

from netpold.policy.fields import Fields
from netpold.policy.lists import entries
from netpold.policy.tree import Map, Node, Scalar, Seq, is_null


def whole_map(fields: Fields, node: Node | None, cure: str) -> Map | None:
    """The map that has to stand here."""
    found = fields.map(node, cure) if fields.required(node, cure) else None
    if found is not None and not found.whole:
        fields.failed = True  # the reader has said why
    return found


def whole_list(fields: Fields, holder: Map, key: str, most: int, cure: str, *, of_text: bool = False) -> Seq:
    """The list that has to stand at `key`, with one entry at least and `most` at most."""
    node = holder.get(key)
    if node is None or (isinstance(node, Scalar) and is_null(node)):
        fields.missing(holder, key, cure)
        return Seq()
    found = entries(fields, node, key, "a list", of_text=of_text)
    if found is None:
        return Seq()
    if not found.whole:
        fields.failed = True
    elif not found:
        fields.error(found, "empty-list", f"`{key}` has no entry, and needs one", cure)
    at_most(fields, found, key, most)
    return found


def at_most(fields: Fields, found: Seq, key: str, most: int) -> None:
    """Note a list that is longer than the API has it."""
    if len(found) > most:
        fault = f"`{key}` has {len(found)} entries, the limit is {most}"
        fields.error(found, "too-many-entries", fault, "make more than one of it")


def only_field(fields: Fields, found: Map, what: str, names: Collection[str], known: bool) -> str | None:
    """The one of the fields that has to be written alone; `known`: all that are written are among them."""
    written = [name for name in found if name in names]
    if len(written) == 1 and known:
        return written[0]
    if len(written) > 1:
        fault = f"{what} has {' and '.join(f'`{name}`' for name in written)}, and takes one of them"
        fields.error(found, "one-field", fault, "make two entries of it, or take one out")
    elif not written and known and found.whole:
        fields.error(found, "one-field", f"{what} says nothing", f"write one of {', '.join(sorted(names))}")
    fields.failed = True
    return None

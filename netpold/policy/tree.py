"""The plain trees that `reader.py` builds: Map, Seq and Scalar, each with its place, and what a scalar's text means.

Plain (unquoted) text has the type that the API server's parser gives it (sigs.k8s.io/yaml, goyaml.v2 `resolve.go`: it
is YAML 1.1, so `no` is false and `010` is eight).  Where readers of YAML differ, the text has a type of its own, so
that a check can refuse it where it matters: dates and base 60 numbers (`22:22`) are text to the API server and not to
others, `y` and `n` are truth values to it and text to most others.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Container
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:

    @dataclass(frozen=True)
    class Scalar:
        """A scalar as it is written: libyaml's event.  `implicit[0]`: it is plain, its text decides its type."""

        value: str
        implicit: tuple[bool, bool]
        start_mark: Place
        anchor: str | None
        tag: str | None
else:
    from yaml.events import ScalarEvent as Scalar


@dataclass(frozen=True, slots=True)
class Place:
    """Where something begins in its chunk, in characters from 0; libyaml's own marks look the same."""

    line: int = 0
    column: int = 0
    index: int = 0


class Map(dict[str, Any]):
    """A mapping of Nodes; `scalars` has the scalar of each key, for its place.  Not `whole`: entries may be missing."""

    __slots__ = ("scalars", "start_mark", "whole")

    scalars: dict[str, Scalar]
    start_mark: Place
    whole: bool


class Seq(list[Any]):
    """A sequence of Nodes.  Not `whole`: entries may be missing."""

    __slots__ = ("start_mark", "whole")

    start_mark: Place
    whole: bool


@dataclass(frozen=True, slots=True)
class Unread:
    """Stands for what the reader refused."""

    start_mark: Place


Node = Map | Seq | Scalar | Unread


class Type(Enum):
    """What a scalar is; the values are how a person calls it."""

    TEXT = "text"
    INT = "a number"
    FLOAT = "a decimal number"
    BOOL = "a truth value"
    LETTER = "a truth value to some"
    NULL = "nothing"
    DATE = "a date"
    BASE60 = "a base 60 number"


def new_map(place: Place) -> Map:
    """An empty Map that is still open."""
    node = Map()
    node.scalars, node.start_mark, node.whole = {}, place, False
    return node


def new_seq(place: Place) -> Seq:
    """An empty Seq that is still open."""
    node = Seq()
    node.start_mark, node.whole = place, False
    return node


_TRUE = ("yes", "Yes", "YES", "true", "True", "TRUE", "on", "On", "ON")
_FALSE = ("no", "No", "NO", "false", "False", "FALSE", "off", "Off", "OFF")
_NULL = ("", "~", "null", "Null", "NULL")
_NAN = (".nan", ".NaN", ".NAN", *(sign + inf for sign in ("", "+", "-") for inf in (".inf", ".Inf", ".INF")))
_WORDS = {
    **dict.fromkeys(_TRUE + _FALSE, Type.BOOL),
    **dict.fromkeys(("y", "Y", "n", "N"), Type.LETTER),
    **dict.fromkeys(_NULL, Type.NULL),
    **dict.fromkeys(_NAN, Type.FLOAT),
}
_NUMERIC = frozenset("0123456789+-.")  # what a number or a date can begin with
_INT = re.compile(r"[-+]?(?:0[xX][0-9a-fA-F]+|0[bB][01]+|0[oO]?[0-7]+|0|[1-9][0-9]*)")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_DATE = re.compile(r"[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}(?:(?:[Tt]|[ \t]+)[0-9][^.]*(?:\.[^.]*)?)?")
_BASE60 = re.compile(r"[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+(?:\.[0-9_]*)?")


def plain_type(text: str) -> Type:
    """The type of plain text."""
    word = _WORDS.get(text)
    if word is not None:
        return word
    if text[0] not in _NUMERIC or text.count(".") > 1:  # IPv4 addresses and versions are text
        return Type.TEXT
    digits = text.replace("_", "")
    if _INT.fullmatch(digits):
        return Type.INT
    if _FLOAT.fullmatch(digits):
        return Type.FLOAT
    if _DATE.fullmatch(text):
        return Type.DATE
    return Type.BASE60 if _BASE60.fullmatch(text) else Type.TEXT


def type_of(scalar: Scalar) -> Type:
    """The type of a scalar; quoted and block scalars are always text."""
    return plain_type(scalar.value) if scalar.implicit[0] else Type.TEXT


def is_text(scalar: Scalar) -> bool:
    """Whether a scalar is text to the API server."""
    if not scalar.implicit[0]:
        return True
    text = scalar.value
    if text in _WORDS:
        return False
    return text[0] not in _NUMERIC or plain_type(text) in _TEXTS


_TEXTS = (Type.TEXT, Type.DATE, Type.BASE60)


def int_of(text: str) -> int:
    """The number that text of Type.INT stands for: `0x` and `0b` as usual, a leading zero is octal."""
    digits = text.replace("_", "").lower()
    sign, digits = (-1, digits[1:]) if digits[0] == "-" else (1, digits.lstrip("+"))
    if len(digits) > 1 and digits[0] == "0" and digits[1] in "01234567":
        digits = "0o" + digits[1:]
    return sign * int(digits[:100], 0)


def is_null(node: object) -> bool:
    """Whether nothing is written (`key:`), or null."""
    return isinstance(node, Scalar) and node.implicit[0] and node.value in _NULL


def is_sure(holder: Map, key: str) -> bool:
    """Whether what stands at a key is all that was meant to: not so where reading broke off in it, or right after it,
    since a wrong indentation ends a map or list too early."""
    node = holder.get(key)
    if isinstance(node, Unread) or (isinstance(node, Map | Seq) and not node.whole):
        return False
    return holder.whole or (key in holder and next(reversed(holder.scalars)) != key)


def is_true(scalar: Scalar) -> bool:
    """The value of a scalar of Type.BOOL or Type.LETTER."""
    return scalar.value in _TRUE or scalar.value in ("y", "Y")


def _index(node: Node) -> int:
    return node.start_mark.index


def is_flow(node: Map) -> bool:
    """Whether a map is written in braces, as in JSON."""
    return not node.scalars or _index(next(iter(node.scalars.values()))) != node.start_mark.index


def is_merge_key(key: Scalar) -> bool:
    """Whether a key is the merge key, which the reader has refused."""
    return key.value == "<<" and key.implicit[0]


_LABELS = ("labels", "matchLabels")
_PLAIN_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def path_of(root: Node | None, target: Node | Place, names: Container[str] | None = None) -> str:
    """The field path in `root` of a node, of a key, or of what stands last before a place: `spec.ingress[0].from`.
    `names`: it ends before the first key that is none of these, and no label's."""
    index = target.index if isinstance(target, Place) else target.start_mark.index
    path, key, node = "", "", root
    while node is not target:
        if isinstance(node, Map) and node.scalars:
            keys = list(node.scalars.values())
            is_label = key in _LABELS
            key = keys[max(bisect_right(keys, index, key=_index) - 1, 0)].value
            if names is not None and key not in names and not is_label:
                break
            step = f".{key}" if _PLAIN_KEY.fullmatch(key) else f"[{shown(key)}]"
            path = (path + step).removeprefix(".")
            if node.scalars[key] is target:
                break
            node = node.get(key)
        elif isinstance(node, Seq) and node:
            at = max(bisect_right(node, index, key=_index) - 1, 0)
            path, node = f"{path}[{at}]", node[at]
        else:
            break
    return path


def shown(text: str, limit: int = 64) -> str:
    """Text from a manifest as a message may show it: cut to length, and nothing in it that is not printable."""
    cut = text if len(text) <= limit else text[: limit - 3] + "..."
    if cut.isprintable():
        return cut
    return "".join(letter if letter.isprintable() else f"\\u{ord(letter):04x}" for letter in cut)

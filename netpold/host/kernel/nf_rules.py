"""What a rule of nf_tables does, as a message about it says: all but what its counter has counted.

A rule that another one replaces gives it its handle, and only so can two rules have one.  A counter can't be set to
zero in place (`iptables -Z`): the rule is replaced by one that does the same.
"""

from __future__ import annotations

import struct
from contextlib import suppress
from typing import NamedTuple

from netpold.host.kernel.nf_netlink import RULE_EXPRESSIONS, RULE_HANDLE, RULE_USERDATA, decoded
from netpold.host.kernel.nfnetlink import attribute, attributes
from netpold.rules.count import Count

EXPRESSION_NAME, EXPRESSION_DATA = 1, 2

_COUNTER = attribute(EXPRESSION_NAME, b"counter\0")
_COUNTER_BYTES, _COUNTER_PACKETS = 1, 2


class Doing(NamedTuple):
    """A rule's handle; what it does, as bytes that are equal where that is; and its comment, with what nft notes."""

    handle: bytes
    expressions: bytes
    notes: bytes

    @classmethod
    def of(cls, data: bytes, start: int, end: int) -> Doing:
        """The rule of a message, by where its attributes begin and end.  Raises struct.error or LookupError."""
        values = decoded(data, start, end)
        expressions = values.get(RULE_EXPRESSIONS, b"")
        place = _counter(expressions)
        if place:
            expressions = expressions[: place[0]] + expressions[place[1] :]
        return cls(values[RULE_HANDLE], expressions, values.get(RULE_USERDATA, b""))


def counted(expressions: bytes) -> Count:
    """What the counter among these says."""
    place = _counter(expressions)
    if place is None:
        return Count()
    said = decoded(expressions, *place)
    return Count(int.from_bytes(said[_COUNTER_PACKETS], "big"), int.from_bytes(said[_COUNTER_BYTES], "big"))


def _counter(expressions: bytes) -> tuple[int, int] | None:
    """Where the data of the first counter among these begin and end; looked for by its name as it is written there, for
    there are many rules."""
    place = expressions.find(_COUNTER)
    if place < 0:
        return None
    with suppress(struct.error):  # then it was another program's data, and no counter's name
        for kind, start, end in attributes(expressions, place + len(_COUNTER), len(expressions)):
            return (start, end) if kind == EXPRESSION_DATA else None
    return None

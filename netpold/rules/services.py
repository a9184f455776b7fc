"""Protocols and ports as bits: what rules can say of them, cut into pieces that no rule tells apart.

A rule names ports or ranges of them.  Between two numbers that some rule names, all ports have one fate, so all that a
rule allows is a few pieces, and a set of pieces is a number with a bit for each.  Everything without ports (ICMP, other
protocols) is the last piece: only a rule that names no port allows it.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import NamedTuple

from netpold.rules.ruleset import Match, Ports, Proto, Rule

PROTOCOLS = ("tcp", "udp", "sctp")
OTHER = "other"
_FIRST, _END = 1, 65536  # nothing is sent to port 0


class Span(NamedTuple):
    """Ports of a protocol (`TCP`, `UDP`, `SCTP`), both ends inside; or what has no ports: `protocol` is `other`."""

    protocol: str
    first: int
    last: int

    @property
    def is_whole(self) -> bool:
        """Whether it is all of its protocol."""
        return self.protocol == OTHER or (self.first, self.last) == (_FIRST, _END - 1)


class Services:
    """The pieces that these rules need, these ports of pods (`tcp:80`, as ipset writes them), and these spans."""

    def __init__(self, rules: Iterable[Rule], named: Iterable[str], spans: Iterable[Span] = ()) -> None:
        cuts = {protocol: {_FIRST, _END} for protocol in PROTOCOLS}
        for rule in rules:
            protocol = _protocol(rule.matches)
            for match in rule.matches:
                if isinstance(match, Ports):
                    for low, high in match.ranges:
                        cuts[protocol] |= {max(low, _FIRST), high + 1}
        for text in named:
            protocol, _, number = text.partition(":")
            cuts[protocol] |= {int(number), int(number) + 1}
        for span in spans:
            if span.protocol != OTHER:
                cuts[span.protocol.lower()] |= {span.first, span.last + 1}
        self._pieces: list[Span] = []
        self._at: dict[tuple[str, int], int] = {}  # by protocol and first port, the piece that begins there
        for protocol in PROTOCOLS:
            ends = sorted(cuts[protocol])
            for low, high in pairwise(ends):
                self._at[protocol, low] = len(self._pieces)
                self._pieces.append(Span(protocol.upper(), low, high - 1))
            self._at[protocol, _END] = len(self._pieces)
        self._pieces.append(Span(OTHER, 0, 0))
        self.everything = (1 << len(self._pieces)) - 1

    def of(self, matches: tuple[Match, ...]) -> int:
        """What meets the matches of a rule that ask for protocol and port."""
        protocol = _protocol(matches)
        if not protocol:
            return self.everything
        for match in matches:
            if isinstance(match, Ports):
                return sum(self._range(protocol, max(low, _FIRST), high + 1) for low, high in match.ranges)
        return self._range(protocol, _FIRST, _END)

    def named(self, text: str) -> int:
        """One port: `tcp:80`."""
        protocol, _, number = text.partition(":")
        return self._range(protocol, int(number), int(number) + 1)

    def within(self, spans: Iterable[Span]) -> int:
        """What is in spans, all of which were given before."""
        return sum(
            1 << (len(self._pieces) - 1)
            if span.protocol == OTHER
            else self._range(span.protocol.lower(), span.first, span.last + 1)
            for span in self._merged(spans)
        )

    def _merged(self, spans: Iterable[Span]) -> Iterable[Span]:
        found: list[Span] = []
        for span in sorted(spans):
            if found and found[-1].protocol == span.protocol and span.first <= found[-1].last + 1:
                found[-1] = found[-1]._replace(last=max(found[-1].last, span.last))
            else:
                found.append(span)
        return found

    def _range(self, protocol: str, low: int, end: int) -> int:
        return (1 << self._at[protocol, end]) - (1 << self._at[protocol, low])

    def spans(self, services: int) -> tuple[Span, ...]:
        """What these bits stand for, in as few spans as can be."""
        found: list[Span] = []
        for number, piece in enumerate(self._pieces):
            if not services >> number & 1:
                continue
            if found and found[-1].protocol == piece.protocol and found[-1].last + 1 == piece.first:
                found[-1] = found[-1]._replace(last=piece.last)
            else:
                found.append(piece)
        return tuple(found)


def _protocol(matches: tuple[Match, ...]) -> str:
    return next((match.name for match in matches if isinstance(match, Proto)), "")

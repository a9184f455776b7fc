"""What is told of a traced packet, copy by copy: a bridge that gives a frame to several ports, as one to a group or to
a MAC that it does not know, sends a copy of the packet through FORWARD for each; so does routed multicast.

The kernel's number of a packet is made from where it lies in memory, so a copy has another one than the packet, but
often the one of the copy before it, which is gone by then.  What tells them apart is that nothing passes a base chain
twice, or both INPUT and FORWARD.  A copy's way begins with what the packet had behind it when it was copied.

Lines of legacy tables have no number, but the port that the copy leaves by; copies are made in one order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from netpold.host.kernel.trace_events import Event, Line

_BASE = tuple[int, str, str]  # a base chain: nfproto, table, name

Way = list[Event]


@dataclass(slots=True)
class _Run:
    """Events in a row that one packet or copy is the cause of.  `passed`: the base chains among them."""

    number: int
    events: Way = field(default_factory=list)
    passed: set[_BASE] = field(default_factory=set)

    def is_another(self, run: _Run, judged: Sequence[_BASE]) -> bool:
        """Whether what did this can't have done the other as well.  `judged`: see `ways`."""
        return bool(self.passed & run.passed or (self.passed.intersection(judged) and run.passed.intersection(judged)))


def ways(events: Sequence[Event], judged: Sequence[_BASE]) -> list[Way]:
    """The way of the packet that the first event is of, or of each of its copies, in their order.

    `judged`: base chains at INPUT and at FORWARD, one of each hook.
    """
    found: list[list[_Run]] = []
    for run in _runs(events):
        way = found[-1] if found else []
        place = next((place for place, before in enumerate(way) if run.is_another(before, judged)), None)
        if place is None and found:
            way.append(run)
        else:
            found.append([*way[:place], run])
    return [[event for run in way for event in run.events] for way in found if way[0] is found[0][0]]


def _runs(events: Sequence[Event]) -> Iterator[_Run]:
    run: _Run | None = None
    for event in events:
        base = event.nfproto, event.table, event.chain
        begins = event.heading is not None  # a base chain
        if run is None or event.number != run.number or (begins and base in run.passed):
            if run is not None:
                yield run
            run = _Run(event.number)
        run.events.append(event)
        if begins:
            run.passed.add(base)
    if run is not None:
        yield run


def lines_of(lines: Sequence[Line], copy: int | None) -> list[Line]:
    """What legacy tables told of that copy: the number (from 0) among those that came to FORWARD's filter table; None:
    it did not."""
    found = [line for line in lines if copy is None or line.hook != "INPUT"]
    ports = list(dict.fromkeys(line.outgoing for line in lines if (line.table, line.hook) == ("filter", "FORWARD")))
    if len(ports) < 2 and copy is not None:
        return found
    port = ports[copy] if copy is not None and copy < len(ports) else None
    return [line for line in found if not ports or line.hook not in ("FORWARD", "POSTROUTING") or line.outgoing == port]

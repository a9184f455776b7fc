"""What was dropped, let through by audited policies, and allowed: the latest of it in order, and sums by pair.

Both are bounded: of the events the oldest go, of the sums those that were not seen for longest.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from netpold.daemon.sights import Described, Json, Verdict
from netpold.daemon.status import timestamp
from netpold.policy.model import Direction, Pod

MOST_EVENTS, MOST_SUMS = 2000, 5000


@dataclass(frozen=True, slots=True)
class Times:
    """How many packets, and when the first and the last of them came (Unix time)."""

    packets: int
    first: float
    last: float

    def and_also(self, more: Times) -> Times:
        return Times(self.packets + more.packets, min(self.first, more.first), max(self.last, more.last))

    def each_reported(self, often: int) -> Times:
        """Of as many reports, where each packet was reported so often."""
        return Times(-(-self.packets // often), self.first, self.last)


@dataclass(frozen=True, slots=True)
class Party:
    """An end of a sum: a pod (key) with its labels as they were then, or ('' for `pod`) a plain address."""

    pod: str
    address: str
    labels: Mapping[str, str] = field(default_factory=dict, compare=False, hash=False)

    @staticmethod
    def of(pod: Pod | None, address: str) -> Party:
        return Party("", address) if pod is None else Party(pod.key, "", pod.labels)


@dataclass(frozen=True, slots=True)
class Pair:
    """What a sum is of.  `direction`: in which the pod is judged; None for what is allowed."""

    verdict: Verdict
    direction: Direction | None
    source: Party
    destination: Party
    protocol: str
    port: int | None
    icmp_type: int | None = None


@dataclass(frozen=True, slots=True)
class News:
    """Events after some number, the last number there is, and how many of them are gone already."""

    events: tuple[Json, ...]
    last: int
    missed: int


class Seen:
    """For any thread."""

    def __init__(self) -> None:
        self._changed = threading.Condition()  # guards the rest
        self._events: deque[Json] = deque(maxlen=MOST_EVENTS)
        self._number = 0
        self._sums: OrderedDict[Pair, tuple[Times, tuple[str, ...]]] = OrderedDict()
        self.forgotten = 0  # sums that had to go
        self.since = time.time()

    def add(self, each: Described, times: Times, names: Mapping[int, str]) -> Json:
        """Take in an event; `names` of interfaces by index.  Returns it as JSON."""
        with self._changed:
            self._number += 1
            event = _event(self._number, each, times, names)
            self._events.append(event)
            self._sum(each, times)
            self._changed.notify_all()
            return event

    def after(self, number: int, timeout: float) -> News:
        """The events after this number; where there is none, those that come within `timeout` seconds."""
        with self._changed:
            number = min(number, self._number)  # of another life of the daemon
            if timeout:
                self._changed.wait_for(lambda: self._number > number, timeout)
            found = tuple(each for each in self._events if each["number"] > number)
            return News(found, self._number, self._number - number - len(found))

    def sums(self) -> dict[Pair, tuple[Times, tuple[str, ...]]]:
        """By pair, and with the policies that isolate or deny, as of the last packet."""
        with self._changed:
            return dict(self._sums)

    def _sum(self, each: Described, times: Times) -> None:
        sight = each.sight
        if sight.why != "policy":
            return
        if each.sender and (each.source or sight.direction is Direction.EGRESS):
            return  # it is not of the pod whose address it has, so nothing is to be made of it
        source, destination = Party.of(each.source, sight.source), Party.of(each.destination, sight.destination)
        pair = Pair(sight.verdict, sight.direction, source, destination, sight.protocol, sight.port, sight.icmp_type)
        if pair in self._sums:
            times = self._sums.pop(pair)[0].and_also(times)
        self._sums[pair] = times, each.policies
        if len(self._sums) > MOST_SUMS:
            self._sums.popitem(last=False)
            self.forgotten += 1


def moment(at: float) -> str:
    """Unix time as all JSON outputs show it."""
    return timestamp(datetime.fromtimestamp(at, UTC))


def _event(number: int, each: Described, times: Times, names: Mapping[int, str]) -> Json:
    sight = each.sight
    return {
        "number": number,
        "first": moment(times.first),
        "last": moment(times.last),
        "packets": times.packets,
        "verdict": sight.verdict,
        "why": sight.why if sight.verdict != "allow" else None,
        "direction": sight.direction and str(sight.direction),
        "source": {"address": sight.source, "pod": each.source and each.source.key},
        "destination": {"address": sight.destination, "pod": each.destination and each.destination.key},
        "protocol": sight.protocol,
        "port": sight.port,
        "icmp_type": sight.icmp_type,
        "interface_in": names.get(sight.incoming),
        "interface_out": names.get(sight.outgoing),
        "sender": each.sender and each.sender.key,
        "judged": each.judged and each.judged.key,
        "judged_lingers": each.lingers,
        "isolating": list(each.isolating),
        "nearest_miss": each.miss,
        "denied_by": each.denied_by,
        "allowed_by": list(each.allowed_by),
        "passes": list(each.passes),
    }

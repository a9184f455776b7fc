"""How much was dropped, by pod and by policy: what the kernel counts, added up.

The kernel counts by address, in sets that may be made anew (rules/count.py).  So the differences from one reading to
the next are added to totals here, which only grow: those of an address to the pods that had it, and to the policies
that isolated them in that direction, up to this reading.  The loop has all counters read when that changes (`follow`),
and before members or sets go (`settling`); besides, they are read when somebody asks.

Whether reading fails or not, rules are enforced: a failure is a warning in the log, and counted.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from netpold.host.kernel import ipset
from netpold.host.kernel.backend import KernelError
from netpold.policy.model import Direction, Family
from netpold.rules.count import DROPPED, SPOOFED, Count, Isolated
from netpold.rules.plan import Installed

log = logging.getLogger("netpold")

LEAST_PAUSE_S = 1.0  # between readings that are only asked for
KEEP_S = 900.0  # for how long to tell of what is isolated no more: several readings of any Prometheus

Key = tuple[str, Direction]  # of a pod or policy (`namespace/name`), and in which direction


@dataclass(frozen=True, slots=True)
class DropTotals:
    """What was dropped since the daemon started.  A packet that is dropped for a pod is dropped by each policy that
    isolates the pod in that direction.  `failures`: how often the kernel's counters could not be read."""

    pods: Mapping[Key, Count] = field(default_factory=dict)
    policies: Mapping[Key, Count] = field(default_factory=dict)
    spoofed: Mapping[Family, Count] = field(default_factory=dict)
    failures: int = 0


class Drops:
    """`follow` and `settling` are for the loop alone, `totals` may be called from any thread.  None of them raises."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards all of it
        self._isolated: tuple[Isolated, ...] = ()
        self._at: dict[tuple[Direction, str], list[Isolated]] = {}  # by address; also those that just went
        self._meaning: dict[str, Direction | Family] = {}  # by name of a set in the kernel; a family: all that spoof
        self._seen: dict[str, dict[str, Count]] = {}  # by that name and member, the last reading
        self._read_at = 0.0
        self._pods, self._policies = _Totals(), _Totals()
        self._spoofed: dict[Family, Count] = {}
        self._failures = 0
        self._failing = False  # the last reading

    def follow(self, isolated: tuple[Isolated, ...], installed: Installed) -> None:
        """This is in force now: to be called after each change of the kernel, at once."""
        with self._lock:
            meaning = _meaning(installed)
            if isolated == self._isolated and meaning.items() <= self._meaning.items():
                return
            self._meaning |= meaning
            now = _by_address(isolated)
            self._at = now | self._at  # up to now it was counted for those from before
            self._read()
            self._at |= now
            self._isolated = isolated
            self._pods.use({(each.pod, each.direction) for each in isolated})
            self._policies.use({(policy, each.direction) for each in isolated for policy in each.policies})

    @contextlib.contextmanager
    def settling(self, installed: Installed) -> Iterator[None]:
        """In this context, members and sets that are left over may be taken away; `installed` is from before."""
        if not installed.stray_members and not installed.stray_sets:
            yield
            return
        with self._lock:
            self._read()
            try:
                yield
            finally:
                self._read()  # a member that comes back counts from zero
                self._meaning = _meaning(installed)
                self._seen = {name: seen for name, seen in self._seen.items() if name in self._meaning}
                self._at = _by_address(self._isolated)

    def totals(self, least_pause_s: float | None = None) -> DropTotals:
        """As of at most so many seconds ago, LEAST_PAUSE_S if not told otherwise."""
        with self._lock:
            if time.monotonic() - self._read_at >= (LEAST_PAUSE_S if least_pause_s is None else least_pause_s):
                self._read()
            return DropTotals(self._pods.counts(), self._policies.counts(), dict(self._spoofed), self._failures)

    def _read(self) -> None:
        """Add up what was counted since the last reading."""
        self._read_at = time.monotonic()
        try:
            readings = {name: ipset.counters(name) for name in self._meaning}
        except KernelError as error:
            self._failures += 1
            log.log(logging.DEBUG if self._failing else logging.WARNING, "what was dropped can't be read: %s", error)
            self._failing = True
            return
        self._failing = False
        for name, reading in readings.items():
            seen = self._seen.get(name, {})
            for member, count in reading.items():
                if count != seen.get(member):
                    self._add(self._meaning[name], member, _since(seen.get(member, Count()), count))
        self._seen = readings

    def _add(self, meaning: Direction | Family, member: str, more: Count) -> None:
        if not isinstance(meaning, Direction):
            self._spoofed[meaning] = _sum(self._spoofed.get(meaning, Count()), more)
        elif more.packets:
            owners = self._at.get((meaning, member), ())
            for pod in {each.pod for each in owners}:
                self._pods.add((pod, meaning), more)
            for policy in {policy for each in owners for policy in each.policies}:
                self._policies.add((policy, meaning), more)


class _Totals:
    """Counts by key, which only grow.  A key that is out of use goes after KEEP_S."""

    def __init__(self) -> None:
        self._counts: dict[Key, Count] = {}
        self._unused: dict[Key, float] = {}  # since when

    def add(self, key: Key, more: Count) -> None:
        self._counts[key] = _sum(self._counts.get(key, Count()), more)

    def use(self, keys: set[Key]) -> None:
        """These are in use now, and no others."""
        now = time.monotonic()
        self._forget_old(now)
        self._unused = {key: self._unused.get(key, now) for key in self._counts.keys() - keys}
        for key in keys:
            self._counts.setdefault(key, Count())

    def counts(self) -> dict[Key, Count]:
        self._forget_old(time.monotonic())
        return dict(self._counts)

    def _forget_old(self, now: float) -> None:
        for key in [key for key, since in self._unused.items() if since <= now - KEEP_S]:
            del self._unused[key], self._counts[key]


def _meaning(installed: Installed) -> dict[str, Direction | Family]:
    """By name in the kernel, what the sets that count do."""
    found: dict[str, Direction | Family] = {}
    for (_, direction), name in DROPPED.items():
        if name in installed.names:
            found[installed.names[name]] = direction
    for family, name in SPOOFED.items():
        if name in installed.names:
            found[installed.names[name]] = family
    return found


def _by_address(isolated: Iterable[Isolated]) -> dict[tuple[Direction, str], list[Isolated]]:
    found: dict[tuple[Direction, str], list[Isolated]] = defaultdict(list)
    for each in isolated:
        for address in each.addresses:
            found[each.direction, address].append(each)
    return dict(found)


def _since(before: Count, now: Count) -> Count:
    if now.packets < before.packets:  # it began anew
        return now
    return Count(now.packets - before.packets, now.bytes - before.bytes)


def _sum(one: Count, other: Count) -> Count:
    return Count(one.packets + other.packets, one.bytes + other.bytes)

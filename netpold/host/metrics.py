"""What Prometheus is told: counters that the loop keeps here, and the state that it is asked for with.

The text is made by netpold/host/exposition, which is not loaded before somebody wants it: where nobody does, the
Prometheus library costs neither time nor memory.
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from netpold.host.drops import DropTotals
from netpold.policy.model import Finding

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

# Upper bounds of the histogram of applies, in seconds; +Inf follows.
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class PolicyFigures(Protocol):
    """`quarantined`: of the rejected ones, those in whose place everything is closed, for want of a good version."""

    @property
    def accepted(self) -> int: ...
    @property
    def rejected(self) -> int: ...
    @property
    def quarantined(self) -> int: ...


class PodFigures(Protocol):
    @property
    def total(self) -> int: ...
    @property
    def local(self) -> int: ...
    @property
    def isolated(self) -> int: ...
    @property
    def in_tiers(self) -> int: ...
    @property
    def without_interface(self) -> int: ...


class AuditFigures(Protocol):
    """`policies`: the keys of those that are not enforced."""

    @property
    def policies(self) -> tuple[str, ...]: ...


class Figures(Protocol):
    """What is read of the daemon's status (netpold/daemon/status); `rules` by "IPv4" and "IPv6"."""

    @property
    def state(self) -> str: ...
    @property
    def backend(self) -> str: ...
    @property
    def revision(self) -> int: ...
    @property
    def policies(self) -> PolicyFigures: ...
    @property
    def pods(self) -> PodFigures: ...
    @property
    def audited(self) -> AuditFigures: ...
    @property
    def namespaces(self) -> int: ...
    @property
    def rules(self) -> Mapping[str, int]: ...
    @property
    def sets(self) -> int: ...
    @property
    def findings(self) -> tuple[Finding, ...]: ...
    @property
    def warnings(self) -> tuple[str, ...]: ...


@dataclass(frozen=True, slots=True)
class Tally:
    """What happened since the daemon started.

    `applies`: how many lasted up to each of BUCKETS and longer than the one before it, and how many longer than all.
    `last_apply_at`: Unix time, None before the first one.
    """

    applies: tuple[int, ...] = (0,) * (len(BUCKETS) + 1)
    apply_seconds: float = 0.0
    last_apply_at: float | None = None
    last_apply_seconds: float = 0.0
    failures: int = 0
    repairs: int = 0
    flows_cut: int = 0


class Metrics:
    """May be used from any thread.  `drops` says what was dropped until now."""

    def __init__(self, version: str, drops: Callable[[], DropTotals]) -> None:
        self._version = version
        self._drops = drops
        self._lock = threading.Lock()
        self._tally = Tally()

    def applied(self, seconds: float) -> None:
        """The kernel was changed just now; it took so long."""
        place = bisect_left(BUCKETS, seconds)
        with self._lock:
            before = self._tally
            self._tally = replace(
                before,
                applies=tuple(count + (number == place) for number, count in enumerate(before.applies)),
                apply_seconds=before.apply_seconds + seconds,
                last_apply_at=time.time(),
                last_apply_seconds=seconds,
            )

    def failed(self) -> None:
        """What should be in force could not be brought there."""
        with self._lock:
            self._tally = replace(self._tally, failures=self._tally.failures + 1)

    def repaired(self) -> None:
        """Another program had changed what is netpold's."""
        with self._lock:
            self._tally = replace(self._tally, repairs=self._tally.repairs + 1)

    def cut(self, flows: int) -> None:
        """So many open flows, no longer allowed, were made to stop."""
        with self._lock:
            self._tally = replace(self._tally, flows_cut=self._tally.flows_cut + flows)

    def text(self, figures: Figures) -> bytes:
        """All metrics, of CONTENT_TYPE."""
        from netpold.host.exposition import exposition

        return exposition(self._version, self._tally, figures, self._drops())

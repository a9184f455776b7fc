"""A bound that only what never ends, or nearly so, can miss: no measurement (those are in tests/bench)."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

CPU_S = 60.0


@contextmanager
def hang_guard() -> Iterator[None]:
    """Fail when the block takes more than CPU_S of this process' processor time, however busy the machine is."""

    def too_long(number: int, frame: FrameType | None) -> None:
        raise AssertionError(f"not done after {CPU_S:.0f} s of processor time")

    before = signal.signal(signal.SIGPROF, too_long)
    signal.setitimer(signal.ITIMER_PROF, CPU_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)

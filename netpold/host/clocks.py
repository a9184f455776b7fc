"""Whether the time that passed says anything: clocks are set, and programs and machines are suspended.

How old a file is by its own stamps means nothing for a while after the clock was set; what other programs could have
done in some seconds means nothing where nobody ran in them.
"""

from __future__ import annotations

import time

JUMP_S = 1.0  # how late a reading may be on a busy machine, and how far the clock may drift in between
UNSURE_S = 10.0


class Clocks:
    """As one Source sees them.  Times are time.monotonic()."""

    def __init__(self) -> None:
        self._ahead_s = time.time() - time.monotonic()
        self._unsure_until = 0.0

    def look(self, now: float, due: float | None) -> float:
        """For how many seconds this program did not run; `due`: when it wanted to look again."""
        ahead_s = time.time() - now
        late_s = max(0.0, now - due) if due is not None else 0.0
        if late_s > JUMP_S or abs(ahead_s - self._ahead_s) > JUMP_S:
            self._unsure_until = now + UNSURE_S
        self._ahead_s = ahead_s
        return late_s if late_s > JUMP_S else 0.0

    def are_sure(self, now: float) -> bool:
        """Whether the stamps of files say how old they are."""
        return now >= self._unsure_until

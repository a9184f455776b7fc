"""How soon to repair what another program keeps changing, and how often to say so.  Knows no clock: times (s) come in.

The first FREE repairs are made at once, and so is any other as long as they come no oftener than one in REFILL_S.  When
they come oftener than that, pauses grow from FIRST_S by the double: up to OPEN_S where packets may meet other verdicts
meanwhile, up to LONGEST_S where only the place of a jump is contested.  After QUIET_S without a change everything is as
at the beginning.

An episode is told once at its beginning, then, while it goes on, with growing intervals and the number of repairs.
"""

from __future__ import annotations

from collections.abc import Iterable

FREE = 20
REFILL_S = 0.5
FIRST_S = 0.1
OPEN_S = 0.4
LONGEST_S = 5.0
QUIET_S = 10.0
TELL_S, TELL_MOST_S = 2.0, 600.0  # between lines; doubles


class Fight:
    """For one thread."""

    def __init__(self) -> None:
        self._left = float(FREE)
        self._level = 0  # how many repairs had to wait
        self._last = float("-inf")
        self._settled = 0.0
        self._told: dict[str, _Told] = {}
        self.by: str = ""  # who it was last

    def at(self, now: float, opens: bool) -> float:
        """When to repair what is noticed now."""
        self._settle(now)
        if self._level == 0 and self._left >= 1:
            return now
        pause = FIRST_S * (1 << min(self._level, 10))
        return max(now, self._last + min(pause, OPEN_S if opens else LONGEST_S))

    def repaired(self, now: float, by: str) -> None:
        """`by`: the names of the programs, as far as they are known."""
        self._settle(now)
        if self._left >= 1:
            self._left -= 1
        else:
            self._level += 1
        self._last, self.by = now, by or self.by
        self._told.setdefault(by, _Told()).waiting += 1

    def tell(self, now: float) -> Iterable[tuple[str, int]]:
        """What to say now: who, and how many repairs since the last time."""
        self._settle(now)
        for by, told in self._told.items():
            if told.waiting and now >= told.next:
                yield by, told.waiting
                told.waiting, told.next = 0, now + told.pause
                told.pause = min(told.pause * 2, TELL_MOST_S)

    @property
    def due(self) -> float | None:
        """When there is something to tell, or the fight is over."""
        times = [told.next for told in self._told.values() if told.waiting]
        if self._level:
            times.append(self._last + QUIET_S)
        return min(times, default=None)

    @property
    def warning(self) -> str | None:
        """While repairs have to wait."""
        if not self._level:
            return None
        who = self.by or "another program"
        return (
            f"{who} keeps changing netpold's chains or the jumps to them: they are put back with growing pauses; "
            "have it leave them as they are, or stop it"
        )

    def _settle(self, now: float) -> None:
        if now - self._last >= QUIET_S:
            self._level, self._left = 0, float(FREE)
            self._told = {by: told for by, told in self._told.items() if told.waiting}
        elif not self._level:
            self._left = min(self._left + (now - self._settled) / REFILL_S, float(FREE))
        self._settled = now


class _Told:
    """What was said of one program.  `waiting`: repairs that were not told yet."""

    def __init__(self) -> None:
        self.waiting = 0
        self.next = float("-inf")
        self.pause = TELL_S

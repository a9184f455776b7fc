"""How soon to repair what another program keeps changing, and how often to say so.  Knows no clock: times (s) come in.

The first FREE repairs are made at once, and so is any other as long as they come no oftener than one in REFILL_S.  When
they come oftener than that, there are pauses: of OPEN_S where packets meet other verdicts meanwhile; where only the
place of a jump is contested, they grow from FIRST_S by the double up to LONGEST_S.  After QUIET_S without a change
everything is as at the beginning.

Who opens something now and then, seldom enough to be repaired at once each time, is warned of, too: OFTEN times within
MINUTE_S, until that long has passed without it.

An episode is told once at its beginning, then, while it goes on, with growing intervals and the number of repairs.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from netpold.host.kernel.backend import Program

FREE = 20
REFILL_S = 0.5
FIRST_S = 0.1
OPEN_S = 0.02
LONGEST_S = 5.0
QUIET_S = 10.0
OFTEN, MINUTE_S = 3, 60.0
TELL_S, TELL_MOST_S = 2.0, 600.0  # between lines; doubles


class Repairs(NamedTuple):
    """Something to say: the names of the programs (none: the kernel does not tell), which it was last, how many repairs
    there were, and the longest time from when one was noticed to when it was done (s)."""

    names: tuple[str, ...]
    last: Program | None
    times: int
    longest_s: float


class Fight:
    """For one thread."""

    def __init__(self) -> None:
        self._left = float(FREE)
        self._level = 0  # how many repairs had to wait
        self.repairs = 0  # all there were
        self.open_since: float | None = None  # when the first of them was of what opens
        self._last = float("-inf")
        self._settled = 0.0
        self._told: dict[tuple[str, ...], _Told] = {}
        self._by: deque[tuple[str, ...]] = deque(maxlen=OFTEN)  # who it was, of late
        self._opened: deque[float] = deque(maxlen=OFTEN)  # when what opens was repaired, of late

    def at(self, now: float, opens: bool) -> float:
        """When to repair what is noticed now."""
        self._settle(now)
        if self._level == 0 and self._left >= 1:
            return now
        pause = OPEN_S if opens else min(FIRST_S * (1 << min(self._level, 10)), LONGEST_S)
        return max(now, self._last + pause)

    def repaired(self, now: float, by: Sequence[Program], took: float, opens: bool) -> None:
        """`by`: the programs, as far as they are known; `took`: s, from when it was noticed; `opens`: as of `at`."""
        self._settle(now)
        if self._left >= 1:
            self._left -= 1
        else:
            self._level += 1
            if opens and self.open_since is None:
                self.open_since = now
        if opens:
            self._opened.append(now)
        self.repairs += 1
        names = tuple(sorted({each.name for each in by}))
        self._last = now
        self._by.append(names)
        told = self._told.setdefault(names, _Told())
        told.repairs += 1
        told.longest = max(told.longest, took)
        told.last = by[-1] if by else None

    def tell(self, now: float) -> Iterable[Repairs]:
        """What to say now."""
        self._settle(now)
        for names, told in self._told.items():
            if told.repairs and now >= told.next:
                yield Repairs(names, told.last, told.repairs, told.longest)
                told.repairs, told.longest, told.next = 0, 0.0, now + told.pause
                told.pause = min(told.pause * 2, TELL_MOST_S)

    @property
    def who(self) -> tuple[str, ...]:
        """The names of the programs that it was the last time, as far as they are known."""
        return self._by[-1] if self._by else ()

    @property
    def due(self) -> float | None:
        """When there is something to tell, or the fight is over."""
        times = [told.next for told in self._told.values() if told.repairs]
        if self._level:
            times.append(self._last + QUIET_S)
        elif self._is_often:
            times.append(self._opened[-1] + MINUTE_S)
        return min(times, default=None)

    @property
    def warning(self) -> str | None:
        """While repairs have to wait, or were needed often."""
        who = self._whoever
        if not self._level:
            often = f"{who} opens again and again what netpold closes, and it is put back each time; have it stop"
            return often if self._is_often else None
        what = "put back with growing pauses" if self.open_since is None else "open until they are put back each time"
        return (
            f"{who} keeps changing netpold's chains or the jumps to them: they are {what}; "
            "have it leave them as they are, or stop it"
        )

    @property
    def _whoever(self) -> str:
        """Whom to name of late: who was there once is not to blame for what others went on with unseen."""
        times = Counter(name for names in self._by for name in names)
        often = [name for name in sorted(times) if times[name] > 1 or all(self._by)]
        return ", ".join(often) or "another program"

    @property
    def _is_often(self) -> bool:
        return len(self._opened) == OFTEN and self._opened[-1] - self._opened[0] <= MINUTE_S

    def _settle(self, now: float) -> None:
        if self._opened and now - self._opened[-1] >= MINUTE_S:
            self._opened.clear()
        if now - self._last >= QUIET_S:
            self._level, self._left, self.open_since = 0, float(FREE), None
            self._told = {names: told for names, told in self._told.items() if told.repairs}
        elif not self._level:
            self._left = min(self._left + (now - self._settled) / REFILL_S, float(FREE))
        self._settled = now


class _Told:
    """What was said of one program or several together, and since then: `repairs`, the `longest` of them (s), and who
    it was `last`."""

    def __init__(self) -> None:
        self.repairs = 0
        self.longest = 0.0
        self.last: Program | None = None
        self.next = float("-inf")
        self.pause = TELL_S

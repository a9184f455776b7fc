"""The paths that changed and were not acted on yet, and when they may be.  Knows time only as it is told.

A path is ripe when what stands there has been the same for long enough.  Some paths are for themselves: a file that was
renamed into place, one that is gone.  Files that are written in place wait for each other, so that one change of many
files stays one, as long as further ones join them or one of them is open for writing; but none waits long for others
that are written again and again, and after a deadline nobody waits for one that never rests: it is given up, until it
rests.

What goes, goes after what comes: the same object may come under another name.

A batch (git's work, or the first look at everything) is all that waits now, as one change.  What was found when a
directory or a symlink was swapped is one change too, for itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from netpold.host.scan import Seen

DEADLINE_S = 10.0  # how long to wait for a file that never rests
HOLD_S = 0.25  # how long files that rest wait for those that don't, after the last one that joined them


@dataclass(slots=True)
class Wait:
    """`seen`: what stands at the path (None: nothing), as last `looked` (the number of the reading), since `since`; it
    first changed at `began`.  It has to rest for `rest_s`.  `alone`: for itself; `swapped`: with all others that are;
    `written`: it is being written in place.
    Times are monotonic, in seconds."""

    seen: Seen | None
    since: float
    began: float
    rest_s: float
    alone: bool
    swapped: bool
    looked: int
    written: bool = False
    given_up: bool = False

    @property
    def rested(self) -> float:
        """When it will have rested for long enough."""
        return self.since + self.rest_s


@dataclass(slots=True)
class Ripe:
    """Paths to act on: each for itself, those that are one change, those of a swap, and those that are gone.
    `unfinished`: others that don't rest yet; as long as one of them is open for writing it is the same change.  `late`:
    the deadline has passed, so that of those that are one change nobody waits for the ones that move."""

    alone: list[str] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)
    swapped: list[str] = field(default_factory=list)
    together: list[str] = field(default_factory=list)
    unfinished: list[str] = field(default_factory=list)
    late: bool = False


class Waiting(dict[str, Wait]):
    """All that waits, by path."""

    def __init__(self) -> None:
        super().__init__()
        self.batch = False  # what waits is one change
        self._batch_began: float | None = None

    def moves(self, path: str, now: float, rest_s: float, give_up: bool = False) -> None:
        """A file moved as it was about to be acted on: it has to rest anew, as one that is written in place."""
        wait = self[path]
        wait.since, wait.rest_s, wait.alone, wait.swapped, wait.looked = now, rest_s, False, False, 0
        wait.given_up |= give_up or now >= wait.began + DEADLINE_S

    def given_up(self) -> list[str]:
        return [path for path, wait in self.items() if wait.given_up]

    def since(self) -> float | None:
        """When the first change came that waits and was not given up."""
        return min((wait.began for wait in self.values() if not wait.given_up), default=None)

    def awaited(self, moment: float = math.inf) -> bool:
        """Whether there is anything that was not given up, and first changed by that moment."""
        return any(wait.began <= moment and not wait.given_up for wait in self.values())

    def is_coming(self) -> bool:
        """Whether there is a file that was not read yet."""
        return any(isinstance(wait.seen, bytes) and not wait.given_up for wait in self.values())

    def rested(self, now: float) -> list[str]:
        """The paths that have rested for long enough, if nothing changed there since they were looked at."""
        return [path for path, wait in self.items() if wait.rested <= now]

    def ripe(self, now: float) -> Ripe:
        """What may be acted on now.  What does not come to rest is given up."""
        if self.batch and self._batch_began is None:
            self._batch_began = now
        batch_late = self._batch_began is not None and now >= self._batch_began + DEADLINE_S
        ripe = Ripe(late=batch_late)
        group = []
        for path, wait in self.items():
            if wait.rested > now and (batch_late or (not self.batch and now >= wait.began + DEADLINE_S)):
                wait.given_up = True
            if wait.swapped and not self.batch and not wait.given_up:
                ripe.swapped.append(path)
            elif wait.given_up or (wait.alone and not self.batch):
                if wait.rested <= now:
                    (ripe.alone if wait.seen is not None else ripe.gone).append(path)
            else:
                group.append((path, wait))
        rest = [path for path, wait in group if wait.rested <= now]
        if len(rest) == len(group):
            ripe.together = rest
        elif not self.batch:
            overdue = [path for path in rest if self[path].began + DEADLINE_S <= now]
            if overdue:
                ripe.together = overdue
            elif max(wait.began for _, wait in group) + HOLD_S <= now:
                ripe.together = rest
                ripe.unfinished = [path for path, wait in group if wait.rested > now and wait.seen is not None]
        return ripe

    def end_batch(self) -> None:
        if not self:
            self.clear()  # a dict that was large stays slow to look through
        self.batch, self._batch_began = False, None

    def due(self, now: float) -> float | None:
        """When something may be ripe that is not now."""
        times = [wait.rested if wait.rested > now else wait.began + DEADLINE_S for wait in self.values()]
        if times:
            times.append(max(wait.began for wait in self.values()) + HOLD_S)
        if self._batch_began is not None:
            times.append(self._batch_began + DEADLINE_S)
        return min((each for each in times if each > now), default=None)

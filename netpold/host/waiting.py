"""The paths that changed and were not acted on yet, and when they may be.  Knows time only as it is told.

A path is ripe when what stands there has been the same for long enough.  Some paths are for themselves: a file that was
renamed into place, one that is gone.  Of those that are renamed into place one right after the other all wait for the
last one, for a moment: they are one change.  Files that are written in place wait for each other, so that one change of
many files stays one, as long as further ones join them or one of them is open for writing, and the longer the more they
are; but none waits long for others that are written again and again, and after a deadline nobody waits for one that
never rests: it is given up, until it rests.

What goes, goes after what comes: the same object may come under another name.  One file that goes is for itself; where
several do, all of them wait until no further one goes or comes back for a while, and what is written in place waits
with them, so that a tree that is being deleted, filled again, or synced by a program that deletes what is not there any
more, is one change.

A batch (git's work, or the first look at everything) is all that waits now, as one change.  What was found when a
directory or a symlink was swapped is one change too, for itself.  Where there was nothing, and there is something anew,
that too is a batch, and what is not there yet is not gone before it has been quiet for long.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from netpold.host.scan import Seen

DEADLINE_S = 10.0  # how long to wait for a file that never rests
QUIET_S, MOST_QUIET_S = 0.1, 1.0  # for how long nothing more may go, for each file that goes, and at most
HARMLESS_S = 0.5  # how long files that open nothing wait for each other when they go, and no other goes with them
ANEW_S, ANEW_DEADLINE_S = 1.0, 60.0  # for how long a tree that is filled anew has to be quiet, and the deadline then
ANEW_REST_S = 0.3  # the same for what came into it, as opposed to what is not there yet
BURST_S, MOST_BURST_S = 0.005, 0.25  # how much longer files written in place rest, for each of them, and at most
BURST_DEADLINE_S = 3.0  # how long they wait for that, from the first on
MOVED_S, MOST_MOVED_S = 0.004, 0.02  # how long files that are renamed into place wait for further ones, by their number
BULK_S, MOST_BULK_S = 0.0005, 0.25  # how much longer for each of very many, and at most
MOVED_DEADLINE_S, BULK_DEADLINE_S = 0.25, 3.0  # and how long, from the first on; at most where very many come fast
FAST_S = 0.003  # by how much each one puts the deadline off
HOLD_S = 0.25  # how long files that rest wait for those that don't, after the last one that joined them


@dataclass(slots=True)
class Wait:
    """`seen`: what stands at the path (None: nothing), as last `looked` (the number of the reading), since `since`; it
    first changed at `began`.  It has to rest for `rest_s`.  `alone`: for itself; `swapped`: with all others that are;
    `harmless`: it is gone, and opens nothing.  `written`: it is being written in place.  `confirmed`: a later look
    found the same.  `moved`: it was renamed into place.  `joined`: when it went, or came (back).
    `postponed`: by how many seconds all of its times were.
    Times are monotonic, in seconds."""

    seen: Seen | None
    since: float
    began: float
    rest_s: float
    alone: bool
    swapped: bool
    looked: int
    given_up: bool = False
    harmless: bool = False
    written: bool = False
    confirmed: bool = False
    moved: bool = False
    joined: float = 0.0
    postponed: float = 0.0

    @property
    def rested(self) -> float:
        """When it will have rested for long enough."""
        return self.since + self.rest_s

    @property
    def is_back(self) -> bool:
        """Whether it was gone in between."""
        return self.seen is not None and self.joined > self.began


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


class _Quiet(NamedTuple):
    """When it will have been quiet for so long that what is gone is believed to be, and how long to wait for that."""

    at: float
    most_s: float


class Waiting(dict[str, Wait]):
    """All that waits, by path."""

    def __init__(self) -> None:
        super().__init__()
        self.batch = False  # what waits is one change
        self.anew = False  # there was nothing before
        self._batch_began: float | None = None
        self._stirred = self._went = 0.0  # when something last changed; and when something last went or came back
        self._back = 0.0  # when something last came back
        self._moved, self._first_moved, self._moved_until = 0, 0.0, 0.0  # files in a row; how long they all wait

    def add(self, path: str, wait: Wait, now: float) -> None:
        """Something else was seen at a path."""
        before = self.get(path)
        wait.joined = before.joined if before and before.seen is not None else now
        self[path] = wait
        self._stirred = now
        if wait.seen is None:
            self._went = now
        elif before and before.seen is None:
            self._went = self._back = now
        if wait.moved:
            self._moves_in(now)

    def _moves_in(self, now: float) -> None:
        if now >= self._moved_until:
            self._moved, self._first_moved = 0, now
        self._moved += 1
        longest = self._first_moved + min(MOVED_DEADLINE_S + FAST_S * self._moved, BULK_DEADLINE_S)
        pause_s = min(MOVED_S * self._moved, MOST_MOVED_S + BULK_S * self._moved, MOST_BULK_S)
        self._moved_until = min(now + pause_s, longest)

    def seen(self, path: str) -> Seen | None:
        """What stands at a path that waits; None: nothing, or it does not wait."""
        wait = self.get(path)
        return wait.seen if wait else None

    def postpone(self, seconds: float) -> None:
        """Nobody ran for so long: it is as if that time had not passed."""
        for wait in self.values():
            wait.since += seconds
            wait.began += seconds
            wait.joined += seconds
            wait.postponed += seconds
        self._stirred, self._went, self._back = self._stirred + seconds, self._went + seconds, self._back + seconds
        self._first_moved, self._moved_until = self._first_moved + seconds, self._moved_until + seconds
        if self._batch_began is not None:
            self._batch_began += seconds

    def begin_anew(self) -> None:
        """There is nothing; what comes next is a batch."""
        self.clear()
        self.batch, self.anew, self._batch_began = True, True, None

    def moves(self, path: str, now: float, rest_s: float, give_up: bool = False) -> None:
        """A file moved as it was about to be acted on: it has to rest anew, as one that is written in place."""
        wait = self[path]
        wait.since, wait.rest_s, wait.alone, wait.swapped, wait.looked = now, rest_s, False, False, 0
        wait.moved = False
        wait.given_up |= give_up or now >= wait.began + DEADLINE_S

    def given_up(self) -> list[str]:
        return [path for path, wait in self.items() if wait.given_up]

    def since(self) -> float | None:
        """When the first change came that waits and was not given up."""
        return min((wait.began for wait in self.values() if not wait.given_up), default=None)

    def awaited(self, moment: float = math.inf) -> bool:
        """Whether there is anything that was not given up, and first changed by that moment."""
        return any(wait.began - wait.postponed <= moment and not wait.given_up for wait in self.values())

    def is_coming(self) -> bool:
        """Whether there is a file that was not read yet."""
        return any(isinstance(wait.seen, bytes) and not wait.given_up for wait in self.values())

    def rested(self, now: float) -> list[str]:
        """The paths that have rested for long enough, if nothing changed there since they were looked at."""
        quiet = self._quiet()
        return [path for path, wait in self.items() if self._rested(wait, quiet) <= now]

    def _quiet(self) -> _Quiet:
        if self.anew:
            return _Quiet(self._stirred + ANEW_S, ANEW_DEADLINE_S)
        gone = [wait for wait in self.values() if (wait.seen is None or wait.is_back) and not wait.swapped]
        at = self._went + min(QUIET_S * len(gone), MOST_QUIET_S) if len(gone) > 1 and not self.batch else 0.0
        return _Quiet(at, HARMLESS_S if all(wait.harmless or wait.seen is not None for wait in gone) else DEADLINE_S)

    def _rested(self, wait: Wait, quiet: _Quiet) -> float:
        """When it will have rested for long enough, others considered."""
        if wait.moved:
            return max(wait.rested, min(self._moved_until, wait.began + BULK_DEADLINE_S))
        if wait.seen is not None or not wait.rest_s:
            return wait.rested
        since = max(wait.began, self._batch_began or 0.0, self._back if wait.harmless else 0.0)
        return max(wait.rested, min(quiet.at, since + quiet.most_s))

    def leaves_none_of(self, files: Collection[str], ripe: Ripe) -> bool:
        """Whether all of these are gone and nothing comes, as far as may be acted on."""
        if len(self) < len(files) or not files or any(wait.seen is not None for wait in self.values()):
            return False
        return len(files) <= sum(map(len, (ripe.gone, ripe.swapped, ripe.together)))

    def ripe(self, now: float) -> Ripe:
        """What may be acted on now.  What does not come to rest is given up."""
        if self.batch and self._batch_began is None:
            self._batch_began = now
        batch_late = self._batch_began is not None and now >= self._batch_began + self._deadline_s()
        ripe = Ripe(late=batch_late)
        group = []
        quiet = self._quiet()
        rested = {path: self._rested(wait, quiet) <= now for path, wait in self.items()}
        for path, wait in self.items():
            if not rested[path] and (batch_late or (not self.batch and now >= wait.began + DEADLINE_S)):
                wait.given_up = True
            if wait.swapped and not self.batch and not wait.given_up:
                ripe.swapped.append(path)
            elif wait.given_up or (wait.alone and not self.batch):
                if rested[path] and (wait.seen is not None or wait.confirmed or not wait.rest_s):
                    (ripe.alone if wait.seen is not None else ripe.gone).append(path)
            else:
                group.append((path, wait))
        rest = [path for path, _ in group if rested[path]]
        going = any(wait.alone and wait.seen is None and not rested[path] for path, wait in self.items())
        if len(rest) == len(group) and (self.batch or not going):
            ripe.together = rest if self._comes_no_more(wait for _, wait in group) <= now else []
        elif rest and not self.batch:
            overdue = [path for path in rest if self[path].began + DEADLINE_S <= now]
            if overdue:
                ripe.together = overdue
            elif not going and len(rest) < len(group) and max(wait.joined for _, wait in group) + HOLD_S <= now:
                ripe.together = rest
                ripe.unfinished = [path for path, wait in group if not rested[path] and wait.seen is not None]
        return ripe

    def _comes_no_more(self, group: Iterable[Wait]) -> float:
        """When what rests may be taken for the whole of a change."""
        if self.anew:
            return self._stirred + ANEW_REST_S
        return 0.0 if self.batch else self._burst_over(group)

    def _burst_over(self, group: Iterable[Wait]) -> float:
        """When files that are written in place will have been quiet for so long that no more of them come."""
        waits = [wait for wait in group if not wait.given_up]
        if not waits:
            return 0.0
        last = max(wait.rested for wait in waits) + min(BURST_S * (len(waits) - 1), MOST_BURST_S)
        return min(last, min(wait.joined for wait in waits) + BURST_DEADLINE_S)

    def end_batch(self) -> None:
        if not self:
            self.clear()  # a dict that was large stays slow to look through
        self.batch, self.anew, self._batch_began = False, False, None

    def _deadline_s(self) -> float:
        return ANEW_DEADLINE_S if self.anew else DEADLINE_S

    def due(self, now: float) -> float | None:
        """When something may be ripe that is not now."""
        quiet = self._quiet()
        rested = ((wait, self._rested(wait, quiet)) for wait in self.values())
        times = [at if at > now else wait.began + DEADLINE_S for wait, at in rested]
        if times:
            times.append(max(wait.joined for wait in self.values()) + HOLD_S)
            times.append(self._comes_no_more(wait for wait in self.values() if not wait.alone and not wait.swapped))
        if self._batch_began is not None:
            times.append(self._batch_began + self._deadline_s())
        return min((each for each in times if each > now), default=None)

"""The manifests on disk, and when they may be acted on.

File events only say where to look.  What is acted on is what a fresh look finds (looking.py): a path at which something
else stands than what was acted on waits (waiting.py says for how long), and is read when it is ripe (acting.py).  One
walk through the whole tree, which finds what no event told, goes on in small slices while nothing else is to do.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from netpold.host.absence import Absence, FilesBefore
from netpold.host.acted_on import NEVER_READ, NOT_KNOWN, ActedOn, File
from netpold.host.acting import Acting
from netpold.host.hints import EVERYTHING_CHANGED, NOTHING_CHANGED, Hints
from netpold.host.looking import Looking
from netpold.host.parsed_cache import ParsedCache
from netpold.host.remembered import Remembered
from netpold.host.scan import SourceError, Tree, problem, size_of
from netpold.host.trust import KEPT, Trustees
from netpold.host.waiting import Ripe, Waiting
from netpold.policy.manifest import Parsed
from netpold.policy.model import Finding

__all__ = ["EVERYTHING_CHANGED", "NOTHING_CHANGED", "Hints", "Reading", "Source", "SourceError"]

AT_WORK_POLL_S = 0.02


@dataclass(frozen=True, slots=True)
class Reading:
    """What is to be acted on now.

    `changed`: by path, what files say now that said something else in the reading before (None: they are gone).
    `findings`: about files and directories as such, all that there are; those about content are in Parsed.
    `moving`: files that did not become quiet in time, whose version from before stays, if there was one.
    `settled`: nothing that was seen on disk is still waited for, but for what is `moving`.
    """

    changed: Mapping[str, Parsed | None]
    findings: tuple[Finding, ...]
    moving: frozenset[str]
    settled: bool


class Source:
    """A directory of manifests (or one file), and what is known of it.  For use by one thread; it never sleeps.

    `scanned` is told where each walk was (None: there is no directory), and `entering` of each directory before it is
    listed: that is where a Watcher listens (`follow`, `enter`).  `complete`: everything was handed out once; before,
    nothing is.  `due`: when to read again, without hints (time.monotonic()); None: nothing waits.
    `before`: tells of what was known before a restart.  `allow_empty`: a directory with no manifest in it
    means that there are none, also where some were known (absence.py).
    """

    def __init__(
        self,
        directory: Path,
        max_file_size: int,
        scanned: Callable[[Tree | None], object] = lambda tree: None,
        entering: Callable[[str], object] = lambda path: None,
        cache: ParsedCache | None = None,
        trustees: Trustees = Trustees(),  # noqa: B008  frozen
        before: FilesBefore | None = None,
        allow_empty: bool = False,
    ) -> None:
        self.directory = directory
        self.due: float | None = None
        self._remembered = Remembered(cache)
        self._absence = Absence(directory, allow_empty, before)
        self._acted = ActedOn()
        self._waiting = Waiting()
        self._waiting.batch = True
        self._looking = Looking(
            directory, max_file_size, scanned, entering, trustees, self._acted, self._waiting, self._absence
        )
        self._acting = Acting(directory, self._remembered, self._acted, self._waiting, self._absence, self._looking)
        self._stand_ins: dict[str, Parsed | None] = {}

    def was_enforced(self, policies: bool = True) -> None:
        """Whether policies were in force before the start, whatever else is known of then."""
        self._absence.was_enforced = policies

    @property
    def complete(self) -> bool:
        return self._acted.complete

    @property
    def parsed(self) -> Mapping[str, Parsed]:
        """What all files say, by path."""
        return {path: file.content.parsed for path, file in self._acted.files.items()}

    def read(self, hints: Hints, settle_s: float) -> Reading:
        """What has changed and may be acted on; a file that is written in place, when it rested for `settle_s`.

        Raises SourceError; the next reading looks at everything, then.
        """
        looking, acting = self._looking, self._acting
        looking.begin(settle_s, self.due)
        acting.settle_s = settle_s
        try:
            looking.look(hints)
            now = time.monotonic()
            held = looking.is_git_at_work() or looking.is_half_done(now)
            if not held:
                looking.look_again(now)
                held = looking.is_git_at_work()  # it may have begun beside that look
            if held:
                self._waiting.batch = True
            else:
                acting.act(self._waiting.ripe(now))
                acting.read_racy(hints.everything)
                if not self._acted.files and not self._waiting and not looking.walk_wanted:
                    self._absence.refuse_empty(())
        except SourceError:
            self.due = None
            self._waiting.begin_anew()
            looking.fail()
            self._stand_in()
            raise
        if not held and not looking.walk_wanted and not self._waiting.awaited():
            if not self.complete:
                self._absence.refuse_unread(path for path, each in self.parsed.items() if each.truncated)
            self._waiting.end_batch()
            self._completed()
        self.due = now + AT_WORK_POLL_S if held else self._next(now)
        if looking.walk_wanted:
            self.due = min(self.due or now, looking.walk_due(now))
        return self._reading(self._acted.hand_out() if self.complete else {})

    def stand_ins(self) -> Reading | None:
        """What is to be acted on although the reading failed, once: the files that are known from before a restart, or
        went just before nothing was left."""
        changed, self._stand_ins = self._stand_ins, {}
        return self._reading(changed) if changed else None

    def _stand_in(self) -> None:
        """The directory is not there, or nothing is in it: let what was known of it be there, if all is known."""
        if not self.complete and self._absence.doubt():
            return
        files = self._acted.files
        known = dict.fromkeys(self._absence.files_before(), NOT_KNOWN) or self._absence.went_lately(time.monotonic())
        for path, content in known.items():
            if path not in files:
                files[path] = File(NEVER_READ, content, self._acted.walks)
                self._stand_ins[path] = content.parsed
        if known and not self.complete:
            self._stand_ins = {**self._acted.hand_out(), **self._stand_ins}
            self._completed()

    def _completed(self) -> None:
        if not self.complete:
            self._acted.complete = True
            self._remembered.loaded()
            self._absence.started()

    def read_as_it_is(self, tell: Callable[[float], object] = lambda share: None) -> Reading:
        """What the files say at this moment, whoever may be writing to them.  `tell` is called with the share that is
        done, 0 to 1.  Raises SourceError."""
        self._looking.tell_time()
        self._looking.look(EVERYTHING_CHANGED)
        every = sum(size_of(each.seen) for each in self._waiting.values() if isinstance(each.seen, bytes))
        done = 0

        def parsed(octets: int) -> None:
            nonlocal done
            done += octets
            tell(done / every)

        self._acting.parsed = parsed
        self._acting.act(Ripe(together=list(self._waiting), late=True))
        return self._reading(self._acted.hand_out())

    def is_settled(self, moment: float = math.inf) -> bool:
        """Whether nothing is waited for that a look at that moment saw, but for what is given up."""
        looking = self._looking
        waits = looking.git_state.locked or looking.walk_wanted or self._waiting.awaited(moment)
        return self.complete and not waits

    def sweep(self, seconds: float) -> bool:
        """Go on for about so long with a walk that finds what events missed; whether it came to its end.  What it finds
        waits, as files that are written in place do."""
        if not self._looking.sweep(seconds):
            return False
        now = time.monotonic()
        self.due = now if self._waiting.rested(now) else self._next(now)
        return True

    def save(self, seconds: float) -> bool:
        """Go on for about so long with bringing the cache up to date; whether it is (but for what is being written)."""
        return self._remembered.save(seconds, self._acting.row)

    def _next(self, now: float) -> float | None:
        """When to read again, after a reading at `now`."""
        if self._looking.walk_wanted:
            return self._looking.walk_due(now)
        times = [*self._acting.racy.values()]
        due = self._waiting.due(now)
        return min(times if due is None else [*times, due], default=None)

    def _reading(self, changed: Mapping[str, Parsed | None]) -> Reading:
        moving = self._waiting.given_up()
        looking = self._looking
        noted = {each.position.file for each in looking.notes}  # what was said of a file there holds no more
        findings = [each for path, each in self._acting.findings.items() if path not in noted]
        findings += (*looking.notes, *looking.git_state.stale)
        findings += map(_still_changing, moving)
        findings.sort(key=lambda finding: (finding.position, finding.code, finding.fault))
        return Reading(changed, tuple(findings), frozenset(moving), self.is_settled())


def _still_changing(path: str) -> Finding:
    cure = f"let the program that writes to it finish; {KEPT}"
    return problem(path, "still-changing", "is being written to", cure)

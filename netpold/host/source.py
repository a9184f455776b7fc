"""The manifests on disk, and when they may be acted on.

File events only say where to look.  What is acted on is what a fresh look finds: a path at which something else stands
than what was acted on waits (`waiting.py` says for how long), and is read when it is ripe.  Whatever the events do not
tell exactly, a walk through the whole tree finds; one such walk goes on in small slices while nothing else is to do.

A file that a program still has open for writing, or that changes while it is read, is moving: its version from before
stays.  While git holds its lock, or another program is seen to be at work (at_work.py), nothing is acted on; what it
did is one change.  What git did is acted on after a walk that began when it had ended, and beside which it did nothing.
"""

from __future__ import annotations

import errno
import math
import time
from collections.abc import Callable, Iterator, Mapping, Set
from dataclasses import dataclass
from pathlib import Path

from netpold.host.absence import UNKNOWN, Absence, FilesBefore, is_below, unmounted_problem
from netpold.host.at_work import AtWork
from netpold.host.files import Moving, is_being_written, racy_s, still_s
from netpold.host.gitlock import GitRepositories, GitState
from netpold.host.hints import EVERYTHING_CHANGED, NOTHING_CHANGED, Happened, Hints
from netpold.host.load import Request, load
from netpold.host.parsed_cache import ParsedCache
from netpold.host.remembered import Remembered
from netpold.host.scan import (
    ANYBODY,
    Ambiguous,
    Directory,
    Disturbed,
    Fingerprint,
    Seen,
    SourceError,
    Tree,
    Walk,
    is_manifest,
    look,
    missing,
    problem,
    unreadable_problem,
)
from netpold.host.trust import Trustees
from netpold.host.waiting import DEADLINE_S, Ripe, Wait, Waiting
from netpold.policy.documents import Content
from netpold.policy.manifest import Parsed
from netpold.policy.model import Finding, Pod

__all__ = ["EVERYTHING_CHANGED", "NOTHING_CHANGED", "Hints", "Reading", "Source", "SourceError"]

NO_ROOM = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOMEM))  # the machine, and not a file

# How long a file has to be gone.  Programs replace files by deleting or renaming them and writing them anew, and a
# policy that vanishes for a moment opens what it closes.
GONE_S = 0.002
GONE_POLICY_S = 0.008
AT_WORK_POLL_S = 0.02
FIRST_LOOK_S = 1.0  # for how long the first walk is repeated when names come and go beside it
SWAP_AGAIN_S = 0.01  # how soon to look again at a swap that could not be read as a whole
WALKS, WALK_AGAIN_S = 3, 0.2  # how often to walk again at once when something moved beside the walk, and then how soon
RACY_SLICE_S = 0.003  # for how long to read files again in one reading whose fingerprint proves nothing

_NEVER_READ = b""  # no fingerprint is like it
_UNKNOWN = Content(b"", UNKNOWN, ())


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


@dataclass(slots=True)
class _File:
    """A path as it was acted on.  `seen`: what stood there then.  `visited`: by which walk it was last found."""

    seen: Seen
    content: Content
    visited: int

    @property
    def held(self) -> bool:
        """Whether there was a file with something in it, now or before a restart, and not only what can't be looked
        at."""
        if self.content is _UNKNOWN:
            return self.seen == _NEVER_READ
        return bool(self.content.parsed.objects) or self.content.parsed.truncated


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
        self.complete = False
        self.due: float | None = None
        self._max_file_size = max_file_size
        self._trustees = trustees
        self._trust = ANYBODY  # as of the last walk
        self._scanned = scanned
        self._entering = entering
        self._remembered = Remembered(cache)
        self._absence = Absence(directory, allow_empty, before)
        self._stand_ins: dict[str, Parsed | None] = {}
        self._files: dict[str, _File] = {}
        self._staged: dict[str, tuple[Fingerprint, Content]] = {}  # read already, for a batch that did not hold still
        self._waiting = Waiting()
        self._waiting.batch = True
        self._racy: dict[str, float] = {}  # files read so early that they have to be read again, and when
        self._findings: dict[str, Finding] = {}  # by the path that they are about
        self._notes: tuple[Finding, ...] = ()
        self._tree = Tree(frozenset(), frozenset())  # as of the last walk
        self._git = GitRepositories()
        self._git_state = GitState()
        self._at_work = AtWork()
        self._walk_wanted = True
        self._walk_at = 0.0  # not before; a tree that never rests is not to be walked through all the time
        self._kept_back: dict[str, Parsed | None] = {}  # changed, and not handed out yet
        self._hurry = False  # the walk that is wanted has to look at what was swapped
        self._first_until: float | None = None
        self._disturbed: Disturbed | None = None  # the last walk
        self._listed: Mapping[str, Directory] = {}  # by the last walk that was undisturbed
        self._walks = 0
        self._sweep: Iterator[None] | None = None
        self._turn = 0  # the number of this reading
        self._settle_s = 0.0
        self._tell_time()

    def was_enforced(self, policies: bool = True) -> None:
        """Whether policies were in force before the start, whatever else is known of then."""
        self._absence.was_enforced = policies

    @property
    def parsed(self) -> Mapping[str, Parsed]:
        """What all files say, by path."""
        return {path: file.content.parsed for path, file in self._files.items()}

    def read(self, hints: Hints, settle_s: float) -> Reading:
        """What has changed and may be acted on; a file that is written in place, when it rested for `settle_s`.

        Raises SourceError; the next reading looks at everything, then.
        """
        self._turn += 1
        self._settle_s = settle_s
        self._tell_time()
        changed = self._kept_back  # to which a walk may add
        try:
            self._look(hints)
            self._at_work.hear(hints.drafts)
            now = time.monotonic()
            held = self._is_git_at_work() or self._is_half_done(now)
            if not held:
                self._look_again(now)
                held = self._is_git_at_work()  # it may have begun beside that look
            if held:
                self._waiting.batch = True
            else:
                self._act(self._waiting.ripe(now), changed)
                self._read_racy(hints.everything, changed)
                if not self._files and not self._waiting and not self._walk_wanted:
                    self._absence.refuse_empty(())
        except SourceError:
            self._walk_wanted, self._sweep, self.due = True, None, None
            self._waiting.begin_anew()
            self._scanned(None)
            self._stand_in()
            raise
        if not held and not self._walk_wanted and not self._waiting.awaited():
            if not self.complete:
                self._absence.refuse_unread(path for path, each in self.parsed.items() if each.truncated)
            self._waiting.end_batch()
            self._completed()
        self.due = now + AT_WORK_POLL_S if held else self._next(now)
        if self._walk_wanted:
            self.due = min(self.due or now, max(now, self._walk_at))
        if not self.complete:
            return self._reading({})
        self._kept_back = {}
        return self._reading(changed)

    def stand_ins(self) -> Reading | None:
        """What is to be acted on although the reading failed, once: the files that are known from before a restart, or
        went just before nothing was left."""
        changed, self._stand_ins = self._stand_ins, {}
        return self._reading(changed) if changed else None

    def _stand_in(self) -> None:
        """The directory is not there, or nothing is in it: let what was known of it be there, if all is known."""
        if not self.complete and self._absence.doubt():
            return
        known = dict.fromkeys(self._absence.files_before(), _UNKNOWN) or self._absence.went_lately(time.monotonic())
        for path, content in known.items():
            if path not in self._files:
                self._files[path] = _File(_NEVER_READ, content, self._walks)
                self._stand_ins[path] = content.parsed
        if known and not self.complete:
            self._stand_ins = {**self._kept_back, **self._stand_ins}
            self._kept_back = {}
            self._completed()

    def _completed(self) -> None:
        if not self.complete:
            self.complete = True
            self._remembered.loaded()
            self._absence.started()

    def _is_git_at_work(self) -> bool:
        """Whether git is at work, or has been since the reading before.  What was seen meanwhile may be half of what it
        did, and not all events need have come: only a walk that begins after its end sees the whole."""
        git, before = self._git.look(), self._git_state
        self._git_state = git
        if git.locked:
            return True
        if before.locked or git.indexes != before.indexes:
            self._walk_wanted, self._walk_at = True, 0.0
            return True
        return False

    def _is_half_done(self, now: float) -> bool:
        """Whether another program than git is seen to be at work on what waits, or a tree that is filled anew was not
        seen as a whole.  Nothing waits for ever for that."""
        since = self._waiting.since()
        if since is None or now >= since + DEADLINE_S:
            return False
        unseen = self._waiting.anew and self._walk_wanted
        # as of before the look, which may have taken long: what was heard since is in the next hints
        return unseen or self._at_work.look(self._now, self._waiting, since)

    def read_as_it_is(self) -> Reading:
        """What the files say at this moment, whoever may be writing to them.  Raises SourceError."""
        changed: dict[str, Parsed | None] = {}
        self._tell_time()
        self._look(EVERYTHING_CHANGED)
        self._act(Ripe(together=list(self._waiting), late=True), changed)
        return self._reading(changed)

    def is_settled(self, moment: float = math.inf) -> bool:
        """Whether nothing is waited for that a look at that moment saw, but for what is given up."""
        waits = self._git_state.locked or self._walk_wanted or self._waiting.awaited(moment)
        return self.complete and not waits

    def sweep(self, seconds: float) -> bool:
        """Go on for about so long with a walk that finds what events missed; whether it came to its end.  What it finds
        waits, as files that are written in place do."""
        end = time.monotonic() + seconds
        if self._sweep is None:
            self._sweep = self._walk()
        self._tell_time()
        try:
            for _ in self._sweep:
                if time.monotonic() >= end:
                    return False
        except SourceError:
            self._walk_wanted = True
        self._sweep = None
        now = time.monotonic()
        self.due = now if self._waiting.rested(now) else self._next(now)
        return True

    def save(self, seconds: float) -> bool:
        """Go on for about so long with bringing the cache up to date; whether it is (but for what is being written)."""
        return self._remembered.save(seconds, self._row_of)

    def _row_of(self, path: str) -> tuple[Fingerprint, Content] | None:
        file = self._files.get(path)
        if file is None:
            return None
        is_sure = isinstance(file.seen, bytes) and path not in self._racy
        return (file.seen if is_sure else _NEVER_READ), file.content  # type: ignore[return-value]

    def _tell_time(self) -> None:
        """One time for all that is looked at from now on: before the look, so never too late."""
        self._now, self._now_ns = time.monotonic(), time.time_ns()
        self._long_ago = self._now - self._settle_s

    # Looking ------------------------------------------------------------------------------------------------------

    def _look(self, hints: Hints) -> None:
        """Look where the hints say."""
        walk = hints.everything or hints.swapped or (self._walk_wanted and self._now >= self._walk_at)
        hurry = hints.swapped or self._hurry
        for path, happened in hints.paths.items():
            try:
                self._look_at(path, happened)
            except Ambiguous:
                walk, hurry = True, hurry or happened is Happened.MOVED_IN
        if walk:
            written = {path for path, happened in hints.paths.items() if happened is Happened.WRITTEN}
            self._walk_through(hurry, written)

    def _look_at(self, path: str, happened: Happened) -> None:
        """Look at a path of which something was heard.  Raises Ambiguous when a walk has to look."""
        if path in self._tree.links:
            raise Ambiguous
        seen = self._look_there(path)
        if is_manifest(path.rpartition("/")[2]) or path in self._files:
            at_once = happened is (Happened.RENAMED if seen is None else Happened.MOVED_IN)
            self._note(path, seen, at_once)
            if happened is Happened.WRITTEN and path in self._waiting:
                self._waiting[path].written = True

    def _look_again(self, now: float) -> None:
        """Look at all that may be ripe and was not looked at in this reading."""
        walk = False
        for path in self._waiting.rested(now):
            wait = self._waiting.get(path)
            if wait is None or wait.looked == self._turn:
                continue
            if self._is_for_walks(path, wait):
                walk |= not wait.confirmed
            else:
                walk |= not self._look_once_more(path)
        if walk:
            self._walk_through()
            if self._disturbed and not self._walk_wanted:
                self._walk_wanted, self._walk_at = True, now + WALK_AGAIN_S

    def _look_once_more(self, path: str) -> bool:
        """Look at a path of which something was seen before; False where a walk has to look."""
        try:
            self._note(path, self._look_there(path))
        except Ambiguous:
            return False
        return True

    def _look_there(self, path: str) -> Seen | None:
        """Look at a path.  Raises Ambiguous where a walk has to look: it may refuse what is on the way there."""
        if path.rpartition("/")[0] not in self._tree.directories:
            raise Ambiguous
        return look(path, self._max_file_size, path in self._tree.links, self._trust)

    def _is_for_walks(self, path: str, wait: Wait) -> bool:
        """Whether only a walk can tell that a path is gone: it may lead to a file that has another name."""
        there = path.rpartition("/")[0] in self._tree.directories and path not in self._tree.links
        return wait.seen is None and not there

    def _walk_through(self, hurry: bool = False, written: Set[str] = frozenset()) -> None:
        """Look at everything.  `hurry`: what differs was whole before it came, but for what was `written`."""
        self._sweep = None
        for _ in range(WALKS):
            for _ in self._walk(hurry, written):
                pass
            if not self._disturbed:
                break
        # of names that came or went beside the walk, events tell; but what was swapped has to be seen as one, and the
        # first look at everything should be a whole one
        now = time.monotonic()
        self._first_until = self._first_until or now + FIRST_LOOK_S
        first = self._disturbed is not None and (self._waiting.anew or (not self.complete and now < self._first_until))
        self._walk_wanted = first or self._disturbed is Disturbed.SWAPPED
        self._hurry = hurry and self._walk_wanted
        self._walk_at = now + WALK_AGAIN_S if self._walk_wanted else now

    def _walk(self, hurry: bool = False, written: Set[str] = frozenset()) -> Iterator[None]:
        """The same once, pausing after each path.  A walk that was disturbed finds nothing gone."""
        self._walks += 1
        number = self._walks
        walk = Walk(self.directory, self._max_file_size, self._entering, self._listed, self._trustees)
        unconfirmed, closed = set(self._waiting), set()
        occupied: set[str] = set()  # directories
        for path, seen in walk:
            occupied.add(path.rpartition("/")[0])
            self._absence.refuse_file(path, self._files.keys())
            unconfirmed.discard(path)
            if isinstance(seen, Finding):
                closed.add(path)
                occupied.add(path)  # nobody can tell
            file, wait = self._files.get(path), self._waiting.get(path)
            if file:
                file.visited = number
            new = wait is None or not wait.written
            whole = (hurry and new) or self._is_swapped(walk, path)
            self._note(path, seen, swapped=whole and path not in written)
            yield
        self._notes, self._tree, self._trust = tuple(walk.notes), walk.tree, walk.trust
        self._git = GitRepositories(walk.git)
        self._at_work.walked(self._tree.directories, walk.passed_over)
        self._scanned(self._tree)
        self._disturbed = walk.disturbed()
        if self._disturbed:
            return
        if not occupied and self._waiting.anew:
            self._absence.refuse_empty(self._files.keys())
        gone = (path for path, each in self._files.items() if each.visited != number and each.held)
        way = self._absence.in_the_way(gone)
        occupied.update(way, (path.rpartition("/")[0] for path in way))
        unmounted = self._absence.unmounted(self._listed, walk.listed, occupied)
        self._notes += (*way.values(), *map(unmounted_problem, unmounted))
        lost = unmounted | way.keys()
        closed |= lost
        for path in self._absence.files_before():
            if is_below(path, lost) and path not in self._files:
                self._files[path] = _File(_NEVER_READ, _UNKNOWN, number)
                self._kept_back[path] = UNKNOWN
        for path in list(self._files):
            file = self._files.get(path)
            if file and file.visited != number:
                if not is_below(path, closed):
                    self._note(path, None, swapped=hurry or self._is_swapped(walk, path))
                elif self._waited_for(path) is None:
                    self._waiting.pop(path, None)  # nobody can tell
            yield
        for path in unconfirmed:
            # it came and went, has another name, or is out of sight
            if path not in self._files or is_below(path, closed):
                self._waiting.pop(path, None)
        yield
        self._listed = walk.listed

    def _is_swapped(self, walk: Walk, path: str) -> bool:
        """Whether the directory that a path is in took another one's place, and was not empty when it did."""
        return not self._waiting.anew and walk.swapped(path)

    def _note(self, path: str, seen: Seen | None, at_once: bool = False, swapped: bool = False) -> None:
        """Let a path wait at which something else stands than what was acted on.  `at_once`: it is whole and for
        itself; `swapped`: it is whole and part of a swap."""
        file, wait = self._files.get(path), self._waiting.get(path)
        if (file.seen if file else None) == seen:
            if wait:
                del self._waiting[path]
            return
        if wait and wait.seen == seen:
            wait.confirmed |= wait.looked != self._turn
            wait.looked = self._turn
            if at_once or swapped:
                wait.rest_s, wait.alone, wait.swapped = 0.0, at_once, swapped
            if at_once and seen is not None and not wait.moved:
                wait.moved = True
                self._waiting.add(path, wait, self._now)
            return
        rest_s, harmless = self._settle_s, False
        if seen is None:
            harmless = self._is_harmless(path)
            rest_s = GONE_S if harmless else min(self._settle_s, GONE_POLICY_S)
        if at_once or swapped:
            rest_s = 0.0
        since, began, given_up = self._now, self._now, False
        if isinstance(seen, bytes) and still_s(seen, self._now_ns) > rest_s:
            since = self._long_ago
        if wait:
            began, given_up = wait.began, wait.given_up
        alone = at_once or (seen is None and not swapped)
        moved = at_once and seen is not None
        wait = Wait(seen, since, began, rest_s, alone, swapped, self._turn, given_up, harmless, moved=moved)
        self._waiting.add(path, wait, self._now)

    def _is_harmless(self, path: str) -> bool:
        """Whether nothing is opened when a file is gone: it has pods only."""
        parsed = self._files[path].content.parsed
        return not parsed.truncated and all(isinstance(each, Pod) and not each.quarantined for each in parsed.objects)

    # Acting -------------------------------------------------------------------------------------------------------

    def _act(self, ripe: Ripe, changed: dict[str, Parsed | None]) -> None:
        if self._waiting.leaves_none_of(self._files, ripe):
            self._absence.refuse_empty(self._files.keys())
        if ripe.swapped and not self._take_swapped(ripe.swapped, changed):
            # it was swapped again, or a program writes to it
            self._walk_wanted, self._hurry, self._walk_at = True, True, time.monotonic() + SWAP_AGAIN_S
        self._take(ripe.alone, changed)
        if ripe.late:
            self._take(ripe.together, changed, give_up=True)
        elif ripe.together and not any(map(is_being_written, ripe.unfinished)):
            self._take_whole(ripe.together, changed)
        if not self._waiting.is_coming():
            self._take(ripe.gone, changed)
        for path in self._waiting.given_up():
            if path not in self._files:
                content = self._unknown(path)
                self._files[path] = _File(_NEVER_READ, content, self._walks)
                changed[path] = content.parsed

    def _take(self, paths: list[str], changed: dict[str, Parsed | None], give_up: bool = False) -> None:
        """Read these files and act on them; those that move wait on, or are given up."""
        now_ns, found = time.time_ns(), dict(self._load(paths))
        for path in paths:
            result = found.get(path)
            if isinstance(result, Moving):
                self._waiting.moves(path, time.monotonic(), self._settle_s, give_up)
            else:
                self._replace(path, result, now_ns, changed)

    def _take_swapped(self, paths: list[str], changed: dict[str, Parsed | None]) -> bool:
        """Read these files and act on them all; on none of them, if one moves.  Whether they were acted on."""
        if self._walk_wanted:
            return False  # the walk was disturbed: there may be more
        now_ns, found = time.time_ns(), dict(self._load(paths))
        moving = [path for path, result in found.items() if isinstance(result, Moving)]
        late = any(self._waiting[path].began + DEADLINE_S <= time.monotonic() for path in paths)
        if moving and not late:
            return False
        for path in moving:
            self._waiting.moves(path, time.monotonic(), self._settle_s, give_up=True)
        paths = [path for path in paths if path not in moving]
        for path in paths:
            result = found.get(path)
            assert not isinstance(result, Moving)
            self._replace(path, result, now_ns, changed)
        return True

    def _take_whole(self, paths: list[str], changed: dict[str, Parsed | None]) -> None:
        """Read these files and act on them, unless one of them moves."""
        now_ns, found = time.time_ns(), dict(self._load(paths))
        still = {path: result for path, result in found.items() if not isinstance(result, Moving)}
        self._staged = {}
        if len(still) == len(found):
            for path in paths:
                self._replace(path, still.get(path), now_ns, changed)
            return
        for path in found.keys() - still.keys():
            self._waiting.moves(path, time.monotonic(), self._settle_s)
        for path, result in still.items():
            seen = self._waited_for(path)
            if isinstance(result, Content) and isinstance(seen, bytes):
                self._staged[path] = seen, result

    def _load(self, paths: list[str]) -> Iterator[tuple[str, Content | OSError | Moving]]:
        """What the files among these say; those that were read for nothing before are not read again.

        Raises SourceError when some are gone because the directory itself is (then they were not deleted), and where
        it is not the file that is to blame.
        """
        wanted: dict[str, Fingerprint] = {}
        gone = False
        for path in paths:
            seen = self._waited_for(path)
            fingerprint, content = self._staged.get(path, (None, None))
            if content and fingerprint == seen:
                yield path, content
            elif isinstance(seen, bytes):
                wanted[path] = seen
            else:
                gone |= seen is None
        if gone:
            try:
                self.directory.stat()
            except OSError as error:
                raise missing(self.directory, error) from error
        yield from self._remembered.load(wanted)
        for path, found in load(self._requests(wanted), self._remembered.recall):
            if isinstance(found, OSError) and found.errno in NO_ROOM:
                fault = f"{path} can't be read: {found.strerror}"
                raise SourceError(self.directory, fault, "what was known before stays in force")
            yield path, found

    def _requests(self, wanted: Mapping[str, Fingerprint]) -> Iterator[Request]:
        for path, fingerprint in wanted.items():
            file = self._files.get(path)
            yield Request(path, fingerprint, file.content if file else None)

    def _waited_for(self, path: str) -> Seen | None:
        wait = self._waiting.get(path)
        return wait.seen if wait else None

    def _replace(
        self, path: str, found: Content | OSError | None, read_ns: int, changed: dict[str, Parsed | None]
    ) -> None:
        """Take over what was waited for at a path; `found`: what the file says, or why it could not be read."""
        seen, before = self._waited_for(path), self._files.get(path)
        wait = self._waiting.pop(path, None)
        self._findings.pop(path, None)
        self._racy.pop(path, None)
        if seen is None:
            if before:
                del self._files[path]
                changed[path] = None
                if not (self._waiting.batch or (wait and wait.swapped)):  # others came in its place
                    self._absence.went(path, before.content, time.monotonic())
                self._remembered.outdate(path)
            return
        content = before.content if before else self._unknown(path)
        if isinstance(seen, Finding):
            self._findings[path] = seen
            for each in self._absence.files_below(path):  # it may be a directory
                self._files[each] = _File(_NEVER_READ, _UNKNOWN, self._walks)
                changed[each] = UNKNOWN
        elif isinstance(found, OSError):
            self._findings[path] = unreadable_problem(path, "unreadable-file", found)
            seen = _NEVER_READ  # so that the next walk tries again
        elif found:
            content = self._absence.believed(path, found, before.content if before else None)
            self._doubt(path, seen, read_ns)
            self._remembered.outdate(path)
        self._files[path] = _File(seen, content, self._walks)
        if before is None or before.content.parsed is not content.parsed:
            changed[path] = content.parsed

    def _unknown(self, path: str) -> Content:
        """What stands for a file that can't be read: it may hold anything that was known of it before a restart."""
        known = path in self._absence.files_before()
        return _UNKNOWN if known else self._remembered.recall(path) or _UNKNOWN

    def _doubt(self, path: str, fingerprint: Fingerprint, read_ns: int) -> None:
        """Look at a file again when it was read so early that its fingerprint proves nothing."""
        left_s = racy_s(fingerprint, read_ns)
        if left_s:
            self._racy[path] = time.monotonic() + left_s

    def _read_racy(self, everything: bool, changed: dict[str, Parsed | None]) -> None:
        """Read files again whose fingerprint proved nothing, and now does; all of them, if `everything` is in doubt."""
        now = time.monotonic()
        for path in [path for path, when in self._racy.items() if everything or when <= now]:
            if not everything and time.monotonic() > now + RACY_SLICE_S:
                return
            del self._racy[path]
            file = self._files[path]
            if self._waiting.get(path) or not isinstance(file.seen, bytes):
                continue  # it will be read anyway
            now_ns = time.time_ns()
            for _, result in load([Request(path, file.seen, file.content)]):
                if not isinstance(result, Content):
                    self._walk_wanted |= not self._look_once_more(path)
                    continue
                result = self._absence.believed(path, result, file.content)
                self._doubt(path, file.seen, now_ns)
                self._remembered.outdate(path)
                if file.content.parsed is not result.parsed:
                    changed[path] = result.parsed
                file.content = result

    # Telling ------------------------------------------------------------------------------------------------------

    def _next(self, now: float) -> float | None:
        """When to read again, after a reading at `now`."""
        if self._walk_wanted:
            return max(now, self._walk_at)
        if not self._racy:
            self._racy.clear()  # see Waiting.end_batch
        times = [*self._racy.values()]
        due = self._waiting.due(now)
        return min(times if due is None else [*times, due], default=None)

    def _reading(self, changed: Mapping[str, Parsed | None]) -> Reading:
        moving = self._waiting.given_up()
        findings = [*self._notes, *self._findings.values(), *self._git_state.stale, *map(_still_changing, moving)]
        findings.sort(key=lambda finding: (finding.position, finding.code, finding.fault))
        return Reading(changed, tuple(findings), frozenset(moving), self.is_settled())


def _still_changing(path: str) -> Finding:
    cure = "let the program that writes to it finish; until then what it said before stays in force"
    return problem(path, "still-changing", "is being written to", cure)

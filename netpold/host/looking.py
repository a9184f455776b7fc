"""Looking: what stands where in the tree of manifests, and is to wait (waiting.py) because it is not what was acted on.

Of a path that an event tells of, or that waits, a look at the path itself says what stands there; whatever that does
not tell exactly, a walk through the whole tree finds.  A walk beside which names came and went finds nothing gone, and
one beside which something was swapped is done again.

While git holds its lock, or another program is seen to be at work (at_work.py), what is seen may be half of a change.
What git did is acted on after a walk that began when it had ended, and beside which it did nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Set
from pathlib import Path

from netpold.host.absence import Absence, is_below, unmounted_problem
from netpold.host.acted_on import NEVER_READ, NOT_KNOWN, ActedOn
from netpold.host.at_work import AtWork
from netpold.host.clocks import Clocks
from netpold.host.files import still_s
from netpold.host.gitlock import GitRepositories, GitState
from netpold.host.hints import Happened, Hints
from netpold.host.scan import (
    ANYBODY,
    Ambiguous,
    Directory,
    Disturbed,
    Seen,
    SourceError,
    Tree,
    Walk,
    is_manifest,
    look,
)
from netpold.host.trust import Trustees
from netpold.host.waiting import DEADLINE_S, Wait, Waiting
from netpold.policy.model import Finding, Pod

# How long a file has to be gone.  Programs replace files by deleting or renaming them and writing them anew, and a
# policy that vanishes for a moment opens what it closes.
GONE_S = 0.002
GONE_POLICY_S = 0.008
FIRST_LOOK_S = 1.0  # for how long the first walk is repeated when names come and go beside it
WALKS, WALK_AGAIN_S = 3, 0.2  # how often to walk again at once when something moved beside the walk, and then how soon


class Looking:
    """What a Source sees.  What differs from what was `acted` on is put into `waiting`.

    `walk_wanted`: a walk has to look before anything can be said about what is not there.  `notes`: findings about the
    tree, of the last walk.  `turn`: the number of this reading.  `is_sure`: the stamps of files say how old they are.
    Else as Source.
    """

    def __init__(
        self,
        directory: Path,
        max_file_size: int,
        scanned: Callable[[Tree | None], object],
        entering: Callable[[str], object],
        trustees: Trustees,
        acted: ActedOn,
        waiting: Waiting,
        absence: Absence,
    ) -> None:
        self.walk_wanted = True
        self.notes: tuple[Finding, ...] = ()
        self.git_state = GitState()
        self.turn = 0
        self.is_sure = True
        self._clocks = Clocks()
        self._directory = directory
        self._max_file_size = max_file_size
        self._trustees = trustees
        self._trust = ANYBODY  # as of the last walk
        self._scanned = scanned
        self._entering = entering
        self._acted = acted
        self._waiting = waiting
        self._absence = absence
        self._tree = Tree(frozenset(), frozenset())  # as of the last walk
        self._git = GitRepositories()
        self._at_work = AtWork()
        self._walk_at = 0.0  # not before; a tree that never rests is not to be walked through all the time
        self._hurry = False  # the walk that is wanted has to look at what was swapped
        self._first_until: float | None = None
        self._disturbed: Disturbed | None = None  # the last walk
        self._listed: Mapping[str, Directory] = {}  # by the last walk that was undisturbed
        self._sweep: Iterator[None] | None = None
        self._settle_s = 0.0
        self.tell_time()

    def begin(self, settle_s: float, due: float | None) -> None:
        """A reading begins, which was `due` then."""
        self.turn += 1
        self._settle_s = settle_s
        self.tell_time()
        if lost_s := self._clocks.look(self._now, due):
            self._waiting.postpone(lost_s)
            self._at_work.postpone(lost_s)
        self.is_sure = self._clocks.are_sure(self._now)

    def tell_time(self) -> None:
        """One time for all that is looked at from now on: before the look, so never too late."""
        self._now, self._now_ns = time.monotonic(), time.time_ns()
        self._long_ago = self._now - self._settle_s

    # Who is at work ---------------------------------------------------------------------------------------------------

    def is_git_at_work(self) -> bool:
        """Whether git is at work, or has been since the reading before.  What was seen meanwhile may be half of what it
        did, and not all events need have come: only a walk that begins after its end sees the whole."""
        git, before = self._git.look(), self.git_state
        self.git_state = git
        if git.locked:
            return True
        if before.locked or git.indexes != before.indexes:
            self.want_walk(0.0)
            return True
        return False

    def is_half_done(self, now: float) -> bool:
        """Whether another program than git is seen to be at work on what waits, or a tree that is filled anew was not
        seen as a whole.  Nothing waits for ever for that."""
        since = self._waiting.since()
        if since is None or now >= since + DEADLINE_S:
            return False
        unseen = self._waiting.anew and self.walk_wanted
        # as of before the look, which may have taken long: what was heard since is in the next hints
        return unseen or self._at_work.look(self._now, self._waiting, since, self.is_sure)

    # Paths ------------------------------------------------------------------------------------------------------------

    def look(self, hints: Hints) -> None:
        """Look where the hints say."""
        self._at_work.hear(hints.drafts)
        walk = hints.everything or hints.swapped or (self.walk_wanted and self._now >= self._walk_at)
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
        if is_manifest(path.rpartition("/")[2]) or path in self._acted.files:
            at_once = happened is (Happened.RENAMED if seen is None else Happened.MOVED_IN)
            self._note(path, seen, at_once)
            if happened is Happened.WRITTEN and path in self._waiting:
                self._waiting[path].written = True

    def look_again(self, now: float) -> None:
        """Look at all that may be ripe and was not looked at in this reading."""
        walk = False
        for path in self._waiting.rested(now):
            wait = self._waiting.get(path)
            if wait is None or wait.looked == self.turn:
                continue
            if self._is_for_walks(path, wait):
                walk |= not wait.confirmed
            else:
                walk |= not self.look_once_more(path)
        if walk:
            self._walk_through()
            if self._disturbed and not self.walk_wanted:
                self.want_walk(now + WALK_AGAIN_S)

    def look_once_more(self, path: str) -> bool:
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

    def _note(self, path: str, seen: Seen | None, at_once: bool = False, swapped: bool = False) -> None:
        """Let a path wait at which something else stands than what was acted on.  `at_once`: it is whole and for
        itself; `swapped`: it is whole and part of a swap."""
        file, wait = self._acted.files.get(path), self._waiting.get(path)
        if (file.seen if file else None) == seen:
            if wait:
                del self._waiting[path]
            return
        if wait and wait.seen == seen:
            wait.confirmed |= wait.looked != self.turn
            wait.looked = self.turn
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
        postponed = wait.postponed if wait else 0.0
        alone = at_once or (seen is None and not swapped)
        moved = at_once and seen is not None
        wait = Wait(
            seen, since, began, rest_s, alone, swapped, self.turn, given_up, harmless, moved=moved, postponed=postponed
        )
        self._waiting.add(path, wait, self._now)

    def _is_harmless(self, path: str) -> bool:
        """Whether nothing is opened when a file is gone: it has pods only."""
        parsed = self._acted.files[path].content.parsed
        return not parsed.truncated and all(isinstance(each, Pod) and not each.quarantined for each in parsed.objects)

    # Walks ------------------------------------------------------------------------------------------------------------

    def want_walk(self, at: float, hurry: bool = False) -> None:
        """A walk is to look, not before `at`; `hurry`: at what was swapped."""
        self.walk_wanted, self._walk_at, self._hurry = True, at, self._hurry or hurry

    def walk_due(self, now: float) -> float:
        """When the walk that is wanted is to be."""
        return max(now, self._walk_at)

    def fail(self) -> None:
        """The directory could not be looked at."""
        self.walk_wanted, self._sweep = True, None
        self._scanned(None)

    def sweep(self, seconds: float) -> bool:
        """Go on for about so long with a walk through everything; whether it came to its end."""
        end = time.monotonic() + seconds
        if self._sweep is None:
            self._sweep = self._walk()
        self.tell_time()
        try:
            for _ in self._sweep:
                if time.monotonic() >= end:
                    return False
        except SourceError:
            self.walk_wanted = True
        self._sweep = None
        return True

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
        first = self._disturbed is not None and (
            self._waiting.anew or (not self._acted.complete and now < self._first_until)
        )
        self.walk_wanted = first or self._disturbed is Disturbed.SWAPPED
        self._hurry = hurry and self.walk_wanted
        self._walk_at = now + WALK_AGAIN_S if self.walk_wanted else now

    def _walk(self, hurry: bool = False, written: Set[str] = frozenset()) -> Iterator[None]:
        """The same once, pausing after each path.  A walk that was disturbed finds nothing gone."""
        self._acted.walks += 1
        number = self._acted.walks
        walk = Walk(self._directory, self._max_file_size, self._entering, self._trustees)
        unconfirmed, closed = set(self._waiting), set()
        occupied: set[str] = set()  # directories
        for path, seen in walk:
            occupied.add(path.rpartition("/")[0])
            self._absence.refuse_file(path, self._acted.files.keys())
            unconfirmed.discard(path)
            if isinstance(seen, Finding):
                closed.add(path)
                occupied.add(path)  # nobody can tell
            file, wait = self._acted.files.get(path), self._waiting.get(path)
            if file:
                file.visited = number
            new = wait is None or not wait.written
            self._note(path, seen, swapped=hurry and new and path not in written)
            yield
        self.notes, self._tree, self._trust = tuple(walk.notes), walk.tree, walk.trust
        self._git.follow(walk.git)
        self._at_work.walked(self._tree.directories, walk.passed_over)
        self._scanned(self._tree)
        self._disturbed = walk.disturbed()
        if self._disturbed:
            return
        if not occupied and self._waiting.anew:
            self._absence.refuse_empty(self._acted.files.keys())
        gone = (path for path, each in self._acted.files.items() if each.visited != number and each.held)
        way = self._absence.in_the_way(gone)
        occupied.update(way, (path.rpartition("/")[0] for path in way))
        unmounted = self._absence.unmounted(self._listed, walk.listed, occupied)
        self.notes += (*way.values(), *map(unmounted_problem, unmounted))
        lost = unmounted | way.keys()
        closed |= lost
        for path in self._absence.files_before():
            if is_below(path, lost) and path not in self._acted.files:
                self._acted.put(path, NEVER_READ, NOT_KNOWN)
        for path in list(self._acted.files):
            file = self._acted.files.get(path)
            if file and file.visited != number:
                if not is_below(path, closed):
                    self._note(path, None, swapped=hurry)
                elif self._waiting.seen(path) is None:
                    self._waiting.pop(path, None)  # nobody can tell
            yield
        for path in unconfirmed:
            # it came and went, has another name, or is out of sight
            if path not in self._acted.files or is_below(path, closed):
                self._waiting.pop(path, None)
        yield
        self._listed = walk.listed

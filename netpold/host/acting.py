"""Acting: what is ripe is read, and takes the place of what was known.

A file that a program still has open for writing, or that changes while it is read, is moving: its version from before
stays.  What is one change is read as a whole or not at all, until a deadline has passed.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from netpold.host.absence import Absence
from netpold.host.acted_on import NEVER_READ, NOT_KNOWN, ActedOn
from netpold.host.files import Moving, is_being_written, racy_s
from netpold.host.load import Request, load
from netpold.host.looking import Looking
from netpold.host.remembered import Remembered
from netpold.host.scan import Fingerprint, SourceError, missing, unreadable_problem
from netpold.host.waiting import DEADLINE_S, Ripe, Waiting
from netpold.policy.documents import Content, is_ended
from netpold.policy.model import Finding

NO_ROOM = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOMEM))  # the machine, and not a file
SWAP_AGAIN_S = 0.01  # how soon to look again at a swap that could not be read as a whole
RACY_SLICE_S = 0.003  # for how long to read files again in one reading whose fingerprint proves nothing


class Acting:
    """What a Source reads.  `settle_s`: how long a file has to rest that moved as it was read.  `findings`: about files
    that can't be read, by path.  `racy`: files read so early that they have to be read again, and when.  `parsed` is
    told of each so many bytes."""

    def __init__(
        self,
        directory: Path,
        remembered: Remembered,
        acted: ActedOn,
        waiting: Waiting,
        absence: Absence,
        looking: Looking,
    ) -> None:
        self.settle_s = 0.0
        self.findings: dict[str, Finding] = {}
        self.racy: dict[str, float] = {}
        self.parsed: Callable[[int], object] = lambda octets: None
        self._directory = directory
        self._remembered = remembered
        self._acted = acted
        self._waiting = waiting
        self._absence = absence
        self._looking = looking
        self._staged: dict[str, tuple[Fingerprint, Content]] = {}  # read already, for a batch that did not hold still
        self._others_came = False  # with what goes in this reading

    def act(self, ripe: Ripe) -> None:
        self._others_came = any(path not in self._acted.files for path in (*ripe.alone, *ripe.swapped, *ripe.together))
        # while a walk is wanted, what is gone from one version may be there in the next
        if not self._looking.walk_wanted and self._waiting.leaves_none_of(self._acted.files, ripe):
            self._absence.refuse_empty(self._acted.files.keys())
        if ripe.swapped and not self._take_swapped(ripe.swapped):
            # it was swapped again, or a program writes to it
            self._looking.want_walk(time.monotonic() + SWAP_AGAIN_S, hurry=True)
        self._take(ripe.alone)
        if ripe.late:
            self._take(ripe.together, give_up=True)
        elif ripe.together and not any(map(is_being_written, ripe.unfinished)):
            self._take_whole(ripe.together)
        if not self._looking.walk_wanted and not self._waiting.is_coming():
            self._take(ripe.gone)
        for path in self._waiting.given_up():
            if path not in self._acted.files:
                self._acted.put(path, NEVER_READ, self._unknown(path))

    def _take(self, paths: list[str], give_up: bool = False) -> None:
        """Read these files and act on them; those that move wait on, or are given up."""
        now_ns, found = time.time_ns(), dict(self._load(paths))
        for path in paths:
            result = found.get(path)
            if isinstance(result, Moving):
                self._waiting.moves(path, time.monotonic(), self.settle_s, give_up)
            else:
                self._replace(path, result, now_ns)

    def _take_swapped(self, paths: list[str]) -> bool:
        """Read these files and act on them all; on none of them, if one moves.  Whether they were acted on."""
        if self._looking.walk_wanted:
            return False  # the walk was disturbed: there may be more
        now_ns, found = time.time_ns(), dict(self._load(paths))
        moving = [path for path, result in found.items() if isinstance(result, Moving)]
        late = any(self._waiting[path].began + DEADLINE_S <= time.monotonic() for path in paths)
        if moving and not late:
            return False
        for path in moving:
            self._waiting.moves(path, time.monotonic(), self.settle_s, give_up=True)
        paths = [path for path in paths if path not in moving]
        for path in paths:
            result = found.get(path)
            assert not isinstance(result, Moving)
            self._replace(path, result, now_ns)
        return True

    def _take_whole(self, paths: list[str]) -> None:
        """Read these files and act on them, unless one of them moves."""
        now_ns, found = time.time_ns(), dict(self._load(paths))
        still = {path: result for path, result in found.items() if not isinstance(result, Moving)}
        self._staged = {}
        if len(still) == len(found):
            for path in paths:
                self._replace(path, still.get(path), now_ns)
            return
        for path in found.keys() - still.keys():
            self._waiting.moves(path, time.monotonic(), self.settle_s)
        for path, result in still.items():
            seen = self._waiting.seen(path)
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
            seen = self._waiting.seen(path)
            fingerprint, content = self._staged.get(path, (None, None))
            if content and fingerprint == seen:
                yield path, content
            elif isinstance(seen, bytes):
                wanted[path] = seen
            else:
                gone |= seen is None
        if gone:
            try:
                self._directory.stat()
            except OSError as error:
                raise missing(self._directory, error) from error
        yield from self._remembered.load(wanted)
        for path, found in load(self._requests(wanted), self._remembered.recall, self.parsed):
            if isinstance(found, OSError) and found.errno in NO_ROOM:
                fault = f"{path} can't be read: {found.strerror}"
                raise SourceError(self._directory, fault, "what was known before stays in force")
            yield path, found

    def _requests(self, wanted: Mapping[str, Fingerprint]) -> Iterator[Request]:
        for path, fingerprint in wanted.items():
            file = self._acted.files.get(path)
            yield Request(path, fingerprint, file.content if file else None, self._looking.is_sure)

    def _replace(self, path: str, found: Content | OSError | None, read_ns: int) -> None:
        """Take over what was waited for at a path; `found`: what the file says, or why it could not be read."""
        seen, before = self._waiting.seen(path), self._acted.files.get(path)
        wait = self._waiting.pop(path, None)
        self.findings.pop(path, None)
        self.racy.pop(path, None)
        if seen is None:
            if before:
                self._acted.take_away(path)
                if not (self._others_came or self._waiting.batch or (wait and wait.swapped)):
                    self._absence.went(path, before.content, time.monotonic())
                self._remembered.outdate(path)
            return
        content = before.content if before else self._unknown(path)
        if isinstance(seen, Finding):
            self.findings[path] = seen
            for each in self._absence.files_below(path):  # it may be a directory
                self._acted.put(each, NEVER_READ, NOT_KNOWN)
        elif isinstance(found, OSError):
            self.findings[path] = unreadable_problem(path, "unreadable-file", found)
            seen = NEVER_READ  # so that the next walk tries again
        elif found:
            content = self._absence.believed(path, found, before.content if before else self._recalled(path, found))
            self._doubt(path, seen, read_ns)
            self._remembered.outdate(path)
        self._acted.put(path, seen, content)

    def _recalled(self, path: str, found: Content) -> Content | None:
        """What a file said before a restart, if that is asked for: where it may have been cut meanwhile."""
        return None if is_ended(found.outline) or not found.outline else self._remembered.recall(path)

    def _unknown(self, path: str) -> Content:
        """What stands for a file that can't be read: it may hold anything that was known of it before a restart."""
        known = path in self._absence.files_before()
        return NOT_KNOWN if known else self._remembered.recall(path) or NOT_KNOWN

    def _doubt(self, path: str, fingerprint: Fingerprint, read_ns: int) -> None:
        """Look at a file again when it was read so early that its fingerprint proves nothing."""
        left_s = racy_s(fingerprint, read_ns)
        if left_s:
            self.racy[path] = time.monotonic() + left_s

    def read_racy(self, everything: bool) -> None:
        """Read files again whose fingerprint proved nothing, and now does; all of them, if `everything` is in doubt."""
        if not self.racy:
            self.racy.clear()  # see Waiting.end_batch
        now = time.monotonic()
        for path in [path for path, when in self.racy.items() if everything or when <= now]:
            if not everything and time.monotonic() > now + RACY_SLICE_S:
                return
            del self.racy[path]
            file = self._acted.files[path]
            if self._waiting.get(path) or not isinstance(file.seen, bytes):
                continue  # it will be read anyway
            now_ns = time.time_ns()
            for _, result in load([Request(path, file.seen, file.content)]):
                if not isinstance(result, Content):
                    self._looking.walk_wanted |= not self._looking.look_once_more(path)
                    continue
                result = self._absence.believed(path, result, file.content)
                self._doubt(path, file.seen, now_ns)
                self._remembered.outdate(path)
                if file.content.parsed is not result.parsed:
                    self._acted.changed[path] = result.parsed
                file.content = result

    def row(self, path: str) -> tuple[Fingerprint, Content] | None:
        """What the cache is to hold of a path."""
        file = self._acted.files.get(path)
        if file is None:
            return None
        is_sure = isinstance(file.seen, bytes) and path not in self.racy
        return (file.seen if is_sure else NEVER_READ), file.content  # type: ignore[return-value]

"""The manifests on disk, and when they may be acted on.

File events only say that it is worth looking.  What is acted on are two scans in a row that came out the same while
git held no lock; then only the files whose fingerprint changed since they were parsed are read again, and only those
whose bytes changed are parsed.  A file that a program still has open for writing, or that changes while it is read, is
moving: its version from before stays, and the whole is looked at again, so that one change of many files stays one.

A writer that never stops must not hold everything up: after a deadline the quiet files are acted on without the
moving ones, which from then on nobody waits for until they are quiet.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import signal
import time
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from netpold.host.parse import parse_all
from netpold.host.scan import Fingerprint, Snapshot, SourceError, problem, scan, unreadable_problem
from netpold.policy.manifest import Parsed
from netpold.policy.model import Finding

__all__ = ["Fingerprint", "Reading", "Snapshot", "Source", "SourceError"]

DEADLINE_S = 10.0

# Within these after a change, one more change may leave the same fingerprint: the kernel stamps files by its tick, and
# some file systems by the second or two (then the change time is a whole number of seconds).
FINE_STAMPS_NS = 20_000_000
COARSE_STAMPS_NS = 2_000_000_000

# What stands for a file whose content is unknown: it may hold anything that was known of it before.
UNKNOWN = Parsed(objects=(), findings=(), passed_over={}, truncated=True)


@dataclass(frozen=True, slots=True)
class Reading:
    """The manifests as they may be acted on.

    `parsed`: by path.  `findings`: about files and directories as such; those about their content are in `parsed`.
    `moving`: files that did not become quiet in time, whose version from before is in `parsed`, if there was one.
    `is_final`: as long as the snapshot stays the same, so does all of this.
    """

    snapshot: Snapshot
    parsed: Mapping[str, Parsed]
    findings: tuple[Finding, ...]
    moving: frozenset[str]
    is_final: bool


@dataclass(frozen=True, slots=True)
class _Known:
    """A file as it was parsed.  `racy`: it was read so soon after a change that its fingerprint proves nothing."""

    fingerprint: Fingerprint
    digest: bytes
    parsed: Parsed
    racy: bool


class _Content(NamedTuple):
    """A file that was just read."""

    data: bytes
    digest: bytes
    racy: bool


class _Moving(Exception):
    """The file is being changed."""


class Source:
    """A directory of manifests (or one file), and what is known of it.  For use by one thread.

    `scanned` is told what each reading found (None: there is no directory): that is where a Watcher listens.
    """

    def __init__(
        self, directory: Path, max_file_size: int, scanned: Callable[[Snapshot | None], None] = lambda _: None
    ) -> None:
        self.directory = directory
        self._max_file_size = max_file_size
        self._scanned = scanned
        self._known: dict[str, _Known] = {}
        self._restless: frozenset[str] = frozenset()
        self._last: Reading | None = None

    def scan(self) -> Snapshot:
        """What is there now.  Raises SourceError."""
        return scan(self.directory, self._max_file_size)

    def read(
        self,
        settle_s: float = 0.02,
        deadline_s: float = DEADLINE_S,
        sleep: Callable[[float], object] = time.sleep,
    ) -> Reading:
        """The manifests, as soon as they stood still for `settle_s`; after `deadline_s`, those of them that do.

        The same object as before, when nothing changed since.
        Raises SourceError.  While git holds its lock, the deadline waits too (a lock left behind ends by its age).
        """
        try:
            reading = self._settled(settle_s, time.monotonic() + deadline_s, sleep)
        except SourceError:
            self._scanned(None)
            raise
        self._scanned(reading.snapshot)
        return reading

    def _settled(self, settle_s: float, deadline: float, sleep: Callable[[float], object]) -> Reading:
        before = self.scan()
        if self._last and self._last.is_final and before == self._last.snapshot:
            return self._last
        while True:
            sleep(settle_s)
            now = self.scan()
            changing = before.changes(now)
            late = time.monotonic() >= deadline
            if not now.locked and (late or changing <= self._restless):
                reading = self.load(now, changing)
                if late or reading.moving <= self._restless:
                    self._restless = reading.moving
                    self._last = reading
                    return reading
            before = now

    def load(self, snapshot: Snapshot, changing: frozenset[str] = frozenset()) -> Reading:
        """What the files of a snapshot say; those that are `changing`, or found to be, keep what they said before."""
        moving: set[str] = set()
        unreadable = set(snapshot.unreadable)
        findings = list(snapshot.findings)
        fresh: dict[str, _Content] = {}
        for path, fingerprint in snapshot.files.items():
            known = self._known.get(path)
            if known and known.fingerprint == fingerprint and not known.racy:
                continue
            try:
                if path in changing:
                    raise _Moving
                data = read_file(path, fingerprint)
                fresh[path] = _Content(data, hashlib.sha256(data).digest(), _is_racy(fingerprint, snapshot.time_ns))
            except (_Moving, FileNotFoundError):
                moving.add(path)
                findings.append(_still_changing(path))
            except OSError as error:
                unreadable.add(path)
                findings.append(unreadable_problem(path, "unreadable-file", error))
        self._take(fresh, snapshot.files)
        self._forget(snapshot.files.keys() | moving | unreadable)
        parsed = {path: known.parsed for path, known in self._known.items()}
        for path in moving | unreadable:
            parsed.setdefault(path, UNKNOWN)
        is_final = len(findings) == len(snapshot.findings) and not any(each.racy for each in self._known.values())
        return Reading(snapshot, parsed, tuple(findings), frozenset(moving), is_final)

    def _take(self, fresh: Mapping[str, _Content], files: Mapping[str, Fingerprint]) -> None:
        """Parse what was read, where its bytes are others than before."""
        same = {
            path: known.parsed
            for path, content in fresh.items()
            if (known := self._known.get(path)) and known.digest == content.digest
        }
        parsed = same | parse_all([(path, content.data) for path, content in fresh.items() if path not in same])
        for path, content in fresh.items():
            self._known[path] = _Known(files[path], content.digest, parsed[path], content.racy)

    def _forget(self, there: Set[str]) -> None:
        """Drop what is known of files that are gone; what lies below a directory that can't be read is not."""
        for path in self._known.keys() - there:
            if not any(str(parent) in there for parent in Path(path).parents):
                del self._known[path]


def read_file(path: str, expected: Fingerprint) -> bytes:
    """The bytes of a file that has that fingerprint, before and after.

    Raises OSError, and _Moving when it has another one, or a program has it open for writing and wrote lately.
    """
    # neither a FIFO nor a terminal that took the file's place holds us up
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        if Fingerprint.of(os.fstat(fd)) != expected or (_is_recent(expected) and _is_open_for_writing(fd)):
            raise _Moving
        with os.fdopen(fd, "rb", closefd=False) as file:
            data = file.read(expected.size + 1)
        if len(data) != expected.size or Fingerprint.of(os.fstat(fd)) != expected:
            raise _Moving
        return data
    finally:
        os.close(fd)


def _is_recent(fingerprint: Fingerprint) -> bool:
    """Whether the last change is so fresh that a program with the file open may be about to write more."""
    return time.time_ns() - fingerprint.ctime_ns < DEADLINE_S * 1e9


def _is_open_for_writing(fd: int) -> bool:
    """Ask for a read lease (fcntl(2), F_SETLEASE): the kernel refuses it while any program can write to the file."""
    fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)  # for the instant that we hold it: the default, SIGIO, kills
    try:
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except BlockingIOError:
        return True
    except OSError:
        return False  # no leases on this file system, or not our file
    fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    return False


def _is_racy(fingerprint: Fingerprint, scanned_ns: int) -> bool:
    stamps_ns = FINE_STAMPS_NS if fingerprint.ctime_ns % 1_000_000_000 else COARSE_STAMPS_NS
    return scanned_ns - fingerprint.ctime_ns < stamps_ns


def _still_changing(path: str) -> Finding:
    cure = "let the program that writes to it finish; until then what it said before stays in force"
    return problem(path, "still-changing", "is being written to", cure)

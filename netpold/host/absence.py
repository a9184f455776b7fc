"""What is not there (any more), and whether that is believed.

A directory without any manifest, a file that became empty or ends in the middle of a line, a directory in the tree
that can't be looked into: each is what a failed mount, a full disk or a broken tool leaves behind, and none of them
means that the policies are to go.  So what was known stays, and who wants it to go says so.  After a restart, what was
known is what LastGood tells.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Protocol

from netpold.host.mounts import mount_points
from netpold.host.scan import Directory, SourceError, is_manifest, problem
from netpold.policy.documents import ENDED, Content, is_ended
from netpold.policy.manifest import NOTHING, Parsed
from netpold.policy.model import Finding
from netpold.printable import printable

WENT_S = 10.0  # what went so shortly before nothing was left went for the same reason

# What stands for a file whose content is unknown: it may hold anything that was known of it before.
UNKNOWN = Parsed(objects=(), findings=(), passed_over=NOTHING, truncated=True)
_BLANK = Content(b"", Parsed((), (), NOTHING, False), None)


class FilesBefore(Protocol):
    """What is known from before a restart (last_good.py)."""

    def files(self) -> Collection[str]:
        """The files that held what was in force."""

    def fault(self) -> str | None:
        """Why more may have been in force than is known; None: all is known."""

    def try_again(self) -> None:
        """Look again at what was out of reach."""


class Absence:
    """What a Source asks.  `before`: what is known from before a restart, while it starts.  `was_enforced`: policies
    were in force then, whatever else is known."""

    def __init__(self, directory: Path, allow_empty: bool, before: FilesBefore | None) -> None:
        self._directory = directory
        self._allow_empty = allow_empty
        self._before = before
        self.was_enforced = False
        self._points: frozenset[str] = frozenset()  # of mounts, as of the last walk
        self._unmounted: dict[str, tuple[int, int]] = {}  # directories, and which they are now
        self._went: dict[str, tuple[float, Content]] = {}  # in the order in which they went

    def started(self) -> None:
        """All that is known now is in the Source."""
        self._before, self.was_enforced = None, False

    def files_before(self) -> Collection[str]:
        return self._before.files() if self._before else ()

    def files_below(self, path: str) -> Iterator[str]:
        """Files known from before a restart below a directory."""
        return (each for each in self.files_before() if each.startswith(f"{path}/"))

    def refuse_empty(self, known: Collection[str]) -> None:
        """Nothing is there any more.  Raises SourceError where something was, unless the settings allow that."""
        if not self._allow_empty and (known or self.was_enforced or self.files_before()):
            hint = (
                "put the manifests back, or mount them (if nothing is to be enforced, put a file there that has only a "
                "comment, or set allow_empty = true); policies known before stay in force"
            )
            raise SourceError(self._directory, "there is no manifest in the directory of manifests", hint)

    def refuse_file(self, path: str, known: Collection[str]) -> None:
        """A file is at a path.  Raises SourceError where that is the directory itself, in which files were known."""
        if path == str(self._directory) and any(each != path for each in known or self.files_before()):
            hint = "put the directory back; policies known before stay in force"
            raise SourceError(self._directory, "the directory of manifests is a file now", hint)

    def doubt(self) -> str | None:
        """Why it is not known all that was in force before the start."""
        return self._before.fault() if self._before and self.was_enforced else None

    def refuse_unread(self, broken: Iterable[str]) -> None:
        """These files could not be read to their ends.  Raises SourceError where they may hold what was in force before
        the start, and nobody knows that any more."""
        first = min(broken, default=None)
        fault = self.doubt() if first else None
        if self._before and first and fault:
            self._before.try_again()
            first = printable(first)
            text = f"it is not known what {first}, which can't be read to its end, held before ({fault})"
            hint = f"mend {first} or take it away; until then the rules from before stay in force"
            raise SourceError(self._directory, text, hint)

    def unmounted(
        self, before: Mapping[str, Directory], now: Mapping[str, Directory], occupied: Collection[str]
    ) -> set[str]:
        """The directories on which something was mounted that held files, and is no more, by two walks, and since
        earlier calls; in the first walk, those without files that held some before a restart.  `occupied`: the
        directories in which files are."""
        top, points, self._points = str(self._directory), self._points, mount_points()
        others = {
            path
            for path, was in before.items()
            if path in now and (now[path].device != was.device or _is_other(path, was, now[path], points))
        }
        others |= {path for path, identity in self._unmounted.items() if path in now and now[path][:2] == identity}
        others |= {path for file in self.files_before() for path in _parents(file) if path in now}
        full = {parent for each in occupied for parent in (each, *_parents(each))}
        found = others - full - {top}
        self._unmounted = {path: now[path][:2] for path in found}
        return found

    def in_the_way(self, gone: Iterable[str]) -> dict[str, Finding]:
        """What stands now in the place of known files that are not there, or of directories on the way to them, and is
        of another kind: by its path.  A file is replaced by a directory where a container's mount has no source."""
        found: dict[str, Finding] = {}
        looked_at: set[str] = set()
        top = str(self._directory)
        for file in {*gone, *self.files_before()}:
            if is_manifest(file.rpartition("/")[2]) and _is_directory(file):
                found[file] = _other_kind(file, "not-a-file", "a file was here, and is a directory now")
            for path in _parents(file):
                if path == top or path in looked_at:
                    break
                looked_at.add(path)
                if _is_directory(path) is False:
                    found[path] = _other_kind(path, "not-a-directory", "a directory was here, and is none now")
        return found

    def went(self, path: str, content: Content, now: float) -> None:
        """A file is taken for deleted."""
        self._went.pop(path, None)
        self._went[path] = now, content
        while self._went and next(iter(self._went.values()))[0] < now - WENT_S:
            del self._went[next(iter(self._went))]

    def went_lately(self, now: float) -> dict[str, Content]:
        """The files that went a moment ago, each once."""
        found = {path: content for path, (when, content) in self._went.items() if when >= now - WENT_S}
        self._went = {}
        return found

    def believed(self, path: str, found: Content, before: Content | None) -> Content:
        """What is taken for a file's content; one that became empty, or lost the newline at its end, keeps what it
        held."""
        was_ended = before is not None and is_ended(before.outline)
        if found.outline and (is_ended(found.outline) or not was_ended):
            return found
        held = path in self.files_before() if before is None else before.parsed.objects or before.parsed.truncated
        if not held:
            return found if found.outline else _BLANK
        findings = (_cut(path), *found.parsed.findings) if found.outline else (_emptied(path),)
        if before and before.parsed.findings == findings:
            return before
        parsed = Parsed((), findings, NOTHING, True)
        return Content(ENDED if was_ended else b"", parsed, (parsed,))


def _is_other(path: str, was: Directory, now: Directory, points: Collection[str]) -> bool:
    """Whether it is another directory, and something was mounted on it before; `points`: where."""
    return now.inode != was.inode and os.path.realpath(path) in points


def _is_directory(path: str) -> bool | None:
    """None: nothing is there, or nobody can tell."""
    try:
        return stat.S_ISDIR(os.stat(path).st_mode)  # noqa: PTH116
    except OSError:
        return None


def _other_kind(path: str, code: str, fault: str) -> Finding:
    cure = "put it back, or take away what is here now if its objects are to go"
    return problem(path, code, f"{fault}; what it held stays in force", cure)


def unmounted_problem(path: str) -> Finding:
    """That nothing is mounted on a directory any more."""
    fault = "what was mounted here is not, and nothing is here; what it held stays in force"
    return problem(path, "unmounted-directory", fault, "mount it, or delete the directory if its objects are to go")


def _emptied(path: str) -> Finding:
    fault = "the file is empty, and held something before; what it said stays in force"
    cure = "write it anew, or delete the file if its objects are to go"
    return problem(path, "emptied-file", fault, cure)


def _cut(path: str) -> Finding:
    fault = "the file ends in the middle of a line, and did not before; what it said stays in force"
    cure = "write it as a whole, with a newline at its end, or delete the file if its objects are to go"
    return problem(path, "cut-file", fault, cure)


def is_below(path: str, closed: Collection[str]) -> bool:
    """Whether a path is one that can't be looked into, or lies below one."""
    return bool(closed) and (path in closed or any(parent in closed for parent in _parents(path)))


def _parents(path: str) -> Iterable[str]:
    while path := path.rpartition("/")[0]:
        yield path

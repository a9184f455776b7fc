"""What a directory of manifests holds, by name and fingerprint; no file is opened for reading.

Real files and directories are walked first, then what symlinks lead to, each directory and each linked file once: so
loops end, and a file that has a name of its own is known by it.  Names that begin with a dot are passed over, but a
symlink may lead through them (`..data` of a ConfigMap volume, `.worktrees` of git-sync).

A walk can be paused after any file, and holds nothing of the files that it has passed but where their inodes are: so a
hundred thousand of them cost little memory, and whoever walks can do something else in between.

Whatever can't be looked at, or does not count (`trust.py`), is told as a Finding in place of a fingerprint, so that
nobody takes it for deleted.  Only names that are gone from a directory that could be listed are gone.
"""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from typing import Literal, NamedTuple

from netpold.host.trust import KEPT, Fault, Trust, Trustees, held, is_read_only, real_path
from netpold.policy.findings import MOST_IN_ALL, Findings
from netpold.policy.model import Finding, Position
from netpold.printable import printable

SUFFIXES = (".yaml", ".yml", ".json")
PASSED_OVER_SUFFIXES = ("~", ".swp", ".tmp")
SETTINGS = ("netpold.toml", "netpold.toml.d")

# What changes when a file does, packed: device and inode (they say which file it is), size, modification time and
# change time in ns.  The inode's change time can't be set by programs, so it tells on its own.
Fingerprint = bytes
_STAMPS = struct.Struct("<QQQqq")
_MOST_NS = 2**63 - 1  # what these times hold, until 2262; file systems know earlier and later ones
_IDENTITY = 16  # bytes of a fingerprint that say which file it is

ANYBODY = Trust()

# What stands at a path: a file's fingerprint, or why it can't be looked at.
Seen = Fingerprint | Finding


class SourceError(Exception):
    """The directory of manifests itself is missing or can't be read; this never means that there are no policies."""

    def __init__(self, directory: Path, fault: str, hint: str) -> None:
        super().__init__(f"{directory}: {fault}; {hint}")
        self.directory = directory
        self.fault = fault
        self.hint = hint


class Ambiguous(Exception):
    """A path that only a whole walk can judge: a symlink, a directory, or something that can't be looked at."""


@dataclass(frozen=True, slots=True)
class Tree:
    """The directories that a walk listed, and the symlinks that it followed, by path."""

    directories: frozenset[str]
    links: frozenset[str]


def fingerprint_of(status: os.stat_result) -> Fingerprint:
    times = (min(max(each, -_MOST_NS), _MOST_NS) for each in (status.st_mtime_ns, status.st_ctime_ns))
    return _STAMPS.pack(status.st_dev, status.st_ino, status.st_size, *times)


def size_of(fingerprint: Fingerprint) -> int:
    return int(_STAMPS.unpack(fingerprint)[2])


def changed_ns(fingerprint: Fingerprint) -> int:
    """When the file was last changed in any way (its ctime), in ns since 1970."""
    return int(_STAMPS.unpack(fingerprint)[4])


def is_manifest(name: str) -> bool:
    """Whether a file of that name (without its directory) is read."""
    return name.endswith(SUFFIXES) and name[0] != "."


def is_passed_over(name: str) -> bool:
    """Whether a name, be it a file's, a directory's or a symlink's, is passed over."""
    return name[0] == "." or name.endswith(PASSED_OVER_SUFFIXES)


def problem(path: str, code: str, fault: str, cure: str, severity: Literal["error", "warning"] = "error") -> Finding:
    """A finding about a whole file or directory."""
    return Finding(Position(printable(path), 1), code, "", printable(fault), cure, severity=severity)


def unreadable_problem(path: str, code: str, error: OSError) -> Finding:
    """A finding about a file or directory that the system does not let us read."""
    cure = f"make it readable for netpold; {KEPT}"
    return problem(path, code, f"can't be read: {error.strerror}", cure)


def missing(directory: Path, error: OSError) -> SourceError:
    """What is to be said when the directory of manifests itself can't be looked at."""
    if isinstance(error, FileNotFoundError):
        hint = "make it, or name the right one with --manifests; policies known before stay in force"
        return SourceError(directory, "the directory of manifests is not there", hint)
    hint = "make it a directory that netpold may read; policies known before stay in force"
    return SourceError(directory, f"the directory of manifests can't be read: {error.strerror}", hint)


def look(path: str, max_file_size: int, is_link: bool = False, trust: Trust = ANYBODY) -> Seen | None:
    """What stands at one path now; None: nothing.  Raises Ambiguous.  `is_link`: a walk followed the symlink there."""
    try:
        with held(path, is_link) as fd:
            status, real = os.fstat(fd), real_path(fd)
        refused = trust.leads_out(real) or (is_link and trust.of("symlink", os.lstat(path)))
    except FileNotFoundError:
        if is_link:
            raise Ambiguous from None
        return None
    except OSError as error:
        raise Ambiguous from error
    if refused or stat.S_ISLNK(status.st_mode) or stat.S_ISDIR(status.st_mode) or not path.isprintable():
        raise Ambiguous
    return _judge(path, status, max_file_size, trust)


def _unprintable(path: str) -> Finding:
    cure = f"rename it to printable UTF-8; {KEPT}"
    return problem(path, "unprintable-name", "the name can't be printed", cure)


def _judge(path: str, status: os.stat_result, max_file_size: int, trust: Trust) -> Seen:
    if not stat.S_ISREG(status.st_mode):
        return problem(path, "not-a-file", "is not a regular file", "put a file there, or rename it")
    if status.st_size > max_file_size:
        fault = f"has {status.st_size} bytes; max_file_size allows {max_file_size}"
        return problem(path, "file-too-large", fault, "split it, or raise max_file_size in netpold.toml")
    if refused := trust.of("file", status):
        return problem(path, *refused)
    return fingerprint_of(status)


class Disturbed(Enum):
    """What can happen beside a walk: names come and go in a directory, or another directory takes the place of one."""

    NAMES = auto()
    SWAPPED = auto()


class Directory(NamedTuple):
    """What tells one directory from another, and what changes when a name comes or goes in it."""

    device: int
    inode: int
    mtime_ns: int


def _state(directory: os.stat_result) -> Directory:
    return Directory(directory.st_dev, directory.st_ino, directory.st_mtime_ns)


class Walk:
    """A walk through a directory (or to one file): iterate over it once, to the end; it gives paths and what stands
    there.  Raises SourceError (as one iterates) when the directory itself can't be looked at.

    `entering` is told of each directory before it is listed.  At the end, `tree` says where it was, and `trust` whom it
    trusted there; `notes` are findings about names that are not taken for manifests; `git` are the paths of `.git` in
    it, above it and above what its symlinks lead to, `passed_over` those of other such names in it.  What it did not
    find is only gone if it was not `disturbed`.
    """

    def __init__(
        self,
        directory: Path,
        max_file_size: int,
        entering: Callable[[str], object] = lambda path: None,
        trustees: Trustees = Trustees(),  # noqa: B008  frozen
    ) -> None:
        self.trust = ANYBODY
        self.git: list[str] = []
        self.passed_over: list[str] = []
        self._top = directory
        self._max_file_size = max_file_size
        self._entering = entering
        self._trustees = trustees
        self._notes = Findings(MOST_IN_ALL)
        self._directories: list[str] = []
        self._links: list[str] = []
        self._visited: set[tuple[int, int]] = set()
        self._to_list: list[str] = []
        self._to_follow: list[str] = []
        self._above: set[str] = set()  # directories that were looked at for a `.git`
        self._identities = bytearray()  # of all files, one after the other
        self.listed: dict[str, Directory] = {}  # as they were before they were listed

    @property
    def notes(self) -> list[Finding]:
        return self._notes.told("the directory of manifests")

    @property
    def tree(self) -> Tree:
        return Tree(frozenset(self._directories), frozenset(self._links))

    def disturbed(self) -> Disturbed | None:
        """What happened beside the walk to what was listed.  A listing beside which a file is renamed can miss it."""
        found = None
        for path, before in self.listed.items():
            try:
                now = _state(os.stat(path))  # noqa: PTH116
            except OSError:
                return Disturbed.SWAPPED
            if now[:2] != before[:2]:
                return Disturbed.SWAPPED
            if now != before:
                found = Disturbed.NAMES
        return found

    def __iter__(self) -> Iterator[tuple[str, Seen]]:
        top = str(self._top)
        try:
            with held(top, follow=True) as fd:
                status = os.fstat(fd)
                self.trust = self._trustees.trust(real_path(fd), status.st_uid)
            if stat.S_ISREG(status.st_mode):
                yield self._file(top, status)
                return
            self._find_git_above(str(self._top.resolve()))
            self._is_new(status)
            self._note_open_top(status)
            yield from self._list(top, is_top=True)
        except OSError as error:
            raise missing(self._top, error) from error
        yield from self._list_all()
        yield from self._follow_links()

    def _list_all(self) -> Iterator[tuple[str, Seen]]:
        while self._to_list:
            path = self._to_list.pop()
            try:
                yield from self._list(path)
            except FileNotFoundError:
                continue  # deleted while we looked
            except OSError as error:
                yield path, unreadable_problem(path, "unreadable-directory", error)

    def _note_open_top(self, status: os.stat_result) -> None:
        """Warn where everybody may write to the directory of manifests, and can (a volume in a container is mounted
        read-only).  Raises OSError."""
        fault = self.trust.open_to_all("directory", status)
        if fault and not is_read_only(self._top):
            text, cure = f"{fault.fault}, and so deleted from", "take that right away: `chmod o-w`, or `chmod +t`"
            self._notes.add([problem(str(self._top), fault.code, text, cure, "warning")])

    def _list(self, path: str, is_top: bool = False) -> Iterator[tuple[str, Seen]]:
        """The files of a directory; what is below is noted to be listed.  Raises OSError when it can't be listed."""
        self._entering(path)
        prefix = path if path.endswith("/") else f"{path}/"
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:  # all by this descriptor: whatever takes the directory's place meanwhile is not looked at
            status = os.fstat(fd)
            self.listed[path] = _state(status)
            if refused := self._refused(status, fd, is_top):
                yield path, problem(path, *refused)
                return
            with os.scandir(fd) as listing:
                self._directories.append(path)
                for entry in listing:
                    if found := self._looked_at(prefix + entry.name, entry, is_top):
                        yield found
        finally:
            os.close(fd)

    def _refused(self, status: os.stat_result, fd: int, is_top: bool) -> Fault | None:
        """Why a directory does not count.  Raises OSError."""
        return None if is_top else self.trust.of("directory", status) or self.trust.leads_out(real_path(fd))

    def _looked_at(self, path: str, entry: os.DirEntry[str], in_top: bool) -> tuple[str, Seen] | None:
        try:
            return self._entry(path, entry, in_top)
        except FileNotFoundError:
            return None  # deleted while we looked
        except OSError as error:
            return path, unreadable_problem(path, "unreadable-file", error)

    def _entry(self, path: str, entry: os.DirEntry[str], in_top: bool) -> tuple[str, Seen] | None:
        name = entry.name
        if is_manifest(name) and entry.is_file(follow_symlinks=False):
            return self._file(path, entry.stat(follow_symlinks=False))
        if is_passed_over(name) or (in_top and name in SETTINGS):
            if name == ".git":
                self.git.append(path)
            else:
                self.passed_over.append(path)
        elif entry.is_symlink():
            if refused := self.trust.of("symlink", entry.stat(follow_symlinks=False)):
                return path, problem(path, *refused)
            self._to_follow.append(path)
        elif entry.is_dir(follow_symlinks=False):
            if not path.isprintable():
                return path, _unprintable(path)
            if self._is_new(entry.stat(follow_symlinks=False)):
                self._to_list.append(path)
        elif name.endswith(SUFFIXES):
            return self._file(path, entry.stat(follow_symlinks=False))
        return None

    def _is_new(self, directory: os.stat_result) -> bool:
        identity = (directory.st_dev, directory.st_ino)
        if identity in self._visited:
            return False
        self._visited.add(identity)
        return True

    def _file(self, path: str, status: os.stat_result) -> tuple[str, Seen]:
        if not path.isprintable():
            return path, _unprintable(path)
        seen = _judge(path, status, self._max_file_size, self.trust)
        if isinstance(seen, bytes):
            self._identities += seen[:_IDENTITY]
        return path, seen

    def _follow_links(self) -> Iterator[tuple[str, Seen]]:
        """Go where the symlinks lead: to directories not yet visited, and to files that have no other name here."""
        files: dict[bytes, tuple[str, os.stat_result]] = {}
        while self._to_follow:
            links, self._to_follow = sorted(self._to_follow), []
            self._links += links
            for path in links:
                try:
                    with held(path, follow=True) as fd:
                        status, real = os.fstat(fd), real_path(fd)
                    refused = self.trust.leads_out(real)
                except FileNotFoundError:
                    yield from self._dangling(path)
                except OSError as error:
                    yield path, unreadable_problem(path, "unreadable-file", error)
                else:
                    if not refused:
                        self._find_git_above(real)
                    is_directory = stat.S_ISDIR(status.st_mode)
                    if refused and (is_directory or path.endswith(SUFFIXES)):
                        yield path, problem(path, *refused)
                    elif is_directory and self._is_new(status):
                        self._to_list.append(path)
                        yield from self._list_all()
                    elif not is_directory and path.endswith(SUFFIXES):
                        files.setdefault(fingerprint_of(status)[:_IDENTITY], (path, status))
        if files:
            for at in range(0, len(self._identities), _IDENTITY):
                files.pop(bytes(self._identities[at : at + _IDENTITY]), None)
        for path, status in files.values():
            yield self._file(path, status)

    def _dangling(self, path: str) -> Iterator[tuple[str, Seen]]:
        try:
            fault = f"leads to {os.readlink(path)}, which is not there"  # noqa: PTH115
        except OSError:
            return  # deleted while we looked
        yield path, problem(path, "dangling-symlink", fault, "mend or delete the symlink")

    def _find_git_above(self, path: str) -> None:
        """Note the nearest `.git` above a real path; none where that was looked for from there already."""
        while (parent := os.path.dirname(path)) != path and parent not in self._above:  # noqa: PTH120
            self._above.add(parent)
            if os.path.lexists(f"{parent}/.git"):
                self.git.append(f"{parent}/.git")
                return
            path = parent

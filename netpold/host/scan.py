"""What a directory of manifests holds, by name and fingerprint; no file is opened.

Real files and directories are walked first, then what symlinks lead to, each directory and each linked file once: so
loops end, and a file that has a name of its own is known by it.  Names that begin with a dot are passed over, but a
symlink may lead through them (`..data` of a ConfigMap volume, `.worktrees` of git-sync).

Whatever can't be looked at is named in `unreadable`, with a finding, so that nobody takes it for deleted.  Only names
that are gone from a directory that could be listed are gone.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from typing import Literal, NamedTuple

from netpold.policy.model import Finding, Position

SUFFIXES = (".yaml", ".yml", ".json")
PASSED_OVER_SUFFIXES = ("~", ".swp", ".tmp")
SETTINGS = ("netpold.toml", "netpold.toml.d")
GIT_LOCK_LIFE_S = 60  # an index.lock older than this was left behind by a git that died


class SourceError(Exception):
    """The directory of manifests itself is missing or can't be read; this never means that there are no policies."""

    def __init__(self, directory: Path, fault: str, hint: str) -> None:
        super().__init__(f"{directory}: {fault}; {hint}")
        self.directory = directory
        self.fault = fault
        self.hint = hint


class Fingerprint(NamedTuple):
    """What changes when a file does.  The inode's change time can't be set by programs, so it tells on its own."""

    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int
    device: int

    @staticmethod
    def of(status: os.stat_result) -> Fingerprint:
        return tuple.__new__(Fingerprint, _of_status(status))  # a third of the time that Fingerprint(...) takes


_of_status = attrgetter("st_ino", "st_size", "st_mtime_ns", "st_ctime_ns", "st_dev")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One scan.  Two are equal when nothing changed between them.

    `files`: manifests by path.  `unreadable`: paths of files and directories that are there and could not be looked
    at, each with a finding.  `directories`: what was listed.  `links`: the symlinks that were followed.  `locked`: git
    holds the index of a work tree that the directory is part of, or has in it.
    """

    files: Mapping[str, Fingerprint]
    findings: tuple[Finding, ...] = ()
    unreadable: frozenset[str] = frozenset()
    directories: frozenset[str] = frozenset()
    links: frozenset[str] = frozenset()
    locked: bool = False
    time_ns: int = field(default=0, compare=False)

    def changes(self, other: Snapshot) -> frozenset[str]:
        """The paths at which the two differ."""
        files = self.files.items() ^ other.files.items()
        return frozenset(path for path, _ in files) | (self.unreadable ^ other.unreadable)


def scan(directory: Path, max_file_size: int) -> Snapshot:
    """Look through a directory (or at one file).  Raises SourceError when that itself can't be looked at."""
    walk = _Walk(max_file_size)
    began = time.time_ns()
    try:
        status = directory.stat()
        if stat.S_ISREG(status.st_mode):
            walk.file(str(directory), status)
        else:
            walk.real_directory(str(directory), status, top=True)
            walk.lock_above(directory.resolve())
    except FileNotFoundError as error:
        hint = "make it, or name the right one with --manifests; policies known before stay in force"
        raise SourceError(directory, "the directory of manifests is not there", hint) from error
    except OSError as error:
        hint = "make it a directory that netpold may read; policies known before stay in force"
        raise SourceError(directory, f"the directory of manifests can't be read: {error.strerror}", hint) from error
    walk.follow_links()
    return Snapshot(
        files=walk.files,
        findings=tuple(walk.findings),
        unreadable=frozenset(walk.unreadable),
        directories=frozenset(walk.directories),
        links=frozenset(walk.links),
        locked=walk.locked,
        time_ns=began,
    )


def problem(path: str, code: str, fault: str, cure: str, severity: Literal["error", "warning"] = "error") -> Finding:
    """A finding about a whole file or directory."""
    return Finding(Position(path, 1), code, "", fault, cure, severity=severity)


def unreadable_problem(path: str, code: str, error: OSError) -> Finding:
    """A finding about a file or directory that the system does not let us read."""
    cure = "make it readable for netpold; until then what it said before stays in force"
    return problem(path, code, f"can't be read: {error.strerror}", cure)


class _Walk:
    """A walk under way: what was found so far, and the symlinks still to follow."""

    def __init__(self, max_file_size: int) -> None:
        self.max_file_size = max_file_size
        self.files: dict[str, Fingerprint] = {}
        self.findings: list[Finding] = []
        self.unreadable: set[str] = set()
        self.directories: list[str] = []
        self.links: list[str] = []
        self.locked = False
        self._visited: set[tuple[int, int]] = set()

    def real_directory(self, path: str, status: os.stat_result, top: bool = False) -> None:
        """List a directory and the real directories below; raises OSError only for the top."""
        identity = (status.st_dev, status.st_ino)
        if identity in self._visited:
            return
        self._visited.add(identity)
        try:
            with os.scandir(path) as listing:
                entries = sorted(listing, key=attrgetter("name"))
        except FileNotFoundError:
            if top:
                raise
            return
        except OSError as error:
            if top:
                raise
            self._unreadable(path, "unreadable-directory", error)
            return
        self.directories.append(path)
        for entry in entries:
            self._entry(entry, top)

    def _entry(self, entry: os.DirEntry[str], top: bool) -> None:
        name = entry.name
        try:
            if name.endswith(SUFFIXES) and name[0] != "." and entry.is_file(follow_symlinks=False):
                self.file(entry.path, entry.stat())
            elif name[0] == "." or name.endswith(PASSED_OVER_SUFFIXES) or (top and name in SETTINGS):
                if name == ".git":
                    self._lock(entry.path)
            elif entry.is_symlink():
                self.links.append(entry.path)
            elif entry.is_dir():
                self.real_directory(entry.path, entry.stat())
            elif name.endswith(SUFFIXES):
                self.file(entry.path, entry.stat())
        except FileNotFoundError:
            return  # deleted while we looked
        except OSError as error:
            self._unreadable(entry.path, "unreadable-file", error)

    def file(self, path: str, status: os.stat_result) -> None:
        """Take one manifest down, or what is wrong with it."""
        if not path.isprintable():
            shown = path.encode("utf-8", "backslashreplace").decode().replace("\n", "\\n")
            self.findings.append(
                problem(shown, "unprintable-name", "the name can't be printed", "rename it to printable UTF-8")
            )
        elif not stat.S_ISREG(status.st_mode):
            self._refused(path, "not-a-file", "is not a regular file", "put a file there, or rename it")
        elif status.st_size > self.max_file_size:
            fault = f"has {status.st_size} bytes; max_file_size allows {self.max_file_size}"
            self._refused(path, "file-too-large", fault, "split it, or raise max_file_size in netpold.toml")
        else:
            self.files[path] = Fingerprint.of(status)

    def follow_links(self) -> None:
        """Go where the symlinks lead: to directories not yet visited and manifests not yet known."""
        known = {(each.device, each.inode) for each in self.files.values()} if self.links else set()
        for path in self.links:  # grows as linked directories have links in them
            try:
                status = os.stat(path)  # noqa: PTH116  on text: one Path less for each of many files
            except FileNotFoundError:
                self._dangling(path)
                continue
            except OSError as error:
                self._unreadable(path, "unreadable-file", error)
                continue
            if stat.S_ISDIR(status.st_mode):
                self.real_directory(path, status)
            elif path.endswith(SUFFIXES) and (status.st_dev, status.st_ino) not in known:
                self.file(path, status)
                known.add((status.st_dev, status.st_ino))

    def lock_above(self, directory: Path) -> None:
        """See whether git holds the work tree that the directory is part of."""
        for parent in directory.parents:
            if os.path.lexists(parent / ".git"):
                self._lock(str(parent / ".git"))
                return

    def _lock(self, git: str) -> None:
        repository = Path(git)
        try:
            if repository.is_file():  # a linked work tree: the file says `gitdir: PATH`
                text = repository.read_text(errors="replace").partition("gitdir:")[2].strip()
                repository = repository.parent / text
            age = time.time() - (repository / "index.lock").stat().st_mtime
        except (OSError, ValueError):
            return
        if age < GIT_LOCK_LIFE_S:
            self.locked = True
        else:
            lock = str(repository / "index.lock")
            fault = "was left behind by a git that died"
            self.findings.append(problem(lock, "stale-git-lock", fault, "delete it", severity="warning"))

    def _dangling(self, path: str) -> None:
        if not os.path.lexists(path):
            return  # deleted while we looked
        fault = f"leads to {os.readlink(path)}, which is not there"  # noqa: PTH115
        self._refused(path, "dangling-symlink", fault, "mend or delete the symlink")

    def _unreadable(self, path: str, code: str, error: OSError) -> None:
        self.unreadable.add(path)
        self.findings.append(unreadable_problem(path, code, error))

    def _refused(self, path: str, code: str, fault: str, cure: str) -> None:
        self.unreadable.add(path)
        self.findings.append(problem(path, code, fault, cure))

"""Whose files are read, and where symlinks may lead: what a tree of manifests may hold when others can write near it.

A file or directory counts when its owner is root, the user that netpold runs as, the owner of the directory of
manifests itself (git-sync owns its tree), or a user that the settings name; and when not everybody may write to it.
The directory of manifests itself may be open to everybody (kubelet makes volumes so): there that is a warning.

A symlink may lead anywhere below the directory of manifests, as that resolves now, or below a directory that the
settings name; nowhere else, since what a file says is quoted in findings.  Hard links are files like others: a commit
can't hold one, and the kernel lets nobody link to others' files (fs.protected_hardlinks).

What is judged is what is open (O_PATH: that has no effect on FIFOs and devices, and can't be swapped), never a path.
"""

from __future__ import annotations

import logging
import os
import pwd
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

from netpold.config import Settings

log = logging.getLogger("netpold")

ROOT = 0
KEPT = "until then a running netpold goes by what it said before"  # behind the cure of what can't be read as it is


class Fault(NamedTuple):
    """Why something is not read, or should not be as it is."""

    code: str
    fault: str
    cure: str


@dataclass(frozen=True, slots=True)
class Trust:
    """Who is trusted in one tree.  `owners`: user ids; `trees`: where symlinks may lead, as real paths that end in `/`;
    None: anybody, anywhere."""

    owners: frozenset[int] | None = None
    trees: tuple[str, ...] | None = None

    def of(self, what: Literal["file", "directory", "symlink"], status: os.stat_result) -> Fault | None:
        """Why a file, directory or symlink (itself) does not count."""
        if self.owners is None:
            return None
        if status.st_uid not in self.owners:
            cure = f"give it to root (`chown`), or name the user in trusted_users; {KEPT}"
            return Fault(f"foreign-{what}", f"belongs to {_user(status.st_uid)}, who is not trusted", cure)
        return None if what == "symlink" else self.open_to_all(what, status)

    def open_to_all(self, what: Literal["file", "directory"], status: os.stat_result) -> Fault | None:
        """Why a file or directory does not count that everybody may write to (in a directory with the sticky bit, only
        to what is their own)."""
        shared = what == "directory" and status.st_mode & stat.S_ISVTX
        if self.owners is None or shared or not status.st_mode & stat.S_IWOTH:
            return None
        cure = f"take that right away: `chmod o-w`; {KEPT}"
        return Fault(f"world-writable-{what}", "may be written to by everybody", cure)

    def leads_out(self, real: str) -> Fault | None:
        """Why a symlink may not lead to that real path."""
        if self.trees is None or f"{real}/".startswith(self.trees):
            return None
        cure = "put a copy there, or name the directory that it leads into in linked_trees"
        return Fault("link-out-of-tree", "leads out of the directory of manifests", f"{cure}; {KEPT}")


def _user(uid: int) -> str:
    try:
        return f"{pwd.getpwuid(uid).pw_name} (user {uid})"
    except KeyError:
        return f"user {uid}"


@dataclass(frozen=True, slots=True)
class Trustees:
    """Who is trusted in any tree.  `users`: user ids, beside root, our own and the tree's owner; None: anybody.
    `linked_trees`: directories that symlinks may lead into.  `warning`: of users that there are not."""

    users: frozenset[int] | None = frozenset()
    linked_trees: tuple[str, ...] = ()
    warning: str | None = field(default=None, compare=False)

    def trust(self, real: str, owner: int) -> Trust:
        """Who is trusted in the tree at that real path, which that user owns."""
        trees = (_slashed(real), *(_slashed(os.path.realpath(each)) for each in self.linked_trees))
        if self.users is None:
            return Trust(None, trees)
        return Trust(self.users | {ROOT, os.geteuid(), owner}, trees)


def trustees(settings: Settings) -> Trustees:
    """As the settings say."""
    found: set[int] = set()
    unknown: list[str] = []
    for user in settings.trusted_users:
        try:
            found.add(int(user) if user.isdecimal() else pwd.getpwnam(user).pw_uid)
        except KeyError:
            unknown.append(user)
    warning = None
    if unknown:
        warning = f"trusted_users names {', '.join(unknown)}, which is no user here: correct it, and restart netpold"
        log.warning("%s", warning)
    users = None if settings.untrusted_files == "read" else frozenset(found)
    return Trustees(users, settings.linked_trees, warning)


def _slashed(path: str) -> str:
    return path if path.endswith("/") else f"{path}/"


@contextmanager
def held(path: str, follow: bool) -> Iterator[int]:
    """A file descriptor of whatever stands at a path, that has no effect on it.  Raises OSError."""
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW))
    try:
        yield fd
    finally:
        os.close(fd)


def real_path(fd: int) -> str:
    """Where what is open is now, with no symlink on the way."""
    return os.readlink(f"/proc/self/fd/{fd}")  # noqa: PTH115


def is_read_only(path: Path) -> bool:
    """Whether the file system is mounted so that nobody writes through that path.  Raises OSError."""
    return bool(os.statvfs(path).f_flag & os.ST_RDONLY)

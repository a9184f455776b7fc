"""Whether git is at work in the directory of manifests.

git holds `index.lock` in its repository while it changes the work tree, and ends with renaming it to `index`.  So a
lock says that it is at work, and another `index` than before, that it has been since.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from netpold.host.scan import problem
from netpold.policy.model import Finding

LOCK_LIFE_S = 60  # an index.lock older than this was left behind by a git that died


@dataclass(frozen=True, slots=True)
class GitState:
    """`locked`: git is at work.  `indexes`: other ones than before say that it has been.  `stale`: about locks that a
    git which died left behind."""

    locked: bool = False
    indexes: tuple[tuple[int, int] | None, ...] = ()
    stale: tuple[Finding, ...] = ()


class GitRepositories:
    """The repositories of some `.git` directories and files."""

    def __init__(self, paths: Iterable[str] = ()) -> None:
        self._repositories = [each for path in sorted(paths) if (each := _repository(Path(path)))]

    def look(self) -> GitState:
        locked, stale = False, []
        for repository in self._repositories:
            lock = f"{repository}/index.lock"
            try:
                age = time.time() - os.stat(lock).st_mtime  # noqa: PTH116  on the way of every change
            except OSError:
                continue
            if abs(age) < LOCK_LIFE_S:  # one from the future is as old as the clock is wrong
                locked = True
            else:
                fault = "was left behind by a git that died"
                stale.append(problem(lock, "stale-git-lock", fault, "delete it", severity="warning"))
        # after the locks: a git that ends in between is seen one way or the other
        indexes = tuple([_stamp(f"{repository}/index") for repository in self._repositories])
        return GitState(locked, indexes, tuple(stale))


def _stamp(path: str) -> tuple[int, int] | None:
    try:
        status = os.stat(path)  # noqa: PTH116
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns


def _repository(git: Path) -> str | None:
    """A `.git` itself, or, in a linked work tree, where it says that its repository is (`gitdir: PATH`)."""
    try:
        if not git.is_file():
            return str(git)
        text = git.read_text(errors="replace").partition("gitdir:")[2].strip()
        return str(git.parent / text)
    except (OSError, ValueError):
        return None

"""Whether git is at work in the directory of manifests.

git holds `index.lock` in its repository while it changes the work tree, and ends with renaming it to `index`.  So a
lock says that it is at work, and another `index` than before, that it has been since.  What takes several steps (a
rebase, a revert of several commits, a merge, an autostash) has left other signs there until the last one is done.

A lock that git has open is not left behind, however old it is.  Else a sign that stays as it is for LOCK_LIFE_S counts
as left behind; that time is counted while this program runs, since clocks may be set, and machines be suspended.  Only
of a sign that is there at the first look its own time says how old it is.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from netpold.host.files import is_being_written
from netpold.host.scan import problem
from netpold.policy.model import Finding

LOCK_LIFE_S = 60  # a sign older than this was left behind by a git that died, or waits for a person
MOST_PAUSE_S = 1.0  # what a longer pause between two looks counts for

LOCK = "index.lock"
STEPS = (
    "rebase-merge",
    "rebase-apply",
    "sequencer",
    "MERGE_AUTOSTASH",
    "MERGE_HEAD",
    "CHERRY_PICK_HEAD",
    "REVERT_HEAD",
)


@dataclass(frozen=True, slots=True)
class GitState:
    """`locked`: git is at work.  `indexes`: other ones than before say that it has been.  `stale`: about signs that a
    git which died, or waits, left behind."""

    locked: bool = False
    indexes: tuple[tuple[int, int] | None, ...] = ()
    stale: tuple[Finding, ...] = ()


@dataclass(slots=True)
class _Sign:
    changed_ns: int
    age_s: float


class GitRepositories:
    """The repositories of some `.git` directories and files, and the signs that git is at work there."""

    def __init__(self, paths: Iterable[str] = ()) -> None:
        self._repositories: list[str] = []
        self._looked_into: set[str] = set()
        self._signs: dict[str, _Sign] = {}  # by path
        self._looked = time.monotonic()
        self.follow(paths)

    def follow(self, paths: Iterable[str]) -> None:
        """These are the `.git` now."""
        found = (_repository(Path(path)) for path in sorted(paths))
        self._repositories = list(dict.fromkeys(each for each in found if each))
        self._looked_into.intersection_update(self._repositories)

    def look(self) -> GitState:
        now = time.monotonic()
        passed_s, self._looked = min(now - self._looked, MOST_PAUSE_S), now
        locked, stale = False, []
        for repository in self._repositories:
            for name in (LOCK, *STEPS):
                path = f"{repository}/{name}"
                age_s = self._age_s(path, passed_s, repository in self._looked_into)
                if age_s is None:
                    continue
                if age_s < LOCK_LIFE_S or (name == LOCK and is_being_written(path)):
                    locked = True
                else:
                    stale.append(_left_behind(path, name))
            self._looked_into.add(repository)
        # after the signs: a git that ends in between is seen one way or the other
        indexes = tuple([_stamp(f"{repository}/index") for repository in self._repositories])
        return GitState(locked, indexes, tuple(stale))

    def _age_s(self, path: str, passed_s: float, is_new: bool) -> float | None:
        """For how long a sign has been as it is; None: it is not there.  `is_new`: if it was not seen before."""
        try:
            changed_ns = os.stat(path).st_mtime_ns  # noqa: PTH116  on the way of every change
        except OSError:
            self._signs.pop(path, None)
            return None
        sign = self._signs.get(path)
        if sign is None or sign.changed_ns != changed_ns:
            # one from the future is as old as the clock is wrong
            age_s = 0.0 if sign or is_new else abs(time.time() - changed_ns / 1e9)
            sign = self._signs[path] = _Sign(changed_ns, age_s)
        else:
            sign.age_s += passed_s
        return sign.age_s


def _left_behind(path: str, name: str) -> Finding:
    if name == LOCK:
        fault, cure = "was left behind by a git that died", "delete it"
    else:
        fault = "says that git is in the middle of something; what is there now is in force"
        cure = "end it (`git status` says how: --continue, --abort, commit), or delete it if there is no such git"
    return problem(path, "stale-git-lock", fault, cure, severity="warning")


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

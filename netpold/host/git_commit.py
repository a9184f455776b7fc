"""Which git commit a directory is a work tree of: HEAD, read as git would, and nothing else.

No git is run: a repository's configuration can name programs for git to run, and whoever may write manifests must not
get at more than manifests by that.  So whether files differ from the commit is not known here.  What is read are
regular files alone, and of them only names and hashes are given on.  See gitrepository-layout(5).
"""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path

MOST_BYTES = 16 << 20  # of packed-refs; a ref takes some 60

_HASH = re.compile("[0-9a-f]{40}(?:[0-9a-f]{24})?")
_DEPTH = 5  # of refs that are names of refs


@dataclass(frozen=True, slots=True)
class GitCommit:
    """`repository`: the top of the work tree; `commit`: a hash; `branch`: None where HEAD is detached, as git-sync and
    bisect leave it."""

    repository: str
    commit: str
    branch: str | None


def commit_of(directory: Path) -> GitCommit | None:
    """The commit that is checked out there, or above; None where that is no work tree, or can't be told."""
    try:
        top = next((each for each in _upwards(directory.resolve()) if (each / ".git").exists()), None)
        if top is None:
            return None
        git = _repository(top / ".git")
        name, value = "HEAD", _read(git / "HEAD")
        for _ in range(_DEPTH):
            if not value.startswith("ref: "):
                break
            name = value.removeprefix("ref: ").strip()
            value = _ref(git, name)
    except (OSError, ValueError, RuntimeError):  # RuntimeError: links in a circle
        return None
    if not _HASH.fullmatch(value.strip()):
        return None
    branch = name.removeprefix("refs/heads/") if name != "HEAD" else None
    return GitCommit(str(top), value.strip(), branch)


def _upwards(directory: Path) -> tuple[Path, ...]:
    return (directory, *directory.parents)


def _repository(git: Path) -> Path:
    """`.git` itself, or where it says that its repository is, in a linked work tree or a submodule."""
    if git.is_dir():
        return git
    return git.parent / _read(git).removeprefix("gitdir: ").strip()


def _ref(git: Path, name: str) -> str:
    """What a ref says: in a file of its own, or among those that are packed; '' where there is none yet.  Refs are in
    the repository of the main work tree."""
    if ".." in name.split("/") or name.startswith("/"):
        return ""
    common = git
    if (git / "commondir").exists():
        common = git / _read(git / "commondir").strip()
    for place in (git, common):
        if (place / name).exists():
            return _read(place / name)
    if (common / "packed-refs").exists():
        for line in _read(common / "packed-refs").splitlines():
            value, _, ref = line.partition(" ")
            if ref == name:
                return value
    return ""


def _read(path: Path) -> str:
    """The text of a regular file.  Raises OSError, and ValueError where it is something else."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise ValueError("not a regular file")
        return os.read(fd, MOST_BYTES).decode(errors="replace")
    finally:
        os.close(fd)

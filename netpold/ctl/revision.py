"""Manifests as a revision of a git repository has them: its files are written to a directory of their own.

Objects are taken out of the repository as they are (`git archive` would leave out what attributes say), and the work
tree is not touched.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from netpold.ctl.failure import Exit, Failure
from netpold.ctl.here import here
from netpold.host.kernel.backend import KernelError
from netpold.host.run import run

_MANIFESTS = (".yaml", ".yml", ".json")
_SYMLINK = "120000"
_MOST_STEPS = 1000  # from a symlink to where it leads; one may lead to itself


@dataclass(frozen=True, slots=True)
class Revision:
    """A commit, and a path in its tree ('' for all of it) without a slash at its end.  `repository`: the top of its
    work tree, or where there is none (a server's, and its hooks), the repository itself."""

    repository: Path
    commit: str
    path: str


def revision(text: str, beside: Path | str | None) -> Revision:
    """What `REV` or `REV:PATH` means.

    PATH is as git takes it: from the root of the repository, with `./` from here.  Without it, it is `beside`, a PATH
    (text) or a directory in its repository, or else the current directory; where that has no work tree, all there is.
    Raises Failure.
    """
    name, colon, path = text.partition(":")
    if not colon and isinstance(beside, str):
        colon, path = ":", beside
    place = beside if isinstance(beside, Path) and not colon else here()
    at = place if place.is_dir() else place.parent
    has_tree = _git(at, "rev-parse", "--is-inside-work-tree").strip() == "true"
    root = Path(_git(at, "rev-parse", "--show-toplevel" if has_tree else "--absolute-git-dir").rstrip("\n"))
    commit = _git(at, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}").strip()
    if not colon:
        path = os.path.relpath(place.resolve(), root.resolve()) if has_tree else ""
    elif path.startswith(("./", "../")) or path == ".":
        path = os.path.relpath(((here() if has_tree else root) / path).resolve(), root.resolve())
    path = os.path.normpath(path or ".")
    if path.startswith(("../", "/")) or path == "..":
        raise Failure(f"{path} is not inside the repository {root}", "name a path in it: git:REV:PATH", Exit.USAGE)
    return Revision(root, commit, "" if path == "." else path)


def write(found: Revision, directory: Path) -> Path:
    """Write the manifests of a revision, and what its symlinks lead to, below an empty directory; returns where its
    path is now.  Raises Failure."""
    tree = dict(_blobs(found.repository, found.commit, found.path))
    texts = _contents({path: blob for path, blob in tree.items() if blob.mode == _SYMLINK})
    links = {path: os.fsdecode(text) for path, text in texts}
    taken = _taken(found, tree, links)
    if not (taken.whole or taken.links) and found.path:
        hint = f"see what is there: `git ls-tree {found.commit[:12]}`"
        raise Failure(f"there are no manifests at {found.path} in {found.commit[:12]}", hint, Exit.USAGE)
    for path, content in _contents({path: tree[path] for path in sorted(taken.whole)}):
        _place(directory, path).write_bytes(content)
    for path in taken.empty:
        _place(directory, path).touch()
    for path in taken.directories:
        (directory / path).mkdir(parents=True, exist_ok=True)
    for path in taken.links:  # last, so that nothing is written through one
        with suppress(FileExistsError):  # a tree that names something twice
            _place(directory, path).symlink_to(links[path])
    return directory / found.path


def _place(directory: Path, path: str) -> Path:
    target = directory / path
    target.parent.mkdir(parents=True, exist_ok=True)
    return target


class _Blob(NamedTuple):
    """A file of a tree, and the repository that has it: a submodule's is another one."""

    mode: str
    name: str
    repository: Path


def _blobs(repository: Path, commit: str, wanted: str, below: str = "") -> Iterator[tuple[str, _Blob]]:
    """All files of a commit by path, and of its submodules those that the path `wanted` needs."""
    for line in _git(repository, "ls-tree", "-r", "-z", "--full-tree", commit).split("\0"):
        about, _, path = line.partition("\t")
        if {"..", ".", "", ".git"} & set(path.split("/")):
            continue
        mode, kind, name = about.split(" ")[:3]
        whole = below + path
        if kind == "blob":
            yield whole, _Blob(mode, name, repository)
        elif kind == "commit" and (_is_below(whole, wanted) or _is_below(wanted, whole)):
            yield from _blobs(_submodule(repository, path, name), name, wanted, f"{whole}/")


def _is_below(path: str, directory: str) -> bool:
    return not directory or f"{path}/".startswith(f"{directory}/")


def _submodule(repository: Path, path: str, commit: str) -> Path:
    """The repository of a submodule, which has to be checked out.  Raises Failure."""
    place = repository / path
    hint = f"fetch it: `git -C {shlex.quote(str(repository))} submodule update --init {shlex.quote(path)}`"
    if not (repository / ".git").exists():
        hint = "name a path without it, git:REV:PATH, or compare in a work tree"
    if not (place / ".git").exists():  # git would take the repository around it instead
        raise Failure(f"the submodule {path} is not checked out in {repository}", hint, Exit.USAGE)
    try:
        run(["git", "-C", str(place), "cat-file", "-e", f"{commit}^{{commit}}"])
    except KernelError as error:
        raise Failure(f"the submodule {path} has no commit {commit[:12]} here", hint, Exit.USAGE) from error
    return place


@dataclass(frozen=True, slots=True)
class _Taken:
    """What is written: files as they are, symlinks, and what others lead to and nobody reads."""

    whole: set[str]
    links: set[str]
    empty: set[str]
    directories: set[str]


def _taken(found: Revision, tree: Mapping[str, _Blob], links: Mapping[str, str]) -> _Taken:
    """Manifests and symlinks at the revision's path, and all that these symlinks lead to."""
    taken = _Taken(set(), set(), set(), set())
    todo = [found.path]
    while todo:
        place = todo.pop()
        inside = [each for each in tree if not place or each == place or each.startswith(f"{place}/")]
        if inside and place not in tree:
            taken.directories.add(place)
        for path in inside:
            if path in links:
                passed, end = _followed(path, links)
                taken.links.update(passed)
                if end is None:
                    continue
                if end in tree:
                    (taken.whole if path.endswith(_MANIFESTS) else taken.empty).add(end)
                elif end not in taken.directories:
                    todo.append(end)
            elif path.endswith(_MANIFESTS):
                taken.whole.add(path)
    return taken


def _followed(link: str, links: Mapping[str, str]) -> tuple[set[str], str | None]:
    """The symlinks on the way from a path, and where it ends; None: not in the tree."""
    passed: set[str] = set()
    done: list[str] = []
    todo = link.split("/")[::-1]
    for _ in range(_MOST_STEPS):
        if not todo:
            return passed, "/".join(done)
        part = todo.pop()
        if part == ".." and not done:
            break
        if part == "..":
            done.pop()
        elif part not in ("", "."):
            done.append(part)
            path = "/".join(done)
            if path in links:
                passed.add(path)
                if links[path].startswith("/"):
                    break
                done.pop()
                todo += links[path].split("/")[::-1]
    return passed, None


def _contents(blobs: Mapping[str, _Blob]) -> Iterator[tuple[str, bytes]]:
    """What these files hold, by path."""
    for repository in dict.fromkeys(blob.repository for blob in blobs.values()):
        here = {path: blob.name for path, blob in blobs.items() if blob.repository == repository}
        answer = _git(repository, "cat-file", "--batch", stdin="".join(f"{name}\n" for name in here.values()))
        octets, at = answer.encode(errors="surrogateescape"), 0
        for path in here:
            end = octets.index(b"\n", at)
            size = int(octets[at:end].rsplit(b" ", 1)[1])
            yield path, octets[end + 1 : end + 1 + size]
            at = end + 2 + size


def _git(where: Path, *words: str, stdin: str = "") -> str:
    try:
        return run(["git", "-C", str(where), *words], stdin)
    except KernelError as error:
        named = words[-1].removesuffix("^{commit}")
        if "--verify" in words:
            raise Failure(f"git knows no revision {named!r}", "`git log` shows which there are", Exit.USAGE) from error
        hint = "give a directory, or run netpoldctl inside of a git repository"
        raise Failure(f"{where} can't be asked for a revision: {error}", hint, Exit.USAGE) from error

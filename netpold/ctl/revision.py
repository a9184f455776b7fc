"""Manifests as a revision of a git repository has them: its files are written to a directory of their own.

Objects are taken out of the repository as they are (`git archive` would leave out what attributes say), and the work
tree is not touched.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from netpold.ctl.failure import Exit, Failure
from netpold.host.kernel.backend import KernelError
from netpold.host.run import run

_MANIFESTS = (".yaml", ".yml", ".json")
_SYMLINK = "120000"
_MOST_STEPS = 1000  # from a symlink to where it leads; one may lead to itself


@dataclass(frozen=True, slots=True)
class Revision:
    """A commit, and a path in its tree ('' for all of it) without a slash at its end."""

    repository: Path
    commit: str
    path: str


def revision(text: str, beside: Path | None) -> Revision:
    """What `REV` or `REV:PATH` means.

    PATH is as git takes it: from the root of the repository, with `./` from here.  Without it, it is the path of
    `beside` (or else of the current directory) in its repository.  Raises Failure.
    """
    name, colon, path = text.partition(":")
    place = beside if beside is not None and not colon else Path.cwd()
    at = place if place.is_dir() else place.parent
    root = Path(_git(at, "rev-parse", "--show-toplevel").rstrip("\n"))
    commit = _git(at, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}").strip()
    if not colon:
        path = os.path.relpath(place.resolve(), root.resolve())
    elif path.startswith(("./", "../")) or path == ".":
        path = os.path.relpath((Path.cwd() / path).resolve(), root.resolve())
    path = os.path.normpath(path or ".")
    if path.startswith(("../", "/")) or path == "..":
        raise Failure(f"{path} is not inside the repository {root}", "name a path in it: git:REV:PATH", Exit.USAGE)
    return Revision(root, commit, "" if path == "." else path)


def write(found: Revision, directory: Path) -> Path:
    """Write the manifests of a revision, and what its symlinks lead to, below an empty directory; returns where its
    path is now.  Raises Failure."""
    tree = _tree(found)
    paths = [path for path, (mode, _) in tree.items() if mode == _SYMLINK]
    texts = _contents(found.repository, [tree[path][1] for path in paths])
    links = {path: os.fsdecode(text) for path, text in zip(paths, texts, strict=True)}
    taken = _taken(found, tree, links)
    if not (taken.whole or taken.links) and found.path:
        hint = f"see what is there: `git ls-tree {found.commit[:12]}`"
        raise Failure(f"there are no manifests at {found.path} in {found.commit[:12]}", hint, Exit.USAGE)
    whole = sorted(taken.whole)
    for path, content in zip(whole, _contents(found.repository, [tree[path][1] for path in whole]), strict=True):
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


def _tree(found: Revision) -> dict[str, tuple[str, str]]:
    """All files of a revision: mode and object, by path."""
    tree: dict[str, tuple[str, str]] = {}
    for line in _git(found.repository, "ls-tree", "-r", "-z", "--full-tree", found.commit).split("\0"):
        about, _, path = line.partition("\t")
        is_safe = not {"..", ".", "", ".git"} & set(path.split("/"))
        if is_safe and about.split(" ")[1] == "blob":
            mode, _, blob = about.split(" ")[:3]
            tree[path] = mode, blob
    return tree


@dataclass(frozen=True, slots=True)
class _Taken:
    """What is written: files as they are, symlinks, and what others lead to and nobody reads."""

    whole: set[str]
    links: set[str]
    empty: set[str]
    directories: set[str]


def _taken(found: Revision, tree: Mapping[str, tuple[str, str]], links: Mapping[str, str]) -> _Taken:
    """Manifests and symlinks at the revision's path, and all that these symlinks lead to."""
    taken = _Taken(set(), set(), set(), set())
    todo = [found.path]
    while todo:
        place = todo.pop()
        inside = [each for each in tree if not place or each == place or each.startswith(f"{place}/")]
        if inside and place not in links:
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


def _contents(repository: Path, blobs: list[str]) -> Iterator[bytes]:
    if not blobs:
        return
    answer = _git(repository, "cat-file", "--batch", stdin="".join(f"{blob}\n" for blob in blobs))
    octets, at = answer.encode(errors="surrogateescape"), 0
    for _ in blobs:
        end = octets.index(b"\n", at)
        size = int(octets[at:end].rsplit(b" ", 1)[1])
        yield octets[end + 1 : end + 1 + size]
        at = end + 2 + size


def _git(where: Path, *words: str, stdin: str = "") -> str:
    try:
        return run(["git", "-C", str(where), *words], stdin)
    except KernelError as error:
        named = words[-1].removesuffix("^{commit}")
        if "--verify" in words:
            raise Failure(f"git knows no revision {named!r}", "`git log` shows which there are", Exit.USAGE) from error
        hint = "give a directory, or run netpoldctl inside of a git work tree"
        raise Failure(f"{where} can't be asked for a revision: {error}", hint, Exit.USAGE) from error

"""Manifests as a revision of a git repository has them: its files are written to a directory of their own.

Objects are taken out of the repository as they are (`git archive` would leave out what attributes say), and the work
tree is not touched.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from netpold.ctl.failure import Exit, Failure
from netpold.host.kernel.backend import KernelError
from netpold.host.run import run

_MANIFESTS = (".yaml", ".yml", ".json")
_SYMLINK = "120000"


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
    """Write the manifests of a revision below an empty directory; returns where its path is now.  Raises Failure."""
    blobs: list[tuple[str, str, str]] = []  # mode, object, path
    for line in _git(found.repository, "ls-tree", "-r", "-z", "--full-tree", found.commit).split("\0"):
        about, _, path = line.partition("\t")
        if path and _is_wanted(path, about, found.path):
            mode, _, blob = about.split(" ")[:3]
            blobs.append((mode, blob, path))
    if not blobs and found.path:
        hint = f"see what is there: `git ls-tree {found.commit[:12]}`"
        raise Failure(f"there are no manifests at {found.path} in {found.commit[:12]}", hint, Exit.USAGE)
    contents = _contents(found.repository, [blob for _, blob, _ in blobs])
    for (mode, _, path), content in zip(blobs, contents, strict=True):
        target = directory / path
        target.parent.mkdir(parents=True, exist_ok=True)
        if mode == _SYMLINK:
            os.symlink(content, os.fsencode(target))  # noqa: PTH211  the text may be no UTF-8
        else:
            target.write_bytes(content)
    return directory / found.path


def _is_wanted(path: str, about: str, inside: str) -> bool:
    if inside and path != inside and not path.startswith(f"{inside}/"):
        return False
    is_safe = not {"..", ".", "", ".git"} & set(path.split("/"))
    kind = about.split(" ")
    return is_safe and (path.endswith(_MANIFESTS) or kind[0] == _SYMLINK) and kind[1] == "blob"


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

"""From paths to what the files there say: read, cut into units, and only the units parsed that nobody knows yet.

Files are read as the parsers come to need them, and forgotten when they are cut up, so that no more than a few are in
memory.  Results come in any order.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

from netpold.host.files import Moving, read_file
from netpold.host.parse import Job, parse_all
from netpold.host.scan import Fingerprint
from netpold.policy.chunks import LIMITS
from netpold.policy.documents import Content, Outline, Part, content, outline, reused, units

ANY_SIZE = replace(LIMITS, file=sys.maxsize)  # whoever looked at the file has looked at its size


class Request(NamedTuple):
    """A file to load: what it has to be, and what it said before, as far as that is known.  `is_sure`: its stamps say
    how old it is."""

    path: str
    fingerprint: Fingerprint
    before: Content | None
    is_sure: bool = True


@dataclass(slots=True)
class _Unfinished:
    """A file some units of which are being parsed."""

    outline: Outline
    parts: list[Part | None]
    missing: int


def load(
    requests: Iterable[Request],
    recall: Callable[[str], Content | None] = lambda path: None,
    parsed: Callable[[int], object] = lambda octets: None,
) -> Iterator[tuple[str, Content | OSError | Moving]]:
    """For each request, by path, what the file says, or why it can't be read.  The same Content as before where the
    bytes are the same.  `recall` is asked what a file said of which nothing is known; `parsed` is told of so many more
    bytes."""
    unfinished: dict[str, _Unfinished] = {}
    finished: list[tuple[str, Content | OSError | Moving]] = []

    def jobs() -> Iterator[Job]:
        for path, fingerprint, before, is_sure in requests:
            try:
                found = units(read_file(path, fingerprint, is_sure), ANY_SIZE)
            except (FileNotFoundError, Moving):
                finished.append((path, Moving()))
                continue
            except OSError as error:
                finished.append((path, error))
                continue
            new = outline(found)
            before = before or recall(path)
            if before and before.outline == new:
                finished.append((path, before))
                continue
            parts: list[Part | None] = reused(new, before) if before else [None] * len(found)
            missing = parts.count(None)
            if not missing:
                finished.append((path, content(new, [part for part in parts if part])))
                continue
            unfinished[path] = _Unfinished(new, parts, missing)
            for number, unit in enumerate(found):
                if parts[number] is None:
                    yield Job(path, number, unit)

    for job, part in parse_all(jobs(), ANY_SIZE):
        parsed(len(job.unit.data))
        file = unfinished[job.file]
        file.parts[job.number] = part
        file.missing -= 1
        if not file.missing:
            del unfinished[job.file]
            finished.append((job.file, content(file.outline, [part for part in file.parts if part])))
        yield from finished
        finished.clear()
    yield from finished

"""What file events say: where to look.  What is acted on is always a fresh look."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, auto


class Happened(Enum):
    """The last thing that happened at a path."""

    MOVED_IN = auto()  # a whole file was renamed into place
    WRITTEN = auto()  # it is being written in place, or was made
    GONE = auto()  # deleted, or moved away
    RENAMED = (
        auto()
    )  # moved away, to another name in the directory: the file there is whole, and this one is not missed


@dataclass(frozen=True, slots=True)
class Hints:
    """Where to look.

    `paths`: single names in the tree.  `everything`: look through the whole tree.  `swapped`: do so, since a directory
    or a symlink was renamed into place, so that what is found was whole before (of what is mounted nobody knows that).
    `drafts`: by path, when (time.monotonic()) something was last heard of what a program is about to rename into place,
    or of the backup of what it is about to write anew; they change nothing.
    """

    paths: Mapping[str, Happened]
    everything: bool = False
    swapped: bool = False
    drafts: Mapping[str, float] = field(default_factory=dict, compare=False)

    def __bool__(self) -> bool:
        return bool(self.paths) or self.everything or self.swapped


NOTHING_CHANGED = Hints({})
EVERYTHING_CHANGED = Hints({}, everything=True)

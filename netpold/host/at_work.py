"""Whether a program is in the middle of changing several files, as far as that can be seen.

Programs that rename files into place write each one under a name of its own first.  Where such a draft was heard of a
moment ago, or stands there and was touched lately, there may be more to come: what was renamed so far is half a change.

The kubelet swaps `..data` of a ConfigMap volume first, and then makes links for the files that are new in it and
removes those of the files that are not: until that is done, new files can't be seen.

Some editors rename a file to a backup, and write it anew; for a moment it is not there.

git says it by a lock (gitlock.py); a file that is written in place by being open (files.py).
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Collection, Iterable, Iterator, Mapping

from netpold.host.scan import is_passed_over

QUIET_S = 0.25  # how soon the next draft comes, if there is one; rsync --bwlimit pauses for 0.1 s and more
DRAFT_LIFE_S = 10.0  # a draft that was not touched for longer was left behind
VOLUME_S = 1.0  # how long to wait for the links of a volume

_DRAFT = re.compile(
    r"""\..+\.(ya?ml|json)\.[A-Za-z0-9]{6}  # rsync, and mktemp where it is used likewise
    | \.~tmp~  # rsync --delay-updates: the directory of what is complete
    | \.ansible_tmp.*
    | sed[A-Za-z0-9]{6}  # sed -i
    | .+\.(ya?ml|json)\.dpkg-(new|tmp)
    | .+\.(ya?ml|json)\.o[A-Za-z0-9]{6}  # patch
    """,
    re.VERBOSE,
)


def is_draft(name: str) -> bool:
    """Whether a known program gives such a name (without the directory) to what it is about to rename into place."""
    return _DRAFT.fullmatch(name) is not None


class AtWork:
    """What was seen of programs at work.  Times are time.monotonic()."""

    def __init__(self) -> None:
        self._drafts: dict[str, float] = {}  # by path, when last heard of
        self._volumes: list[str] = []

    def hear(self, drafts: Mapping[str, float]) -> None:
        """Of drafts and backups something was heard, at these times."""
        self._drafts.update(drafts)

    def walked(self, directories: Iterable[str], passed_over: Iterable[str]) -> None:
        """A walk has found these directories, and these names that are no manifests."""
        for path in passed_over:
            if is_draft(os.path.basename(path)):  # noqa: PTH119
                self._drafts.setdefault(path, 0.0)
        self._volumes = [each for each in directories if os.path.islink(f"{each}/..data")]  # noqa: PTH114

    def postpone(self, seconds: float) -> None:
        """Nobody ran for so long."""
        self._drafts = {path: heard + seconds for path, heard in self._drafts.items()}

    def look(self, now: float, changed: Collection[str], since: float, is_sure: bool = True) -> bool:
        """Whether it may be that one of the changes at these paths, which began at `since`, is half done.  `is_sure`:
        the stamps of files say how old they are."""
        self._drafts = {path: heard for path, heard in self._drafts.items() if _is_fresh(path, now - heard, is_sure)}
        return bool(self._drafts) or (now < since + VOLUME_S and any(map(_is_unfinished, self._volumes_of(changed))))

    def _volumes_of(self, paths: Collection[str]) -> Iterator[str]:
        for volume in self._volumes:
            if any(path.startswith(f"{volume}/") for path in paths):
                yield volume


def _is_fresh(draft: str, heard_s: float, is_sure: bool) -> bool:
    """Whether a draft, or a backup, of which something was heard so long ago stands for more to come."""
    if heard_s < QUIET_S:
        return True
    try:
        age_s = abs(time.time() - os.lstat(draft).st_ctime)
        return is_draft(os.path.basename(draft)) and (age_s < DRAFT_LIFE_S or not is_sure)  # noqa: PTH119
    except OSError:
        return False


def _is_unfinished(volume: str) -> bool:
    """Whether the links in a volume are others than its data asks for."""
    try:
        data = {name for name in os.listdir(f"{volume}/..data") if not is_passed_over(name)}  # noqa: PTH208
        shown = {name for name in os.listdir(volume) if _leads_into_data(f"{volume}/{name}")}  # noqa: PTH208
    except OSError:
        return False
    return data != shown


def _leads_into_data(path: str) -> bool:
    try:
        return os.readlink(path).startswith("..data/")  # noqa: PTH115
    except OSError:
        return False

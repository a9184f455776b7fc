"""What is mounted where, and whether that changed on the way to some paths.

Where a file system is mounted over a directory or a file, or taken away again, other files stand there and inotify(7)
says nothing.  /proc/self/mountinfo does: poll(2) gives POLLPRI on it after each change (proc(5)).
"""

from __future__ import annotations

import os
import re
from collections.abc import Set
from pathlib import Path, PurePosixPath

_ESCAPE = re.compile(rb"\\([0-7]{3})")  # blank, tab, newline and backslash
_IDENTITY = 5  # fields of a line that say which mount it is, and of what


class Mounts:
    """The mounts of this process' mount namespace.  `fileno`: to poll for POLLPRI; -1 where /proc is not there."""

    def __init__(self) -> None:
        try:
            self._fd = os.open("/proc/self/mountinfo", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            self._fd = -1
        self._known = self._read()

    def fileno(self) -> int:
        return self._fd

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)

    def changed(self, paths: Set[str]) -> bool:
        """Whether there are other mounts than before on the way to one of these real paths, at it, or below it."""
        before, self._known = self._known, self._read()
        points = {_point(line) for line in before ^ self._known}
        if not points:
            return False
        above = {str(parent) for path in paths for parent in PurePosixPath(path).parents} | paths
        return any(
            point in above or any(str(parent) in paths for parent in PurePosixPath(point).parents) for point in points
        )

    def _read(self) -> frozenset[tuple[bytes, ...]]:
        if self._fd < 0:
            return frozenset()
        os.lseek(self._fd, 0, os.SEEK_SET)
        data = b""
        while part := os.read(self._fd, 1 << 16):
            data += part
        return frozenset(tuple(line.split(b" ", _IDENTITY)[:_IDENTITY]) for line in data.splitlines())


def mount_points() -> frozenset[str]:
    """The real paths at which something is mounted; none where /proc is not there."""
    try:
        lines = Path("/proc/self/mountinfo").read_bytes().splitlines()
    except OSError:
        return frozenset()
    return frozenset(_point(tuple(line.split(b" ", _IDENTITY)[:_IDENTITY])) for line in lines)


def _point(line: tuple[bytes, ...]) -> str:
    """The mount point."""
    return os.fsdecode(_ESCAPE.sub(lambda found: bytes([int(found[1], 8)]), line[-1]))

"""File events: they wake the daemon up, and say nothing else.

Each directory that a scan listed gets one inotify(7) watch, in one inotify instance; what happened is looked up by the
next scan.  Watches are set again after every change of the tree, by path: for a path that still leads to the same
directory that changes nothing, so no book-keeping can go stale.  Setting a new watch is followed by one more wake-up,
for what happened in that directory before it was watched.

A path may change its meaning elsewhere: a symlink on the way to it is swapped, or the watched directory itself is
removed and made again.  So the directories of those names are watched too, for these names only.

watchdog's observer is not used, only its binding of the system calls: the observer does not see into a directory that
is moved in, and drops the news that the kernel's queue overflowed.
"""

from __future__ import annotations

import ctypes
import errno
import os
import select
import struct
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from watchdog.observers.inotify_c import InotifyConstants as Inotify
from watchdog.observers.inotify_c import inotify_add_watch, inotify_init, inotify_rm_watch

from netpold.host.scan import Snapshot

POLL_S = 2.0  # how often to wake up without inotify
MAX_LINKS = 40  # as many symlinks as the kernel follows on one path

# Not among them: open, close without writing, and read, which our own scans and reads cause.
MASK = (
    Inotify.IN_MODIFY
    | Inotify.IN_ATTRIB
    | Inotify.IN_CLOSE_WRITE
    | Inotify.IN_MOVE
    | Inotify.IN_CREATE
    | Inotify.IN_DELETE
    | Inotify.IN_DELETE_SELF
    | Inotify.IN_MOVE_SELF
    | Inotify.IN_ONLYDIR
)
_LOST = Inotify.IN_Q_OVERFLOW | Inotify.IN_IGNORED  # events, or the directory itself
_TREE_CHANGED = _LOST | Inotify.IN_ISDIR | Inotify.IN_MOVE_SELF | Inotify.IN_CREATE | Inotify.IN_MOVED_TO
_EVENT = struct.Struct("iIII")


class Watcher:
    """Calls `wake` (from a thread of its own, often) when something in the directory may have changed.

    `warning` says so when inotify can't be had; then `wake` is called every POLL_S seconds.
    """

    def __init__(self, directory: Path, wake: Callable[[], None]) -> None:
        self.warning: str | None = None
        self._directory = directory
        self._wake = wake
        self._lock = threading.Lock()
        self._everything: set[int] = set()  # watches of directories of the tree
        self._names: dict[int, set[bytes]] = {}  # watches of directories in which only some names matter
        self._tree_changed = True
        self._followed: tuple[frozenset[str], frozenset[str]] | None = None
        self._stop_reader, self._stop_writer = os.pipe()
        self._inotify = int(inotify_init())
        if self._inotify < 0:
            self._give_up(ctypes.get_errno())
        else:
            os.set_inheritable(self._inotify, False)
        self._thread = threading.Thread(target=self._run, name="netpold-watch", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """End the thread, and give back what the kernel holds for it."""
        os.write(self._stop_writer, b"x")
        self._thread.join()
        for fd in (self._stop_reader, self._stop_writer, self._inotify):
            if fd >= 0:
                os.close(fd)

    def follow(self, snapshot: Snapshot | None) -> None:
        """Watch what a scan found; None: there is no directory, watch for it to come.  Call it after every scan."""
        wanted = (snapshot.directories, snapshot.links) if snapshot else (frozenset[str](), frozenset[str]())
        with self._lock:
            if self.warning or (wanted == self._followed and not self._tree_changed):
                return
            self._tree_changed = False
            self._followed = wanted
            added = self._set_watches(*wanted)
        if added:
            self._wake()

    def _set_watches(self, directories: Iterable[str], links: Iterable[str]) -> bool:
        """Set all watches, and take back those not needed any more; whether there is a new one."""
        before = self._everything | self._names.keys()
        self._everything = {self._watch(path) for path in directories}
        self._names = {}
        for start in (str(self._directory), *links):
            for step in hops(os.path.abspath(start)):  # noqa: PTH100  on text: there may be thousands of links
                parent, name = os.path.split(step)
                self._names.setdefault(self._watch(parent), set()).add(os.fsencode(name))
        now = self._everything | self._names.keys()
        for watch in before - now - {-1}:
            inotify_rm_watch(self._inotify, watch)
        return not now <= before

    def _watch(self, path: str) -> int:
        """Watch one directory, or go on watching it; -1 when it is not there any more."""
        watch = int(inotify_add_watch(self._inotify, os.fsencode(path), MASK))
        if watch < 0 and ctypes.get_errno() in (errno.ENOSPC, errno.ENOMEM):
            self._give_up(ctypes.get_errno())
        return watch

    def _give_up(self, error: int) -> None:
        limit = "max_user_instances" if error == errno.EMFILE else "max_user_watches"
        self.warning = (
            f"file events can't be had ({os.strerror(error)}), so the manifests are looked through every "
            f"{POLL_S:g} seconds; raise the sysctl fs.inotify.{limit} and restart netpold"
        )

    def _run(self) -> None:
        poll = select.poll()
        poll.register(self._stop_reader, select.POLLIN)
        if self._inotify >= 0:
            poll.register(self._inotify, select.POLLIN)
        while True:
            ready = {fd for fd, _ in poll.poll(POLL_S * 1000)}
            if self._stop_reader in ready:
                return
            if self._inotify in ready:
                relevant = self._is_relevant(os.read(self._inotify, 1 << 16))
            else:
                relevant = self.warning is not None
            if relevant:
                self._wake()

    def _is_relevant(self, events: bytes) -> bool:
        """Whether any of these events is about the manifests."""
        relevant = False
        at = 0
        with self._lock:
            while at < len(events):
                watch, mask, _, length = _EVENT.unpack_from(events, at)
                at += _EVENT.size
                name = events[at : at + length].rstrip(b"\0")
                at += length
                if watch in self._everything or name in self._names.get(watch, ()) or mask & _LOST:
                    relevant = True
                    if mask & _TREE_CHANGED:
                        self._tree_changed = True
        return relevant


def hops(path: str) -> Iterator[str]:
    """The names that decide where an absolute path leads: each symlink on the way, and the end of the way, or, where
    it breaks off, the name that is missing there.  Each is given with the real path of its directory."""
    at, rest, links = "/", path.split("/")[::-1], 0
    while rest:
        name = rest.pop()
        if name in ("", "."):
            continue
        if name == "..":
            at = os.path.dirname(at)  # noqa: PTH120
            continue
        step = os.path.join(at, name)  # noqa: PTH118
        try:
            target = os.readlink(step)  # noqa: PTH115
        except OSError:
            if not any(rest) or not os.path.lexists(step):
                yield step
                return
            at = step
            continue
        yield step
        links += 1
        if links == MAX_LINKS:
            return
        rest.extend(target.split("/")[::-1])
        if target.startswith("/"):
            at = "/"

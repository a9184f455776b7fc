"""File events: they say where to look, and wake the daemon up.

Each directory of the tree gets one inotify(7) watch, in one inotify instance.  A walk sets it before it lists the
directory (`enter`), so that nothing happens unseen between the two; after the walk all watches are set again, by path:
for a path that still leads to the same directory that changes nothing, so no book-keeping can go stale.  Where a watch
is new then, the tree has to be looked through once more.

A path may change its meaning elsewhere: a symlink on the way to it is swapped, or the watched directory itself is
removed and made again.  So the directories of those names are watched too, for these names only.

Whatever is not about one manifest (directories, symlinks, events that were lost) asks for a whole walk.

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
from collections.abc import Callable, Iterator
from pathlib import Path

from watchdog.observers.inotify_c import InotifyConstants as Inotify
from watchdog.observers.inotify_c import inotify_add_watch, inotify_init, inotify_rm_watch

from netpold.host.hints import NOTHING_CHANGED, Happened, Hints
from netpold.host.scan import Tree, is_manifest, is_passed_over

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
_GONE = Inotify.IN_DELETE | Inotify.IN_MOVED_FROM
_WRITTEN = Inotify.IN_CREATE | Inotify.IN_MODIFY | Inotify.IN_CLOSE_WRITE
_NOWHERE = Tree(frozenset(), frozenset())
_EVENT = struct.Struct("iIII")


class Watcher:
    """Follows a directory of manifests (or one file), in a thread of its own.

    Calls `wake` from that thread, often, when there is something to `take`.
    `warning` says so when inotify can't be had; then everything may have changed every POLL_S seconds.
    """

    def __init__(self, directory: Path, wake: Callable[[], None]) -> None:
        self.warning: str | None = None
        self._directory = directory
        self._wake = wake
        self._lock = threading.Lock()
        self._tree: dict[int, str] = {}  # directories of the tree by their watches
        self._names: dict[int, set[bytes]] = {}  # watches of directories in which only some names matter
        self._happened: dict[str, Happened] = {}
        self._everything = self._swapped = False
        self._moved_from: tuple[int, str] | None = None  # the last one, to find out where to
        self._stop_reader, self._stop_writer = os.pipe()
        self._inotify = int(inotify_init())
        if self._inotify < 0:
            self._give_up(ctypes.get_errno())
        else:
            os.set_inheritable(self._inotify, False)
        self._thread = threading.Thread(target=self._run, name="netpold-watch", daemon=True)

    def start(self) -> None:
        with self._lock:
            self._set_watches(_NOWHERE)
        self._thread.start()

    def close(self) -> None:
        """End the thread, and give back what the kernel holds for it."""
        os.write(self._stop_writer, b"x")
        self._thread.join()
        for fd in (self._stop_reader, self._stop_writer, self._inotify):
            if fd >= 0:
                os.close(fd)

    def take(self) -> Hints:
        """What happened since the last take."""
        with self._lock:
            if not self._happened and not self._everything and not self._swapped:
                return NOTHING_CHANGED
            hints = Hints(self._happened, self._everything, self._swapped)
            self._happened, self._everything, self._swapped = {}, False, False
        return hints

    def enter(self, path: str) -> None:
        """Watch a directory that is about to be listed."""
        with self._lock:
            if not self.warning:
                self._tree[self._watch(path)] = path

    def follow(self, tree: Tree | None) -> None:
        """Watch what a walk found; None: there is no directory, watch for it to come.  Call it after every walk."""
        with self._lock:
            if self.warning:
                return
            added = self._set_watches(tree or _NOWHERE)
            self._everything |= added
        if added:
            self._wake()

    def _set_watches(self, tree: Tree) -> bool:
        """Set all watches, and take back those not needed any more; whether there is a new one."""
        before = self._tree.keys() | self._names.keys()
        self._tree = {self._watch(path): path for path in tree.directories}
        self._names = {}
        for start in (str(self._directory), *tree.links):
            for step in hops(os.path.abspath(start)):  # noqa: PTH100  on text: there may be thousands of links
                parent, name = os.path.split(step)
                self._names.setdefault(self._watch(parent), set()).add(os.fsencode(name))
        now = self._tree.keys() | self._names.keys()
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
                if self._note(os.read(self._inotify, 1 << 16)):
                    self._wake()
            elif self.warning is not None:
                with self._lock:
                    self._everything = True
                self._wake()

    def _note(self, events: bytes) -> bool:
        """Take down what these events say about the manifests; whether they say anything."""
        at = 0
        with self._lock:
            while at < len(events):
                watch, mask, cookie, length = _EVENT.unpack_from(events, at)
                at += _EVENT.size
                name = events[at : at + length].rstrip(b"\0")
                at += length
                if mask & Inotify.IN_Q_OVERFLOW or (mask & Inotify.IN_IGNORED and watch in self._names):
                    self._everything = True
                elif name in self._names.get(watch, ()):
                    self._note_tree(mask)
                if watch in self._tree:
                    self._note_name(self._tree[watch], os.fsdecode(name), mask, cookie)
            return bool(self._happened) or self._everything or self._swapped

    def _note_tree(self, mask: int) -> None:
        if mask & Inotify.IN_MOVED_TO:
            self._swapped = True
        else:
            self._everything = True

    def _note_name(self, directory: str, name: str, mask: int, cookie: int) -> None:
        """What happened to a name in a directory of the tree; no name: to the directory itself."""
        if name and name != ".git" and is_passed_over(name):
            return
        if not name or name == ".git" or mask & Inotify.IN_ISDIR:
            self._note_tree(mask)
            return
        path = f"{directory}/{name}"
        if mask & _GONE:
            self._happened[path] = Happened.GONE
            self._moved_from = (cookie, path)
        elif mask & Inotify.IN_MOVED_TO:
            self._happened[path] = Happened.MOVED_IN
            if self._moved_from and self._moved_from[0] == cookie and is_manifest(name):
                origin = self._moved_from[1]
                if self._happened.get(origin, Happened.GONE) is Happened.GONE:
                    self._happened[origin] = Happened.RENAMED
        elif mask & _WRITTEN:
            self._happened[path] = Happened.WRITTEN
        else:  # its attributes alone
            self._happened.setdefault(path, Happened.WRITTEN)


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

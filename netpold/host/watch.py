"""File events: they say where to look, and wake the daemon up.

Each directory of the tree gets one inotify(7) watch, in one inotify instance.  A walk sets it before it lists the
directory (`enter`), so that nothing happens unseen between the two; after the walk all watches are set again, by path:
for a path that still leads to the same directory that changes nothing, so no book-keeping can go stale.  Where a watch
is new then, the tree has to be looked through once more.

A path may change its meaning elsewhere: a symlink on the way to it is swapped, or the watched directory itself is
removed and made again.  So the directories of those names are watched too, for these names only.

Whatever is not about one manifest (directories, symlinks, mounts, events that were lost) asks for a whole walk.

A thread that ends by whatever failure is replaced by the next `take`, with an inotify instance of its own and a whole
walk: events that nobody read say nothing.

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
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Final

from watchdog.observers.inotify_c import InotifyConstants as Inotify
from watchdog.observers.inotify_c import inotify_add_watch, inotify_init, inotify_rm_watch

from netpold.host.at_work import is_draft
from netpold.host.hints import NOTHING_CHANGED, Happened, Hints
from netpold.host.mounts import Mounts
from netpold.host.scan import Tree, is_manifest, is_passed_over
from netpold.host.threads import started

THREAD: Final = "netpold-watch"
POLL_S = 2.0  # how often to wake up without inotify
LIMIT_AGAIN_S = 60.0  # how soon to try inotify again when the kernel refused it
REPLACE_AGAIN_S = 1.0  # how long a thread waits that takes the place of one that ended
MOST_DRAFTS = 4096  # to keep in mind
READS = 256  # how often to read events before somebody may take what they say
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
_EVENT = struct.Struct("iIII")


class Watcher:
    """Follows a directory of manifests (or one file), in a thread of its own.

    Calls `wake` from that thread, often, when there is something to `take`.
    `warning` says so when inotify can't be had, and then everything may have changed every POLL_S seconds; or when the
    thread had to be replaced.
    """

    def __init__(self, directory: Path, wake: Callable[[], None]) -> None:
        self._directory = directory
        self._nowhere = Tree(frozenset({str(directory)}), frozenset())  # it may come, or be empty
        self._wake = wake
        self._lock = threading.Lock()
        self._tree: dict[int, str] = {}  # directories of the tree by their watches
        self._names: dict[int, set[bytes]] = {}  # watches of directories in which only some names matter
        self._ways: frozenset[str] = frozenset()  # the real paths of these names
        self._happened: dict[str, Happened] = {}
        self._drafts: dict[str, float] = {}
        self._everything = self._swapped = False
        self._moved_from: tuple[int, str] | None = None  # the last one, to find out where to
        self._limit: str | None = None  # why inotify can't be had, and when to try again
        self._limit_until = 0.0
        self._failed = False  # the thread; it may still be alive, to tell why
        self._replaced = 0  # threads
        self._mounts = Mounts()
        self._stop_reader, self._stop_writer = os.pipe()
        self._inotify = -1
        self._open()
        self._thread = threading.Thread(target=self._run, name=THREAD, daemon=True)

    @property
    def warning(self) -> str | None:
        if self._limit is not None:
            return self._limit
        if self._replaced:
            return f"the thread that follows the manifests was replaced ({self._replaced} times); please report the log"
        return None

    def start(self) -> None:
        with self._lock:
            self._set_watches(self._nowhere)
        self._thread.start()

    def close(self) -> None:
        """End the thread, and give back what the kernel holds for it."""
        os.write(self._stop_writer, b"x")
        self._thread.join()
        self._mounts.close()
        for fd in (self._stop_reader, self._stop_writer):
            os.close(fd)
        self._close_inotify()

    def take(self) -> Hints:
        """What happened since the last take."""
        if self._failed:
            self._replace()
        with self._lock:
            if not self._happened and not self._everything and not self._swapped:
                return NOTHING_CHANGED
            hints = Hints(self._happened, self._everything, self._swapped, self._drafts)
            self._happened, self._everything, self._swapped, self._drafts = {}, False, False, {}
        return hints

    def _replace(self) -> None:
        """Begin anew with another thread."""
        with self._lock:
            self._close_inotify()
            self._tree, self._names = {}, {}
            self._open()
            self._set_watches(self._nowhere)
            self._everything = True
            # before this has worked the old one counts as failed, and is replaced at the next opportunity
            self._thread = started(self._run, THREAD, REPLACE_AGAIN_S)
            self._failed = False
            self._replaced += 1

    def _open(self) -> None:
        self._limit = None
        self._inotify = int(inotify_init())
        if self._inotify < 0:
            self._give_up(ctypes.get_errno())
        else:
            os.set_inheritable(self._inotify, False)
            os.set_blocking(self._inotify, False)

    def _close_inotify(self) -> None:
        if _is_inotify(self._inotify):  # somebody else may have closed it, and the number be another file's by now
            os.close(self._inotify)
        self._inotify = -1

    def enter(self, path: str) -> None:
        """Watch a directory that is about to be listed."""
        with self._lock:
            if not self._limit:
                self._tree[self._watch(path)] = path

    def follow(self, tree: Tree | None) -> None:
        """Watch what a walk found; None: there is no directory, watch for it to come.  Call it after every walk."""
        with self._lock:
            if self._limit:
                if time.monotonic() < self._limit_until:
                    return
                self._limit = None
                if self._inotify < 0:
                    self._open()
            added = self._set_watches(tree or self._nowhere)
            self._everything |= added
        if added:
            self._wake()

    def _set_watches(self, tree: Tree) -> bool:
        """Set all watches, and take back those not needed any more; whether there is a new one."""
        before = self._tree.keys() | self._names.keys()
        self._tree = {self._watch(path): path for path in tree.directories}
        self._names = {}
        ways = set()
        for start in (str(self._directory), *tree.links):
            for step in hops(os.path.abspath(start)):  # noqa: PTH100  on text: there may be thousands of links
                ways.add(step)
                parent, name = os.path.split(step)
                self._names.setdefault(self._watch(parent), set()).add(os.fsencode(name))
        self._ways = frozenset(ways)
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
        self._limit_until = time.monotonic() + LIMIT_AGAIN_S
        self._limit = (
            f"file events can't be had ({os.strerror(error)}), so the manifests are looked through every "
            f"{POLL_S:g} seconds; raise the sysctl fs.inotify.{limit}"
        )

    def _run(self, pause_s: float = 0.0) -> None:
        failed = True
        try:
            self._follow(pause_s)
            failed = False
        finally:
            self._failed = failed
            self._wake()  # should this thread ever die, `take` replaces it

    def _follow(self, pause_s: float) -> None:
        """Until it is stopped.  Raises OSError when what it reads from is broken."""
        poll = select.poll()
        poll.register(self._stop_reader, select.POLLIN)
        if poll.poll(pause_s * 1000):
            return
        if self._mounts.fileno() >= 0:
            poll.register(self._mounts.fileno(), select.POLLPRI)
        inotify = -1
        while True:
            if inotify < 0 <= self._inotify:
                inotify = self._inotify
                poll.register(inotify, select.POLLIN)
            ready = {fd for fd, _ in poll.poll(POLL_S * 1000)}
            if self._stop_reader in ready:
                return
            if not ready and inotify >= 0 and not _is_inotify(inotify):
                raise OSError(errno.EBADF, "somebody has closed the inotify instance")
            with self._lock:
                if inotify in ready:
                    self._read()
                if self._mounts.fileno() in ready:
                    self._everything |= self._mounts.changed(self._ways)
                self._everything |= self._limit is not None
                heard = bool(self._happened) or self._everything or self._swapped
            if heard:
                self._wake()

    def _read(self) -> None:
        """Take down all events that there are: of many changes, none is to be acted on without the others."""
        for _ in range(READS):
            try:
                events = os.read(self._inotify, 1 << 16)
            except BlockingIOError:
                return
            self._note(events)

    def _note(self, events: bytes) -> None:
        """Take down what these events say about the manifests."""
        at = 0
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

    def _note_tree(self, mask: int) -> None:
        if mask & Inotify.IN_MOVED_TO:
            self._swapped = True
        else:
            self._everything = True

    def _note_name(self, directory: str, name: str, mask: int, cookie: int) -> None:
        """What happened to a name in a directory of the tree; no name: to the directory itself."""
        if name and is_draft(name):
            self._note_draft(f"{directory}/{name}")
            return
        if mask & Inotify.IN_MOVED_TO and not is_manifest(name) and self._is_from_here(cookie):
            self._note_draft(f"{directory}/{name}")  # an editor's backup: it is about to write the file anew
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
            if self._moved_from and self._is_from_here(cookie) and is_manifest(name):
                origin = self._moved_from[1]
                if self._happened.get(origin, Happened.GONE) is Happened.GONE:
                    self._happened[origin] = Happened.RENAMED
        elif mask & _WRITTEN:
            self._happened[path] = Happened.WRITTEN
        else:  # its attributes alone
            self._happened.setdefault(path, Happened.WRITTEN)

    def _is_from_here(self, cookie: int) -> bool:
        """Whether a rename with that cookie was one of a manifest."""
        return self._moved_from is not None and self._moved_from[0] == cookie

    def _note_draft(self, path: str) -> None:
        if len(self._drafts) >= MOST_DRAFTS:  # and nothing else has happened
            self._drafts = dict(islice(self._drafts.items(), MOST_DRAFTS // 2, None))
        self._drafts.pop(path, None)
        self._drafts[path] = time.monotonic()


def _is_inotify(fd: int) -> bool:
    try:
        return os.readlink(f"/proc/self/fd/{fd}") in ("anon_inode:inotify", "anon_inode:[inotify]")  # noqa: PTH115
    except OSError:
        return False


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

"""Notices by looking what other programs do to the legacy filter tables, which send no events.

Every POLL_S the kernel is asked for a table's layout, which takes microseconds.  What leaves it as it is (one rule for
another of the same length) shows in the entries, which take long to read: they are read as often as SHARE of a
processor allows, and whenever a program has closed the xtables lock's file, which all of iptables' tools open
(inotify).  The kernel does not tell who it was.

What an own chain held, and another that was not there before holds now, is that chain by another name.

An own commit is told from what others did by reading the table before it and after it.
"""

from __future__ import annotations

import ctypes
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple

from netpold.host.kernel import xt_table
from netpold.host.kernel.backend import Misnamed, Suspicion
from netpold.policy.model import Family
from netpold.rules.ruleset import FAMILIES

POLL_S = 0.1
SHARE = 0.005  # of a processor, for reading entries that nobody is known to have changed
BUSY_SHARE = 0.1  # while programs take the lock
_LEAST_S = 1.0
_IN_CLOSE = 0x08 | 0x10  # IN_CLOSE_WRITE, IN_CLOSE_NOWRITE

_libc = ctypes.CDLL(None, use_errno=True)


class _Seen(NamedTuple):
    entries: xt_table.Entries
    digest: bytes


class Account:
    """How the tables were when they were last looked at, and what others have done to them since the last `take`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards the rest, and the kernel's tables against an own commit
        self._seen: dict[Family, _Seen] = {}
        self._suspicion = Suspicion()

    @contextmanager
    def commit(self, family: Family) -> Iterator[None]:
        """What changes in this context is netpold's doing.  Raises KernelError where the table can't be read."""
        with self._lock, xt_table.opened(family) as table:
            if family in self._seen:
                self._look(family, table)
            yield
            self._seen[family] = _read(table)

    def look(self, family: Family, table: xt_table.Reader, *, closely: bool) -> None:
        """Note what others did to a table that netpold has written before; not `closely`: only if that shows in its
        layout.  Raises KernelError."""
        with self._lock:
            seen = self._seen.get(family)
            if seen is not None and (closely or table.layout() != seen.entries.layout):
                self._look(family, table)

    def take(self) -> Suspicion:
        with self._lock:
            found, self._suspicion = self._suspicion, Suspicion()
            return found

    def _look(self, family: Family, table: xt_table.Reader) -> None:
        before, now = self._seen[family], _read(table)
        self._seen[family] = now
        if now.digest != before.digest:
            old, new = (xt_table.chains(each.entries, family) for each in (before, now))
            other = {name for name in old.keys() | new.keys() if old.get(name) != new.get(name)}
            own = frozenset(other - xt_table.BUILTIN)
            renamed = xt_table.renamed(before.entries, now.entries, family) if own else {}
            self._suspicion |= Suspicion(
                {family: own},
                tables=frozenset((family,)) if renamed else frozenset(),
                hooks=frozenset((family,)) if other - own else frozenset(),
                misnamed=frozenset(Misnamed(family, name, now=each) for each, name in renamed.items()),
            )


class LegacyWatcher:
    """A `Watcher`.  `lock`: the path of the xtables lock."""

    def __init__(self, account: Account, lock: str) -> None:
        self._account = account
        self._lock = _closings(lock)
        self._tables = {family: xt_table.Reader(family) for family in FAMILIES}
        self._closely_at = self._looked_at = 0.0
        self._took = 0.0
        self.due = 0.0

    def fileno(self) -> int | None:
        return self._lock

    def look(self) -> Suspicion:
        began, used = time.monotonic(), time.thread_time()
        if self._lock is not None and _drained(self._lock):
            # at once, unless it was done just before and takes long
            self._closely_at = min(self._closely_at, self._looked_at + self._took / BUSY_SHARE)
        closely = began >= self._closely_at
        for family, table in self._tables.items():
            self._account.look(family, table, closely=closely)
        now = time.monotonic()
        if closely:
            self._looked_at, self._took = now, time.thread_time() - used
            self._closely_at = now + max(self._took / SHARE, _LEAST_S)
        self.due = min(now + POLL_S, self._closely_at)
        return self._account.take()

    def close(self) -> None:
        for table in self._tables.values():
            table.close()
        if self._lock is not None:
            os.close(self._lock)


def _read(table: xt_table.Reader) -> _Seen:
    entries = table.entries()
    return _Seen(entries, xt_table.masked(entries, table.family))


def _closings(path: str) -> int | None:
    """Something to wait for: that somebody closes that file.  None where that can't be had."""
    with suppress(OSError):  # inotify follows a file that is there
        os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
    descriptor = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    if descriptor < 0:
        return None
    if _libc.inotify_add_watch(descriptor, os.fsencode(path), _IN_CLOSE) < 0:
        os.close(descriptor)
        return None
    return int(descriptor)


def _drained(descriptor: int) -> bool:
    """Whether there was anything to read."""
    try:
        return bool(os.read(descriptor, 1 << 16))
    except BlockingIOError:
        return False

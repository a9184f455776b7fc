"""The last good version of every object, kept over restarts, reboots and upgrades.

What is kept is the world as it was in force, object by object, closed versions included, with the file that each came
from.  It is asked for until the first ruleset is in force, and only where a manifest fails, a file can't be read or the
kernel refuses a policy: a start with good manifests reads nothing of it.  From then on what came into force is what was
good, and nothing else: neither what the kernel refuses, nor what it could not be given yet.

What changed is handed to a thread of its own, policies first, and is on disk some milliseconds later.  When the disk
does not take it, status says so, and the thread tries again until it does.  After a start everything is handed over
once: rows that are as they should be cost no writing, wrong ones are mended, and those of objects that were removed
meanwhile are taken away.
"""

from __future__ import annotations

import logging
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from itertools import chain, islice
from pathlib import Path
from typing import Any

from netpold.host import last_good_database as database
from netpold.host.last_good_database import Name, Row
from netpold.host.threads import started
from netpold.policy.canonical import kind_of, read_back, written
from netpold.policy.changes import Changes
from netpold.policy.manifest import Object
from netpold.policy.model import CLUSTER_KINDS, Position, World, policy_kind

MOST_WAITING = 20_000  # rows that may wait to be written
SOME = 20  # rows that are made between two looks at the clock
BUSY_S = 0.2  # when to look again whether more may be put
RETRY_S = 2.0  # how soon to try again when the disk did not take it
AT_END_S = 5.0  # how long to wait for the disk at the end

_NOWHERE = Position("", 1)
_TROUBLE = (OSError, sqlite3.Error)

log = logging.getLogger("netpold")

# All objects that there are after the first round, by kind: of others the rows are taken away.
_Known = Mapping[str, Collection[str]]


class LastGood:
    """The database at a path.  For one thread; a thread of its own writes, and calls `told` when `warning` changes.
    Raises nothing.

    `due`: when `save` has something to do (time.monotonic()); None: nothing.
    """

    def __init__(self, path: Path, told: Callable[[], object] = lambda: None) -> None:
        self._path = path
        self._rows: Mapping[Name, Row] | None = None  # once they were needed
        self._files: frozenset[str] = frozenset()  # of these rows
        self._reading = True  # until something is in force
        self._damage: str | None = None
        self._missing: str | None = None  # that there was no database at the start
        self._unread = False  # it was out of reach when it was to be read
        self._world: dict[str, dict[str, Object]] = {}  # what is in force, by kind
        self._to_put: dict[Name, None] = {}  # what changed
        self._rest: Iterator[Name] = iter(())  # what there was at the start, and was not put yet
        self._writer = _Writer(path, told)
        if not path.exists():
            self._missing = f"{path} was not there"
            self._writer.start()  # it makes the database while manifests are read
        self.due: float | None = None

    @property
    def warning(self) -> str | None:
        """What a person should know of it."""
        return "; ".join(filter(None, (self._damage, self._writer.failure))) or None

    # What was in force before the start -----------------------------------------------------------------------------

    def version(self, kind: str, key: str) -> Object | None:
        """The object as it was in force."""
        row = self._known().get((kind, key))
        return self._object(row) if row else None

    def names(self) -> Collection[Name]:
        """The kind and key of each object."""
        return self._known().keys()

    def files(self) -> Collection[str]:
        """The files that objects came from."""
        self._known()
        return self._files

    def fault(self) -> str | None:
        """Why objects may have been in force of which nothing is known here; None: all are known."""
        self._known()
        return self._missing or self._damage

    def try_again(self) -> None:
        """Read it anew where it was out of reach."""
        if self._unread and self._reading:
            self._unread, self._rows = False, None

    def _known(self) -> Mapping[Name, Row]:
        if not self._reading:
            return {}
        if self._rows is None:
            self._rows = self._read()
            self._files = frozenset(row.file for row in self._rows.values())
        return self._rows

    def _read(self) -> Mapping[Name, Row]:
        try:
            found = database.read(self._path)
        except _TROUBLE as error:
            self._unread = True
            self._warn(f"last good versions can't be read from {self._path}: {error}; {_COUNTS_AS_NEW}")
            return {}
        if not found.damaged:
            self._damage = None
        else:
            self._writer.renew = True
            of = "" if found.expected is None else f" of {found.expected}"
            self._warn(
                f"{self._path} was damaged: {len(found.rows)}{of} last good versions can be used; {_COUNTS_AS_NEW}"
            )
        return found.rows

    def _object(self, row: Row) -> Object | None:
        found = read_back(row.manifest.encode(), Position(row.file, row.line, row.place), row.closed)
        if found is None or (kind_of(found), found.key) != row.name:
            log.warning("the last good version of %s %s can't be read by this release", *row.name)
            return None
        return found

    def _warn(self, text: str) -> None:
        if text != self._damage:
            self._damage = text
            log.warning("%s", text)

    # What is in force now -------------------------------------------------------------------------------------------

    def changed(self, changes: Changes, world: World) -> None:
        """What changed has come into force, and with it all of this world."""
        first = self._reading
        if first or self._writer.lost:
            self._reading, self._rows, self._files = False, None, frozenset()
            self._writer.lost, self._world = False, {kind: dict(table) for kind, table in _tables(world)}
            names = {kind: list(table) for kind, table in self._world.items()}
            self._rest = ((kind, key) for kind, keys in names.items() for key in keys)
            self.due = time.monotonic()
            if first:
                self._writer.put(names)
                return
        for kind, table in _tables(changes):
            for key, (before, after) in table.items():
                if after is None:
                    self._world[kind].pop(key, None)
                else:
                    self._world[kind][key] = after
                if before != after or _file(before) != _file(after):
                    self._to_put[kind, key] = None
        if self._to_put and self.due is None:
            self.due = time.monotonic()

    def save(self, seconds: float) -> None:
        """Go on for about so long with handing over what changed, and then what there is."""
        if not self._writer.start():
            self.due = time.monotonic() + RETRY_S
            return
        end = time.monotonic() + seconds
        names = chain(self._changed_names(), self._rest)
        while True:
            now = time.monotonic()
            if now >= end or self._writer.busy:
                self.due = now + (BUSY_S if self._writer.busy else 2 * seconds)
                return
            some = list(islice(names, SOME))
            for kind, key in some:
                self._writer.put(((kind, key), _row(kind, key, self._world[kind].get(key))))
            if len(some) < SOME:
                self.due = None
                return

    def _changed_names(self) -> Iterator[Name]:
        while self._to_put:
            yield self._to_put.popitem()[0]

    def close(self) -> None:
        """Write what is still to be written, if the disk lets us."""
        end = time.monotonic() + AT_END_S
        while self.due is not None and not self._writer.busy and self._writer.start() and time.monotonic() < end:
            self.save(AT_END_S)
        self._writer.close()


def _tables(of: World | Changes) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """By kind, what there is of it; policies first."""
    policies: dict[str, dict[str, Any]] = {kind: {} for kind in ("NetworkPolicy", *CLUSTER_KINDS)}
    for key, each in of.policies.items():
        policies[policy_kind(key)][key] = each
    yield from policies.items()
    yield from (("Namespace", of.namespaces), ("Node", of.nodes), ("Pod", of.pods))


_COUNTS_AS_NEW = "what is missing counts as never seen, so a manifest that is bad now closes what it selects"


def _file(each: Object | None) -> str:
    return each.position.file if each is not None and each.position is not None else ""


def _row(kind: str, key: str, each: Object | None) -> Row | None:
    if each is None:
        return None
    where = each.position or _NOWHERE
    return Row(kind, key, where.file, where.line, where.column, each.quarantined, written(each))


class _Writer:
    """The thread that writes, and what waits for it.  `renew`: the database has to be made anew first.  `lost`:
    it was, so what was in it before may be missing.  `failure`: why
    what waits is not on disk."""

    def __init__(self, path: Path, told: Callable[[], object]) -> None:
        self.renew = self.lost = False
        self.failure: str | None = None
        self._path = path
        self._told = told
        self._queue: queue.SimpleQueue[tuple[Name, Row | None] | _Known | None] = queue.SimpleQueue()
        self._waiting: dict[Name, Row | None] = {}  # the thread's own; None: to be taken away
        self._known: _Known | None = None  # likewise: what else is to be taken away
        self._connection: sqlite3.Connection | None = None
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def busy(self) -> bool:
        """Whether so much waits that no more should be put."""
        return self._queue.qsize() + len(self._waiting) > MOST_WAITING

    def start(self) -> bool:
        """Whether the thread runs; the machine may have none to give, for now."""
        if not self._thread:
            try:
                self._thread = started(self._run, "netpold-last-good")
            except OSError as error:
                self._fail(error)
                return False
        return True

    def put(self, work: tuple[Name, Row | None] | _Known) -> None:
        """What is put waits for the thread."""
        self._queue.put(work)

    def close(self) -> None:
        if self._thread:
            self._closing.set()
            self._queue.put(None)
            self._thread.join(AT_END_S)

    def _run(self) -> None:
        going = True
        while going:
            going = (self._connection is None and not self.failure) or self._collect()
            try:
                self._write()
            except _TROUBLE as error:
                self._failed(error)
                self._closing.wait(RETRY_S)
            else:
                self._wrote()
        if self._connection:
            self._connection.close()

    def _collect(self) -> bool:
        """Take all that waits, as soon as something does; False at the end."""
        going = True
        if not self._waiting and self._known is None:
            going = self._take(self._queue.get())
        while not self._queue.empty():
            going = self._take(self._queue.get()) and going
        return going and not (self._closing.is_set() and self.failure)

    def _take(self, work: tuple[Name, Row | None] | _Known | None) -> bool:
        if isinstance(work, tuple):
            self._waiting[work[0]] = work[1]
        elif work is not None:
            self._known = work
        return work is not None

    def _write(self) -> None:
        """Raises OSError and sqlite3.Error."""
        if self.renew or not self._path.exists():
            self._close()
            database.renew(self._path)
            self.renew, self.lost = False, True
            self._told()
        self._connection = self._connection or database.connect(self._path)
        gone = {name for name, row in self._waiting.items() if row is None} | set(self._unknown(self._connection))
        if gone or self._waiting:
            database.write(self._connection, filter(None, self._waiting.values()), gone)
        if self._known is not None:
            database.recount(self._connection)
        if self._queue.empty():
            database.settle(self._connection)

    def _unknown(self, connection: sqlite3.Connection) -> Iterator[Name]:
        """What the database holds, and no file any more."""
        for kind, known in (self._known or {}).items():
            keys = set(known)
            for key in database.names(connection, kind):
                if key not in keys and (kind, key) not in self._waiting:
                    yield kind, key

    def _wrote(self) -> None:
        self._waiting, self._known = {}, None
        if self.failure:
            log.info("last good versions are written to %s again", self._path)
            self.failure = None
            self._told()

    def _failed(self, error: Exception) -> None:
        """Everything waits on, and is tried again."""
        self._close()
        if isinstance(error, sqlite3.Error) and database.is_damage(error):
            self.renew = True
        self._fail(error)

    def _fail(self, error: Exception) -> None:
        failure = (
            f"last good versions can't be written to {self._path}: {error}; make room for it, or mend it: after a "
            "restart, older ones would be in force where manifests are bad"
        )
        if self.failure != failure:
            log.warning("%s", failure)
            self.failure = failure
            self._told()

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection:
            with suppress(sqlite3.Error):
                connection.close()

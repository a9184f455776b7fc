"""What every file said, on disk, so that a restart parses only what changed meanwhile.

One row of an SQLite database for each file: its fingerprint, its outline and what its units say (`policy/codec.py`).  A
row whose fingerprint is the file's is trusted; else the file is read, and the units whose digests are in the row are.
Everything is thrown away when it was written by other code: the version is a digest of the sources that parse.

Rows are written by a thread of their own, in one transaction for all that wait, so nobody waits for the disk; a crash
loses the last of them at most.  No trouble with the database is ever more than a warning: without it, all is parsed.
"""

from __future__ import annotations

import logging
import marshal
import os
import queue
import sqlite3
import sys
import threading
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from netpold import policy
from netpold.host.scan import Fingerprint
from netpold.host.threads import started
from netpold.policy.codec import Decoder, Encoder
from netpold.policy.documents import Content, Outline, Part, content

SLICE = 500  # units that are encoded or decoded in one go: a few milliseconds
MOST_WAITING = 8 << 20  # bytes that may wait to be written
PATIENCE_S = 5.0  # how long to wait for the disk at the end, and for another process that has the database locked

_TABLES = """
CREATE TABLE version (text TEXT NOT NULL);
CREATE TABLE files (
    path TEXT PRIMARY KEY, fingerprint BLOB NOT NULL, outline BLOB NOT NULL, says BLOB NOT NULL, sum INTEGER NOT NULL
);
"""
_COLUMNS = "path, fingerprint, outline, says, sum"

_DAMAGE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR)  # the last: tables are missing

log = logging.getLogger("netpold")


class Row(NamedTuple):
    """A file as it was saved; `says`: lengths (4 bytes) and encoded units, SLICE units at a time."""

    path: str
    fingerprint: Fingerprint
    outline: Outline
    says: bytes

    def sum(self) -> int:
        """Tells whether the disk gives back what it was given."""
        found = zlib.crc32(self.path.encode())
        for part in self[1:]:
            found = zlib.crc32(part, found)
        return found


class _Corrupt(Exception):
    """A row is not as it was written."""


# a damaged database can give values of other types, and texts that are none
_TROUBLE = (OSError, sqlite3.Error, _Corrupt, ValueError, TypeError, AttributeError)


def pack(parts: Sequence[Part]) -> Iterator[bytes]:
    """What a file's units say, for a Row, slice by slice."""
    encoder, rest = Encoder(), iter(parts)
    while some := list(islice(rest, SLICE)):
        packed = marshal.dumps([encoder.encode(part) for part in some])
        yield len(packed).to_bytes(4) + packed


def unpack(row: Row, file: str, decoder: Decoder) -> Content:
    """The content of the file that a row stands for, by that name."""
    parts: list[Part] = []
    at = 0
    while at < len(row.says):
        end = at + 4 + int.from_bytes(row.says[at : at + 4])
        parts += [decoder.decode(encoded, file) for encoded in marshal.loads(row.says[at + 4 : end])]
        at = end
    return content(row.outline, parts)


class ParsedCache:
    """The database at a path, for one process: to be read in the beginning, then to be written.  Raises nothing."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._usable = True
        self._reader: sqlite3.Connection | None = None
        self._queue: queue.SimpleQueue[Row | str | None] = queue.SimpleQueue()  # a path: delete its row; None: the end
        self._put = self._written = 0  # bytes, counted by the one who puts and the one who writes
        self._thread: threading.Thread | None = None
        try:
            self._reader = self._open()
        except _TROUBLE as error:
            self._fail(error)

    @property
    def busy(self) -> bool:
        """Whether so much waits to be written that more should not be put."""
        return self._usable and self._put - self._written > MOST_WAITING

    def rows(self) -> Iterator[Row]:
        """All rows."""
        yield from self._select(f"SELECT {_COLUMNS} FROM files")

    def row(self, path: str) -> Row | None:
        return next(self._select(f"SELECT {_COLUMNS} FROM files WHERE path = ?", path), None)

    def end_reading(self) -> None:
        if self._reader:
            self._reader.close()
            self._reader = None

    def put(self, row: Row) -> None:
        """Write a row, some time."""
        self._put += len(row.says)
        self._later(row)

    def delete(self, path: str) -> None:
        """Delete the row of a path, some time."""
        self._later(path)

    def close(self) -> None:
        """Write what waits to be written, if the disk lets us."""
        self.end_reading()
        if self._thread:
            self._queue.put(None)
            self._thread.join(PATIENCE_S)

    def _later(self, work: Row | str) -> None:
        if not self._usable:
            return
        self._queue.put(work)
        if not self._thread:
            with suppress(OSError):  # the machine may have none to give for now; what is put waits for it
                self._thread = started(self._write, "netpold-cache")

    def _open(self) -> sqlite3.Connection:
        """Raises OSError, sqlite3.Error and _Corrupt."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        connection = self._connect()
        version = _version()
        if not connection.execute("SELECT 1 FROM sqlite_master").fetchone():
            with connection:
                connection.executescript(_TABLES)
                connection.execute("INSERT INTO version VALUES (?)", (version,))
        elif connection.execute("SELECT text FROM version").fetchone() != (version,):
            connection.close()
            if not self._remove():
                raise OSError("it is of another version and can't be removed")
            return self._open()
        return connection

    def _connect(self) -> sqlite3.Connection:
        # made by one thread and used by another, but never by two at once
        connection = sqlite3.connect(self._path, timeout=PATIENCE_S, isolation_level=None, check_same_thread=False)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        return connection

    def _select(self, statement: str, *values: str) -> Iterator[Row]:
        if not self._usable or not self._reader:
            return
        try:
            for *columns, stored in self._reader.execute(statement, values):
                row = Row(*columns)
                if row.sum() != stored:
                    raise _Corrupt
                yield row
        except _TROUBLE as error:
            self._fail(error)

    def _write(self) -> None:
        try:
            connection = self._connect()
            going = True
            while going:
                going = self._write_some(connection)
            connection.close()
        except _TROUBLE as error:
            self._fail(error)

    def _write_some(self, connection: sqlite3.Connection) -> bool:
        """Write all that waits, as soon as something does; False at the end."""
        work = [self._queue.get()]
        while not self._queue.empty():
            work.append(self._queue.get())
        connection.execute("BEGIN IMMEDIATE")
        for each in work:
            if isinstance(each, Row):
                connection.execute(f"REPLACE INTO files ({_COLUMNS}) VALUES (?, ?, ?, ?, ?)", (*each, each.sum()))
                self._written += len(each.says)
            elif each is not None:
                connection.execute("DELETE FROM files WHERE path = ?", (each,))
        connection.execute("COMMIT")
        return None not in work

    def _fail(self, error: Exception) -> None:
        """Do without, from now on."""
        self._usable = False
        if not isinstance(error, OSError | sqlite3.Error) or getattr(error, "sqlite_errorcode", None) in _DAMAGE:
            log.warning("the cache %s is damaged and thrown away; all manifests are parsed", self._path)
            self._remove()
        else:
            log.warning("the cache %s can't be used, so the next start parses all manifests: %s", self._path, error)

    def _remove(self) -> bool:
        removed = True
        for suffix in ("", "-wal", "-shm"):
            try:
                Path(f"{self._path}{suffix}").unlink(missing_ok=True)
            except OSError as error:
                log.warning("the cache %s can't be removed: %s", self._path, error.strerror)
                removed = False
        return removed


def _version() -> str:
    """Other code says other things, and another Python writes them otherwise."""
    digest = blake2b(digest_size=16)
    for source in sorted(Path(policy.__path__[0]).glob("*.py")):
        digest.update(source.read_bytes())
    return f"{digest.hexdigest()} {sys.version_info.major}.{sys.version_info.minor} {marshal.version}"

"""The database of last good versions: one row an object, in a file of SQLite.

SQLite does the careful part of writing: one transaction is there whole or not at all, whenever the process or the
machine dies (`synchronous = FULL`).  It goes to a write-ahead log, where a killed process leaves it in force before the
disk has it, and from there into the one file at once, whose loss shows.  What SQLite does not do is done here: each row
has a checksum, and the number of rows is kept by triggers, so a byte that changed, or a page that is gone, is noticed
when the rows are read.  What still checks is used.

The shape of the table is for every release: columns may be added, none ever changes its meaning, and rows of a kind
that a release does not know stay as they are.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

PATIENCE_S = 5.0  # how long to wait for another process that has the database locked

Name = tuple[str, str]  # kind and key

_TABLES = """
CREATE TABLE objects (
    kind TEXT NOT NULL, key TEXT NOT NULL, file TEXT NOT NULL, line INTEGER NOT NULL, place INTEGER NOT NULL,
    closed INTEGER NOT NULL, manifest TEXT NOT NULL, sum BLOB NOT NULL, PRIMARY KEY (kind, key)
) WITHOUT ROWID;
CREATE TABLE count (rows INTEGER NOT NULL);
INSERT INTO count VALUES (0);
CREATE TRIGGER put AFTER INSERT ON objects BEGIN UPDATE count SET rows = rows + 1; END;
CREATE TRIGGER taken AFTER DELETE ON objects BEGIN UPDATE count SET rows = rows - 1; END;
"""
_COLUMNS = "kind, key, file, line, place, closed, manifest, sum"
# of a row that only stands in another line nothing is written
_PUT = f"""
INSERT INTO objects ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (kind, key) DO UPDATE
SET file = excluded.file, line = excluded.line, place = excluded.place, closed = excluded.closed,
    manifest = excluded.manifest, sum = excluded.sum
WHERE (file, closed, manifest, sum) IS NOT (excluded.file, excluded.closed, excluded.manifest, excluded.sum)
"""
_DAMAGE = frozenset(  # SQLITE_ERROR: tables are missing
    (
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_NOTADB,
        sqlite3.SQLITE_ERROR,
        sqlite3.SQLITE_CONSTRAINT,
        sqlite3.SQLITE_MISMATCH,
        sqlite3.SQLITE_FORMAT,
        sqlite3.SQLITE_TOOBIG,
    )
)


class Row(NamedTuple):
    """An object as it was in force.  `file`, `line`, `place` (the column): where it was written.  `closed`: it was
    quarantined, this is its closed version.  `manifest`: see policy/canonical.py."""

    kind: str
    key: str
    file: str
    line: int
    place: int
    closed: bool
    manifest: str

    @property
    def name(self) -> Name:
        return self.kind, self.key

    def sum(self) -> bytes:
        """Tells whether the disk gives back what it was given, but for the line, which is only for people."""
        text = "\0".join((self.kind, self.key, self.file, str(int(self.closed)), self.manifest))
        return blake2b(text.encode(), digest_size=8).digest()


@dataclass(frozen=True, slots=True)
class Found:
    """The rows that a database holds, and how many it should hold at least; None: that can't be told."""

    rows: Mapping[Name, Row]
    expected: int | None

    @property
    def damaged(self) -> bool:
        return self.expected != len(self.rows)


NOTHING = Found({}, 0)


def is_damage(error: sqlite3.Error) -> bool:
    """Whether what is on disk is wrong, and not only out of reach for now."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in _DAMAGE  # without the extended code


def read(path: Path) -> Found:
    """All that can be read.  Raises OSError and sqlite3.Error when the database is out of reach."""
    if not path.exists():
        return NOTHING
    rows: dict[Name, Row] = {}
    expected: int | None = None
    try:
        with closing(_connect(path)) as connection:
            # the names in turn from both ends: a page that is lost in the middle hides nothing but what is on it
            for order in ("", "DESC"):
                try:
                    for row in _rows(connection, order):
                        rows[row.name] = row
                    break
                except sqlite3.DatabaseError as error:
                    if not is_damage(error):
                        raise
            expected = int(connection.execute("SELECT rows FROM count").fetchone()[0])
    except (TypeError, ValueError):
        expected = None
    except sqlite3.Error as error:
        if not is_damage(error):
            raise
    return Found(rows, expected)


def _rows(connection: sqlite3.Connection, order: str) -> Iterator[Row]:
    """The rows that are as they were written."""
    select = f"SELECT {_COLUMNS} FROM objects ORDER BY kind {order}, key {order}"
    for columns in connection.execute(select):
        row = _row(columns)
        if row:
            yield row


def _row(columns: tuple[Any, ...]) -> Row | None:
    """A damaged database can give values of other types, and texts that are none."""
    *texts, line, place, closed, manifest, stored = columns
    try:
        kind, key, file = (text.decode() for text in texts)
        row = Row(kind, key, file, max(int(line), 1), max(int(place), 1), closed == 1, manifest.decode())
    except (AttributeError, UnicodeDecodeError, TypeError, ValueError):
        return None
    return row if row.sum() == stored else None


def renew(path: Path) -> Found:
    """Put a new database in the place of a damaged or missing one, with the rows that can be read, and give these.

    Raises OSError and sqlite3.Error; then everything is as it was.
    """
    found, draft = read(path), path.with_name(f"{path.name}.new")
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove(draft)
    os.close(os.open(draft, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    with closing(_connect(draft)) as connection:
        connection.executescript(f"BEGIN;{_TABLES}COMMIT;")
        write(connection, found.rows.values(), ())
        settle(connection)
    _remove_beside(path)  # SQLite would take it for what belongs to the new database
    draft.replace(path)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
    return found


def connect(path: Path) -> sqlite3.Connection:
    """To write.  Raises sqlite3.Error, OSError when there is none."""
    os.close(os.open(path, os.O_RDWR | os.O_CLOEXEC))
    return _connect(path)


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=PATIENCE_S, isolation_level=None)
    connection.text_factory = bytes
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def write(connection: sqlite3.Connection, rows: Iterable[Row], gone: Iterable[Name]) -> None:
    """Put rows and take others away, all or nothing.  Raises sqlite3.Error."""
    connection.execute("BEGIN IMMEDIATE")
    connection.executemany(_PUT, ((*row, row.sum()) for row in rows))
    connection.executemany("DELETE FROM objects WHERE kind = ? AND key = ?", gone)
    connection.execute("COMMIT")


def settle(connection: sqlite3.Connection) -> None:
    """Bring all that was written into the one file.  Raises sqlite3.Error."""
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


def names(connection: sqlite3.Connection, kind: str) -> list[str]:
    """The keys of all objects of a kind.  Raises sqlite3.Error."""
    found = connection.execute("SELECT key FROM objects WHERE kind = ?", (kind,))
    return [key.decode("utf-8", "replace") for (key,) in found]


def recount(connection: sqlite3.Connection) -> None:
    """Have the number of rows right again, once all of them are known to be.  Raises sqlite3.Error."""
    connection.execute(
        "UPDATE count SET rows = (SELECT count(*) FROM objects) WHERE rows IS NOT (SELECT count(*) FROM objects)"
    )


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)
    _remove_beside(path)


def _remove_beside(path: Path) -> None:
    for suffix in ("-wal", "-shm", "-journal"):
        path.with_name(f"{path.name}{suffix}").unlink(missing_ok=True)

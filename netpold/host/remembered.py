"""What a Source knew before a restart, and what it wants to know after the next one: its dealings with the cache.

When everything is loaded for the first time, rows whose fingerprints are right are taken as they are, and of the others
what still holds.  Later on it is noted which rows are out of date, and these are written when nothing else is to do.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from netpold.host.parsed_cache import ParsedCache, Row, pack, unpack
from netpold.host.scan import Fingerprint
from netpold.policy.codec import Decoder
from netpold.policy.documents import Content

# For a path, its row as it should be; None: it should have none; no fingerprint (b""): let it be as it is.
RowOf = Callable[[str], tuple[Fingerprint, Content] | None]


class Remembered:
    """The cache as one Source uses it; without one, nothing is remembered."""

    def __init__(self, cache: ParsedCache | None) -> None:
        self._cache = cache
        self._decoder = Decoder()
        self._loading = cache is not None
        self._right: set[str] = set()  # while loading: whose rows are right
        self._outdated: dict[str, None] = {}
        self._saving: Iterator[None] | None = None

    def load(self, wanted: dict[str, Fingerprint]) -> Iterator[tuple[str, Content]]:
        """What is known of the files with these fingerprints, by path; takes them out of `wanted`."""
        if not self._cache or not self._loading or not wanted:
            return
        names = {path: path for path in wanted}  # so that each is in memory once
        for row in self._cache.rows():
            fingerprint = wanted.get(row.path)
            if fingerprint == row.fingerprint:
                path = names[row.path]
                del wanted[path]
                self._right.add(path)
                yield path, unpack(row, path, self._decoder)
            elif fingerprint is None:
                self._outdated[row.path] = None  # the file may be gone

    def recall(self, path: str) -> Content | None:
        """What was known of a file with another fingerprint."""
        row = self._cache.row(path) if self._cache and self._loading and path.isprintable() else None
        return unpack(row, path, self._decoder) if row else None

    def loaded(self) -> None:
        """Everything is known: nothing more will be asked."""
        if self._cache and self._loading:
            self._cache.end_reading()
            self._loading, self._right, self._decoder = False, set(), Decoder()

    def outdate(self, path: str) -> None:
        """The row of a path is not right any more."""
        if self._cache and path not in self._right and path.isprintable():  # of others no file is ever read
            self._outdated[path] = None

    def save(self, seconds: float, row_of: RowOf) -> bool:
        """Bring rows up to date for about so long; whether all are (but for what is still being written)."""
        if not self._cache or self._loading:
            return True
        end = time.monotonic() + seconds
        if self._saving is None:
            self._saving = self._save(self._cache, row_of)
        while not self._cache.busy and time.monotonic() < end:
            if next(self._saving, self) is self:
                self._saving = None
                return True
        return False

    def _save(self, cache: ParsedCache, row_of: RowOf) -> Iterator[None]:
        """Pauses after each slice of a file."""
        while self._outdated:
            path, _ = self._outdated.popitem()
            row = row_of(path)
            if row is None:
                cache.delete(path)
                continue
            fingerprint, content = row
            if not fingerprint:
                continue
            says = bytearray()
            for packed in pack(content.said):
                says += packed
                yield
            cache.put(Row(path, fingerprint, content.outline, bytes(says)))

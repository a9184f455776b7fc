"""Notices by looking what other programs do to netpold's sets, which send no events.

What the kernel says of all sets in a word (how many members each has) is compared with what it said before, byte for
byte; only where that differs it is read, and compared with what netpold put there.  One member exchanged for another
shows in it at most as another size of memory: the members of such a set are read at once.  It need not show at all.  So
the members of one set after the other are read, too; a listing with the same bytes as one that was right is right, as
long as the set should have the same members.  All is done as often as its share of a processor allows.

netpold's own changes show as well.  Whoever gets the suspicion looks again, when none is under way.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Mapping
from itertools import islice

from netpold.host.kernel import ipset
from netpold.host.kernel.backend import Suspicion
from netpold.rules.plan import Installed
from netpold.rules.ruleset import IPSet

POLL_S = 0.04
SHARE = 0.005  # of a processor, for the headers, and for the members of one set after the other
BUSY_SHARE = 0.1  # for the members of sets whose headers have changed
_MOST_S = 5.0
_AT_ONCE = 16  # of these sets in one look


class SetWatcher:
    """A `Watcher`.  `expected` is what netpold has put there, by whoever does so; None: nothing is known of it."""

    def __init__(self) -> None:
        self.due = time.monotonic()
        self.expected: Installed | None = None
        self._seen: tuple[Installed | None, bytes] = (None, b"")
        self._headers: Mapping[str, ipset.Header] = {}  # as of `_seen`
        self._touched: dict[str, None] = {}  # sets whose headers have changed
        self._members_at = 0.0
        self._turn: Iterator[Suspicion] = iter(())
        self._right: dict[str, tuple[int, bytes]] = {}  # by set, the hash of its members and the digest of a listing

    def fileno(self) -> None:
        """There are no events."""

    def look(self) -> Suspicion:
        began = time.thread_time()  # what it uses, not how long it waits on a busy machine
        expected = self.expected
        found = Suspicion(headers=self._has_other_headers(expected))
        took = time.thread_time() - began
        pause = max(took / SHARE, POLL_S)
        if self._touched and expected is not None:
            began = time.thread_time()
            found |= self._touched_members(expected)
            pause = max(pause, (time.thread_time() - began) / BUSY_SHARE)
        if not found and time.monotonic() >= self._members_at and expected is not None:
            began = time.thread_time()
            found |= self._some_members(expected)
            self._members_at = time.monotonic() + (time.thread_time() - began) / SHARE
        self.due = time.monotonic() + min(pause, _MOST_S)
        return found

    def close(self) -> None:
        """Nothing is held."""

    def _has_other_headers(self, expected: Installed | None) -> bool:
        listing = ipset.headers_listing()
        seen, before = self._seen
        if expected is None or (expected is seen and listing == before):
            return False
        headers = ipset.headers(listing)
        changed = [name for name, header in headers.items() if header != self._headers.get(name)]
        if expected is seen:  # else it may be netpold's own doing, and takes long to tell where they are many
            self._touched |= dict.fromkeys(changed)
        self._seen, self._headers = (expected, listing), headers
        return bool(differing(headers, expected))

    def _touched_members(self, expected: Installed) -> Suspicion:
        names = tuple(islice(self._touched, _AT_ONCE))
        logical = {name: each for each, name in expected.names.items() if name in names}
        found = Suspicion()
        for name in names:
            del self._touched[name]
            if name in logical and is_known(wanted := expected.ruleset.sets[logical[name]]):
                found |= self._suspicion(name, wanted)
        return found

    def _some_members(self, expected: Installed) -> Suspicion:
        """A slice of the way through all members."""
        found = next(self._turn, None)
        if found is None:
            self._right = {name: self._right[name] for name in expected.names.values() if name in self._right}
            self._turn = self._through(expected)
        return found or Suspicion()

    def _through(self, expected: Installed) -> Iterator[Suspicion]:
        for logical, name in expected.names.items():
            if self.expected is not expected:
                return
            ipset_ = expected.ruleset.sets[logical]
            if is_known(ipset_):
                yield self._suspicion(name, ipset_)

    def _suspicion(self, name: str, wanted: IPSet) -> Suspicion:
        members, listing = frozenset(wanted.members), ipset.listing(name)
        right = hash(members), hashlib.blake2b(b"".join(listing), digest_size=16).digest()
        if self._right.get(name) == right:
            return Suspicion()
        if ipset.listed(listing) != members:
            return Suspicion(members=frozenset((name,)))
        self._right[name] = right
        return Suspicion()


def is_known(ipset_: IPSet) -> bool:
    """Whether the members of a set are known: those that count have some for a while that nobody needs any more."""
    return ipset_.larger != "counts"


def is_of_another_kind(header: ipset.Header, wanted: IPSet) -> bool:
    """Whether it is another's set: its members can't be put right, so it has to be made anew."""
    return (header.kind, header.family, header.options) != (wanted.kind, wanted.family, ipset.options_of(wanted))


def _is_other(header: ipset.Header, wanted: IPSet) -> bool:
    if is_of_another_kind(header, wanted):
        return True
    if header.size is None:
        return False
    return header.size != len(wanted.members) if is_known(wanted) else header.size < len(wanted.members)


def differing(headers: Mapping[str, ipset.Header], expected: Installed) -> frozenset[str]:
    """The names of sets that are there and should not be, or the other way round, or are of another kind, or have
    other numbers of members."""
    found = headers.keys() - expected.names.values() - expected.stray_sets
    for logical, name in expected.names.items():
        wanted, header = expected.ruleset.sets[logical], headers.get(name)
        if header is None or _is_other(header, wanted):
            found |= {name}
    return frozenset(found)

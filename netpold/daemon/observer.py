"""Watches what netpold's rules log, beside the loop: a thread reads it, has the loop say what it means, and keeps it.

A flood must slow nobody down.  The kernel copies heads of packets into buffers of a limited size and throws away what
does not fit; this thread spends at most a tenth of a processor on reading; packets that say the same are counted
together and told once in PAUSE_S; and of different ones MOST_WAITING wait at a time, the rest is only counted.

First packets that are allowed come from conntrack, which tells of each new flow, and only while somebody wants them.
"""

from __future__ import annotations

import logging
import os
import select
import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import CancelledError
from contextlib import suppress
from dataclasses import replace
from typing import Protocol, TypeVar

from netpold.daemon.inbox import Question
from netpold.daemon.questions import NoAnswer
from netpold.daemon.seen import Seen, Times
from netpold.daemon.sights import Described, Json, Model, Sight, describe, of_flow, of_packet
from netpold.daemon.wording import line
from netpold.host import journal
from netpold.host.conntrack import NewFlows
from netpold.host.kernel.backend import KernelError
from netpold.host.nflog import Busy, Group

PAUSE_S = 1.0  # between two events that say the same
GATHER_S = 0.2  # for how long packets are gathered
MOST_WAITING = 100  # different sights
SHARE = 9  # after so much reading, so many times as long a pause
LONGEST_PAUSE_S = 0.25
AGAIN_S = 10.0  # after a failure
ANSWER_S = 1.0  # how long the loop may take; at its end, so long does the daemon wait for this thread
WANTED_S = 45.0  # for how long allowed packets are looked at after somebody asked; longer than any poll
JOURNAL_S = 60.0  # between two lines about the same pair
MOST_LINES = 20  # a second, in the journal

T = TypeVar("T")

log = logging.getLogger(journal.LOGGER)


class _Ask(Protocol):
    def __call__(self, question: Question[T], timeout: float) -> T: ...


class Observer:
    """`ask` has the loop answer a question, in which `look` gives the model, or raises NoAnswer."""

    def __init__(self, group: int, log_drops: bool, ask: _Ask, look: Callable[[], Model]) -> None:
        self.seen = Seen()
        self.group = group
        self.warning: str | None = None
        self.unlisted = 0  # packets that were too many different ones to be told
        self._log_drops = log_drops
        self._ask, self._look = ask, look
        self._reader: Group | None = None
        self._lost = 0  # of readers before this one
        self._flows: NewFlows | None = None
        self._wanted_until = 0.0
        self._again_at = 0.0
        self._waiting: dict[Sight, Times] = {}
        self._told: dict[Sight, float] = {}
        self._journalled: dict[Sight, tuple[float, int]] = {}
        self._lines = 0.0, 0
        self._closed = threading.Event()
        self._signal = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._thread = threading.Thread(target=self._run, name="observer", daemon=True)

    def start(self) -> None:
        """Begin to read, in the network namespace of the calling thread."""
        self._thread.start()

    def close(self) -> None:
        self._closed.set()
        os.eventfd_write(self._signal, 1)
        if self._thread.ident is not None:
            self._thread.join()
        for each in (self._reader, self._flows):
            if each is not None:
                each.close()
        os.close(self._signal)

    # From any thread ----------------------------------------------------------------------------------------------

    def want_allowed(self) -> None:
        """Somebody wants to see what is allowed, too."""
        was_wanted = self._wanted_until > time.monotonic()
        self._wanted_until = time.monotonic() + WANTED_S
        if not was_wanted:
            os.eventfd_write(self._signal, 1)

    @property
    def lost(self) -> int:
        """Packets that came too fast to be looked at."""
        return self._lost + (self._reader.lost if self._reader else 0)

    @property
    def uncounted(self) -> bool:
        """Whether there were more, and how many is known when the next packet comes."""
        return self._reader is not None and self._reader.uncounted > 0

    @property
    def listens(self) -> bool:
        return self._reader is not None

    # The thread ---------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._closed.is_set():
            self._open()
            self._wait()
            began = time.monotonic()
            self._read()
            self._closed.wait(min((time.monotonic() - began) * SHARE, LONGEST_PAUSE_S))
            if self._waiting:
                self._tell()

    def _open(self) -> None:
        """What is to be read and is not open; what is open and nobody wants any more is closed."""
        now = time.monotonic()
        if self._flows is not None and now >= self._wanted_until:
            self._flows.close()
            self._flows = None
        if now < self._again_at:
            return
        try:
            if self._reader is None and self.group:
                self._reader, self.warning = Group(self.group), None
            if self._flows is None and now < self._wanted_until:
                self._flows = NewFlows()
        except KernelError as error:
            self._failed(error)

    def _failed(self, error: KernelError) -> None:
        text = str(error)
        if isinstance(error, Busy):
            text = (
                f"{error}, so `netpoldctl monitor` and `audit` see nothing: stop that program, or give netpold a group "
                "of its own (setting nflog_group)"
            )
        if self.warning != text:
            log.warning("%s", text)
        self.warning = text
        self._again_at = time.monotonic() + AGAIN_S

    def _wait(self) -> None:
        poll = select.poll()
        poll.register(self._signal, select.POLLIN)
        for each in (self._reader, self._flows):
            if each is not None:
                poll.register(each.fileno(), select.POLLIN)
        timeout = GATHER_S if self._waiting else AGAIN_S
        poll.poll(timeout * 1000)
        with suppress(BlockingIOError):
            os.eventfd_read(self._signal)

    def _read(self) -> None:
        now = time.time()
        try:
            if self._reader is not None:
                self._count(map(of_packet, self._reader.read()), now)
            if self._flows is not None:
                self._count(map(of_flow, self._flows.read()), now)
        except KernelError as error:
            self._lost = self.lost
            for each in (self._reader, self._flows):
                if each is not None:
                    each.close()
            self._reader = self._flows = None
            self._failed(error)

    def _count(self, sights: Iterable[Sight | None], now: float) -> None:
        for sight in sights:
            if sight is None:
                continue
            before = self._waiting.get(sight)
            if before is not None:
                self._waiting[sight] = Times(before.packets + 1, before.first, now)
            elif len(self._waiting) < MOST_WAITING:
                self._waiting[sight] = Times(1, now, now)
            else:
                self.unlisted += 1

    def _tell(self) -> None:
        """Tell of what waits and was not told within the last PAUSE_S."""
        now = time.monotonic()
        self._told = {sight: at for sight, at in self._told.items() if now - at < PAUSE_S}
        due = [sight for sight in self._waiting if sight not in self._told]
        if not due:
            return
        try:
            names = dict(socket.if_nameindex())
            described = self._ask(self._describe(due, names), ANSWER_S)
        except (TimeoutError, CancelledError, NoAnswer, OSError):
            # nothing is in force yet, the loop is long about something, or the machine has no socket to give: it is
            # asked again
            return
        for sight in set(due) - {each.sight for each in described}:
            del self._waiting[sight]
        for each in sorted(described, key=lambda each: self._waiting[each.sight].first):
            times = self._waiting.pop(each.sight).each_reported(each.reports)
            self._told[each.sight] = now
            event = self.seen.add(each, times, names)
            if self._log_drops and each.sight.verdict != "allow":
                self._log(each, event)

    def _describe(self, sights: list[Sight], names: Mapping[int, str]) -> Question[list[Described]]:
        """Of each what the model says, one a step.  Raises NoAnswer."""
        found = []
        for sight in sights:
            found.append(describe(self._look(), sight, names))
            yield
        return [each for each in found if each is not None]

    # The journal --------------------------------------------------------------------------------------------------

    def _log(self, each: Described, event: Json) -> None:
        """One line about a pair and port in JOURNAL_S, with all its packets since the last one."""
        now = time.monotonic()
        sight = replace(each.sight, incoming=0, outgoing=0)
        since, packets = self._journalled.get(sight, (0.0, 0))
        packets += int(event["packets"])
        second, lines = self._lines
        if int(now) != int(second):
            second, lines = now, 0
            self._forget_journalled(now)
        is_due = not since or now - since >= JOURNAL_S
        self._lines = second, lines + is_due
        if not is_due or lines >= MOST_LINES:
            self._journalled[sight] = since or now - JOURNAL_S, packets
            return
        self._journalled[sight] = now, 0
        message = journal.DROPPED if sight.verdict == "drop" else journal.AUDITED
        pods = (event["source"]["pod"], event["destination"]["pod"], event["judged"])
        journal.say(message, line(event, packets), pod=list(dict.fromkeys(filter(None, pods))), policy=each.policies)

    def _forget_journalled(self, now: float) -> None:
        """Pairs that were not seen for long, and have nothing left to be told."""
        self._journalled = {
            sight: (at, packets) for sight, (at, packets) in self._journalled.items() if now - at < 2 * JOURNAL_S
        }

"""One thread that watches what others do to netpold's rules and sets, and wakes whoever can tell what is to be done.

What it notices is a suspicion only: that own changes are under way, it can't know.  Should the watcher of rules fail,
it is made anew, and everything is suspected.
"""

from __future__ import annotations

import logging
import math
import os
import select
import threading
import time
from collections.abc import Callable

from netpold.host.kernel.backend import Backend, KernelError, Suspicion, Watcher
from netpold.host.kernel.watch_sets import SetWatcher
from netpold.rules.plan import Installed
from netpold.rules.ruleset import FAMILIES

AGAIN_S = 1.0  # after a failure
_LONGEST_S = 3600.0

EVERYTHING = Suspicion(tables=frozenset(FAMILIES), hooks=frozenset(FAMILIES), headers=True)

log = logging.getLogger(__name__)


class Watch:
    """`wake` is called, from a thread of its own, when there is something to `take`."""

    def __init__(self, backend: Backend, wake: Callable[[], None]) -> None:
        self._backend = backend
        self._wake = wake
        self._sets = SetWatcher()
        self._rules: Watcher | None = None
        self._lock = threading.Lock()  # guards the next two
        self._suspicion = Suspicion()
        self._noticed = math.inf
        self._failing = self._sets_failing = False
        self._closed = threading.Event()
        self._signal = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def start(self) -> None:
        """Begin, in the network namespace of the calling thread.  Raises KernelError."""
        self._rules = self._backend.watcher()
        self._thread.start()

    def close(self) -> None:
        self._closed.set()
        os.eventfd_write(self._signal, 1)
        if self._thread.ident is not None:
            self._thread.join()
        if self._rules is not None:
            self._rules.close()
        os.close(self._signal)

    def expect(self, installed: Installed | None) -> None:
        """What netpold has in the kernel now; None: that has to be read."""
        self._sets.expected = installed

    def take(self) -> tuple[Suspicion, float]:
        """What was noticed since the last time, and when that began (time.monotonic())."""
        with self._lock:
            found = self._suspicion, self._noticed
            self._suspicion, self._noticed = Suspicion(), math.inf
            return found

    def suspect(self, suspicion: Suspicion) -> None:
        """Add something to what was noticed."""
        with self._lock:
            self._suspicion |= suspicion
            self._noticed = min(self._noticed, time.monotonic())
        self._wake()

    # The thread ---------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._closed.is_set():
            try:
                if self._rules is None:
                    self._rules = self._backend.watcher()
                    self.suspect(EVERYTHING | Suspicion(lost=True))
                self._wait(self._rules)
                self._look(self._rules)
                self._failing = False
            except KernelError as error:
                log.log(logging.DEBUG if self._failing else logging.WARNING, "%s; it is tried again", error)
                self._failing = True
                if self._rules is not None:
                    self._rules.close()
                self._rules = None
                self._closed.wait(AGAIN_S)

    def _wait(self, rules: Watcher) -> None:
        poll = select.poll()
        poll.register(self._signal, select.POLLIN)
        descriptor = rules.fileno()
        if descriptor is not None:
            poll.register(descriptor, select.POLLIN)
        left = min(rules.due, self._sets.due) - time.monotonic()
        poll.poll(min(max(left, 0.0), _LONGEST_S) * 1000)

    def _look(self, rules: Watcher) -> None:
        found = rules.look()
        if time.monotonic() >= self._sets.due:
            found |= self._look_at_sets()
        if found:
            self.suspect(found)

    def _look_at_sets(self) -> Suspicion:
        try:
            found = self._sets.look()
        except KernelError as error:  # no memory for an answer, say; rules are watched all the same
            log.log(logging.DEBUG if self._sets_failing else logging.WARNING, "%s; it is tried again", error)
            self._sets_failing = True
            self._sets.due = time.monotonic() + AGAIN_S
            return Suspicion()
        self._sets_failing = False
        return found

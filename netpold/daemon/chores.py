"""What no packet waits for, done in small slices when nothing else is to do: taking old chains and sets away, looking
for changes of files that no event told of, saving what was good, what files said and the rules for the next boot."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace

from netpold.host.drops import Drops
from netpold.host.kernel import ipset
from netpold.host.kernel.apply import clean_up
from netpold.host.kernel.backend import Backend, KernelError
from netpold.host.last_good import LastGood
from netpold.host.snapshot import Snapshots
from netpold.host.source import Source
from netpold.rules.plan import Installed
from netpold.rules.revoke import Enforced

CLEAN_UP_S = 0.1  # how long after the last change; in nf_tables a commit would wait for the one that takes away
CLEAN_UP_AGAIN_S = 1.0  # when sets were still in use
MOST_STRAYS = 500  # chains and sets that are left over; with more of them, changes wait until they are gone
SLICE_S, PAUSE_S = 0.003, 0.01  # for how long to do at a time what takes long, and the pause then
SAVE_S = 0.1  # how soon after a change
OVERDUE_S = 3.0  # after so long it is done even though something else is to do
SAVE_AT_STOP_S = 5.0  # for how long to go on with it when the daemon is to end

log = logging.getLogger("netpold")


class Chores:
    """When each of them is due.  For the loop alone.  `stuck_s`: how long to leave what can't be taken away.
    `is_trial`: what is in force now is not for the next boot."""

    def __init__(
        self,
        source: Source,
        last_good: LastGood,
        snapshots: Snapshots,
        drops: Drops,
        backend: Backend,
        stuck_s: float,
    ) -> None:
        self._source = source
        self._last_good = last_good
        self._snapshots = snapshots
        self._drops = drops
        self._backend = backend
        self._stuck_s = stuck_s
        self.is_trial = False
        self._stuck = False  # the last clean-up failed
        self._clean_up_at: float | None = None
        self._sweep_at: float | None = None
        self._save_at: float | None = None

    def kernel_changed(self, at: float) -> None:
        self._clean_up_at = at + CLEAN_UP_S
        self._snapshots.changed()

    def pods_came(self) -> None:
        """Pods are here that were not before, or at other interfaces."""
        self._snapshots.changed(soon=True)

    def files_changed(self) -> None:
        self._save_at = self._save_at or time.monotonic() + SAVE_S

    def sweep(self) -> None:
        """Look through all files some time."""
        self._sweep_at = self._sweep_at or time.monotonic()

    def times(self) -> Iterator[float]:
        """When (time.monotonic()) something is to do."""
        for each in (self._last_good.due, self._clean_up_at, self._sweep_at, self._save_at, self._snapshot_due):
            if each is not None:
                yield each

    def overdue(self, now: float, installed: Installed | None) -> bool:
        """Whether something has waited too long."""
        waiting = (self._last_good.due, self._save_at, self._snapshot_due)
        return self._is_cluttered(installed) or any(each is not None and now > each + OVERDUE_S for each in waiting)

    @property
    def _snapshot_due(self) -> float | None:
        return None if self.is_trial else self._snapshots.due

    def do(
        self, now: float, installed: Installed | None, enforced: Enforced | None, were_here: frozenset[str]
    ) -> Installed | None:
        """A slice of each; returns what the kernel then holds.  `were_here`: see Places."""
        if self._last_good.due is not None and now >= self._last_good.due:
            self._last_good.save(SLICE_S)
        if self._sweep_at is not None and now >= self._sweep_at:
            self._sweep_at = None if self._source.sweep(SLICE_S) else time.monotonic() + PAUSE_S
        if self._save_at is not None and now >= self._save_at:
            self._save_at = None if self._source.save(SLICE_S) else time.monotonic() + PAUSE_S
        due = self._snapshot_due
        if due is not None and now >= due:
            self._take_snapshot(installed, enforced, were_here)
        if self._clean_up_at is not None and (now >= self._clean_up_at or self._is_cluttered(installed)):
            self._clean_up_at = None
            return self._clean_up(installed) if installed is not None else None
        return installed

    def finish(self, installed: Installed | None, enforced: Enforced | None, were_here: frozenset[str]) -> None:
        """Save what is not saved yet, before the daemon ends."""
        if self._snapshot_due is not None:
            self._take_snapshot(installed, enforced, were_here)
        end = time.monotonic() + SAVE_AT_STOP_S
        while not self._source.save(SLICE_S) and time.monotonic() < end:
            time.sleep(SLICE_S)  # the disk may be what is slow

    def _take_snapshot(self, installed: Installed | None, enforced: Enforced | None, were_here: frozenset[str]) -> None:
        if installed is not None and enforced is not None:
            # not the installed ruleset: that one may know of revoked connections, which no boot outlives
            self._snapshots.take(enforced.ruleset, installed.names, were_here)

    def _is_cluttered(self, left: Installed | None) -> bool:
        return (
            left is not None
            and not self._stuck
            and sum(map(len, (*left.stray_chains.values(), left.stray_sets))) > MOST_STRAYS
        )

    def _clean_up(self, before: Installed) -> Installed:
        with self._drops.settling(before):
            try:
                left, self._stuck = clean_up(before, self._backend), False
            except (KernelError, OSError) as error:
                # another program's rule leads to an old chain of ours, or the machine has no process to give: no harm
                log.log(logging.DEBUG if self._stuck else logging.WARNING, "old chains can't be taken away: %s", error)
                left, self._stuck = before, True
                with suppress(KernelError, OSError):
                    left = replace(before, stray_sets=ipset.destroy(before.stray_sets))
        if self._stuck:
            self._clean_up_at = time.monotonic() + self._stuck_s
        elif left.stray_sets:
            self._clean_up_at = time.monotonic() + CLEAN_UP_AGAIN_S
        return left

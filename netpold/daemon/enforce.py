"""Brings a ruleset into the kernel, and keeps it there: what the loop has compiled is planned from what the kernel
holds and applied; what other programs change is put back; open flows that are no longer allowed are cut.

What the kernel holds is known from what was put there.  As soon as something fails that is in doubt, and the next
attempt begins with reading it.  Where the kernel refuses the same plan again, the objects to blame are looked for
(isolate.py), and the rest comes into force without them.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, replace

from netpold.daemon.chores import Chores
from netpold.daemon.cutter import Cutter
from netpold.daemon.drift import Drift
from netpold.daemon.fight import Fight
from netpold.daemon.inbox import Inbox
from netpold.daemon.isolate import Trials
from netpold.daemon.known import Known
from netpold.daemon.strange_jumps import StrangeJumps
from netpold.host.drops import Drops
from netpold.host.kernel.apply import apply, installed
from netpold.host.kernel.backend import Backend, KernelError, Trouble
from netpold.host.kernel.bridge_frames import BridgeFrames
from netpold.host.kernel.flush import flush, retire_other
from netpold.host.locate import addresses
from netpold.host.own_links import own_link_local
from netpold.host.view import HostView
from netpold.rules.compile import Compiled
from netpold.rules.plan import Installed, Plan, plan
from netpold.rules.revoke import Enforced
from netpold.rules.ruleset import Ruleset

log = logging.getLogger("netpold")

ISOLATE_AFTER = 2  # refusals of the kernel in a row: then somebody may be to blame


@dataclass(frozen=True, slots=True)
class Applied:
    """A change of the kernel.  `ruleset`: what it holds now; `repaired`: with it, what another program had changed was
    put back."""

    ruleset: Ruleset
    took_s: float
    repaired: bool = False


class Enforcer:
    """Owns what the kernel holds of netpold's.  All methods are for the loop's thread.

    `installed`: what the kernel holds, None: that has to be read.  `enforced`: the ruleset that is in force, and what
    it was compiled for; None: nothing yet.  `applying_since`: while the kernel is changed (time.monotonic()).
    """

    def __init__(self, backend: Backend, known: Known, drops: Drops, chores: Chores, inbox: Inbox) -> None:
        self._backend = backend
        self._known = known
        self._drops = drops
        self._chores = chores
        self._cutter = Cutter(lambda: inbox.wish(flows=True))
        self._drift = Drift(backend, lambda: inbox.wish(drift=True))
        self.frames = BridgeFrames()
        self._closed_ports: frozenset[str] = frozenset()  # of bridges, as of the ruleset that is in force
        self._trials = Trials(backend, lambda: inbox.alive())
        self.installed: Installed | None = None
        self.enforced: Enforced | None = None
        self.applying_since: float | None = None
        self._in_force: Installed | None = None  # what the kernel was last known to hold
        self._refusals = 0  # of the kernel, in a row
        self._drifted = False  # another program changed what is installed, and that is not repaired yet

    def start(self) -> None:
        """Begin to watch the kernel, in the network namespace of the calling thread.  Raises KernelError."""
        self._cutter.start()
        self._drift.start()

    def close(self) -> None:
        self._cutter.close()
        self._drift.close()

    @property
    def fight(self) -> Fight:
        """How it goes with programs that change again and again what was put back."""
        return self._drift.fight

    @property
    def strange_jumps(self) -> StrangeJumps:
        """What other programs' rules lead to netpold's chains."""
        return self._drift.strange_jumps

    @property
    def due(self) -> float | None:
        """When (time.monotonic()) to `mend` without being woken."""
        return self._drift.due

    @property
    def drifted(self) -> bool:
        """Whether another program changed what is installed, and it could not be put back yet."""
        return self._drifted

    # Applying -----------------------------------------------------------------------------------------------------

    def enforce(self, compiled: Compiled, view: HostView) -> Applied | None:
        """Bring the ruleset into the kernel; None where it was there.  Raises KernelError."""
        began = time.monotonic()
        endpoints = self._known.endpoints
        closed = self._known.closed_ports
        self.frames.follow(view, closed | self._closed_ports)
        enforced = Enforced(compiled.ruleset, endpoints, view.own, own_link_local())
        before, is_first = self.installed, self.enforced is None
        if is_first:
            self._cutter.take_over()
        if before is None:
            steps = plan(installed(self._backend), self._cutter.filled(compiled.ruleset))
        else:
            steps = plan(before, compiled.ruleset, compiled.changed, addresses(endpoints.values()))
        if before is not None and not steps.steps:
            current = before
        else:
            self.installed = None  # until all of it is done, what the kernel holds has to be read
            try:
                self.applying_since = began
                self.installed = current = apply(steps, self._backend)
            except KernelError as error:
                others = self._without_culprits(error, steps)
                if others is None:
                    raise
                return self.enforce(others, view)
            finally:
                self.applying_since = None
            self._refusals = 0
            self._cutter.release(enforced, current.names)
            self._chores.kernel_changed(began)
        self._drops.follow(compiled.isolated, current)
        self._closed_ports = closed  # those that are not any more are opened when the rules for their pods are there
        self.frames.follow(view, closed)
        if is_first:
            retire_other(self._backend)
        self.enforced = enforced
        lost = compiled.lost if before is not None else addresses(endpoints.values())
        if lost:
            self._cutter.look(enforced, lost)
        if not steps.steps:
            return None
        repaired, self._drifted = self._drifted, False
        return Applied(compiled.ruleset, time.monotonic() - began, repaired)

    def _without_culprits(self, error: KernelError, refused: Plan) -> Compiled | None:
        """What to enforce instead, where single objects are to blame that the kernel refuses a plan; else None."""
        self._refusals += 1
        if isinstance(error, Trouble) or self._refusals < ISOLATE_AFTER:
            return None
        try:
            culprits = self._trials.culprits(refused)
        except KernelError:
            return None  # it is not the plan that is refused
        return self._known.refuse(culprits)

    def try_refused(self) -> Compiled | None:
        """What to enforce now that the kernel takes something which it has refused; None: it takes nothing more."""
        compiled = self._known.try_refused(self._trials.is_refused)
        left = self._trials.take_left()
        if self.installed is not None and left:
            self.installed = replace(self.installed, stray_sets=self.installed.stray_sets | left)
            self._chores.kernel_changed(time.monotonic())
        return compiled

    def flush(self) -> None:
        """Take everything out of the kernel.  Raises KernelError."""
        flush()
        self.installed, self._in_force, self.enforced = None, None, None

    def known(self) -> Installed | None:
        """What the kernel holds, with the members of those sets that come and go beside the ruleset; None: that is not
        known for sure."""
        return None if self.installed is None else self._cutter.known(self.installed)

    def failed(self) -> None:
        """What the kernel holds has to be read."""
        self.installed = None

    # Keeping ------------------------------------------------------------------------------------------------------

    def expect(self) -> None:
        """Tell those who watch what the kernel should hold now: to be called after each round, failed or not."""
        self._in_force = self.installed or self._in_force  # the last plan may have failed
        self._drift.expect(None if self._in_force is None else self._cutter.known(self._in_force))

    def mend(self) -> Applied | None:
        """Put back what other programs changed in the kernel; None: nothing was put back.  Where that fails, everything
        is to be written anew."""
        in_force = self.installed or self._in_force
        if in_force is None or self.enforced is None:
            self._drift.forget()  # everything is about to be written
            return None
        began, is_known = time.monotonic(), self.installed is not None
        self.installed = None  # should it fail, what the kernel holds has to be read
        try:
            self.applying_since = began
            mended = self._drift.mend(in_force, self._cutter.known(in_force))
        except KernelError as error:
            level = logging.DEBUG if self._drifted else logging.WARNING  # once
            log.log(level, "what another program changed can't be put back by itself: %s", error)
            self._drifted = True
            return None
        finally:
            self.applying_since = None
        now = in_force if mended is None else mended.installed
        if is_known:
            self.installed = now
        if mended is None:
            return None
        if now is None:
            self._drifted = True
            return None
        self._in_force = now
        self.frames.keep()
        self.frames.take_repair()  # a part of this one
        took = time.monotonic() - began
        self._chores.kernel_changed(began)
        self._cutter.look(self.enforced, addresses(self.enforced.endpoints.values()))  # what was let in meanwhile
        return Applied(self.enforced.ruleset, took, repaired=True)

    def look_back(self) -> Applied | None:
        """Read back what the kernel holds, beside the loop; and look at flows that an earlier look failed at, or that
        have ended since.  The table for frames between ports of bridges, which nothing tells of, is put back at once;
        None: it did not have to be."""
        began = time.monotonic()
        self.frames.keep()
        if self.installed is not None:
            self._drift.begin(self._cutter.known(self.installed))
        if self.enforced is None:
            return None
        repaired = self.frames.take_repair()
        # without the table, frames may have begun flows in the name of pods
        lost = addresses(self.enforced.endpoints.values()) if repaired else frozenset[str]()
        self._cutter.look(self.enforced, lost)
        if not repaired:
            return None
        now = time.monotonic()
        self.fight.repaired(now, (), now - began, opens=True)
        return Applied(self.enforced.ruleset, now - began, repaired=True)

    def cut(self) -> int:
        """Forget open flows that are no longer allowed, some of them; how many."""
        if self.enforced is None or self.installed is None:
            return 0  # what is enforced next looks at all flows
        try:
            return self._cutter.settle(self.enforced, self.installed.names)
        except KernelError as error:  # the ruleset is in force; only answers on open flows may still pass
            log.error("open flows that are no longer allowed could not be cut: %s", error)
            return 0

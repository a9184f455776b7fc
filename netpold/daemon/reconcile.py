"""The loop: manifests and network as they are now -> world -> ruleset -> plan -> kernel.

Whatever happens outside only wakes the loop, and says where to look; what to do is computed from what is there then,
never from the event.  So a lost event costs time and nothing else, and ten thousand events are one round.

When a round fails, the rules in the kernel stay as they are, the status is degraded and says why, and the loop tries
again with growing pauses, starting from what the kernel really holds.

What no packet waits for is done when nothing else is to do (chores.py).
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

from netpold import __version__
from netpold.config import Settings
from netpold.daemon.chores import Chores
from netpold.daemon.cutter import Cutter
from netpold.daemon.drift import Drift
from netpold.daemon.inbox import Inbox, Wishes
from netpold.daemon.isolate import Trials
from netpold.daemon.known import Known
from netpold.daemon.report import Report
from netpold.daemon.status import LastApply, Status, timestamp
from netpold.host import journal
from netpold.host.drops import Drops
from netpold.host.kernel import ipset
from netpold.host.kernel.apply import apply, installed, legacy_in_use
from netpold.host.kernel.backend import Backend, KernelError, Trouble
from netpold.host.kernel.flush import flush, retire_other
from netpold.host.last_good import LastGood
from netpold.host.locate import addresses
from netpold.host.metrics import Metrics
from netpold.host.netlink import NetlinkError
from netpold.host.network import Network
from netpold.host.parsed_cache import ParsedCache
from netpold.host.scan import SourceError
from netpold.host.snapshot import Snapshots, saved_pods, saved_remains
from netpold.host.source import Reading, Source
from netpold.host.trust import trustees
from netpold.host.view import HostView
from netpold.host.watch import Watcher
from netpold.rules.compile import Compiled
from netpold.rules.plan import Installed, Plan, plan
from netpold.rules.render import ruleset_text
from netpold.rules.revoke import Enforced
from netpold.rules.ruleset import FAMILIES

log = logging.getLogger("netpold")

CACHE_NAME = "parsed.sqlite"  # in the state directory
LAST_GOOD_NAME = "last-good.sqlite"  # likewise

FIRST_RETRY_S = 0.5
LAST_RETRY_S = 30.0
FIRST_LOOK_S = 1.0  # for how long the first look may be repeated because files change beside it
ISOLATE_AFTER = 2  # refusals of the kernel in a row: then somebody may be to blame
SLOW_S = 5.0  # a change of the kernel that takes longer is told while it lasts
FLUSH_S = 60.0  # how long who asks for a flush waits


class Warner(Protocol):
    """A part of the daemon that may have something to say to a person (one sentence)."""

    @property
    def warning(self) -> str | None: ...


class Reconciler:
    """Owns the desired state and the kernel's.  `run` is the loop; the other methods may be called from any thread."""

    def __init__(self, settings: Settings, backend: Backend) -> None:
        self.settings = settings
        self._backend = backend
        self._inbox = inbox = Inbox()
        self._network = Network(lambda: inbox.wish(network=True))
        self._watcher = Watcher(settings.manifests, lambda: inbox.wish(files=True))
        self._cache = ParsedCache(settings.state_dir / CACHE_NAME)
        self._last_good = last_good = LastGood(settings.state_dir / LAST_GOOD_NAME, lambda: inbox.wish(files=True))
        trusted = trustees(settings)
        self._source = Source(
            settings.manifests,
            settings.max_file_size,
            self._watcher.follow,
            self._watcher.enter,
            self._cache,
            trusted,
            last_good,
            settings.allow_empty,
        )
        self._cutter = Cutter(lambda: inbox.wish(flows=True))
        self._drift = Drift(backend, lambda: inbox.wish(drift=True))
        self._snapshots = Snapshots(settings.state_dir, backend.name, lambda: self._known.remains())
        self._drops = Drops()
        self._metrics = Metrics(__version__, self._drops.totals)
        self._chores = Chores(self._source, last_good, self._snapshots, self._drops, backend, settings.rescan_s)
        self._known = Known(settings, saved_pods(settings.state_dir), saved_remains(settings.state_dir), last_good)
        self._report = Report()
        self._trials = Trials(backend, lambda: inbox.alive())
        self._refusals = 0  # of the kernel, in a row
        self._applying_since: float | None = None  # time.monotonic(), while the kernel is changed
        self._installed: Installed | None = None  # None: what the kernel holds has to be read
        self._in_force: Installed | None = None  # what it was last known to hold
        self._enforced: Enforced | None = None
        self._walked_for = 0  # the last call of `wait` for which all files were looked at, and when
        self._walked_at = 0.0
        self._flushed, self._flush_for = False, ""
        self._look_at = time.monotonic() + settings.rescan_s  # when to look at files and kernel without being woken
        self._sure_at: float | None = None  # when to act on the first look, even if files go on to change
        self._drifted = False  # another program changed what is installed, and that is not repaired yet
        self._status = Status.starting(settings, backend.name)
        # whose warnings, which they log themselves, `status` has too
        self.beside: list[Warner] = [self._snapshots, trusted, last_good]

    def start(self) -> None:
        """Begin to follow the network and the files.  Raises OSError or NetlinkError."""
        self._network.start()
        self._watcher.start()
        self._cutter.start()
        self._drift.start()

    def close(self) -> None:
        self._watcher.close()
        self._network.close()
        self._cutter.close()
        self._drift.close()
        self._cache.close()
        self._last_good.close()
        self._snapshots.close()

    # From any thread ----------------------------------------------------------------------------------------------

    def rescan(self) -> int:
        """Look at all files, whether anything told of a change or not.  Returns what `is_done` takes."""
        return self._inbox.look_at_all()

    def is_done(self, asked: int) -> bool:
        """Whether everything that was on disk at that `rescan` is enforced or rejected."""
        return self._inbox.is_answered(asked)

    def stop(self) -> None:
        """Let the loop end after the round it is in.  The rules stay in force."""
        self._inbox.wish(stop=True)

    def wait(self, timeout: float) -> bool:
        """Until everything that is on disk now is enforced or rejected.  False when that took too long."""
        return self._inbox.wait(timeout)

    def flush(self, who: str) -> None:
        """Take everything of netpold's out of the kernel, and enforce nothing until the daemon starts again; `who` asks
        for it.

        Raises KernelError when the kernel refuses, or has not done it within FLUSH_S seconds.
        """
        log.warning("a flush of all rules is asked for by %s", who)
        self._flush_for = who
        self._inbox.flush(FLUSH_S)

    @property
    def current(self) -> Status:
        beside = tuple(each.warning for each in self.beside if each.warning)  # they come and go without a round
        status = replace(self._status, warnings=(*self._status.warnings, *beside))
        if status.state == "degraded":
            return status
        now, since, error = time.monotonic(), self._applying_since, None
        if since is not None and now - since >= SLOW_S:
            error = f"a change has been waiting for the kernel's rules or their tool for {now - since:.0f} s"
        elif (since := self._drift.fight.open_since) is not None:
            error = self._drift.fight.warning
        if since is None or error is None:
            return status
        began = timestamp(datetime.now(UTC) - timedelta(seconds=now - since))
        return replace(status, state="degraded", error=error, since=began)

    def status(self) -> dict[str, object]:
        return self.current.as_json()

    def metrics(self) -> bytes:
        """As Prometheus wants them."""
        return self._metrics.text(self.current)

    def ruleset_text(self) -> str:
        """The ruleset in force, for a person."""
        enforced = self._enforced
        if enforced is None:
            return ""
        # copies: the loop changes members in place
        sets = {name: replace(ipset, members=frozenset(ipset.members)) for name, ipset in enforced.ruleset.sets.items()}
        return ruleset_text(replace(enforced.ruleset, sets=sets))

    # The loop -----------------------------------------------------------------------------------------------------

    def run(self, after_round: Callable[[], None] = lambda: None, alive: Callable[[], None] = lambda: None) -> None:
        """Reconcile until `stop`.  `after_round` is called after each round, failed or not, `alive` within each, and
        every ALIVE_S when there is nothing to do."""
        pause, self._inbox.alive = 0.0, alive
        self._take_stock()
        while True:
            wishes = self._next(pause)
            if wishes.stop:
                self._chores.finish(self._installed, self._enforced, self._known.places.were_here)
                return
            try:
                self._round(wishes)
                pause = 0.0
            except (KernelError, SourceError, NetlinkError, OSError) as error:
                pause = min(max(pause * 2, FIRST_RETRY_S), LAST_RETRY_S)
                self._report.failed(error, pause)
                self._metrics.failed()
                if isinstance(error, KernelError | OSError):
                    self._installed = None
                if isinstance(error, OSError):  # no file, no process, no thread: what it came in between is not known
                    self._inbox.look_at_all()
                self._publish(state="degraded", error=str(error))
            self._in_force = self._installed or self._in_force
            self._drift.expect(None if self._in_force is None else self._cutter.known(self._in_force))
            after_round()

    def _take_stock(self) -> None:
        """What is in force before the first round: rules of before a restart, or those that the boot put back."""
        self._source.was_enforced()  # unless it is known to be otherwise
        with suppress(KernelError):
            chains = {family: self._backend.contents(family) for family in FAMILIES}
            pods = any(name.startswith("NP-") for each in chains.values() for name in each)
            self._source.was_enforced(pods or bool(self._known.places.were_here))
            rules = {f"IPv{family}": sum(each.rules for each in found.values()) for family, found in chains.items()}
            self._status = replace(self._status, rules=rules, sets=len(ipset.names()))

    def _next(self, pause: float) -> Wishes:
        """Wait for something to do, or until it is time to look anyway (`pause` s after a failure)."""
        if self._flushed:
            return self._inbox.take_urgent()
        if pause:
            return self._next_after_failure(pause)
        times = (self._look_at, self._source.due, self._drift.due, self._known.try_again_at, *self._chores.times())
        return self._inbox.take(min(each for each in times if each is not None))

    def _next_after_failure(self, pause: float) -> Wishes:
        """Wait to try again; the rules in force are looked after meanwhile."""
        failed = time.monotonic()
        while True:
            look_at = self._drift.due or math.inf
            wishes = self._inbox.take_after_failure(failed + FIRST_RETRY_S, failed + pause, look_at)
            if wishes is not None:
                return wishes
            self._mend()
            self._tell_of_fights()

    def _round(self, wishes: Wishes) -> None:
        if wishes.flush:
            self._flush()
        if self._flushed:
            return  # who waits for its manifests to be enforced waits in vain
        now = time.monotonic()
        self._mend()
        due = self._source.due is not None and self._source.due <= now
        failure: SourceError | NetlinkError | None = None
        if wishes.files or wishes.network or due or self._installed is None:
            try:
                self._update(wishes)
            except (SourceError, NetlinkError) as error:
                failure = error  # what is in force needs to be looked after all the same
        again = self._known.try_again_at
        if again is not None and again <= now and self._installed is not None and failure is None:
            self._try_refused()
        if wishes.flows:
            self._cut()
        if now >= self._look_at:
            self._look_at = now + self.settings.rescan_s
            self._chores.sweep()
            if self._installed is not None:
                self._drift.begin(self._cutter.known(self._installed))
            if self._enforced is not None:
                self._cutter.look(self._enforced, frozenset())  # at what an earlier look failed at, or has ended since
        if failure or self._chores.overdue(now, self._installed) or not wishes.any():
            before, self._installed = self._installed, None  # should it fail, what the kernel holds has to be read
            self._installed = self._chores.do(now, before, self._enforced, self._known.places.were_here)
        self._tell_of_fights()
        if failure:
            raise failure

    def _mend(self) -> None:
        """Put back what other programs changed in the kernel; where that fails, everything is to be written anew."""
        in_force = self._installed or self._in_force  # the last plan may have failed
        if in_force is None or self._enforced is None:
            self._drift.forget()  # everything is about to be written
            return
        began, is_known = time.monotonic(), self._installed is not None
        self._installed = None  # should it fail, what the kernel holds has to be read
        try:
            mended = self._drift.mend(in_force, self._cutter.known(in_force))
        except KernelError as error:
            level = logging.DEBUG if self._drifted else logging.WARNING  # once
            log.log(level, "what another program changed can't be put back by itself: %s", error)
            self._drifted = True
            return
        now = in_force if mended is None else mended.installed
        if is_known:
            self._installed = now
        if mended is None:
            return
        if now is None:
            self._drifted = True
            return
        self._in_force = now
        took = time.monotonic() - began
        self._metrics.applied(took)
        self._metrics.repaired()
        self._chores.kernel_changed(began)
        self._cutter.look(self._enforced, addresses(self._enforced.endpoints.values()))  # what was let in meanwhile
        last = LastApply(timestamp(datetime.now(UTC)), round(took * 1000, 1))
        self._publish(state=self._status.state, revision=self._status.revision + 1, last_apply=last)
        self._report.warned(self._host_warnings())

    def _tell_of_fights(self) -> None:
        fighting = self._drift.fight.warning
        if not self._drifted:
            self._report.drifted(self._status, self._drift.fight.tell(time.monotonic()))
        if fighting and not self._drift.fight.warning:
            self._publish(state=self._status.state, error=self._status.error)

    def _update(self, wishes: Wishes) -> None:
        """Take in what changed outside, and enforce it."""
        view = self._network.view()
        hints = self._watcher.take()
        if wishes.asked > self._walked_for or self._enforced is None:
            hints = replace(hints, everything=True)
        failure, reading = None, None
        try:
            reading = self._source.read(hints, self.settings.settle_ms / 1000)
        except SourceError as error:
            failure = error  # what was known before stays in force, where the pods are now
            reading = self._source.stand_ins()
        looked_at = time.monotonic()  # not before: what this look was the first to see is waited for
        self._inbox.alive()
        if self._source.complete:
            places = self._known.places
            before, were_here, outlasting = places.endpoints, places.were_here, self._known.outlasting
            compiled = self._known.update(reading, view)
            self._report.changed(self._known.changes, before, places.endpoints)
            self._report.found(self._known.findings, self._known.rejected, self._known.world)
            self._inbox.alive()
            if self._enforced is None:
                if not self._is_sure(reading):
                    return
                places.forget_all_but(self._known.world.pods)
            applied = self._enforce(compiled, view)
            if places.were_here is not were_here or self._known.outlasting is not outlasting:
                self._chores.pods_came()
            self._tell(applied, failed=failure is not None)
        if failure is not None:
            raise failure
        if hints.everything:
            self._walked_for, self._walked_at = wishes.asked, looked_at
        if reading and reading.changed:
            self._chores.files_changed()
        if self._source.is_settled(self._walked_at):
            self._inbox.answer(self._walked_for)

    def _tell(self, applied: dict[str, object], *, failed: bool) -> None:
        """Publish and log what is in force now.  `failed`: the files could not be read, so it may be what they said
        before."""
        if failed:
            self._publish(state=self._status.state, error=self._status.error, **applied)
        else:
            refused = self._known.error
            self._known.in_force()
            self._publish(state="degraded" if refused else "enforcing", error=refused, **applied)
            if refused is None:
                self._report.recovered(self._status)
        last = self._status.last_apply if applied else None
        self._report.applied(self._status, last.duration_ms / 1000 if last else None, repaired=self._drifted)
        if self._drifted and applied:
            self._metrics.repaired()
            self._drifted = False
        self._report.warned(self._host_warnings())

    def _is_sure(self, reading: Reading | None) -> bool:
        """Whether the first look at everything can be acted on.  A look beside which a file is renamed can miss it, and
        to miss a policy is to open what it closes; but then an event tells of it."""
        now = time.monotonic()
        self._sure_at = self._sure_at or now + FIRST_LOOK_S
        if now >= self._sure_at:
            return True
        time.sleep(self.settings.settle_ms / 1000)  # so that events come in
        if reading is not None and reading.settled and not self._watcher.take():
            return True
        self._inbox.wish(files=True)
        return False

    def _enforce(self, compiled: Compiled, view: HostView) -> dict[str, object]:
        """Bring the ruleset into the kernel; returns the fields of Status that tell of it, none where it was there."""
        began = time.monotonic()
        endpoints = self._known.endpoints
        enforced = Enforced(compiled.ruleset, endpoints, view.own)
        before, is_first = self._installed, self._enforced is None
        if is_first:
            self._cutter.take_over()
        if before is None:
            steps = plan(installed(self._backend), self._cutter.filled(compiled.ruleset))
        else:
            steps = plan(before, compiled.ruleset, compiled.changed, addresses(endpoints.values()))
        if before is not None and not steps.steps:
            current = before
        else:
            self._installed = None  # until all of it is done, what the kernel holds has to be read
            try:
                self._applying_since = began
                self._installed = current = apply(steps, self._backend)
            except KernelError as error:
                others = self._without_culprits(error, steps)
                if others is None:
                    raise
                return self._enforce(others, view)
            finally:
                self._applying_since = None
            self._refusals = 0
            self._metrics.applied(time.monotonic() - began)
            self._cutter.release(enforced, current.names)
            self._chores.kernel_changed(began)
        self._drops.follow(compiled.isolated, current)
        if is_first:
            retire_other(self._backend)
        if self._enforced is None or self._enforced.endpoints is not endpoints:
            self._network.probe(addresses(each for each in endpoints.values() if not each.interfaces))
        self._enforced = enforced
        lost = compiled.lost if before is not None else addresses(endpoints.values())
        if lost:
            self._cutter.look(enforced, lost)
        if not steps.steps:
            return {}
        ruleset = compiled.ruleset
        return {
            "revision": self._status.revision + 1,
            "last_apply": LastApply(timestamp(datetime.now(UTC)), round((time.monotonic() - began) * 1000, 1)),
            "rules": {f"IPv{family}": sum(map(len, ruleset.chains[family].values())) for family in FAMILIES},
            "sets": len(ruleset.sets),
        }

    def _without_culprits(self, error: KernelError, refused: Plan) -> Compiled | None:
        """What to enforce instead, where single objects are to blame that the kernel refuses a plan; else None."""
        self._refusals += 1
        if isinstance(error, Trouble) or self._refusals < ISOLATE_AFTER:
            return None
        try:
            culprits = self._trials.culprits(refused)
        except KernelError:
            return None  # it is not the plan that is refused
        others = self._known.refuse(culprits)
        if others is not None:
            self._report.found(self._known.findings, self._known.rejected, self._known.world)
        return others

    def _try_refused(self) -> None:
        """Enforce again what the kernel has refused and takes now."""
        compiled = self._known.try_refused(self._trials.is_refused)
        left = self._trials.take_left()
        if self._installed is not None and left:
            self._installed = replace(self._installed, stray_sets=self._installed.stray_sets | left)
            self._chores.kernel_changed(time.monotonic())
        if compiled is not None:
            self._report.found(self._known.findings, self._known.rejected, self._known.world)
            self._tell(self._enforce(compiled, self._network.view()), failed=False)

    def _cut(self) -> None:
        """Forget the open flows that are no longer allowed."""
        if self._enforced is None or self._installed is None:
            return  # what is enforced next looks at all flows
        try:
            gone = self._cutter.settle(self._enforced, self._installed.names)
        except KernelError as error:  # the ruleset is in force; only answers on open flows may still pass
            log.error("open flows that are no longer allowed could not be cut: %s", error)
        else:
            if gone:
                self._metrics.cut(gone)
                journal.say(journal.CUT, f"cut {gone} open flow(s), no longer allowed", flows=gone)

    def _flush(self) -> None:
        """Raises KernelError, which is told to who asked, too; then everything is enforced again."""
        try:
            flush()
        except KernelError as error:
            self._inbox.flushed(error)
            raise
        self._snapshots.forget()
        self._flushed, self._installed, self._in_force, self._enforced = True, None, None, None
        text = f"flushed on request of {self._flush_for}: nothing is enforced until netpold is restarted"
        journal.say(journal.FLUSHED, text)
        self._publish(state="degraded", error=text)
        self._inbox.flushed(None)

    def _publish(self, **changes: object) -> None:
        """Say how things are; `changes` are fields of Status beyond what the inputs tell."""
        same = changes.get("state") == self._status.state
        fields: dict[str, Any] = {
            "since": self._status.since if same else timestamp(datetime.now(UTC)),
            "warnings": self._host_warnings(),
            **self._known.told(),
            **changes,
        }
        self._status = replace(self._status, **fields)

    def _host_warnings(self) -> tuple[str, ...]:
        found = self._known.warnings()
        found += [each.warning for each in (self._watcher, self._network) if each.warning]
        if self._drift.fight.warning:
            found.append(self._drift.fight.warning)
        if self._backend.name == "nft" and any(legacy_in_use()):
            found.append("iptables-legacy has a filter table too, whose rules are in force as well")
        return tuple(found)

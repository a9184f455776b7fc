"""The loop: manifests and network as they are now -> world -> ruleset -> kernel (enforce.py).

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
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace

from netpold.config import Settings, compile_settings
from netpold.daemon.account import Account, Warner
from netpold.daemon.chores import Chores
from netpold.daemon.enforce import Enforcer
from netpold.daemon.inbox import Inbox, Wishes
from netpold.daemon.inspection import INSPECTIONS, Inspection
from netpold.daemon.known import Known
from netpold.daemon.questions import QUESTIONS, Facts, Json, NoAnswer, Parameters, Why, answer, in_time
from netpold.daemon.questions_about import Held
from netpold.daemon.sightings import OBSERVATIONS, Sightings
from netpold.daemon.status import Status
from netpold.daemon.tracing import Tracer
from netpold.daemon.trials import Trials
from netpold.daemon.tryout import Tryout
from netpold.host.drops import Drops
from netpold.host.kernel import ipset
from netpold.host.kernel.backend import Backend, KernelError
from netpold.host.last_good import LastGood
from netpold.host.locate import addresses
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
from netpold.rules.endpoint import Endpoint
from netpold.rules.ends import Home
from netpold.rules.render import ruleset_text
from netpold.rules.ruleset import FAMILIES

log = logging.getLogger("netpold")

CACHE_NAME = "parsed.sqlite"  # in the state directory
LAST_GOOD_NAME = "last-good.sqlite"  # likewise

FIRST_RETRY_S = 0.5
LAST_RETRY_S = 30.0
FIRST_LOOK_S = 1.0  # for how long the first look may be repeated because files change beside it
FLUSH_S = 60.0  # how long who asks for a flush waits


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
        self._snapshots = Snapshots(settings.state_dir, backend.name, lambda: self._known.remains())
        drops = Drops()
        self._chores = Chores(self._source, last_good, self._snapshots, drops, backend, settings.rescan_s)
        self._known = Known(settings, saved_pods(settings.state_dir), saved_remains(settings.state_dir), last_good)
        self._enforcer = Enforcer(backend, self._known, drops, self._chores, inbox)
        self._probed: Mapping[str, Endpoint] = {}  # for whose interfaces the network was asked
        followers = self._watcher, self._network
        beside = self._snapshots, trusted, last_good, self._enforcer.frames, self._enforcer.strange_jumps
        self._account = Account(settings, backend.name, self._known, self._enforcer, drops, followers, beside)
        self.beside: list[Warner] = self._account.beside  # whose warnings the status has too; they log them themselves
        self._sightings = Sightings(settings, inbox, self._facts, self._own)
        self.beside.append(self._sightings.observer)
        self._tryout = Tryout(lambda: inbox.wish(files=True), settings.state_dir)
        self.trials = Trials(inbox, self._tryout, self._known, self._facts, lambda: self.current)
        self._inspection = Inspection(backend, drops, inbox, self._facts, self._held)
        self._tracer = Tracer(backend.name, inbox, self._facts, self._held)
        self.trace = self._tracer.trace
        self._walked_for = 0  # the last call of `wait` for which all files were looked at, and when
        self._walked_at = 0.0
        self._flushed, self._flush_for = False, ""
        self._look_at = time.monotonic() + settings.rescan_s  # when to look at files and kernel without being woken
        self._sure_at: float | None = None  # when to act on the first look, even if files go on to change

    def start(self) -> None:
        """Begin to follow the network and the files.  Raises OSError or NetlinkError."""
        self._network.start()
        self._watcher.start()
        self._enforcer.start()
        self._sightings.observer.start()

    def close(self) -> None:
        self._tracer.stop()
        self._sightings.observer.close()
        self._watcher.close()
        self._network.close()
        self._enforcer.close()
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
        return replace(self._account.current, tried=self._tryout.told())

    def status(self) -> dict[str, object]:
        return self.current.as_json()

    def metrics(self) -> bytes:
        """As Prometheus wants them."""
        return self._account.metrics()

    def ruleset_text(self) -> str:
        """The ruleset in force, for a person."""
        enforced = self._enforcer.enforced
        if enforced is None:
            return ""
        # copies: the loop changes members in place
        sets = {name: replace(ipset, members=frozenset(ipset.members)) for name, ipset in enforced.ruleset.sets.items()}
        return ruleset_text(replace(enforced.ruleset, sets=sets))

    def ask(self, question: str, parameters: Parameters) -> Json:
        """The answer to one of QUESTIONS, OBSERVATIONS or INSPECTIONS.  Raises NoAnswer."""
        if question in OBSERVATIONS:
            return self._sightings.ask(question, parameters)
        if question in INSPECTIONS:
            return self._inspection.ask(question, parameters)
        return in_time(self._inbox, answer(QUESTIONS[question], self._facts, parameters))

    # The loop -----------------------------------------------------------------------------------------------------

    def run(self, after_round: Callable[[], None] = lambda: None, alive: Callable[[], None] = lambda: None) -> None:
        """Reconcile until `stop`.  `after_round` is called after each round, failed or not, `alive` within each, and
        every ALIVE_S when there is nothing to do."""
        pause, self._inbox.alive = 0.0, alive
        self._take_stock()
        while True:
            wishes = self._next(pause)
            if wishes.stop:
                self._chores.finish(self._enforcer.installed, self._enforcer.enforced, self._known.places.were_here)
                self._account.ended()
                return
            try:
                self._account.round_since = time.monotonic()
                self._round(wishes)
                pause = 0.0
            except (KernelError, SourceError, NetlinkError, OSError) as error:
                pause = min(max(pause * 2, FIRST_RETRY_S), LAST_RETRY_S)
                if isinstance(error, KernelError | OSError):
                    self._enforcer.failed()
                if isinstance(error, OSError):  # no file, no process, no thread: what it came in between is not known
                    self._inbox.look_at_all()
                self._account.failed(error, pause)
            self._account.round_since = None
            self._enforcer.expect()
            after_round()

    def _take_stock(self) -> None:
        """What is in force before the first round: rules of before a restart, or those that the boot put back."""
        self._source.was_enforced()  # unless it is known to be otherwise
        with suppress(KernelError):
            chains = {family: self._backend.contents(family) for family in FAMILIES}
            pods = any(name.startswith("NP-") for each in chains.values() for name in each)
            self._source.was_enforced(pods or bool(self._known.places.were_here))
            rules = {f"IPv{family}": sum(each.rules for each in found.values()) for family, found in chains.items()}
            self._account.started(rules, len(ipset.names()))

    def _next(self, pause: float) -> Wishes:
        """Wait for something to do, or until it is time to look anyway (`pause` s after a failure)."""
        if self._flushed:
            return self._inbox.take_urgent()
        if pause:
            return self._next_after_failure(pause)
        mine = (
            self._look_at,
            self._source.due,
            self._enforcer.due,
            self._known.try_again_at,
            self._account.due,
            self._tryout.due,
        )
        return self._inbox.take(min(each for each in (*mine, *self._chores.times()) if each is not None))

    def _next_after_failure(self, pause: float) -> Wishes:
        """Wait to try again; the rules in force are looked after meanwhile."""
        failed = time.monotonic()
        while True:
            look_at, until, over = self._enforcer.due or math.inf, failed + pause, self._tryout.due
            if over is not None and over > failed:
                until = min(until, over)
            wishes = self._inbox.take_after_failure(failed + FIRST_RETRY_S, until, look_at)
            if wishes is not None:
                return wishes
            self._mend()
            self._account.catch_up()

    def _round(self, wishes: Wishes) -> None:
        if wishes.flush:
            self._flush()
        if self._flushed:
            return  # who waits for its manifests to be enforced waits in vain
        now = time.monotonic()
        self._mend()
        due = any(each is not None and each <= now for each in (self._source.due, self._tryout.due))
        failure: SourceError | NetlinkError | None = None
        if wishes.files or wishes.network or due or self._enforcer.installed is None:
            try:
                self._update(wishes)
            except (SourceError, NetlinkError) as error:
                failure = error  # what is in force needs to be looked after all the same
        again = self._known.try_again_at
        if again is not None and again <= now and self._enforcer.installed is not None and failure is None:
            compiled = self._enforcer.try_refused()
            if compiled is not None:
                self._enforce(compiled, self._network.view())
        if wishes.flows:
            self._account.cut(self._enforcer.cut())
        if now >= self._look_at:
            self._look_at = now + self.settings.rescan_s
            self._chores.sweep()
            self._account.looked_back(self._enforcer.look_back())
        if failure or self._chores.overdue(now, self._enforcer.installed) or not wishes.any():
            done = self._chores.do(now, self._enforcer.installed, self._enforcer.enforced, self._known.places.were_here)
            self._enforcer.installed = done
        self._account.catch_up()
        if failure:
            raise failure

    def _mend(self) -> None:
        """Put back what other programs changed in the kernel."""
        self._account.mended(self._enforcer.mend())

    def _update(self, wishes: Wishes) -> None:
        """Take in what changed outside, and enforce it."""
        view = self._network.view()
        hints = self._watcher.take()
        if wishes.asked > self._walked_for or self._enforcer.enforced is None:
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
            before, were_here = places.endpoints, places.were_here
            trial = self._tryout.take()
            compiled = self._known.update(reading, view, trial.world if trial else None)
            if trial and self._known.tried is None:
                self._tryout.end("the manifests say something else")
            self._chores.is_trial = trial is not None and trial.until is not None and self._known.tried is not None
            self._account.updated(before)
            self._inbox.alive()
            if self._enforcer.enforced is None:
                if not self._is_sure(reading):
                    return
                places.forget_all_but(self._known.world.pods)
                resumed = self._tryout.resume(self._known.written)
                if resumed:
                    compiled = self._known.update(None, view, resumed.world)
            self._enforce(compiled, view, failed=failure is not None)
            if self._known.outlasts_anew() or places.were_here is not were_here:
                self._chores.pods_came()
        if failure is not None:
            raise failure
        if hints.everything:
            self._walked_for, self._walked_at = wishes.asked, looked_at
        if reading and reading.changed:
            self._chores.files_changed()
        if self._source.is_settled(self._walked_at):
            self._inbox.answer(self._walked_for)

    def _enforce(self, compiled: Compiled, view: HostView, *, failed: bool = False) -> None:
        """Bring a ruleset into force.  `failed`: see Account.enforced."""
        applied = self._enforcer.enforce(compiled, view)
        endpoints = self._known.endpoints
        if self._probed is not endpoints:
            self._probed = endpoints
            self._network.probe(addresses(each for each in endpoints.values() if not each.interfaces))
        if not failed:
            self._known.in_force()
        self._account.enforced(applied, failed=failed)
        self._tryout.enforced(self._known.error)

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

    def _facts(self) -> Facts:
        """See `questions.Look`."""
        known, enforced, status = self._known, self._enforcer.enforced, self.current
        if self._flushed:
            raise NoAnswer(Why.FLUSHED, "nothing is in force: all rules were flushed", "`systemctl restart netpold`")
        if enforced is None:
            hint = "wait until `netpoldctl status` says that it is enforcing"
            raise NoAnswer(Why.BUSY, "nothing is in force that the daemon knows of", hint)
        return Facts(
            moment=(known.moment, status.revision),
            revision=status.revision,
            state=status.state,
            node=self.settings.node,
            index=known.index,
            ruleset=enforced.ruleset,
            endpoints=enforced.endpoints,
            settings=compile_settings(self.settings),
            home=Home(self.settings.node, enforced.own, enforced.endpoints.keys(), known.lingering),
            bridge_filter=known.bridge_filter,
            instead=status.tried.words() if status.tried else None,
        )

    def _held(self) -> Held:
        """What is in force beside `_facts`; raises NoAnswer."""
        installed = self._enforcer.known()
        if installed is None:
            raise NoAnswer(Why.BUSY, "what the kernel holds is not known just now", "try again in a moment")
        known = self._known
        frames = self._enforcer.frames.listing
        return Held(installed, known.isolated, known.findings, known.as_before, known.audited, frames)

    def _own(self) -> frozenset[str]:
        """The node's own addresses, for any thread."""
        enforced = self._enforcer.enforced
        return enforced.own if enforced else frozenset()

    def _flush(self) -> None:
        """Raises KernelError, which is told to who asked, too; then everything is enforced again."""
        try:
            self._enforcer.flush()
        except KernelError as error:
            self._inbox.flushed(error)
            raise
        self._snapshots.forget()
        self._tracer.stop()
        self._flushed = True
        self._account.flushed(self._flush_for)
        self._inbox.flushed(None)

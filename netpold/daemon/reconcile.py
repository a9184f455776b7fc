"""The loop: manifests and network as they are now -> world -> ruleset -> plan -> kernel.

Whatever happens outside only wakes the loop; what to do is computed from what is there then, never from the event.
So a lost event costs time and nothing else, and ten thousand events are one round.

When a round fails, the rules in the kernel stay as they are, the status is degraded and says why, and the loop tries
again with growing pauses, starting from what the kernel really holds.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from netpold.config import Settings, compile_settings
from netpold.daemon.known import Known, good, total
from netpold.daemon.status import LastApply, Status, timestamp
from netpold.host import conntrack
from netpold.host.kernel import ipset
from netpold.host.kernel.apply import apply, installed, legacy_in_use
from netpold.host.kernel.backend import Backend, KernelError
from netpold.host.kernel.flush import flush, retire_other
from netpold.host.locate import locate
from netpold.host.netlink import NetlinkError
from netpold.host.network import Network
from netpold.host.scan import SourceError
from netpold.host.source import Reading, Source
from netpold.host.watch import Watcher
from netpold.policy.assemble import Assembled, assemble
from netpold.policy.index import Index
from netpold.rules.compile import compile_ruleset
from netpold.rules.endpoint import Endpoint
from netpold.rules.peers import Sets
from netpold.rules.plan import Installed, plan
from netpold.rules.render import ruleset_text
from netpold.rules.revoke import revoked
from netpold.rules.ruleset import FAMILIES, Ruleset

log = logging.getLogger("netpold")

FIRST_RETRY_S = 0.5
LAST_RETRY_S = 30.0
CLEAN_UP_S = 1.0  # how soon to try again to destroy sets that were still in use


@dataclass(frozen=True, slots=True)
class _Wishes:
    """What woke the loop, and whom it has to answer.  Guarded by the reconciler's condition."""

    files: bool = True
    network: bool = True
    check: bool = False
    flush: bool = False
    stop: bool = False
    asked: int = 0  # how many calls of `wait` came so far
    answered: int = 0  # the last of them that a whole round has served

    def any(self) -> bool:
        return self.files or self.network or self.check or self.flush or self.stop  # who asks wants files read


class _Interrupted(Exception):
    """Somebody wants the loop to stop or to flush while it waits for files to become quiet."""


class Reconciler:
    """Owns the desired state and the kernel's.  `run` is the loop; the other methods may be called from any thread."""

    def __init__(self, settings: Settings, backend: Backend) -> None:
        self.settings = settings
        self._backend = backend
        self._network = Network(self.wake_network)
        self._watcher = Watcher(settings.manifests, self.wake_files)
        self._source = Source(settings.manifests, settings.max_file_size, self._watcher.follow)
        self._compile = compile_settings(settings)
        self._known = Known()
        self._installed: Installed | None = None  # None: what the kernel holds has to be read
        self._ruleset: Ruleset | None = None
        self._flushed = False
        self._flush_error: KernelError | None = None
        self._look_at = time.monotonic() + settings.rescan_s  # when to look at files and kernel without being woken
        self._wishes = _Wishes()
        self._changed = threading.Condition()
        self._status = Status.starting(settings, backend.name)

    def start(self) -> None:
        """Begin to follow the network and the files.  Raises OSError or NetlinkError."""
        self._network.start()
        self._watcher.start()

    def close(self) -> None:
        self._watcher.close()
        self._network.close()

    # From any thread ----------------------------------------------------------------------------------------------

    def wake_files(self) -> None:
        self._wish(files=True)

    def wake_network(self) -> None:
        self._wish(network=True)

    def stop(self) -> None:
        """Let the loop end after the round it is in.  The rules stay in force."""
        self._wish(stop=True)

    @property
    def current(self) -> Status:
        return self._status

    def status(self) -> dict[str, object]:
        return self._status.as_json()

    def ruleset_text(self) -> str:
        """The ruleset in force, for a person."""
        ruleset = self._ruleset
        return ruleset_text(ruleset) if ruleset else ""

    def wait(self, timeout: float) -> bool:
        """Until everything that is on disk now is enforced or rejected.  False when that took too long."""
        with self._changed:
            ticket = self._wishes.asked + 1
            self._wishes = replace(self._wishes, asked=ticket, files=True)
            self._changed.notify_all()
            return self._changed.wait_for(lambda: self._wishes.answered >= ticket, timeout)

    def flush(self, timeout: float = 60.0) -> None:
        """Take everything of netpold's out of the kernel, and enforce nothing until the daemon starts again.

        Raises KernelError when the kernel refuses, or has not done it within `timeout` seconds.
        """
        with self._changed:
            self._wishes = replace(self._wishes, flush=True)
            self._changed.notify_all()
            if not self._changed.wait_for(lambda: not self._wishes.flush, timeout):
                raise KernelError(f"not flushed within {timeout:.0f} s; see the daemon's log")
            if self._flush_error:
                raise self._flush_error

    def _wish(self, **wishes: bool) -> None:
        with self._changed:
            self._wishes = replace(self._wishes, **wishes)
            self._changed.notify_all()

    # The loop -----------------------------------------------------------------------------------------------------

    def run(self, after_round: Callable[[], None] = lambda: None) -> None:
        """Reconcile until `stop`.  `after_round` is called after each round, failed or not."""
        pause = 0.0
        while True:
            wishes = self._next(pause)
            if wishes.stop:
                return
            try:
                self._round(wishes)
                pause = 0.0
            except _Interrupted:
                self._wish(files=True)
                continue
            except (KernelError, SourceError, NetlinkError) as error:
                pause = min(max(pause * 2, FIRST_RETRY_S), LAST_RETRY_S)
                log.error("%s; trying again in %.1f s", error, pause)
                self._installed = None
                self._publish(state="degraded", error=str(error))
            after_round()

    def _next(self, pause: float) -> _Wishes:
        """Wait for something to do, or until it is time to look anyway (`pause` s after a failure)."""
        with self._changed:
            if self._flushed:
                self._changed.wait_for(self._urgent)
            elif pause:
                # something new may be the cure, but no storm of events is to become a storm of attempts
                if not self._changed.wait_for(self._urgent, FIRST_RETRY_S):
                    self._changed.wait_for(lambda: self._wishes.any(), pause - FIRST_RETRY_S)
                self._wishes = replace(self._wishes, files=True)
            else:
                left = max(self._look_at - time.monotonic(), 0.0)
                busy = self._installed is not None and bool(self._installed.stray_sets)
                self._changed.wait_for(lambda: self._wishes.any(), min(left, CLEAN_UP_S) if busy else left)
            if time.monotonic() >= self._look_at:
                self._wishes = replace(self._wishes, files=True, check=True)
                self._look_at = time.monotonic() + self.settings.rescan_s
            taken = self._wishes
            self._wishes = replace(taken, files=False, network=False, check=False)
            return taken

    def _urgent(self) -> bool:
        return self._wishes.stop or self._wishes.flush

    def _round(self, wishes: _Wishes) -> None:
        if wishes.flush:
            self._flush()
        if self._flushed:
            return  # who waits for its manifests to be enforced waits in vain
        if not wishes.any():
            self._clean_up()
            return
        if wishes.files:
            self._read()
        if wishes.check and self._installed is not None and not self._intact():
            log.warning("another program changed netpold's chains or sets: putting them back")
            self._installed = None
        self._follow_network()
        self._answer(wishes)

    def _follow_network(self) -> None:
        """Enforce what is known of the manifests where the pods are now."""
        view, known = self._network.view(), self._known
        located = locate(view, known.world.pods.values(), self.settings.node)
        endpoints = located.endpoints
        self._network.probe(address for each in endpoints.values() if not each.interfaces for address in each.addresses)
        unfiltered = [
            f"IPv{family}"
            for family in FAMILIES
            if family not in view.bridge_nf_call
            and any(interface.bridged for each in endpoints.values() for interface in each.interfaces)
        ]
        moved = known.located is None or known.located.endpoints != endpoints
        known.located, known.unfiltered = located, unfiltered
        if moved or known.compiled is None:
            known.compiled = compile_ruleset(known.index, endpoints, self._compile, known.sets)
        self._enforce(known.compiled, endpoints)

    def _pause(self, seconds: float) -> None:
        """Wait for files to become quiet; the network does not wait with them, and nor do who stops or flushes."""
        end = time.monotonic() + seconds
        while True:
            with self._changed:
                woken = self._changed.wait_for(lambda: self._wishes.network or self._urgent(), end - time.monotonic())
                if self._urgent():
                    raise _Interrupted
                self._wishes = replace(self._wishes, network=False)
            if not woken:
                return
            if self._installed is not None:
                self._follow_network()

    def _flush(self) -> None:
        """Raises KernelError, which is told to who asked, too; then everything is enforced again."""
        self._flush_error = None
        try:
            flush()
        except KernelError as error:
            self._flush_error = error
            self._wish(flush=False)  # asked once is tried once: to try again at once would never end
            raise
        self._flushed, self._installed, self._ruleset = True, None, None
        log.warning("flushed on request: nothing is enforced until netpold is restarted")
        self._publish(state="degraded", error="flushed on request: nothing is enforced until netpold is restarted")
        self._wish(flush=False)

    def _read(self) -> None:
        """Take in what the manifests say now."""
        reading = self._source.read(self.settings.settle_ms / 1000, sleep=self._pause)
        if reading is self._known.reading:
            return
        self._known.reading = reading
        assembled = assemble(reading.parsed, self._known.last_good)
        self._report(reading, assembled)
        world = assembled.world
        if world != self._known.world:
            self._known.index = Index(world)
            self._known.sets = Sets(self._known.index)
            self._known.compiled = None
        self._known.world = world
        self._known.last_good = good(world)
        self._known.passed_over = total(parsed.passed_over for parsed in reading.parsed.values())

    def _report(self, reading: Reading, assembled: Assembled) -> None:
        """Log each finding when it is new."""
        findings = (*reading.findings, *assembled.findings)
        for finding in set(findings) - set(self._known.findings):
            log.log(logging.ERROR if finding.severity == "error" else logging.WARNING, "%s", finding)
        self._known.findings = findings
        self._known.rejected = assembled.rejected

    def _enforce(self, ruleset: Ruleset, endpoints: Mapping[str, Endpoint]) -> None:
        began = time.monotonic()
        before = self._installed if self._installed is not None else installed(self._backend)
        steps = plan(before, ruleset)
        self._installed = None  # until all of it is done, what the kernel holds has to be read
        now = apply(steps, self._backend)
        if self._ruleset is None:
            retire_other(self._backend)
        self._installed, self._ruleset = now, ruleset
        if not steps.steps:
            self._publish(state="enforcing", error=None)
            return
        seconds = time.monotonic() - began
        self._publish(
            state="enforcing",
            error=None,
            revision=self._status.revision + 1,
            last_apply=LastApply(timestamp(datetime.now(UTC)), round(seconds * 1000, 1)),
            rules={f"IPv{family}": sum(map(len, ruleset.chains[family].values())) for family in FAMILIES},
            sets=len(ruleset.sets),
        )
        log.info("%s", self._status.summary())
        if steps.takes_away:
            self._revoke(ruleset, endpoints)

    def _revoke(self, ruleset: Ruleset, endpoints: Mapping[str, Endpoint]) -> None:
        """Forget the open flows that are no longer allowed."""
        addresses = frozenset(address for each in endpoints.values() for address in each.addresses)
        try:
            for family in FAMILIES:
                gone = conntrack.forget(revoked(conntrack.flows(family, addresses), ruleset, endpoints))
                if gone:
                    log.info("cut %d open IPv%d flows that are no longer allowed", gone, family)
        except KernelError as error:  # the ruleset is in force; only answers on open flows may still pass
            log.error("open flows that are no longer allowed could not be cut: %s", error)

    def _clean_up(self) -> None:
        if self._installed is not None:
            self._installed = replace(self._installed, stray_sets=ipset.destroy(self._installed.stray_sets))

    def _intact(self) -> bool:
        """Whether all own chains and sets, and the jumps to them, are still in the kernel.  Raises KernelError."""
        if self._installed is None or self._ruleset is None:
            return True
        now = installed(self._backend)
        return (
            now.stray_sets == frozenset(self._installed.names.values()) | self._installed.stray_sets
            and all(now.stray_chains[family] == self._ruleset.chains[family].keys() for family in FAMILIES)
            and all(
                self._backend.hooked(family, builtin, own)
                for family in FAMILIES
                for builtin, own in self._ruleset.hooks.items()
            )
        )

    def _answer(self, wishes: _Wishes) -> None:
        with self._changed:
            self._wishes = replace(self._wishes, answered=max(self._wishes.answered, wishes.asked))
            self._changed.notify_all()

    def _publish(self, **changes: object) -> None:
        """Say how things are; `changes` are fields of Status beyond what the inputs tell."""
        same = changes.get("state") == self._status.state
        fields: dict[str, Any] = {
            "since": self._status.since if same else timestamp(datetime.now(UTC)),
            "warnings": self._warnings(),
            **self._known.told(),
            **changes,
        }
        self._status = replace(self._status, **fields)

    def _warnings(self) -> tuple[str, ...]:
        found = self._known.warnings()
        if self._watcher.warning:
            found.append(self._watcher.warning)
        if self._backend.name == "nft" and any(legacy_in_use()):
            found.append("iptables-legacy has a filter table too, whose rules are in force as well")
        return tuple(found)

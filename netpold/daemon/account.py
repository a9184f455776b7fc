"""What the daemon says of what it does: after each thing that the loop did, to the status, the journal and the metrics.

The status is one value, replaced as a whole; whoever asks for it, from any thread, gets it with what has come up since
the last round: warnings that come and go by themselves, and a change that the kernel is long about.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

from netpold import __version__
from netpold.config import Settings
from netpold.daemon.enforce import Applied, Enforcer
from netpold.daemon.known import Known
from netpold.daemon.report import Report
from netpold.daemon.status import Drifted, LastApply, Status, Table, timestamp
from netpold.host import journal
from netpold.host.drops import Drops
from netpold.host.git_commit import GitCommit, commit_of
from netpold.host.kernel.other_tables import OTHER, other_in_use
from netpold.host.metrics import Metrics
from netpold.rules.endpoint import Endpoint
from netpold.rules.ruleset import Ruleset

SLOW_S = 3.0  # a change of the kernel that takes longer is told while it lasts
HANGS_S = 10.0  # a round that takes longer is told while it lasts


class Warner(Protocol):
    """A part of the daemon that may have something to say to a person (one sentence)."""

    @property
    def warning(self) -> str | None: ...


class Account:
    """`current` and `metrics` are for any thread, the rest for the loop's.

    `followers`: who follow files and network; their warnings are told after a round.  `beside`: whose warnings, which
    they log themselves, the status has too.
    """

    def __init__(
        self,
        settings: Settings,
        backend: str,
        known: Known,
        enforcer: Enforcer,
        drops: Drops,
        followers: Sequence[Warner],
        beside: Sequence[Warner],
    ) -> None:
        self.beside = list(beside)
        self._backend = backend
        self._known = known
        self._enforcer = enforcer
        self._followers = followers
        self._report = Report()
        self.round_since: float | None = None  # time.monotonic(), while the loop is in a round
        self._others: tuple[tuple[str, str], ...] = ()  # see Status
        self._past_the_rules: tuple[str, float] | None = None  # what goes there, in words, and since when
        self._metrics = Metrics(__version__, drops.totals)
        self._status = Status.starting(settings, backend)
        self._manifests = settings.manifests
        self._git: GitCommit | None = None

    @property
    def current(self) -> Status:
        beside = tuple(each.warning for each in self.beside if each.warning)  # they come and go without a round
        status = replace(self._status, warnings=(*self._status.warnings, *beside))
        if status.state == "degraded":
            return status
        now, since, error = time.monotonic(), self._enforcer.applying_since, None
        if since is not None and now - since >= SLOW_S:
            error = (
                f"a change, or a repair, has waited for {now - since:.0f} s for the kernel's rules or their tool: "
                "see who has them locked (`fuser -v /run/xtables.lock`), or what hangs"
            )
        elif since is None and (since := self.round_since) is not None and now - since >= HANGS_S:
            error = (
                f"nothing has been done for {now - since:.0f} s, changes and repairs included: most likely the file "
                f"system of {status.manifests} does not answer; see to it, or keep manifests on a local one"
            )
        elif (since := self._enforcer.fight.open_since) is not None:
            error = self._enforcer.fight.warning
        elif self._past_the_rules is not None:
            error, since = self._past_the_rules
        if since is None or error is None:
            return status
        began = timestamp(datetime.now(UTC) - timedelta(seconds=now - since))
        return replace(status, state="degraded", error=error, since=began)

    def metrics(self) -> bytes:
        """As Prometheus wants them."""
        return self._metrics.text(self.current)

    def started(self, rules: Mapping[str, int], sets: int) -> None:
        """So many rules by "IPv4" and "IPv6", and sets, were there already."""
        self._status = replace(self._status, rules=rules, sets=sets)

    def updated(self, before: Mapping[str, Endpoint]) -> None:
        """What is known was brought up to date; `before`: the local pods as they were placed until then."""
        self._git = commit_of(self._manifests)
        self._report.changed(self._known.changes, before, self._known.places.endpoints)
        self._found()

    def enforced(self, applied: Applied | None, *, failed: bool) -> None:
        """All that is known is in force; None: it was.  `failed`: the files could not be read, so it may be what they
        said before."""
        self._found()  # the kernel may refuse some, or no more
        past = self._known.past_the_rules
        if past is None:
            self._past_the_rules = None
        elif self._past_the_rules is None or self._past_the_rules[0] != past:
            self._past_the_rules = past, time.monotonic()
        fields = self._fields(applied) if applied else {}
        if failed:
            self._publish(state=self._status.state, error=self._status.error, **fields)
        else:
            refused = self._known.error
            self._publish(state="degraded" if refused else "enforcing", error=refused, **fields)
            if refused is None:
                self._report.recovered(self._status)
        took_s, repaired = (applied.took_s, applied.repaired) if applied else (None, False)
        self._report.applied(self._status, took_s, repaired)
        self._report.warned(self._host_warnings())

    def mended(self, applied: Applied | None) -> None:
        """What another program had changed is put back; None: nothing was."""
        if applied is None:
            return
        self._publish(state=self._status.state, **self._fields(applied))
        self._report.warned(self._host_warnings())

    def looked_back(self, applied: Applied | None) -> None:
        """From time to time it is looked for what nothing tells of; `applied`: of that, what was put back."""
        self.mended(applied)
        if self._other_tables() != self._status.others:
            self._publish(state=self._status.state)
            self._report.warned(self._host_warnings())

    def failed(self, error: Exception, again_s: float) -> None:
        """A round failed; it is tried again after so many seconds."""
        self._report.failed(error, again_s)
        self._metrics.failed()
        self._publish(state="degraded", error=str(error))

    def cut(self, flows: int) -> None:
        """So many open flows that are no longer allowed were cut."""
        if flows:
            self._metrics.cut(flows)
            self._report.cut(flows)

    @property
    def due(self) -> float | None:
        """When (time.monotonic()) to `catch_up`."""
        return self._report.due

    def catch_up(self) -> None:
        """Say what there is to say by now: of flows that were cut, and of programs that change again and again what was
        put back."""
        self._report.tell_cut(time.monotonic())
        fighting = self._enforcer.fight.warning
        if not self._enforcer.drifted:
            self._report.drifted(self._status, self._enforcer.fight.tell(time.monotonic()))
        if fighting and not self._enforcer.fight.warning:
            self._publish(state=self._status.state, error=self._status.error)

    def ended(self) -> None:
        """Say what was not said yet."""
        self._report.tell_cut()

    def flushed(self, who: str) -> None:
        """Everything was taken out of the kernel; `who` had asked for it."""
        text = f"flushed on request of {who}: nothing is enforced until netpold is restarted"
        journal.say(journal.FLUSHED, text)
        self._publish(
            state="degraded",
            error=text,
            rules=dict.fromkeys(self._status.rules, 0),
            sets=0,
            tables=(),
            pods=replace(self._status.pods, isolated=0, in_tiers=0),
        )

    def _found(self) -> None:
        self._report.found(self._known.findings, self._known.rejected, self._known.world)

    def _fields(self, applied: Applied) -> dict[str, object]:
        """Those of Status that tell of a change of the kernel, which is counted."""
        self._metrics.applied(applied.took_s)
        if applied.repaired:
            self._metrics.repaired()
        rules = {f"IPv{family}": sum(map(len, chains.values())) for family, chains in applied.ruleset.chains.items()}
        return {
            "revision": self._status.revision + 1,
            "last_apply": LastApply(timestamp(datetime.now(UTC)), round(applied.took_s * 1000, 1)),
            "rules": rules,
            "sets": len(applied.ruleset.sets),
            "tables": tuple(_tables(self._backend, applied.ruleset)),
            **({"drift": self._drift()} if applied.repaired else {}),
        }

    def _drift(self) -> Drifted:
        fight = self._enforcer.fight
        return Drifted(fight.repairs, timestamp(datetime.now(UTC)), fight.who)

    def _publish(self, **changes: object) -> None:
        """Say how things are; `changes` are fields of Status beyond what the inputs tell."""
        same = changes.get("state") == self._status.state
        self._others = self._other_tables()
        fields: dict[str, Any] = {
            "since": self._status.since if same else timestamp(datetime.now(UTC)),
            "warnings": self._host_warnings(),
            "git": self._git,
            "others": self._others,
            **self._known.told(),
            **changes,
        }
        self._status = replace(self._status, **fields)

    def _host_warnings(self) -> tuple[str, ...]:
        found = self._known.warnings()
        found += [each.warning for each in self._followers if each.warning]
        if self._enforcer.fight.warning:
            found.append(self._enforcer.fight.warning)
        if self._others:
            found.append(f"iptables-{OTHER[self._backend]} has a filter table too, whose rules are in force as well")
        return tuple(found)

    def _other_tables(self) -> tuple[tuple[str, str], ...]:
        return tuple((OTHER[self._backend], f"IPv{family}") for family in other_in_use(self._backend))


def _tables(backend: str, ruleset: Ruleset) -> Iterator[Table]:
    """What is in the filter table of each family."""
    for family, chains in ruleset.chains.items():
        sets = sum(each.family == family for each in ruleset.sets.values())
        yield Table(backend, f"IPv{family}", len(chains), sum(map(len, chains.values())), sets)

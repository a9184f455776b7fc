"""A trial of other policies, or a rollback: for how long, on whose request, and what is said of it.

It begins and ends on request, ends by itself when its time is over, unless it was confirmed before, and when the
manifests say something else (policy/instead.py).  Nothing of a trial is on disk, so a daemon that starts knows of none,
and what is written counts: a crash ends it, too.  A rollback is kept (rollback.py).  The time is that of
time.monotonic(): a machine that was suspended does not come back to find it over, but no clock that is set prolongs it.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from netpold.daemon.questions import NoAnswer, Why
from netpold.daemon.rollback import NAME, Revision, digest, objects, save
from netpold.daemon.status import Tried, timestamp
from netpold.host import journal
from netpold.policy.canonical import read_back
from netpold.policy.manifest import Object
from netpold.policy.model import AnyPolicy, ClusterPolicy, Namespace, Policy, Position, World
from netpold.policy.rule_lines import with_rule_lines
from netpold.policy.steps import finished

LONGEST_S = 3600.0

log = logging.getLogger(journal.LOGGER)


@dataclass(frozen=True, slots=True)
class Trial:
    """`world`: the policies and namespaces; `source`: the directory that they come from, or of a rollback the moment
    at which they came into force; `until` (time.monotonic()): None where it was confirmed, and of a rollback.
    `number`: of a rollback, that of the state among those that are known; None: it is a trial.  `written`: of a
    rollback, the digest of what the manifests said; `instead_of`: the rollback that it goes on from.
    """

    world: World
    source: str
    who: str
    since: str
    until: float | None
    number: int | None = None
    written: str = ""
    instead_of: Trial | None = None

    @property
    def verb(self) -> str:
        """The one of netpoldctl's that began it, and ends it."""
        return "try" if self.number is None else "rollback"

    def __str__(self) -> str:
        return f"the trial of {self.source}" if self.number is None else f"the rollback to {self.source}"


class Tryout:
    """For any thread.  `wake` has the loop look at it; in `state_dir` rollbacks are kept.

    `refused`: what of that which is in force the kernel refuses, in a sentence; None: nothing.
    """

    def __init__(self, wake: Callable[[], object], state_dir: Path) -> None:
        self._wake = wake
        self._state_dir = state_dir
        self._lock = threading.Lock()  # held by whoever changes the next two, the first one first
        self._trial: Trial | None = None
        self._asked = 0  # how often another one, or none, was to be in force
        self._taken = 0  # up to which the loop knows of it
        self._enforced = threading.Condition()  # guards the next two
        self._in_force = 0  # up to which that is in force
        self.refused: str | None = None

    def begin(self, world: World, directory: str, seconds: float, who: str) -> Trial:
        """Raises NoAnswer where another one is under way."""
        trial = Trial(world, directory, who, timestamp(datetime.now(UTC)), time.monotonic() + seconds)
        with self._lock:
            if self._trial is not None:
                hint = f"end that first: `netpoldctl {self._trial.verb} --end`"
                raise NoAnswer(Why.WRONG, f"{self._trial} is under way", hint)
            self._put(trial)
        text = f"{who} tries the policies of {directory} for {seconds:.0f} s, instead of those of the manifests"
        journal.say(journal.TRIED, text)
        self._wake()
        return trial

    def go_back(self, revision: Revision, number: int, written: str, who: str) -> Trial:
        """Have that state in force; `written`: the digest of what the manifests say.  Raises NoAnswer where something
        is being tried, or it can't be kept over a restart."""
        trial = Trial(revision.world, revision.at, who, timestamp(datetime.now(UTC)), None, number, written)
        with self._lock:
            before = self._trial
            if before is not None and before.number is None:
                raise NoAnswer(Why.WRONG, f"{before} is under way", "end that first: `netpoldctl try --end`")
            try:
                self._keep(trial)
            except OSError as error:
                hint = "mend that, and try again"
                raise NoAnswer(
                    Why.BUSY, f"a rollback can't be kept in {self._state_dir}: {error.strerror}", hint
                ) from error
            trial = replace(trial, instead_of=before and replace(before, instead_of=None))
            self._put(trial)
        text = f"{who} goes back to the policies of {trial.source}, instead of those of the manifests"
        journal.say(journal.TRIED, text)
        self._wake()
        return trial

    def resume(self, written: World) -> Trial | None:
        """The rollback from before a restart, where the manifests say the same as then."""
        path = self._state_dir / NAME
        if self._trial is not None or not path.exists():
            return None
        try:
            body = path.read_bytes()
            kept = json.loads(body)
            said = str(kept["written"])
            trial = Trial(read(body), str(kept["to"]), str(kept["by"]), str(kept["since"]), None, 0, said)
            is_same = said == finished(digest(written))
        except (OSError, ValueError, LookupError, TypeError, NoAnswer) as error:
            log.warning("%s can't be used, so the manifests count: %s", path, error)
            return None
        with self._lock:
            self._put(trial)
        if not is_same:
            self.end("the manifests say something else than before the restart")
            return None
        journal.say(journal.TRIED, f"{trial} goes on: the manifests say the same as before the restart")
        return trial

    def confirm(self, who: str) -> None:
        """Let it go on until the manifests say something else.  Raises NoAnswer where there is none."""
        with self._lock:
            if self._trial is None or self._trial.number is not None:
                raise NoAnswer(Why.UNKNOWN, "nothing is being tried", "`netpoldctl try DIR` begins a trial")
            trial = replace(self._trial, until=None)
            self._put(trial)
        text = f"{who} confirms {trial}: it stays until the manifests say something else, or a restart"
        journal.say(journal.TRIED, text)
        self._wake()

    def end(self, why: str) -> bool:
        """Whether there was one.  `why`: in words, who or what ended it."""
        with self._lock:
            trial = self._trial
            if trial is not None:
                self._put(None)
        if trial is not None:
            try:
                (self._state_dir / NAME).unlink(missing_ok=True)
            except OSError as error:
                where = f"{self._state_dir / NAME} can't be deleted: {error.strerror}"
                log.warning("%s; delete it, else a rollback goes on after a restart", where)
            journal.say(journal.TRIED, f"{trial} is over ({why}): the manifests count again")
            self._wake()
        return trial is not None

    def withdraw(self, trial: Trial) -> None:
        """It did not come into force: what was before it is to be.  Nothing is done where it is over already."""
        before, why = trial.instead_of, "it did not come into force"
        with self._lock:
            if self._trial is None or self._trial.world is not trial.world:
                return
            if before is not None:
                try:
                    self._keep(before)
                except OSError as error:
                    where = f"{self._state_dir / NAME} can't be written: {error.strerror}"
                    log.warning("%s; delete it, else %s is in force after a restart", where, trial)
                self._put(before)
        if before is None:
            self.end(why)
            return
        journal.say(journal.TRIED, f"{trial} is over ({why}): {before} goes on")
        self._wake()

    def _put(self, trial: Trial | None) -> None:
        self._trial = trial
        self._asked += 1

    def _keep(self, trial: Trial) -> None:
        """For the next start.  Raises OSError."""
        kept = {"to": trial.source, "by": trial.who, "since": trial.since, "written": trial.written}
        save(self._state_dir, {**kept, "objects": objects(trial.world)})

    @property
    def current(self) -> Trial | None:
        return self._trial

    @property
    def due(self) -> float | None:
        """When (time.monotonic()) it is over."""
        trial = self._trial
        return None if trial is None else trial.until

    def take(self) -> Trial | None:
        """For the loop: the trial that is to be in force now."""
        due = self.due
        if due is not None and due <= time.monotonic():
            self.end("its time is over, and nobody confirmed it")
        self._taken = self._asked  # before the next: what is changed in between is not taken to be known
        return self._trial

    def enforced(self, refused: str | None) -> None:
        """For the loop: what it took last is in force, whether the manifests could be read or not."""
        with self._enforced:
            self._in_force, self.refused = self._taken, refused
            self._enforced.notify_all()

    def wait(self, timeout: float) -> bool:
        """Until that is in force which is to be now.  False when it took too long."""
        asked = self._asked
        with self._enforced:
            return self._enforced.wait_for(lambda: self._in_force >= asked, timeout)

    def told(self) -> Tried | None:
        """For the status."""
        trial = self._trial
        if trial is None:
            return None
        until = None
        if trial.until is not None:
            until = timestamp(datetime.now(UTC) + timedelta(seconds=max(trial.until - time.monotonic(), 0.0)))
        return Tried(trial.source, trial.who, trial.since, until, trial.number is not None)


def read(body: bytes) -> World:
    """The policies and namespaces that a request has: `{"objects": [{"manifest", "file", "line"}]}`, manifests in the
    form that netpold itself writes (policy/canonical.py).  Raises NoAnswer."""
    policies: dict[str, AnyPolicy] = {}
    namespaces: dict[str, Namespace] = {}
    try:
        for each in json.loads(body)["objects"]:
            position = Position(str(each["file"]), int(each["line"]))
            is_closed = each.get("closed") is True
            found: Object | None = read_back(json.dumps(each["manifest"]).encode(), position, is_closed)
            if found is not None:
                found = with_rule_lines(found, each.get("rules"))
            if isinstance(found, Policy | ClusterPolicy):
                policies[found.key] = found
            elif isinstance(found, Namespace):
                namespaces[found.key] = found
            else:
                raise NoAnswer(Why.WRONG, f"{position} is no policy or namespace", "see `netpoldctl check`")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise NoAnswer(Why.WRONG, "the policies to try can't be read", "send what `netpoldctl try` sends") from error
    if not policies:
        raise NoAnswer(Why.WRONG, "there is no policy to try: everything would be open", "give a directory with some")
    return World({}, namespaces, policies)

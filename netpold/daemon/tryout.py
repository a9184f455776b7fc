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
    `number`: of a rollback, that of the state among those that are known; None: it is a trial."""

    world: World
    source: str
    who: str
    since: str
    until: float | None
    number: int | None = None

    @property
    def verb(self) -> str:
        """The one of netpoldctl's that began it, and ends it."""
        return "try" if self.number is None else "rollback"

    def __str__(self) -> str:
        return f"the trial of {self.source}" if self.number is None else f"the rollback to {self.source}"


class Tryout:
    """For any thread.  `wake` has the loop look at it; in `state_dir` rollbacks are kept."""

    def __init__(self, wake: Callable[[], object], state_dir: Path) -> None:
        self._wake = wake
        self._state_dir = state_dir
        self._lock = threading.Lock()  # guards the next
        self._trial: Trial | None = None

    def begin(self, world: World, directory: str, seconds: float, who: str) -> Trial:
        """Raises NoAnswer where another one is under way."""
        trial = Trial(world, directory, who, timestamp(datetime.now(UTC)), time.monotonic() + seconds)
        with self._lock:
            if self._trial is not None:
                hint = f"end that first: `netpoldctl {self._trial.verb} --end`"
                raise NoAnswer(Why.WRONG, f"{self._trial} is under way", hint)
            self._trial = trial
        text = f"{who} tries the policies of {directory} for {seconds:.0f} s, instead of those of the manifests"
        journal.say(journal.TRIED, text)
        self._wake()
        return trial

    def go_back(self, revision: Revision, number: int, written: str, who: str) -> Trial:
        """Have that state in force; `written`: the digest of what the manifests say.  Raises NoAnswer where something
        is being tried, or it can't be kept over a restart."""
        trial = Trial(revision.world, revision.at, who, timestamp(datetime.now(UTC)), None, number)
        with self._lock:
            if self._trial is not None and self._trial.number is None:
                raise NoAnswer(Why.WRONG, f"{self._trial} is under way", "end that first: `netpoldctl try --end`")
            kept = {"to": trial.source, "by": who, "since": trial.since, "written": written}
            try:
                save(self._state_dir, {**kept, "objects": objects(trial.world)})
            except OSError as error:
                hint = "mend that, and try again"
                raise NoAnswer(
                    Why.BUSY, f"a rollback can't be kept in {self._state_dir}: {error.strerror}", hint
                ) from error
            self._trial = trial
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
            trial = Trial(read(body), str(kept["to"]), str(kept["by"]), str(kept["since"]), None, 0)
            is_same = kept["written"] == finished(digest(written))
        except (OSError, ValueError, LookupError, TypeError, NoAnswer) as error:
            log.warning("%s can't be used, so the manifests count: %s", path, error)
            return None
        with self._lock:
            self._trial = trial
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
            self._trial = trial = replace(self._trial, until=None)
        text = f"{who} confirms {trial}: it stays until the manifests say something else, or a restart"
        journal.say(journal.TRIED, text)
        self._wake()

    def end(self, why: str) -> bool:
        """Whether there was one.  `why`: in words, who or what ended it."""
        with self._lock:
            trial, self._trial = self._trial, None
        if trial is not None:
            try:
                (self._state_dir / NAME).unlink(missing_ok=True)
            except OSError as error:
                where = f"{self._state_dir / NAME} can't be deleted: {error.strerror}"
                log.warning("%s; delete it, else a rollback goes on after a restart", where)
            journal.say(journal.TRIED, f"{trial} is over ({why}): the manifests count again")
            self._wake()
        return trial is not None

    @property
    def current(self) -> Trial | None:
        return self._trial

    @property
    def due(self) -> float | None:
        """When (time.monotonic()) it is over."""
        trial = self._trial
        return None if trial is None else trial.until

    def take(self) -> Trial | None:
        """The trial that is to be in force now."""
        due = self.due
        if due is not None and due <= time.monotonic():
            self.end("its time is over, and nobody confirmed it")
        return self._trial

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

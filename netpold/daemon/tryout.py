"""A trial of other policies: for how long, on whose request, and what is said of it.

It begins and ends on request, ends by itself when its time is over, unless it was confirmed before, and when the
manifests say something else (policy/instead.py).  Nothing of it is on disk, so a daemon that starts knows of none, and
what is written counts: a crash ends it, too.  The time is that of time.monotonic(): a machine that was suspended does
not come back to find it over, but no clock that is set prolongs it.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from netpold.daemon.questions import NoAnswer, Why
from netpold.daemon.status import Tried, timestamp
from netpold.host import journal
from netpold.policy.canonical import read_back
from netpold.policy.manifest import Object
from netpold.policy.model import Namespace, Policy, Position, World

LONGEST_S = 3600.0


@dataclass(frozen=True, slots=True)
class Trial:
    """`world`: the policies and namespaces; `directory`: where they come from; `until` (time.monotonic()): None where
    it was confirmed."""

    world: World
    directory: str
    who: str
    since: str
    until: float | None


class Tryout:
    """For any thread.  `wake` has the loop look at it."""

    def __init__(self, wake: Callable[[], object]) -> None:
        self._wake = wake
        self._lock = threading.Lock()  # guards the next
        self._trial: Trial | None = None

    def begin(self, world: World, directory: str, seconds: float, who: str) -> Trial:
        """Raises NoAnswer where another one is under way."""
        trial = Trial(world, directory, who, timestamp(datetime.now(UTC)), time.monotonic() + seconds)
        with self._lock:
            if self._trial is not None:
                hint = "end that with `netpoldctl try --end`, or wait until it is over"
                raise NoAnswer(Why.WRONG, f"{self._trial.directory} is being tried already", hint)
            self._trial = trial
        text = f"{who} tries the policies of {directory} for {seconds:.0f} s, instead of those of the manifests"
        journal.say(journal.TRIED, text)
        self._wake()
        return trial

    def confirm(self, who: str) -> None:
        """Let it go on until the manifests say something else.  Raises NoAnswer where there is none."""
        with self._lock:
            if self._trial is None:
                raise NoAnswer(Why.UNKNOWN, "nothing is being tried", "`netpoldctl try DIR` begins a trial")
            self._trial = replace(self._trial, until=None)
            directory = self._trial.directory
        text = f"{who} confirms the trial of {directory}: it stays until the manifests say something else, or a restart"
        journal.say(journal.TRIED, text)
        self._wake()

    def end(self, why: str) -> bool:
        """Whether there was one.  `why`: in words, who or what ended it."""
        with self._lock:
            trial, self._trial = self._trial, None
        if trial is not None:
            journal.say(journal.TRIED, f"the trial of {trial.directory} is over ({why}): the manifests count again")
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
        return Tried(trial.directory, trial.who, trial.since, until)


def read(body: bytes) -> World:
    """The policies and namespaces that a request has: `{"objects": [{"manifest", "file", "line"}]}`, manifests in the
    form that netpold itself writes (policy/canonical.py).  Raises NoAnswer."""
    policies: dict[str, Policy] = {}
    namespaces: dict[str, Namespace] = {}
    try:
        for each in json.loads(body)["objects"]:
            position = Position(str(each["file"]), int(each["line"]))
            found: Object | None = read_back(json.dumps(each["manifest"]).encode(), position, False)
            if isinstance(found, Policy):
                policies[found.key] = found
            elif isinstance(found, Namespace):
                namespaces[found.key] = found
            else:
                raise NoAnswer(Why.WRONG, f"{position} is no policy or namespace", "see `netpoldctl check`")
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise NoAnswer(Why.WRONG, "the policies to try can't be read", "send what `netpoldctl try` sends") from error
    if not policies:
        raise NoAnswer(Why.WRONG, "there is no policy to try: everything would be open", "give a directory with some")
    return World({}, namespaces, policies)

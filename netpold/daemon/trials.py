"""Requests for trials and rollbacks: each comes back when what was asked for is in force, or says why it is not.

What was written just before is taken in first, else it would end them at once; but that is not waited for any longer:
where the manifests are gone, or go on to be written, other policies may be wanted all the more.
"""

from __future__ import annotations

from collections.abc import Callable

from netpold.daemon.inbox import Inbox
from netpold.daemon.known import Known
from netpold.daemon.questions import Facts, NoAnswer, Why, in_time
from netpold.daemon.rollback import digest
from netpold.daemon.status import Status
from netpold.daemon.tryout import Trial, Tryout, read

_NOTHING = {"try": "nothing is being tried", "rollback": "nothing was rolled back"}
LOOK_S = 1.0  # for how long what was written before is waited for
TRY_S = 20.0  # how long policies that are to be tried may take to come into force


class Trials:
    """For any thread.  `look`: see questions.Look; `status`: as it is now."""

    def __init__(
        self, inbox: Inbox, tryout: Tryout, known: Known, look: Callable[[], Facts], status: Callable[[], Status]
    ) -> None:
        self._inbox = inbox
        self._tryout = tryout
        self._known = known
        self._look = look
        self._status = status

    def begin(self, body: bytes, directory: str, seconds: float, who: str) -> None:
        """Have policies in force instead of those of the manifests (tryout.py), for `who`.  Raises NoAnswer."""
        world = read(body)
        self._look()  # else nothing is in force that it would be instead of
        self._inbox.wait(LOOK_S)
        self._put_in_force(self._tryout.begin(world, directory, seconds, who))

    def confirm(self, who: str) -> None:
        """Let what is tried stay until the manifests change.  Raises NoAnswer where nothing is."""
        self._tryout.confirm(who)

    def go_back(self, who: str) -> None:
        """Have the policies in force that were before those that are, for `who`.  Raises NoAnswer."""
        self._look()
        self._inbox.wait(LOOK_S)
        revisions, now = self._known.history.revisions, self._tryout.current
        number = (len(revisions) if now is None or now.number is None else now.number + 1) - 2
        if number < 0:
            hint = "go back by git, or try other policies with `netpoldctl try DIR`"
            raise NoAnswer(Why.UNKNOWN, "no earlier policies are known since the daemon's start", hint)
        written = in_time(self._inbox, digest(self._known.written))
        self._put_in_force(self._tryout.go_back(revisions[number], number, written, who))

    def end(self, verb: str, who: str) -> bool:
        """Go back to the manifests from what `verb` began; whether they were not in force.  Raises NoAnswer where
        another verb began what is in force, or where it takes over TRY_S."""
        now = self._tryout.current
        if now is not None and now.verb != verb:
            hint = f"end that: `netpoldctl {now.verb} --end`"
            raise NoAnswer(Why.WRONG, f"{_NOTHING[verb]}: {now} is under way", hint)
        ended = self._tryout.end(f"ended by {who}")
        if ended and not self._tryout.wait(TRY_S):
            hint = "see `netpoldctl status`"
            raise NoAnswer(Why.BUSY, f"the manifests are not in force again after {TRY_S:g} s", hint)
        return ended

    def _put_in_force(self, trial: Trial) -> None:
        if not self._tryout.wait(TRY_S):
            error = self._status().error or f"it is not in force after {TRY_S:g} s"
        elif self._tryout.refused is not None:
            error = self._tryout.refused
        else:
            now = self._tryout.current
            if now is not None and now.world is trial.world:
                return
            error = "the manifests changed, or somebody ended it"
        self._tryout.withdraw(trial)
        self._tryout.wait(TRY_S)  # so that who is told can rely on what is in force then
        counts = f"{self._tryout.current or 'what the manifests say'} counts"
        raise NoAnswer(Why.BUSY, f"{trial} fails: {error}; {counts}", "see `netpoldctl status`, and try again")

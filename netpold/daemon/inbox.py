"""What woke the loop, and who waits for an answer: how other threads talk to it, and how it waits.

The loop takes all that came at once, so ten thousand events are one round.

Questions about what the loop knows are answered by the loop itself, since nobody else may look at what it changes: a
step at a time between two rounds, so that a long answer never holds up a change for longer than a step takes.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from netpold.host.kernel.backend import KernelError

T = TypeVar("T")
Question = Generator[Any, None, T]  # yields after each step, and returns the answer

ALIVE_S = 5.0  # how often to give a sign of life while nothing happens


@dataclass(frozen=True, slots=True)
class Wishes:
    """What came since the last time.  `asked`: how many calls of `look_at_all` came so far; `answered`: the last of
    them that was served."""

    files: bool = True
    network: bool = True
    flows: bool = False  # the cutter has found some
    drift: bool = False  # the kernel was read back
    flush: bool = False
    stop: bool = False
    asked: int = 0
    answered: int = 0

    def any(self) -> bool:
        return self.files or self.network or self.flows or self.drift or self.flush or self.stop


class Inbox:
    """`take...` and the answers are the loop's; the rest is for any thread."""

    def __init__(self) -> None:
        self.alive: Callable[[], None] = lambda: None  # the sign of life
        self._changed = threading.Condition()  # guards the rest
        self._wishes = Wishes()
        self._flush_error: KernelError | None = None
        self._flushing = False  # the loop has taken the wish for a flush
        self._questions: deque[tuple[Question[Any], Future[Any]]] = deque()

    # From any thread ----------------------------------------------------------------------------------------------

    def wish(self, **wishes: bool) -> None:
        with self._changed:
            self._wishes = replace(self._wishes, **wishes)
            self._changed.notify_all()

    def look_at_all(self) -> int:
        """Have all files looked at, whether anything told of a change or not; returns what `answer` will be given."""
        with self._changed:
            self._wishes = replace(self._wishes, files=True, asked=self._wishes.asked + 1)
            self._changed.notify_all()
            return self._wishes.asked

    def wait(self, timeout: float) -> bool:
        """Until everything that is on disk now is enforced or rejected.  False when that took too long."""
        ticket = self.look_at_all()
        with self._changed:
            return self._changed.wait_for(lambda: self._wishes.answered >= ticket, timeout)

    def flush(self, timeout: float) -> None:
        """Have everything taken out of the kernel.

        Raises KernelError when the kernel refuses, or that is not done within `timeout` seconds.
        """
        with self._changed:
            self._wishes = replace(self._wishes, flush=True)
            self._changed.notify_all()
            if not self._changed.wait_for(lambda: not self._wishes.flush, timeout):
                if self._flushing:
                    raise KernelError(f"the flush goes on after {timeout:.0f} s, and may still succeed: see the status")
                self._wishes = replace(self._wishes, flush=False)  # nobody waits for it any more
                raise KernelError(f"not flushed within {timeout:.0f} s, and given up; see the daemon's log")
            if self._flush_error:
                raise self._flush_error

    def ask(self, question: Question[T], timeout: float) -> T:
        """Have the loop answer a question.  Raises what the question raises, and TimeoutError after `timeout` seconds,
        when the loop is busy for that long."""
        future: Future[T] = Future()
        with self._changed:
            self._questions.append((question, future))
            self._changed.notify_all()
        try:
            return future.result(timeout)
        finally:
            future.cancel()  # where it has no answer yet, nobody waits for it any more

    def is_answered(self, asked: int) -> bool:
        """Whether what `look_at_all` returned was answered."""
        return self._wishes.answered >= asked

    # The loop's ---------------------------------------------------------------------------------------------------

    def answer(self, asked: int) -> None:
        """What was asked for up to `asked` is enforced or rejected."""
        with self._changed:
            self._wishes = replace(self._wishes, answered=max(self._wishes.answered, asked))
            self._changed.notify_all()

    def flushed(self, error: KernelError | None) -> None:
        """A flush was tried; asked once is tried once."""
        with self._changed:
            self._flush_error, self._flushing = error, False
            self._wishes = replace(self._wishes, flush=False)
            self._changed.notify_all()

    def take(self, until: float) -> Wishes:
        """What there is to do, at the latest at `until` (time.monotonic())."""
        self._wait_for(self._any, max(until - time.monotonic(), 0.0))
        return self._take()

    def take_after_failure(self, not_before: float, until: float, look_at: float) -> Wishes | None:
        """What there is to do, between the first two times (time.monotonic()): something new may be the cure, but no
        storm of events is to become a storm of attempts.  None as soon as the rules in force are to be looked at, which
        is at `look_at` and when anybody wishes it."""
        self._wait_for(self._urgent_or_drift, min(not_before, look_at) - time.monotonic())
        if not self._urgent_or_drift():
            self._wait_for(self._any, min(until, look_at) - time.monotonic())
        with self._changed:
            if not self._urgent() and (self._wishes.drift or look_at <= time.monotonic() < until):
                self._wishes = replace(self._wishes, drift=False)
                return None
        return replace(self._take(), files=True)

    def take_urgent(self) -> Wishes:
        """What there is to do once a flush or the end is asked for."""
        self._wait_for(self._urgent, None)
        return self._take()

    def _take(self) -> Wishes:
        with self._changed:
            taken = self._wishes
            self._flushing |= taken.flush
            self._wishes = replace(taken, files=False, network=False, flows=False, drift=False)
            return taken

    def _wait_for(self, condition: Callable[[], bool], timeout: float | None) -> bool:
        """As Condition.wait_for, with signs of life and answers, given while nothing is locked."""
        began = time.monotonic()
        end = None if timeout is None else began + timeout
        alive_at = began + ALIVE_S
        while True:
            self._answer_some()  # before anything else: events that come all the time must not keep answers away
            left = ALIVE_S if end is None else end - time.monotonic()
            with self._changed:
                self._changed.wait_for(lambda: condition() or bool(self._questions), min(left, ALIVE_S))
                if condition():
                    return True
            now = time.monotonic()
            if end is not None and now >= end:  # questions or not: a change may wait for that
                return False
            if now >= alive_at:
                alive_at = now + ALIVE_S
                self.alive()

    def _answer_some(self) -> None:
        """One step of the question that came first."""
        with self._changed:
            if not self._questions:
                return
            question, future = self._questions[0]
        if not future.cancelled():
            error: Exception | None = None
            answer = None
            try:
                next(question)
                return
            except StopIteration as end:
                answer = end.value
            except Exception as raised:  # noqa: BLE001  to be raised where it was asked: it must not end the loop
                error = raised
            if future.set_running_or_notify_cancel():
                if error:
                    future.set_exception(error)
                else:
                    future.set_result(answer)
        with self._changed:
            self._questions.popleft()

    def _any(self) -> bool:
        return self._wishes.any()

    def _urgent(self) -> bool:
        return self._wishes.stop or self._wishes.flush

    def _urgent_or_drift(self) -> bool:
        return self._urgent() or self._wishes.drift

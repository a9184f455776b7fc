"""Questions to the loop: answered between rounds, a step at a time, and never in the way of a change."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager

import pytest

from netpold.daemon.inbox import Inbox


@contextmanager
def looping(inbox: Inbox, work: Callable[[], None] = lambda: None, every: float = 60) -> Iterator[list[str]]:
    """A loop that notes its rounds, of which there is one every so many seconds at least."""
    rounds: list[str] = []

    def loop() -> None:
        while not inbox.take(time.monotonic() + every).stop:
            rounds.append(threading.current_thread().name)
            work()

    thread = threading.Thread(target=loop, name="loop")
    thread.start()
    try:
        yield rounds
    finally:
        inbox.wish(stop=True)
        thread.join()


def steps(number: int, done: list[str]) -> Generator[None, None, int]:
    for _ in range(number):
        done.append(threading.current_thread().name)
        yield
    return number


def test_the_loop_answers() -> None:
    inbox, done = Inbox(), list[str]()
    with looping(inbox):
        assert inbox.ask(steps(3, done), 20) == 3
        assert inbox.ask(steps(0, done), 20) == 0
    assert done == ["loop"] * 3


def test_a_defect_in_an_answer_is_of_who_asked() -> None:
    def broken() -> Generator[None, None, int]:
        yield
        raise ValueError("no such thing")

    inbox = Inbox()
    with looping(inbox) as rounds:
        with pytest.raises(ValueError, match="no such thing"):
            inbox.ask(broken(), 20)
        before = len(rounds)
        inbox.wish(files=True)
        assert inbox.ask(steps(1, []), 20) == 1
        assert len(rounds) > before


def test_a_change_goes_first_and_a_storm_of_changes_keeps_no_answer_away() -> None:
    inbox, done = Inbox(), list[str]()

    def again() -> None:
        if len(done) < 50:
            inbox.wish(files=True)

    with looping(inbox, again) as rounds:
        inbox.wish(files=True)
        assert inbox.ask(steps(50, done), 20) == 50
        assert len(rounds) >= 49, "a round between any two steps"


def test_what_is_due_does_not_wait_for_the_end_of_a_long_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A change that is not ripe yet is no wish: the loop looks at it again at a time of its own."""
    monkeypatch.setattr("netpold.daemon.inbox.ALIVE_S", 0.05)
    inbox, rounds, lives = Inbox(), list[int](), list[int]()
    inbox.alive = lambda: lives.append(1)

    def long() -> Generator[None, None, int]:
        while len(rounds) < 5 or not lives:
            yield
        return len(rounds)

    with looping(inbox, lambda: rounds.append(1), every=0.1):
        assert inbox.ask(long(), 20) >= 5


def test_who_waits_in_vain_is_told_and_forgotten() -> None:
    inbox, done = Inbox(), list[str]()
    with pytest.raises(TimeoutError):
        inbox.ask(steps(1, done), 0.01)
    with looping(inbox):
        assert inbox.ask(steps(2, []), 20) == 2
    assert not done

"""When what changed may be acted on, by the times that a test says."""

from __future__ import annotations

import time

import pytest

from netpold.host.clocks import UNSURE_S, Clocks
from netpold.host.waiting import DEADLINE_S, Wait, Waiting

REST_S = 0.02


def gone(now: float, harmless: bool = False) -> Wait:
    return Wait(None, now, now, REST_S, alone=True, swapped=False, looked=1, harmless=harmless, confirmed=True)


def written(now: float, began: float) -> Wait:
    return Wait(b"other", now, began, REST_S, alone=False, swapped=False, looked=1)


@pytest.mark.parametrize("harmless", [False, True])
def test_a_tree_that_is_deleted_and_filled_again_is_one_change(harmless: bool) -> None:
    """Whoever copies a thousand files pauses now and then for longer than a file rests."""
    waiting, paths = Waiting(), [f"{number}.yaml" for number in range(20)]
    for path in paths:
        waiting.add(path, gone(10.0, harmless), 10.0)
    now = 10.0
    for path in paths:
        for later in (0.01, 0.1, 0.2):
            ripe = waiting.ripe(now + later)
            assert not (ripe.together or ripe.gone or ripe.alone), (path, later)
        now += 0.21
        waiting.add(path, written(now, began=10.0), now)
    assert waiting.ripe(now + 1.5).together == paths


def test_pods_that_go_with_policies_wait_as_long_as_these() -> None:
    """A busy machine deletes a tree slowly: pods that went before their policies would lose what these allow."""
    waiting = Waiting()
    waiting.add("pods.yaml", gone(10.0, harmless=True), 10.0)
    for number in range(20):
        now = 10.0 + number * 0.15
        waiting.add(f"{number}.yaml", gone(now), now)
        ripe = waiting.ripe(now + 0.14)
        assert not (ripe.together or ripe.gone or ripe.alone), number
    assert len(waiting.ripe(now + 1.1).gone) == 21


def moved(now: float) -> Wait:
    return Wait(b"other", now, now, 0.0, alone=True, swapped=False, looked=1, moved=True)


@pytest.mark.parametrize(("files", "every_s", "is_one"), [(1500, 0.001, True), (1500, 0.01, False), (5, 0.003, True)])
def test_many_files_that_are_renamed_fast_are_one_change(files: int, every_s: float, is_one: bool) -> None:
    """But an endless row of single changes must not wait for its end."""
    waiting, acted = Waiting(), 0
    for number in range(files):
        now = 10.0 + number * every_s
        acted += len(waiting.ripe(now).alone) > 0
        waiting.add(f"{number}.yaml", moved(now), now)
        if number and number % 100 == 0 and is_one:
            acted += len(waiting.ripe(now + 0.05).alone) > 0  # a busy machine
    assert (not acted) is is_one
    assert len(waiting.ripe(now + 0.3).alone) == files


def test_while_nobody_runs_no_deadline_passes() -> None:
    """A machine that is suspended, with the program that writes."""
    waiting = Waiting()
    waiting.add("a.yaml", written(10.0, began=10.0), 10.0)
    frozen = 2 * DEADLINE_S
    waiting.postpone(frozen)
    assert not waiting.ripe(10.0 + frozen).together and not waiting.given_up()
    assert waiting.awaited(10.0), "it was there at that moment"
    assert waiting.ripe(10.0 + frozen + REST_S).together == ["a.yaml"]


def test_clocks(monkeypatch: pytest.MonkeyPatch) -> None:
    clocks, now = Clocks(), time.monotonic()
    assert clocks.look(now, now - 0.1) == 0.0 and clocks.look(now, None) == 0.0
    assert clocks.are_sure(now)
    set_back = time.time() - 3600
    monkeypatch.setattr(time, "time", lambda: set_back)
    assert clocks.look(now, now) == 0.0
    assert not clocks.are_sure(now) and clocks.are_sure(now + UNSURE_S)
    assert Clocks().look(now, now - 12.0) == 12.0

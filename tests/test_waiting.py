"""When what changed may be acted on, by the times that a test says."""

from __future__ import annotations

import pytest

from netpold.host.waiting import Wait, Waiting

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

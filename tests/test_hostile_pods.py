"""Attacks by hostile pods, as frames: each is dropped or judged as the policy says (tests/hostile has the table).

The default run tries each attack in one of the combinations of wiring and backend, and all kinds in each of them;
`-m slow` tries all attacks in all combinations.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.hostile.attacks import ATTACKS, Attack
from tests.hostile.ground import WIRINGS, Ground, Wiring
from tests.lab import BACKENDS, Backend

pytestmark = pytest.mark.kernel


def parameters() -> Iterator[object]:
    combinations = [(wiring, backend) for wiring in WIRINGS for backend in BACKENDS]
    for place, (wiring, backend) in enumerate(combinations):
        for number, attack in enumerate(ATTACKS):
            ways = [each for each in combinations if each[0] in attack.wirings]
            for family in attack.families if wiring in attack.wirings else ():
                taken = ways[(number + family // 4) % len(ways)] == combinations[place]
                marks = [] if taken else [pytest.mark.slow]
                name = f"{wiring}-{backend}-v{family}-{attack.name}"
                yield pytest.param(wiring, backend, attack, family, id=name, marks=marks)


class Grounds:
    """The ground of the last test, for the next where that needs the same."""

    def __init__(self) -> None:
        self._ground: Ground | None = None

    def get(self, wiring: Wiring, backend: Backend) -> Ground:
        if self._ground is None or (self._ground.wiring, self._ground.backend) != (wiring, backend):
            self.close()
            self._ground = Ground(wiring, backend)
        return self._ground

    def close(self) -> None:
        if self._ground is not None:
            self._ground.close()
        self._ground = None


@pytest.fixture(scope="module")
def grounds() -> Iterator[Grounds]:
    kept = Grounds()
    yield kept
    kept.close()


@pytest.mark.parametrize(("wiring", "backend", "attack", "family"), parameters())
def test_attack(wiring: Wiring, backend: Backend, attack: Attack, family: int, grounds: Grounds) -> None:
    ground = grounds.get(wiring, backend)
    ground.fresh()
    attack.act(ground, family)
    assert ground.seen(attack.sender, attack.target, family) is attack.passes

"""Every golden case by real packets: routed, bridged and across two nodes, on both backends.

The default run takes Kubernetes' own tests, the folders, and a sample of the generated families; `-m slow` takes all.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cases import Case, all_cases
from tests.ground import WIRINGS, Ground, Signature, Wiring, signature
from tests.lab import BACKENDS, Backend

pytestmark = pytest.mark.kernel

CASES = sorted(
    ((signature(case), case) for case in all_cases()),
    key=lambda pair: (sorted(pair[0][0]), sorted(pair[0][1]), pair[1].name),  # those of one ground side by side
)
GENERATED = 40  # of the generated families, one in so many is in the default run of each combination
OTHERS = 4  # and of the other cases, but for the first combination, which has them all
TIERS = 35  # of the cases of tiers


def parameters() -> Iterator[object]:
    combinations = [(wiring, backend) for wiring in WIRINGS for backend in BACKENDS]
    for place, (wiring, backend) in enumerate(combinations):
        for number, (of, case) in enumerate(CASES):
            # each combination takes other ones, so that together they take many
            turn = number + 7 * place
            if case.name.startswith("tiers-"):
                taken = turn % TIERS == 0
            else:
                taken = turn % GENERATED == 0 if "cyclonus" in case.name else place == 0 or turn % OTHERS == 0
            marks = [] if taken else [pytest.mark.slow]
            yield pytest.param(wiring, backend, of, case, id=f"{wiring}-{backend}-{case.name}", marks=marks)


class Grounds:
    """The ground of the last test, for the next where that needs the same."""

    def __init__(self) -> None:
        self._key: object = None
        self._ground: Ground | None = None

    def get(self, of: Signature, wiring: Wiring, backend: Backend) -> Ground:
        if self._ground is None or self._key != (of, wiring, backend):
            self.close()
            self._ground = Ground(of, wiring, backend)
            self._key = (of, wiring, backend)
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


@pytest.mark.parametrize(("wiring", "backend", "of", "case"), parameters())
def test_packets_fare_as_the_case_says(
    wiring: Wiring, backend: Backend, of: Signature, case: Case, grounds: Grounds
) -> None:
    ground = grounds.get(of, wiring, backend)
    for step in case.steps:
        wrong = ground.wrong(step)
        assert not wrong, f"{case.name} {step.name}:\n" + "\n".join(wrong[:20])

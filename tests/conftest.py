"""Fixtures that many tests share: the laboratory, and each backend."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from tests.lab import BACKENDS, Backend, Lab

# How fast examples are made says more about what else the machine does than about the test; and whether the first few
# are too large or refused is chance, of which a test that says when it has none at all (Unsatisfiable) needs no word.
CHANCE = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
# CI judges a change by the same examples each time, so that none is refused for what it did not touch; everybody else's
# runs look for new ones.
settings.register_profile(
    "netpold", deadline=None, suppress_health_check=CHANCE, derandomize=bool(os.environ.get("CI"))
)
settings.load_profile("netpold")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.geteuid() == 0:
        return
    skip = pytest.mark.skip(reason="needs root: it makes network namespaces and firewall rules in them")
    for item in items:
        if "kernel" in item.keywords:
            item.add_marker(skip)


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab() as laboratory:
        yield laboratory


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> Backend:
    chosen: Backend = request.param
    return chosen

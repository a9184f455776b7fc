"""netpold's reader gives the world that the manifests were written from: golden cases, and worlds at random."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netpold.policy.assemble import Assembly
from netpold.policy.manifest import parse
from netpold.policy.model import World
from tests.cases import Case, all_cases
from tests.objects import Object, to_manifests, to_yaml
from tests.strategies import PLAIN, worlds

CASES = all_cases()


def read(files: Mapping[str, str]) -> Assembly:
    assembly = Assembly()
    assembly.update({name: parse(text.encode(), name) for name, text in files.items()})
    return assembly


def errors(found: Assembly) -> list[str]:
    """What was rejected."""
    return [*(str(each) for each in found.findings() if each.severity == "error"), *found.rejected]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_case_is_read_as_it_is_meant(case: Case) -> None:
    for step in case.steps:
        read_world = read(step.files)
        assert not errors(read_world), "\n".join(errors(read_world))
        assert read_world.world == step.world


@settings(max_examples=80, deadline=None)
@given(world=worlds(PLAIN), order=st.randoms(use_true_random=False))
def test_a_world_is_read_as_it_was_written(world: World, order: object) -> None:
    objects = to_manifests(world)
    order.shuffle(objects)  # type: ignore[attr-defined]
    files: dict[str, list[Object]] = {"a.yaml": objects[::3], "b/c.yaml": objects[1::3], "b/d.yaml": objects[2::3]}
    read_world = read({name: to_yaml(group) for name, group in files.items()})
    assert not errors(read_world), "\n".join(errors(read_world))
    assert read_world.world == world

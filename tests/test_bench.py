"""What the benchmarks build on: manifests written as they were meant, tables with the right figures."""

from __future__ import annotations

import math

import pytest
import yaml

from netpold.policy.manifest import parse
from tests.bench.bed import sizes
from tests.bench.cluster import Size, manifests
from tests.bench.manifests import FORMATS, Format, text
from tests.bench.table import figure, quantile, table


@pytest.mark.parametrize("full", [False, True])
def test_yaml_of_the_cluster_says_what_its_objects_say(full: bool) -> None:
    for _, objects in manifests(Size(pods=200, policies=24, local=10, full=full)):
        assert list(yaml.load_all(text(objects), Loader=yaml.CSafeLoader)) == objects


@pytest.mark.parametrize(
    "value",
    [
        "no",
        "Yes",
        "1.5",
        "0x10",
        "22:22",
        "2026-01-31",
        "",
        " a",
        "a: b",
        "a #b",
        "-",
        "a:",
        "~",
        "[",
        "10.0.0.1",
        "fd64::2",
    ],
)
def test_text_is_text_in_yaml(value: str) -> None:
    nested = {"a": value, "b": [[value], {"c": {}, "d": [], "e": [{"f": 1, "g": None}]}, True]}
    assert list(yaml.load_all(text([nested]), Loader=yaml.CSafeLoader)) == [nested]


@pytest.mark.parametrize("kind", FORMATS)
def test_the_cluster_passes_the_checks(kind: Format) -> None:
    for name, objects in manifests(Size(pods=200, policies=24, local=10)):
        parsed = parse(text(objects, kind).encode(), f"{name}.{kind}")
        assert not parsed.findings


def test_quantiles_are_the_nearest_rank() -> None:
    hundred = [float(number) for number in range(100, 0, -1)]
    assert [quantile(hundred, share) for share in (0.5, 0.99, 1.0)] == [50, 99, 100]
    assert quantile([7.0], 0.5) == 7
    assert math.isnan(quantile([], 0.5))


def test_figures_stand_beside_their_ratio_to_the_first() -> None:
    found = table("size", ["small", "large"], {"time": [2.0, 5.0], "none": [0.0, None], "files": [10, 1234]})
    assert [line.split() for line in found.splitlines()] == [
        ["size", "small", "large"],
        ["time", "2.00", "5.00", "2.5x"],
        ["none", "0.00", "-", "-"],
        ["files", "10", "1,234", "123.4x"],
    ]
    assert [figure(value) for value in (0.123, 12.34, 123.4, 5)] == ["0.12", "12.3", "123", "5"]


def test_sizes_are_pods_and_policies() -> None:
    assert sizes("1000/100,10000/1000") == [(1000, 100), (10000, 1000)]
    with pytest.raises(ValueError):
        sizes("1000")

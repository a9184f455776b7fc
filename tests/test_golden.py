"""Golden rulesets: a folder of manifests, and beside it the rules and sets that it has to become.

`tests/golden/NAME/manifests/` is compiled as the daemon does it, `ruleset.txt` is what `render` says of it.  A pod is
found by the interface that its annotation names (a bridge's port when the name begins with `port`), else by address.
After a change that is meant: `python3 -m tests.test_golden` writes the texts anew, and `git diff` shows what it did.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from netpold.policy.assemble import Assembly
from netpold.policy.index import Index
from netpold.policy.manifest import parse
from netpold.rules.compile import compile_ruleset
from netpold.rules.endpoint import Endpoint, Interface
from netpold.rules.matrix import matrix
from netpold.rules.offline import offline_ruleset
from netpold.rules.render import ruleset_text
from netpold.rules.settings import CompileSettings

FOLDER = Path(__file__).parent / "golden"
CASES = sorted(path.parent for path in FOLDER.glob("*/manifests"))
PORTS = [("TCP", 80), ("TCP", 5432), ("UDP", 53), ("ICMP", None)]


def index_of(case: Path) -> Index:
    assembly = Assembly()
    assembly.update({path.name: parse(path.read_bytes(), path.name) for path in (case / "manifests").iterdir()})
    assert not assembly.findings()
    return Index(assembly.world)


def endpoints_of(index: Index) -> dict[str, Endpoint]:
    """All pods are here; interfaces whose names begin with `port` are bridge ports."""
    return {
        key: Endpoint(key, pod.addresses, tuple(Interface(name, name.startswith("port")) for name in pod.interfaces))
        for key, pod in index.world.pods.items()
        if pod.takes_part
    }


def ruleset_of(case: Path) -> str:
    index = index_of(case)
    return ruleset_text(compile_ruleset(index, endpoints_of(index), CompileSettings()))


def matrix_of(case: Path) -> str:
    index = index_of(case)
    rows = matrix(index, offline_ruleset(index), sorted(index.world.pods), ["192.0.2.1"], PORTS).rows()
    lines = []
    for row in rows:
        port = f"{row.port}/{row.protocol}" if row.port else row.protocol
        lines.append(f"{row.source:12} {row.destination:12} {port:9} {row.verdict}\n")
    return "".join(lines)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_ruleset_is_the_golden_one(case: Path) -> None:
    assert ruleset_of(case) == (case / "ruleset.txt").read_text()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_matrix_is_the_golden_one(case: Path) -> None:
    assert matrix_of(case) == (case / "matrix.txt").read_text()


def test_there_are_cases() -> None:
    assert len(CASES) >= 3


if __name__ == "__main__":
    for folder in CASES:
        (folder / "ruleset.txt").write_text(ruleset_of(folder))
        (folder / "matrix.txt").write_text(matrix_of(folder))

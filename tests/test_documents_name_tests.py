"""What a document says is tested has that test."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NAMED = re.compile(r"`(?:tests/)?((?:[a-z_]+/)*test_\w+\.py)(?:::(\w+))?`")
DOCUMENTS = sorted([*ROOT.glob("docs/*.md"), ROOT / "README.md"])


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_a_test_that_a_document_names_exists(document: Path) -> None:
    for file, name in NAMED.findall(document.read_text()):
        (found,) = [*ROOT.glob(f"tests/{file}"), *ROOT.glob(f"tests/*/{file}")][:1] or [None]
        assert found, f"{document.name} names {file}"
        assert not name or f"def {name}(" in found.read_text(), f"{document.name} names {file}::{name}"


def test_the_security_document_names_tests() -> None:
    named = NAMED.findall((ROOT / "docs/security.md").read_text())
    assert sum(bool(name) for _, name in named) > 20

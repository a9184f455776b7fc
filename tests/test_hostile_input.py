"""Bytes that mean harm, from the file to the status and the journal: no crash, no hang, and memory that is bounded.

tests/corpus/ has, small, every input that was found to crash, to hang, to eat memory or to be told in an odd way; the
long fuzz puts what it finds there.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from netpold.policy.assemble import Assembly
from netpold.policy.manifest import parse
from tests import hostile_way
from tests.hang import hang_guard
from tests.hostile_shapes import LIST, SHAPES
from tests.test_manifest_fuzz import LIST as GOOD_LIST
from tests.test_manifest_fuzz import POD, POLICY, TOKENS, damaged, is_sound

CORPUS = Path(__file__).parent / "corpus"
CHECKOUT = Path(__file__).parents[1]
SMALL, LARGE = 64 << 10, 3 << 20

# Bytes of memory for each byte of a file: most where every pair of letters is an object of Python's.  An object of
# more than LIMITS.nodes values is refused, so for a large file it is less.
MOST_SMALL, MOST_LARGE, ANYWAY = 300, 150, 8 << 20


@pytest.mark.parametrize("file", sorted(CORPUS.iterdir()), ids=lambda file: file.name)
def test_the_corpus(file: Path) -> None:
    with hang_guard():
        is_sound(parse(file.read_bytes(), "f.yaml"))
        hostile_way.go(file.read_bytes())


def measured(size: int, *names: str) -> Iterator[tuple[str, int, int]]:
    """For each shape its name, its bytes and the bytes of memory that it takes."""
    words = ["/usr/bin/python3", "-m", "tests.hostile_way", str(size), *names]
    with subprocess.Popen(words, cwd=CHECKOUT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        for line in process.stdout:
            name, length, peak, _ = json.loads(line)
            yield name, length, peak


def test_memory_is_bounded() -> None:
    with hang_guard():
        found = list(measured(SMALL))
    assert len(found) == len(SHAPES)
    for name, length, peak in found:
        assert peak >= 0, f"{name} crashed"
        assert peak <= ANYWAY + MOST_SMALL * length, name


@pytest.mark.slow
@pytest.mark.parametrize("name", SHAPES)
def test_large_files_of_every_shape(name: str) -> None:
    """What takes time that grows with the square does not end within the guard."""
    data = SHAPES[name](LARGE)
    with hang_guard():
        hostile_way.go(data)
    [(_, length, peak)] = measured(LARGE, name)
    assert 0 <= peak <= ANYWAY + MOST_LARGE * length


def test_what_is_wrong_at_many_places_is_told_at_some_and_counted() -> None:
    parsed = parse(LIST + b"- {kind: Pod}\n" * 5000, "f.yaml")
    *told, count = parsed.findings
    assert len(told) == 100
    assert (count.code, count.severity) == ("too-many-faults", "error")
    assert "at least 9900 more errors" in count.fault
    assert parsed.truncated


def test_thousands_of_bad_files_are_told_up_to_a_bound() -> None:
    bad = b"kind: NetworkPolicy\nmetadata: {name: p%d}\nspec: {x: 1}\n"
    assembly = Assembly()
    assembly.update({f"{n}.yaml": parse(bad % n, f"{n}.yaml") for n in range(3000)})
    findings = assembly.findings()
    assert len(findings) <= 2002
    assert "at least" in findings[-1].fault
    assert len(assembly.rejected) == 3000, "each is closed, told or not"


def test_copies_without_end_are_told_up_to_a_bound() -> None:
    parsed = parse(SHAPES["docs samebad"](200_000), "f.yaml")
    assembly = Assembly()
    assembly.update({"f.yaml": parsed})
    assert len(assembly.findings()) < 300
    with hang_guard():
        assembly.update({"f.yaml": None})


def test_a_pod_with_addresses_without_end_is_refused() -> None:
    parsed = parse(SHAPES["podIPs"](10_000), "f.yaml")
    assert [each.code for each in parsed.findings] == ["too-many-addresses"]
    [pod] = parsed.objects
    assert pod.quarantined
    assert len(pod.addresses) == 64  # type: ignore[union-attr]


# Fuzz -----------------------------------------------------------------------------------------------------------------


def utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


SHAPED = st.sampled_from(sorted(SHAPES)).map(lambda name: SHAPES[name](400))
WILD = (
    st.lists(TOKENS | SHAPED | st.binary(max_size=8) | st.text(max_size=8).map(utf8), max_size=12).map(b"".join)
    | st.sampled_from([POLICY, POD, GOOD_LIST]).flatmap(damaged)
    | st.tuples(SHAPED, st.integers(0, 400), TOKENS).map(lambda made: made[0][: made[1]] + made[2] + made[0][made[1] :])
)


def holds(data: bytes) -> None:
    is_sound(parse(data, "f.yaml"))
    hostile_way.go(data)


@settings(max_examples=300)
@given(WILD)
def test_fuzz(data: bytes) -> None:
    holds(data)


@pytest.mark.slow
def test_long_fuzz() -> None:
    """Some ten minutes; what fails, made as small as can be, goes to the corpus."""
    failed: list[bytes] = []

    @settings(max_examples=60_000, suppress_health_check=list(HealthCheck))
    @given(WILD)
    def fuzz(data: bytes) -> None:
        try:
            with hang_guard():
                holds(data)
        except BaseException:
            failed.append(data)
            raise

    try:
        fuzz()
    finally:
        for data in failed[-1:]:
            (CORPUS / f"found-{sha256(data).hexdigest()[:12]}.yaml").write_bytes(data)

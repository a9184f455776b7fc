"""Many units parsed with help: the same results, whatever becomes of the helpers."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from netpold.host import parse as parse_module
from netpold.host.parse import Job, parse_all
from netpold.policy.chunks import LIMITS
from netpold.policy.documents import Part, parse_unit, units
from tests.test_documents import CHUNKS, pods


def jobs() -> list[Job]:
    """A hundred files."""
    texts = [pods(*(f"p{number}-{each}" for each in range(8))) + b"---\n".join(CHUNKS) for number in range(100)]
    return [
        Job(f"{number}.yaml", index, unit)
        for number, text in enumerate(texts)
        for index, unit in enumerate(units(text, LIMITS))
    ]


def by_place(results: Iterator[tuple[Job, Part]]) -> dict[tuple[str, int], str]:
    found = {}
    for job, part in results:
        assert (job.file, job.number) not in found
        found[job.file, job.number] = repr(part)
    return found


@pytest.fixture
def wanted() -> dict[tuple[str, int], str]:
    return {(job.file, job.number): repr(parse_unit(job.unit, job.file, LIMITS)) for job in jobs()}


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Help is worth it even for these, and there is some, whatever the machine has."""
    monkeypatch.setattr(parse_module, "WORTH_HELP", 20_000)
    monkeypatch.setattr(parse_module, "BATCH", 5_000)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2})


@pytest.fixture
def delivered(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """For each batch that a helper got, whether it delivered."""
    seen: list[bool] = []
    original = parse_module._Helper.parse

    def parse(helper: parse_module._Helper, batch: parse_module.Batch) -> object:
        found = original(helper, batch)
        seen.append(found is not None)
        return found

    monkeypatch.setattr(parse_module._Helper, "parse", parse)
    return seen


def test_with_help(wanted: dict[tuple[str, int], str], delivered: list[bool]) -> None:
    assert by_place(parse_all(jobs(), LIMITS)) == wanted
    assert len(delivered) > 4
    assert all(delivered)


def test_jobs_are_taken_as_they_are_needed() -> None:
    taken = 0

    def coming() -> Iterator[Job]:
        nonlocal taken
        for job in jobs():
            taken += 1
            yield job

    results = parse_all(coming(), LIMITS)
    next(results)
    assert taken < len(jobs()) / 2
    results.close()


def test_little_needs_no_help(delivered: list[bool]) -> None:
    few = jobs()[:10]
    assert len(by_place(parse_all(few, LIMITS))) == 10
    assert not delivered


def test_one_processor_needs_no_help(
    wanted: dict[tuple[str, int], str], delivered: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    assert by_place(parse_all(jobs(), LIMITS)) == wanted
    assert not delivered


def test_helpers_that_fail_at_once(
    wanted: dict[tuple[str, int], str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    assert by_place(parse_all(jobs(), LIMITS)) == wanted
    assert any("failed" in each.getMessage() for each in caplog.records)


def test_helpers_that_are_not_there(wanted: dict[tuple[str, int], str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere")
    assert by_place(parse_all(jobs(), LIMITS)) == wanted


def test_helpers_that_never_answer(
    wanted: dict[tuple[str, int], str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    sleeper = tmp_path / "sleeper"
    sleeper.write_text("#!/bin/sh\nexec sleep 100\n")
    sleeper.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(sleeper))
    monkeypatch.setattr(parse_module, "PATIENCE_S", 0.1)
    assert by_place(parse_all(jobs(), LIMITS)) == wanted


def test_helpers_that_talk_nonsense(
    wanted: dict[tuple[str, int], str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    liar = tmp_path / "liar"
    liar.write_text("#!/bin/sh\nprintf '\\0\\0\\0\\0\\0\\0\\0\\4junk'\nexec cat > /dev/null\n")
    liar.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(liar))
    assert by_place(parse_all(jobs(), LIMITS)) == wanted


def test_a_helper_that_is_killed(
    wanted: dict[tuple[str, int], str], delivered: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[subprocess.Popen[bytes]] = []
    original = subprocess.Popen

    def popen(*words: object, **settings: object) -> subprocess.Popen[bytes]:
        started.append(original(*words, **settings))  # type: ignore[call-overload]
        return started[-1]

    monkeypatch.setattr(subprocess, "Popen", popen)
    results = parse_all(jobs(), LIMITS)
    found = dict([next(results) for _ in range(30)])
    for process in started:
        process.kill()
    found |= dict(results)
    assert {(job.file, job.number): repr(part) for job, part in found.items()} == wanted
    assert all(process.poll() is not None for process in started)

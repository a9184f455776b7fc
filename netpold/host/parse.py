from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from netpold.policy.chunks import Limits
from netpold.policy.documents import Part, Unit, parse_unit


class Job(NamedTuple):
    """A unit to parse: the file that it is of, and its number there."""

    file: str
    number: int
    unit: Unit


def parse_all(jobs: Iterable[Job], limits: Limits) -> Iterator[tuple[Job, Part]]:
    for job in jobs:
        yield job, parse_unit(job.unit, job.file, limits)

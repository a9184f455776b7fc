"""Parsing many units at once: the other processors help where that pays.

Work and results stream in batches, so that no more than a few of them are in memory.  Whoever is free takes the next
batch: a helper, or this process, which looks after each unit whether a helper is.  Helpers (`parse_helper.py`) are
programs and no forks (this process has threads), and whatever becomes of one, what it did not deliver is parsed here.

Only where there is much to parse, what units have in common becomes one object (see `codec.Decoder`).
"""

from __future__ import annotations

import logging
import marshal
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from netpold.policy.chunks import Limits
from netpold.policy.codec import Decoder, Encoded, Encoder
from netpold.policy.documents import Part, Unit, parse_unit

WORTH_HELP = 1 << 20  # bytes: about a quarter of a second of parsing, which a helper takes to start
BATCH = 128 << 10  # bytes
MOST_HELPERS = 3
PATIENCE_S = 120.0
PACKAGES = Path(__file__).resolve().parents[2]  # where a helper finds this package

log = logging.getLogger("netpold")


class Job(NamedTuple):
    """A unit to parse: the file that it is of, and its number there."""

    file: str
    number: int
    unit: Unit


Batch = list[Job]


def parse_all(jobs: Iterable[Job], limits: Limits) -> Iterator[tuple[Job, Part]]:
    """What each unit says, in any order, as soon as it is known; jobs are taken as they are needed."""
    jobs = iter(jobs)
    first, helpers = _first(jobs), min(len(os.sched_getaffinity(0)) - 1, MOST_HELPERS)
    if helpers < 1 or sum(len(job.unit.data) for job in first) < WORTH_HELP:
        yield from ((job, parse_unit(job.unit, job.file, limits)) for job in chain(first, jobs))
    else:
        with ExitStack() as stack:
            yield from _Shared(_batches(chain(first, jobs)), limits, helpers, stack).results()


def _first(jobs: Iterator[Job]) -> list[Job]:
    """As many jobs as it takes to see whether help is worth it."""
    found, size = [], 0
    for job in jobs:
        found.append(job)
        size += len(job.unit.data)
        if size >= WORTH_HELP:
            break
    return found


def _batches(jobs: Iterable[Job]) -> Iterator[Batch]:
    batch, size = [], 0
    for job in jobs:
        batch.append(job)
        size += len(job.unit.data)
        if size >= BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


class _Shared:
    """Work shared with helpers, which end with the stack."""

    def __init__(self, batches: Iterator[Batch], limits: Limits, helpers: int, stack: ExitStack) -> None:
        self._batches, self._limits = batches, limits
        self._pool = stack.enter_context(ThreadPoolExecutor(helpers))
        self._free = [stack.enter_context(_Helper(limits)) for _ in range(helpers)]
        self._out: dict[Future[Sequence[Encoded] | None], tuple[_Helper, Batch]] = {}
        self._decoder = Decoder()

    def results(self) -> Iterator[tuple[Job, Part]]:
        self._hand_out()
        for batch in self._batches:
            for job in batch:
                yield job, self._parse(job)
                yield from self._delivered()
        while self._out:
            if not wait(self._out, 2 * PATIENCE_S, return_when=FIRST_COMPLETED).done:
                for helper, _ in self._out.values():
                    helper.kill()  # it does not even take its work
            yield from self._delivered()

    def _hand_out(self) -> None:
        """Give each free helper a batch."""
        while self._free:
            batch = next(self._batches, None)
            if batch is None:
                return
            helper = self._free.pop()
            self._out[self._submitted(helper, batch)] = helper, batch

    def _submitted(self, helper: _Helper, batch: Batch) -> Future[Sequence[Encoded] | None]:
        try:
            return self._pool.submit(helper.parse, batch)
        except RuntimeError as error:  # no thread can be started: the batch is parsed here
            _complain(error)
            nothing: Future[Sequence[Encoded] | None] = Future()
            nothing.set_result(None)
            return nothing

    def _delivered(self) -> Iterator[tuple[Job, Part]]:
        """What helpers have delivered; who did not is not asked again."""
        for future in [future for future in self._out if future.done()]:
            helper, batch = self._out.pop(future)
            delivered = future.result()
            if delivered is not None:
                self._free.append(helper)
            self._hand_out()
            for number, job in enumerate(batch):
                if delivered is None:
                    yield job, self._parse(job)
                else:
                    yield job, self._decoder.decode(delivered[number], job.file)

    def _parse(self, job: Job) -> Part:
        part = parse_unit(job.unit, job.file, self._limits)
        return self._decoder.decode(Encoder().encode(part), job.file)


class _Helper:
    """Another process that parses."""

    def __init__(self, limits: Limits) -> None:
        environment = {**os.environ, "PYTHONPATH": str(PACKAGES)}
        command = [sys.executable, "-m", "netpold.host.parse_helper", str(limits.file)]
        try:
            self._process: subprocess.Popen[bytes] | None = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
            )
        except OSError as error:
            self._process = None
            _complain(error)

    def __enter__(self) -> _Helper:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._process:
            self._process.kill()
            self._process.communicate()

    def kill(self) -> None:
        if self._process:
            self._process.kill()

    def parse(self, batch: Batch) -> Sequence[Encoded] | None:
        """What each job's unit says; None where the helper failed."""
        if not self._process:
            return None
        assert self._process.stdin
        assert self._process.stdout
        request = marshal.dumps([(job.file, *job.unit) for job in batch])
        try:
            self._process.stdin.write(len(request).to_bytes(8) + request)
            self._process.stdin.flush()
            size = int.from_bytes(self._read(8))
            found: Sequence[Encoded] = marshal.loads(self._read(size))
        except (OSError, EOFError, ValueError, TypeError) as error:
            _complain(error)
            return None
        return found

    def _read(self, size: int) -> bytes:
        """Raises EOFError when the helper ended, TimeoutError when it does not answer."""
        assert self._process
        assert self._process.stdout
        fd, end = self._process.stdout.fileno(), time.monotonic() + PATIENCE_S
        read = bytearray()
        while len(read) < size:
            if not select.select([fd], [], [], max(end - time.monotonic(), 0))[0]:
                raise TimeoutError("it does not answer")
            part = os.read(fd, size - len(read))
            if not part:
                raise EOFError("it ended")
            read += part
        return bytes(read)


def _complain(error: Exception) -> None:
    log.warning("a process that was to help with parsing failed, so this one does it: %s", error)

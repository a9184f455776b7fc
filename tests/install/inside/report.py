"""One line a step: what was tried, and what came of it.  A step that fails never stops the ones after it."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager


class Failure(Exception):
    """A step did not come out as it should; the text says what was seen."""


def expect(condition: object, seen: str) -> None:
    """Raises Failure with what was seen, unless the condition holds."""
    if not condition:
        raise Failure(seen)


class Step:
    """A step under way; `saw` adds something to its line."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def saw(self, text: str) -> None:
        self.seen.append(text)


class Report:
    """Prints the lines and counts the failures."""

    def __init__(self) -> None:
        self.failures = 0

    @contextmanager
    def step(self, title: str) -> Iterator[Step]:
        """Everything that can go wrong in a step is its failure; a mistake in this code is not."""
        step = Step()
        begun = time.monotonic()
        try:
            yield step
            word = "ok    "
        except (Failure, OSError, subprocess.SubprocessError, ValueError, LookupError) as error:
            self.failures += 1
            word = "FAILED"
            step.saw(" ".join(str(error).split()) or type(error).__name__)
        seen = f": {'; '.join(step.seen)}" if step.seen else ""
        print(f"{word} {time.monotonic() - begun:5.1f}s  {title}{seen}", flush=True)

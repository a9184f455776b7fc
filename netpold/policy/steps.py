"""Long computations a step at a time: who runs one can do other things between two steps, and tell how far it is.

Such a computation is a generator.  It yields every few milliseconds the share of it that is done, and returns what it
found.  It knows no clock: its steps are so many things looked at.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TypeVar, cast

_T = TypeVar("_T")

Steps = Generator[float, None, _T]  # yields from 0 to 1, never less than before


def finished(steps: Generator[object, None, _T]) -> _T:
    """What it returns in the end."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return cast(_T, end.value)


def stretch(steps: Steps[_T], first: float, last: float) -> Steps[_T]:
    """The same steps as a part of something longer: from one share of that to another."""
    while True:
        try:
            share = next(steps)
        except StopIteration as end:
            return cast(_T, end.value)
        yield first + share * (last - first)

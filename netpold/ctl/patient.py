"""Asking a daemon again and again, also over its restart: who watches wants to see that, too."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TypeVar

from netpold.ctl.failure import Exit, Failure

AGAIN_S = 1.0  # how soon to ask a daemon again that does not run

T = TypeVar("T")


def _say(failure: Failure) -> None:
    print(f"netpoldctl: {failure}; waiting for it", file=sys.stderr)


def patiently(question: Callable[[], T], end: float, gone: Callable[[Failure], object] = _say) -> T:
    """The answer to a question, from a daemon that may be away until the end (time.monotonic()).  `gone` is told once
    why it does not answer.  Raises Failure, for that reason only where the end has come."""
    told = False
    while True:
        try:
            return question()
        except Failure as failure:
            if failure.code != Exit.NOT_RUNNING or time.monotonic() + AGAIN_S >= end:
                raise
            if not told:
                gone(failure)
            told = True
            time.sleep(AGAIN_S)

"""A line on the terminal while one waits: what goes on, how much of it is done where that is known, and for how long.

It comes when the command has taken a second, on standard error and only where that is a terminal, and leaves nothing
behind.  A thread draws it, so whoever works says how far it is and never waits for the terminal.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar, cast

from netpold.policy.steps import Steps
from netpold.printable import printable

_PATIENCE_S = 1.0  # of the command, whatever it does one after the other
_TICK_S = 0.2
_WHEEL = "|/-\\"
_WIDTHS = ((60, 20), (40, 10))  # on a terminal with that many columns, a bar of that many
_NO_WRAP, _WRAP, _REST = "\x1b[?7l", "\x1b[?7h", "\x1b[K"

_SINCE = time.monotonic()  # about when the command began

_T = TypeVar("_T")


class Progress:
    """How far something is.  `share`: 0 to 1; None as long as nobody knows."""

    def __init__(self, what: str, lasting: float | None) -> None:
        self.what, self.lasting = what, lasting
        self.began = time.monotonic()
        self.share: float | None = None

    def tell(self, share: float) -> None:
        """So much of it is done."""
        self.share = share

    def through(self, steps: Steps[_T]) -> _T:
        """Go through the steps; what they return."""
        while True:
            try:
                self.share = next(steps)
            except StopIteration as end:
                return cast(_T, end.value)

    def line(self, now: float, columns: int) -> str:
        """How it reads at that time (time.monotonic()) on a terminal of that width; the seconds are the command's."""
        share = self.share if self.lasting is None else (now - self.began) / self.lasting
        if share is None:
            sign = _WHEEL[int(now / _TICK_S) % len(_WHEEL)]
        else:
            share = min(max(share, 0.0), 1.0)
            size = next((bar for least, bar in _WIDTHS if columns >= least), 0)
            bar = f"[{'#' * int(share * size):.<{size}}] " if size else ""
            sign = f"{bar}{int(share * 100):3}%"
        waited = f", {int(now - _SINCE)} s"
        room = columns - len(sign) - len(waited) - 2  # the last column stays free
        return f"{sign} {printable(self.what)[: max(room, 0)]}{waited}"


@contextmanager
def progress(what: str, lasting: float | None = None) -> Iterator[Progress]:
    """Tell of what the block does.  `lasting`: the seconds that it takes, where that is known before."""
    told = Progress(what, lasting)
    if not sys.stderr.isatty() or os.environ.get("TERM") == "dumb":
        yield told
        return
    done = threading.Event()
    teller = threading.Thread(target=_show, args=(told, done), name="netpoldctl-progress", daemon=True)
    teller.start()
    try:
        yield told
    finally:
        done.set()
        teller.join()


def _show(told: Progress, done: threading.Event) -> None:
    if done.wait(max(_SINCE + _PATIENCE_S - told.began, _TICK_S)):
        return
    while not done.is_set():
        # a name may be wider than it has characters: what is too long is not to go on in the next line
        sys.stderr.write(f"\r{_NO_WRAP}{told.line(time.monotonic(), _columns())}{_REST}{_WRAP}")
        sys.stderr.flush()
        done.wait(_TICK_S)
    sys.stderr.write(f"\r{_REST}")
    sys.stderr.flush()


def _columns() -> int:
    given = os.environ.get("COLUMNS", "")
    if given.isascii() and given.isdecimal() and int(given):
        return int(given)
    return os.get_terminal_size(sys.stderr.fileno()).columns or 80

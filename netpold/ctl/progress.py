"""A line on the terminal while one waits: what goes on, for as long as it takes longer than a second."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_PATIENCE_S = 1.0
_TICK_S = 0.2
_WHEEL = "|/-\\"


@contextmanager
def progress(what: str) -> Iterator[None]:
    """Tell of what the block does, on standard error, where that is a terminal."""
    if not sys.stderr.isatty() or os.environ.get("TERM") == "dumb":
        yield
        return
    done = threading.Event()
    teller = threading.Thread(target=_tell, args=(what, done), name="netpoldctl-progress", daemon=True)
    teller.start()
    try:
        yield
    finally:
        done.set()
        teller.join()


def _tell(what: str, done: threading.Event) -> None:
    if done.wait(_PATIENCE_S):
        return
    turn = 0
    while not done.is_set():
        sys.stderr.write(f"\r{_WHEEL[turn % len(_WHEEL)]} {what} ...")
        sys.stderr.flush()
        turn += 1
        done.wait(_TICK_S)
    sys.stderr.write("\r\x1b[K")
    sys.stderr.flush()

"""A page on a terminal that is drawn again and again, without flicker: each line over the old one, nothing cleared."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

_HOME, _REST_OF_LINE, _REST_OF_PAGE = "\x1b[H", "\x1b[K", "\x1b[J"
_CLEAR, _HIDE_CURSOR, _SHOW_CURSOR = "\x1b[2J", "\x1b[?25l", "\x1b[?25h"


def height() -> int:
    """Lines that a page may have."""
    return shutil.get_terminal_size().lines - 1


@contextmanager
def page() -> Iterator[None]:
    """Begin on a clean page, and leave the last one when the block ends, however it ends."""
    sys.stdout.write(_CLEAR + _HIDE_CURSOR)
    try:
        yield
    finally:
        sys.stdout.write(_SHOW_CURSOR)
        sys.stdout.flush()


def draw(lines: Sequence[str]) -> None:
    """Show these lines, and as many as there is room for."""
    shown = [line for each in lines for line in each.split("\n")][: height()]
    sys.stdout.write(_HOME + "".join(f"{line}{_REST_OF_LINE}\n" for line in shown) + _REST_OF_PAGE)
    sys.stdout.flush()

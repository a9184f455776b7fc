"""Text for a person: colours where they are wanted, columns that line up, nothing that a terminal would obey.

Colours are for terminals only, and not with NO_COLOR set (https://no-color.org) or TERM=dumb.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import textwrap
from collections.abc import Iterable, Sequence
from typing import Literal

Colour = Literal["red", "green", "yellow", "bold", "dim"]

_CODES: dict[Colour, int] = {"red": 31, "green": 32, "yellow": 33, "bold": 1, "dim": 2}
_VERDICTS: dict[str, Colour] = {
    "allow": "green",
    "deny": "red",
    "audited": "yellow",
    "IPv4 only": "yellow",
    "IPv6 only": "yellow",
    "error": "red",
    "warning": "yellow",
}


def is_terminal() -> bool:
    return sys.stdout.isatty()


def width() -> int | None:
    """Columns of the terminal (COLUMNS wins); None where there is none to fit into."""
    if not is_terminal() and not os.environ.get("COLUMNS"):
        return None
    return shutil.get_terminal_size().columns


def paint(text: str, colour: Colour) -> str:
    """The text in a colour, where colours are wanted."""
    if not is_terminal() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return text
    return f"\x1b[{_CODES[colour]}m{text}\x1b[0m"


def word(text: str) -> str:
    """A verdict or severity in its colour."""
    return paint(text, _VERDICTS[text])


def say(*lines: str) -> None:
    for line in lines:
        print(line)


def say_json(value: object) -> None:
    print(json.dumps(value, indent=2 if is_terminal() else None))


def pairs(rows: Iterable[tuple[str, str]], indent: int = 2) -> list[str]:
    """Names and values in two columns; long values go on below themselves."""
    rows = list(rows)
    column = max((len(name) for name, _ in rows), default=0) + indent + 2
    lines: list[str] = []
    for name, value in rows:
        first, *rest = wrapped(value, column)
        lines.append(f"{' ' * indent}{paint(name, 'dim')}{' ' * (column - indent - len(name))}{first}")
        lines += [" " * column + line for line in rest]
    return lines


def wrapped(text: str, indent: int) -> list[str]:
    """The text in lines that fit behind an indent; as it is where nothing limits the width."""
    columns = width()
    if columns is None or not text:
        return [text]
    return textwrap.wrap(text, max(columns - indent, 20), break_long_words=False, break_on_hyphens=False)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Aligned columns under a head; verdicts get their colour."""
    body = list(rows)
    widths = [max(map(len, column)) for column in zip(head, *body, strict=True)]
    lines = [paint(_line(head, widths), "bold")]
    return lines + [_line(row, widths, coloured=True) for row in body]


def table_width(head: Sequence[str], rows: Iterable[Sequence[str]]) -> int:
    """Columns that `table` takes."""
    return sum(max(map(len, column)) + 2 for column in zip(head, *rows, strict=True)) - 2


def _line(cells: Sequence[str], widths: Sequence[int], coloured: bool = False) -> str:
    padded = [cell.ljust(size) for cell, size in zip(cells, widths, strict=True)]
    if coloured:
        padded = [
            paint(pad, _VERDICTS[cell]) if cell in _VERDICTS else pad for cell, pad in zip(cells, padded, strict=True)
        ]
    return "  ".join(padded).rstrip()

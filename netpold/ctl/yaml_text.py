"""Suggested policies as the YAML that one would put into a file: comments dim, nothing else beside it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from netpold.ctl.output import paint
from netpold.printable import printable


def show(suggestions: Iterable[dict[str, Any]]) -> list[str]:
    """The lines of one file with all of them."""
    lines: list[str] = []
    for each in suggestions:
        lines.append("---")
        for line in map(printable, each["yaml"].rstrip("\n").split("\n")):
            lines += [paint(line, "dim") if line.startswith("#") else line]
    return lines

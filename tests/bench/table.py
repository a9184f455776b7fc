"""Figures as text: quantiles, and tables of sizes beside each other, each figure with its ratio to the first size's."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that is not below this share of the values (nearest rank); NaN of none."""
    ordered = sorted(values)
    return ordered[max(math.ceil(share * len(ordered)) - 1, 0)] if ordered else float("nan")


def table(head: str, columns: Sequence[str], rows: Mapping[str, Sequence[float | None]]) -> str:
    """A table of figures; None: there is none.  From the second column on the ratio to the first stands beside."""
    cells = [[head, *columns], *([name, *map(_cell, values, _ratios(values))] for name, values in rows.items())]
    widths = [max(len(row[index]) for row in cells) for index in range(len(cells[0]))]
    return "\n".join(
        row[0].ljust(widths[0]) + "".join(f"  {cell:>{width}}" for cell, width in zip(row[1:], widths[1:], strict=True))
        for row in cells
    )


def figure(value: float) -> str:
    """Three significant digits, and all of a whole number and of one above 100."""
    if isinstance(value, int) or value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _ratios(values: Sequence[float | None]) -> list[str]:
    first = values[0]
    ratios = [f"{value / first:.1f}x" if value is not None and first else "-" for value in values[1:]]
    return ["", *(f"{ratio:>7}" for ratio in ratios)]


def _cell(value: float | None, ratio: str) -> str:
    return ("-" if value is None else figure(value)) + ratio

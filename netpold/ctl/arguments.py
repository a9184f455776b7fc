"""Arguments of netpoldctl's verbs: those that several have, and what they take.

A function that reads a value raises argparse.ArgumentTypeError, which says what to write.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from netpold.ctl.client import DEFAULT_SOCKET


@dataclass(frozen=True, slots=True)
class Argument:
    """One argument of a verb, as argparse's add_argument takes it."""

    names: tuple[str, ...]
    options: Mapping[str, Any]


def moment(text: str) -> float:
    """`90`, `90s`, `15m`, `2h`, `1d` in seconds."""
    number, unit = (text[:-1], text[-1]) if text[-1:] in _UNITS else (text, "s")
    if not number.isascii() or not number.isdecimal() or len(number) > 6:
        raise argparse.ArgumentTypeError(f"{text!r} is no time: write 90s, 15m, 2h or 1d")
    return float(int(number) * _UNITS[unit])


_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def span(text: str) -> float:
    """The same, from a second on."""
    found = moment(text)
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time from 1s on")
    return found


def patience(text: str) -> float:
    """The same, from a second to an hour."""
    found = moment(text)
    if not 1 <= found <= 3600:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time from 1s to 1h")
    return found


def argument(*names: str, **options: Any) -> Argument:
    """As `add_argument`."""
    return Argument(names, options)


def seconds(text: str, low: float = 0) -> float:
    """A number from `low` to 3600."""
    try:
        found = float(text)
    except ValueError:
        found = -1.0
    if not low <= found <= 3600:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds from {low:g} to 3600")
    return found


def interval(text: str) -> float:
    """Seconds between two readings."""
    return seconds(text, 0.5)


def count(text: str) -> int:
    """How many."""
    if not text.isascii() or not text.isdecimal() or not 0 < int(text[:9]) < 1_000_000:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 to 999999")
    return int(text)


_FORMATS = {  # beside text and JSON
    "csv": "CSV",
    "dot": "Graphviz",
    "html": "HTML",
    "svg": "SVG",
    "sarif": "SARIF 2.1.0",
    "junit": "JUnit XML",
    "markdown": "Markdown",
}


def output(*formats: str) -> Argument:
    """-o, with these formats beside text and JSON."""
    last = [", ".join(["JSON", *(_FORMATS[each] for each in formats[:-1])]), *(_FORMATS[each] for each in formats[-1:])]
    words = f"text for a person, {' or '.join(last)}" if formats else "text for a person, or JSON"
    return argument(
        "-o", "--output", choices=("text", "json", *formats), default="text", help=f"{words} (default: text)"
    )


OUTPUT = output()
SOCKET = argument(
    "--socket",
    type=Path,
    metavar="PATH",
    default=argparse.SUPPRESS,
    help=f"the daemon's socket (default: {DEFAULT_SOCKET})",
)
MANIFESTS = argument(
    "--manifests",
    type=Path,
    metavar="DIR",
    default=argparse.SUPPRESS,
    help="directory of manifests (default: that of the settings)",
)
INVENTORY = argument(
    "--inventory",
    type=Path,
    metavar="DIR",
    default=None,
    help="more manifests, of pods for one, that count on both sides",
)

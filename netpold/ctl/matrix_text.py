"""A matrix as text, CSV and Markdown.

On a terminal, in the first of these forms that fits: a table in words; a grid of dots, its columns numbered like its
rows; a line for each source.
"""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Iterator

from netpold.ctl import ports
from netpold.ctl.output import paint, pairs, table, table_width, width
from netpold.ctl.reach import Reach
from netpold.printable import printable

MOST_IN_WORDS = 12  # ends, where no terminal limits the width
MOST_IN_MARKDOWN = 30

_DOTS = {"allow": "●", "deny": "·", "mixed": "◐", "none": " "}
_ASCII = {"allow": "#", "deny": ".", "mixed": "/", "none": " "}


def text(reach: Reach) -> Iterator[str]:
    """For a person."""
    names = [printable(each.name) for each in reach.ends]
    for port in range(len(reach.ports)):
        passed, every = reach.count(port)
        yield f"{paint(ports.show(reach.ports[port]), 'bold')}  {passed:,} of {every:,} pairs pass"
        yield from _port(reach, port, names)
        yield ""


def _port(reach: Reach, port: int, names: list[str]) -> Iterator[str]:
    columns = width()
    head = ["from \\ to", *names]
    if columns is None:
        fits = len(names) <= MOST_IN_WORDS
    else:
        fits = sum(map(len, head)) <= columns and table_width(head, _words(reach, port, names)) <= columns
    if fits:
        yield from table(head, _words(reach, port, names))
    elif columns is None or max(map(len, names)) + len(str(len(names))) + len(names) + 3 <= columns:
        yield from _dots(reach, port, names)
    else:
        yield from _lines(reach, port, names)


def _words(reach: Reach, port: int, names: list[str]) -> list[list[str]]:
    """One line a source; `-` where the two have no address of the same family."""
    numbers = range(len(names))
    return [
        [name, *(reach.verdict(port, source, each) or "-" for each in numbers)] for source, name in enumerate(names)
    ]


def _dots(reach: Reach, port: int, names: list[str]) -> Iterator[str]:
    """One line a source and one character a destination; what one family alone lets pass is told apart."""
    signs = _signs()
    longest, digits = max(map(len, names)), len(str(len(names)))
    numbered = [f"{number:>{digits}}" for number in range(1, len(names) + 1)]
    for digit in range(digits):
        yield paint(" " * (longest + digits + 3) + "".join(number[digit] for number in numbered), "dim")
    for source, name in enumerate(names):
        if source and reach.ends[source].namespace != reach.ends[source - 1].namespace:
            yield ""
        cells = "".join(_sign(reach, port, source, each, signs) for each in range(len(names)))
        yield f"{name:{longest}} {paint(numbered[source], 'dim')}  {cells}".rstrip()
    yield paint(f"{signs['allow']} passes  {signs['deny']} does not  {signs['mixed']} in one family only", "dim")


def _sign(reach: Reach, port: int, source: int, destination: int, signs: dict[str, str]) -> str:
    verdict = reach.verdict(port, source, destination)
    if verdict and reach.is_mixed(port, source, destination):
        return paint(signs["mixed"], "yellow")
    if verdict == "allow":
        return paint(signs["allow"], "green")
    return signs[verdict or "none"]


def _signs() -> dict[str, str]:
    """Dots, where the output can have them."""
    try:
        "".join(_DOTS.values()).encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return _ASCII
    return _DOTS


def _lines(reach: Reach, port: int, names: list[str]) -> Iterator[str]:
    yield from pairs([(name, _reaches(reach, port, source, names)) for source, name in enumerate(names)])


def _reaches(reach: Reach, port: int, source: int, names: list[str]) -> str:
    """Whom a source reaches, in words, itself left out."""
    found = {
        each: verdict
        for each in range(len(names))
        if each != source and (verdict := reach.verdict(port, source, each)) is not None
    }
    passed = [names[each] for each, verdict in found.items() if verdict == "allow"]
    others = [names[each] for each, verdict in found.items() if verdict == "deny"]
    if not others:
        return "reaches all"
    if not passed:
        return "reaches nobody"
    if len(others) < len(passed):
        return f"reaches all but {', '.join(others)}"
    return f"reaches {', '.join(passed)}"


def as_csv(reach: Reach) -> Iterator[str]:
    """A line for each source, destination and port, given source by source; `IPv4`, `IPv6`: '' where the two have none
    in common."""
    yield "source,destination,protocol,port,verdict,IPv4,IPv6"
    for source in range(len(reach.ends)):
        written = io.StringIO()
        writer = csv.writer(written, lineterminator="\n")
        for cell in reach.cells(source):
            families = cell["families"]
            number = "" if cell["port"] is None else cell["port"]
            first = [cell["source"], cell["destination"], cell["protocol"], number, cell["verdict"]]
            writer.writerow([*first, families.get("IPv4", ""), families.get("IPv6", "")])
        if lines := written.getvalue().removesuffix("\n"):
            yield lines


def markdown(reach: Reach) -> Iterator[str]:
    """A heading and a table for each port: all pairs, or where that would be too wide, whom each source reaches."""
    names = [_escaped(each.name) for each in reach.ends]
    for port in range(len(reach.ports)):
        passed, every = reach.count(port)
        yield f"### {ports.show(reach.ports[port])}"
        yield ""
        yield f"{passed:,} of {every:,} pairs pass."
        yield ""
        if len(names) <= MOST_IN_MARKDOWN:
            yield f"| from \\ to | {' | '.join(names)} |"
            yield f"|---|{':-:|' * len(names)}"
            for source, name in enumerate(names):
                marks = [_mark(reach, port, source, each) for each in range(len(names))]
                yield f"| **{name}** | {' | '.join(marks)} |"
        else:
            yield "| source | |"
            yield "|---|---|"
            for source, name in enumerate(names):
                yield f"| **{name}** | {_reaches(reach, port, source, names)} |"
        yield ""


def _mark(reach: Reach, port: int, source: int, destination: int) -> str:
    verdict = reach.verdict(port, source, destination)
    if verdict and reach.is_mixed(port, source, destination):
        here = reach.families(source, destination)
        return ", ".join(
            f"{each} {'✅' if reach.in_family(each, port, source, destination) == 'allow' else '❌'}" for each in here
        )
    return {"allow": "✅", "deny": "❌"}.get(verdict or "", "")


def _escaped(name: str) -> str:
    """Nothing in it is markup."""
    return "".join(f"\\{each}" if each in "\\`*_[]<>|~#" else each for each in printable(name))

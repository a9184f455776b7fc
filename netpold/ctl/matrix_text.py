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
from netpold.ctl.findings import number
from netpold.ctl.output import Colour, paint, pairs, table, table_width, width, wrapped
from netpold.ctl.reach import Cell, Count, Reach
from netpold.printable import printable

MOST_IN_WORDS = 12  # ends, where no terminal limits the width
MOST_IN_MARKDOWN = 30
MOST_LEFT_OUT = 20  # ports that are named and not asked about, by name

AUDITED = "what is audited passes only because policies are in audit mode, and would be denied"

_DOTS = {"allow": "●", "deny": "·", "partly": "◐", "audited": "○"}
_ASCII = {"allow": "#", "deny": ".", "partly": "/", "audited": "o"}
_LEGEND = {
    "allow": "passes",
    "deny": "does not",
    "partly": "in one family only",
    "audited": "passes because policies are audited only",
}
_COLOURS: dict[str, Colour] = {"allow": "green", "partly": "yellow", "audited": "yellow"}


def text(reach: Reach) -> Iterator[str]:
    """For a person."""
    names = [printable(each.name) for each in reach.ends]
    if not names:
        yield "There is no pod that has an address and that policies can select: there are no pairs."
        return
    counts = [reach.count(port) for port in range(len(reach.ports))]
    if len(names) > MOST_IN_WORDS and len(counts) > 1:
        yield from pairs(
            [(ports.show(port), counted(count)) for port, count in zip(reach.ports, counts, strict=True)], 0
        )
        yield ""
    for port, count in enumerate(counts):
        yield f"{paint(ports.show(reach.ports[port]), 'bold')}  {counted(count)}"
        yield from _port(reach, port, names)
        yield ""
    if any(count.audited for count in counts):
        yield paint(f"NOT ENFORCED: {AUDITED}", "yellow")
    if reach.left_out:
        yield from wrapped(left_out(reach), 0)


def counted(count: Count) -> str:
    """In words."""
    parts = [f"{count.passed:,} of {count.every:,} pairs pass"]
    parts += [f"{count.partly:,} of them in one address family only"] if count.partly else []
    parts += [f"{count.audited:,} of them because policies are audited only"] if count.audited else []
    return ", ".join(parts)


def left_out(reach: Reach) -> str:
    """The ports that are named and were not asked about."""
    some = ", ".join(ports.show(each) for each in reach.left_out[:MOST_LEFT_OUT])
    more = ", ..." if len(reach.left_out) > MOST_LEFT_OUT else ""
    return (
        f"Left out: {number(len(reach.left_out), 'port')} that manifests name, too: {some}{more}; --ports asks of them"
    )


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
        [name, *(str(reach.cell(port, source, each) or "-") for each in numbers)] for source, name in enumerate(names)
    ]


def _dots(reach: Reach, port: int, names: list[str]) -> Iterator[str]:
    """One line a source and one character a destination."""
    signs, seen = _signs(), {"allow", "deny"}
    longest, digits = max(map(len, names)), len(str(len(names)))
    numbered = [f"{number:>{digits}}" for number in range(1, len(names) + 1)]
    for digit in range(digits):
        yield paint(" " * (longest + digits + 3) + "".join(number[digit] for number in numbered), "dim")
    for source, name in enumerate(names):
        if source and reach.ends[source].namespace != reach.ends[source - 1].namespace:
            yield ""
        kinds = [_kind(reach.cell(port, source, each)) for each in range(len(names))]
        seen.update(kinds)
        cells = "".join(
            paint(signs[each], _COLOURS[each]) if each in _COLOURS else signs.get(each, " ") for each in kinds
        )
        yield f"{name:{longest}} {paint(numbered[source], 'dim')}  {cells}".rstrip()
    yield paint("  ".join(f"{signs[each]} {said}" for each, said in _LEGEND.items() if each in seen), "dim")


def _kind(cell: Cell | None) -> str:
    """The key of its sign; '' for none."""
    if cell is None:
        return ""
    if cell.is_partly:
        return "partly"
    return "audited" if cell.audited else str(cell)


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
        each: cell
        for each in range(len(names))
        if each != source and (cell := reach.cell(port, source, each)) is not None
    }
    others = [names[each] for each, cell in found.items() if not cell.passing]
    passed = {each: cell for each, cell in found.items() if cell.passing}
    if found and not passed:
        return "reaches nobody"
    if len(others) >= len(passed):
        return f"reaches {', '.join(_noted(names[each], cell) for each, cell in passed.items())}"
    noted = [_noted(names[each], cell) for each, cell in passed.items() if str(cell) != "allow"]
    every = f"reaches all but {', '.join(others)}" if others else "reaches all"
    return f"{every}; of them {', '.join(noted)}" if noted else every


def _noted(name: str, cell: Cell) -> str:
    """The name, and what is to be said of it beside that it is reached."""
    return name if str(cell) == "allow" else f"{name} ({cell})"


def as_csv(reach: Reach) -> Iterator[str]:
    """A line for each source, destination and port, given source by source; `IPv4`, `IPv6`: '' where the two have none
    in common; `audited`: in which of them it passes because policies are audited only."""
    yield "source,destination,protocol,port,verdict,IPv4,IPv6,audited"
    for source in range(len(reach.ends)):
        written = io.StringIO()
        writer = csv.writer(written, lineterminator="\n")
        for cell in reach.cells(source):
            families = cell["families"]
            number = "" if cell["port"] is None else cell["port"]
            first = [cell["source"], cell["destination"], cell["protocol"], number, cell["verdict"]]
            audited = " ".join(cell["audited"])
            writer.writerow([*first, families.get("IPv4", ""), families.get("IPv6", ""), audited])
        if lines := written.getvalue().removesuffix("\n"):
            yield lines


def markdown(reach: Reach) -> Iterator[str]:
    """A heading and a table for each port: all pairs, or where that would be too wide, whom each source reaches."""
    names = [_escaped(each.name) for each in reach.ends]
    for port in range(len(reach.ports)):
        count = reach.count(port)
        yield f"### {ports.show(reach.ports[port])}"
        yield ""
        yield f"{counted(count)}."
        yield ""
        if count.audited:
            yield f"**Not enforced:** {AUDITED}."
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
    if reach.left_out:
        yield f"{left_out(reach)}."


def _mark(reach: Reach, port: int, source: int, destination: int) -> str:
    cell = reach.cell(port, source, destination)
    if cell is None:
        return ""
    marks = {
        each: "⚠️ audited" if each in cell.audited else "✅" if each in cell.passing else "❌" for each in cell.families
    }
    if len(set(marks.values())) == 1:
        return marks[cell.families[0]]
    return ", ".join(f"{family} {mark}" for family, mark in marks.items())


def _escaped(name: str) -> str:
    """Nothing in it is markup."""
    return "".join(f"\\{each}" if each in "\\`*_[]<>|~#" else each for each in printable(name))

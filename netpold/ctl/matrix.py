"""`netpoldctl matrix`: who reaches whom.

One table for each port, sources down and destinations across; where the terminal is too narrow for that, a list.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from itertools import groupby

from netpold.ctl import ports
from netpold.ctl.failure import Exit, Failure
from netpold.ctl.offline import model
from netpold.ctl.output import paint, say, say_json, table, table_width, width
from netpold.rules.explain import Row, UnknownEndpoint, matrix


def run(arguments: argparse.Namespace) -> Exit:
    """Raises Failure."""
    wanted = ports.parse_list(arguments.ports)
    others = [each.strip() for each in arguments.addresses.split(",") if each.strip()]
    index, ruleset = model(arguments)
    pods = sorted(key for key, pod in index.world.pods.items() if pod.takes_part and pod.addresses)
    try:
        rows = list(matrix(index, ruleset, pods, others, wanted))
    except UnknownEndpoint as error:
        raise Failure(str(error), error.hint, Exit.USAGE) from error
    if arguments.output == "json":
        say_json({"version": 1, "rows": [_row_json(row) for row in rows]})
    else:
        for port in wanted:
            say(*_text(port, [row for row in rows if (row.protocol, row.port) == port]))
    return Exit.FINE


def _row_json(row: Row) -> dict[str, object]:
    return {
        "source": row.source,
        "destination": row.destination,
        "protocol": row.protocol,
        "port": row.port,
        "verdict": row.verdict,
        "families": {f"IPv{family}": verdict for family, verdict in row.families},
    }


def _text(port: ports.Port, rows: list[Row]) -> Iterator[str]:
    yield paint(ports.show(port), "bold")
    names = list(dict.fromkeys([row.source for row in rows] + [row.destination for row in rows]))
    head, body = ["from \\ to", *names], list(_grid(names, rows))
    columns = width()
    if columns is None or table_width(head, body) <= columns:
        yield from table(head, body)
    else:
        yield from table(["from", "to", "verdict"], [[row.source, row.destination, row.verdict] for row in rows])
    yield ""


def _grid(names: list[str], rows: Iterable[Row]) -> Iterator[list[str]]:
    """One line a source; `-` where the two have no address of the same family."""
    for source, group in groupby(rows, key=lambda row: row.source):
        verdicts = {row.destination: row.verdict for row in group}
        yield [source, *(verdicts.get(name, "-") for name in names)]

"""`netpoldctl matrix`: who reaches whom, in many forms.

A running daemon is asked about the pods of its node, for it knows what is in force; without one, or with --manifests,
the manifests are read and compiled here, for the pods in question as if they ran on this node.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext
from typing import Any

from netpold.ctl import in_force, matrix_dot, matrix_page, matrix_svg, matrix_text, ports
from netpold.ctl.failure import Exit
from netpold.ctl.graph import graph
from netpold.ctl.output import is_terminal, say
from netpold.ctl.progress import progress
from netpold.ctl.reach import Reach

Json = Mapping[str, Any]

WAIT_S = 60.0


def run(arguments: argparse.Namespace) -> Exit:
    """Raises Failure."""
    wanted = ports.parse_list(arguments.ports) if arguments.ports else []
    answer: Json | None = in_force.answer(arguments, "/v1/matrix", _words(arguments), WAIT_S)
    if answer is None:
        answer = _from_manifests(arguments, wanted)
    if arguments.output in ("csv", "dot", "svg") and answer["ports_left_out"]:
        print(f"netpoldctl: {matrix_text.left_out(Reach.of(answer))}", file=sys.stderr)
    with nullcontext() if is_terminal() else progress("writing it down") as told:
        for number, part in enumerate(FORMATS[arguments.output](answer)):
            if told and arguments.output in _BY_SOURCE:
                told.tell(number / (len(answer["ends"]) + 2))
            say(part)
    return Exit.FINE


def _json(answer: Json) -> Iterator[str]:
    """Source by source: there may be millions of rows."""
    reach, before = Reach.of(answer), ""
    yield '{"version": 1, "rows": ['
    for source in range(len(reach.ends)):
        rows = json.dumps(list(reach.cells(source)))[1:-1]
        if before and rows:
            yield f"{before},"
        before = rows or before
    yield before
    yield f'], "ports_left_out": {json.dumps([ports.as_json(port) for port in reach.left_out])}}}'


_BY_SOURCE = ("csv", "json")  # formats of which each part is of one source
FORMATS: Mapping[str, Callable[[Json], Iterable[str]]] = {
    "text": lambda answer: matrix_text.text(Reach.of(answer)),
    "json": _json,
    "csv": lambda answer: matrix_text.as_csv(Reach.of(answer)),
    "markdown": lambda answer: matrix_text.markdown(Reach.of(answer)),
    "dot": lambda answer: matrix_dot.dot(graph(Reach.of(answer))),
    "svg": lambda answer: matrix_svg.svg(graph(Reach.of(answer))),
    "html": lambda answer: [matrix_page.page(answer, answer["about"]).removesuffix("\n")],
}


def _words(arguments: argparse.Namespace) -> dict[str, str]:
    """What the daemon is asked."""
    given = ("namespace", "pods", "node", "addresses", "ports")
    words = {name: getattr(arguments, name) for name in given if getattr(arguments, name)}
    return words | ({"explained": "1"} if arguments.output == "html" else {})


def _from_manifests(arguments: argparse.Namespace, wanted: list[ports.Port]) -> Json:
    from netpold.ctl.without_daemon import matrix_answer  # the compiler: not where the daemon answers

    return matrix_answer(arguments, wanted)

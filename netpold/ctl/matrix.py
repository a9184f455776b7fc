"""`netpoldctl matrix`: who reaches whom, in many forms.

A running daemon is asked about the pods of its node, for it knows what is in force; without one, or with --manifests,
the manifests are read and compiled here, for the pods in question as if they ran on this node.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from netpold.ctl import in_force, matrix_dot, matrix_page, matrix_svg, matrix_text, ports
from netpold.ctl.failure import Exit
from netpold.ctl.graph import graph
from netpold.ctl.output import say, say_json
from netpold.ctl.reach import Reach

Json = Mapping[str, Any]

WAIT_S = 60.0


def run(arguments: argparse.Namespace) -> Exit:
    """Raises Failure."""
    wanted = ports.parse_list(arguments.ports) if arguments.ports else []
    answer: Json | None = in_force.answer(arguments, "/v1/matrix", _words(arguments), WAIT_S)
    if answer is None:
        answer = _from_manifests(arguments, wanted)
    if arguments.output == "json":
        say_json({"version": 1, "rows": list(Reach.of(answer).cells())})
    else:
        for line in FORMATS[arguments.output](answer):
            say(line)
    return Exit.FINE


def _csv(answer: Json) -> Iterator[str]:
    yield matrix_text.as_csv(Reach.of(answer)).removesuffix("\n")


FORMATS: Mapping[str, Callable[[Json], Iterable[str]]] = {
    "text": lambda answer: matrix_text.text(Reach.of(answer)),
    "csv": _csv,
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

"""`netpoldctl matrix`: who reaches whom, in many forms.

A running daemon is asked about the pods of its node, for it knows what is in force; without one, or with --manifests,
the manifests are read and compiled here, for the pods in question as if they ran on this node.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from netpold.config import compile_settings
from netpold.ctl import in_force, matrix_dot, matrix_page, matrix_svg, matrix_text, ports
from netpold.ctl.failure import Exit, Failure
from netpold.ctl.graph import graph
from netpold.ctl.offline import index_of, settings_of
from netpold.ctl.output import say, say_json
from netpold.ctl.reach import Reach
from netpold.rules import asked
from netpold.rules.answers import matrix_json
from netpold.rules.ends import UnknownEndpoint, end, judges
from netpold.rules.matrix import matrix
from netpold.rules.offline import offline_ruleset
from netpold.rules.page import explained

Json = Mapping[str, Any]

WAIT_S = 60.0


def run(arguments: argparse.Namespace) -> Exit:
    """Raises Failure."""
    wanted = ports.parse_list(arguments.ports) if arguments.ports else []
    answer: Json = in_force.answer(arguments, "/v1/matrix", _words(arguments), WAIT_S) or _offline(arguments, wanted)
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


def _offline(arguments: argparse.Namespace, wanted: list[ports.Port]) -> Json:
    settings = settings_of(arguments)
    index = index_of(settings)
    pods = asked.pods(index.world, _list(arguments.namespace), _list(arguments.pods), arguments.node or None)
    if len(pods) > asked.MOST_PODS:
        hint = f"choose up to {asked.MOST_PODS:,} of them with --namespace, --node or --pods"
        raise Failure(f"{len(pods):,} pods make {len(pods) ** 2:,} pairs", hint, Exit.USAGE)
    others = _list(arguments.addresses)
    try:
        ends = [end(index, name) for name in (*pods, *others)]
        ruleset = offline_ruleset(index, sorted(judges(index, *ends)), compile_settings(settings))
        found = matrix(index, ruleset, pods, others, wanted or asked.ports(index.world, pods))
    except UnknownEndpoint as error:
        raise Failure(str(error), error.hint, Exit.USAGE) from error
    answer = matrix_json(found) | {"about": f"what {settings.manifests} says"}
    if arguments.output == "html":
        answer["explained"] = explained(index, ruleset, found)
    return answer


def _list(text: str) -> list[str]:
    return [each.strip() for each in text.split(",") if each.strip()]

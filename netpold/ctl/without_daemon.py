"""explain and matrix from manifests: read and compiled here, for the pods in question as if they ran on this node.

Apart from the verbs, so that a question to the daemon need not wait for the compiler to be imported.
"""

from __future__ import annotations

import argparse
from typing import Any

from netpold.config import compile_settings
from netpold.ctl.failure import Exit, Failure
from netpold.ctl.offline import index_of, settings_of
from netpold.ctl.progress import progress
from netpold.rules import asked
from netpold.rules.answers import explain_json, matrix_json
from netpold.rules.ends import UnknownEndpoint, asked_end, judges
from netpold.rules.matrix import matrix_in_steps
from netpold.rules.offline import offline_ruleset
from netpold.rules.page import explained_in_steps
from netpold.rules.port import Port, as_json

Json = dict[str, Any]


def explain_answer(arguments: argparse.Namespace, port: Port) -> Json:
    """What `GET /v1/explain` would say.  Raises Failure."""
    settings = settings_of(arguments)
    index = index_of(settings)
    try:
        ends = asked_end(index, arguments.source), asked_end(index, arguments.destination)
        ruleset = offline_ruleset(index, sorted(judges(index, *ends)), compile_settings(settings))
        return explain_json(index, ruleset, arguments.source, arguments.destination, *port)
    except UnknownEndpoint as error:
        raise Failure(str(error), error.hint, Exit.USAGE) from error


def matrix_answer(arguments: argparse.Namespace, ports: list[Port]) -> Json:
    """What `GET /v1/matrix` would say of all pods, or of those that are chosen.  Raises Failure."""
    settings = settings_of(arguments)
    index = index_of(settings)
    chosen = _list(arguments.namespace), _list(arguments.pods), arguments.node or None
    pods = asked.pods(index.world, *chosen)
    if len(pods) > asked.MOST_PODS:
        hint = f"choose up to {asked.MOST_PODS:,} of them with --namespace, --node or --pods"
        raise Failure(f"{len(pods):,} pods make {len(pods) ** 2:,} pairs", hint, Exit.USAGE)
    if fault := asked.fault(index.world, pods, *chosen):
        raise Failure(*fault, Exit.USAGE)
    others = _list(arguments.addresses)
    try:
        ends = asked.once(asked_end(index, name) for name in (*pods, *others))
        with progress("compiling"):
            ruleset = offline_ruleset(index, sorted(judges(index, *ends)), compile_settings(settings))
        with progress("judging all pairs") as told:
            wanted, left_out = (ports, []) if ports else asked.ports(index.world, pods)
            found = told.through(matrix_in_steps(index, ruleset, ends, wanted))
    except UnknownEndpoint as error:
        raise Failure(str(error), error.hint, Exit.USAGE) from error
    about = {"ports_left_out": [as_json(port) for port in left_out], "about": f"what {settings.manifests} says"}
    answer = matrix_json(found) | about
    if arguments.output == "html":
        with progress("explaining all pairs") as told:
            answer["explained"] = told.through(explained_in_steps(index, ruleset, found))
    return answer


def _list(text: str) -> list[str]:
    return [each.strip() for each in text.split(",") if each.strip()]

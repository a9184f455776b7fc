"""`netpoldctl suggest`: NetworkPolicies that allow the traffic that was seen, and no other."""

from __future__ import annotations

import argparse
import sys
from urllib.parse import urlencode

from netpold.ctl.client import ask
from netpold.ctl.failure import Exit, Failure
from netpold.ctl.output import paint, say, say_json
from netpold.ctl.progress import progress
from netpold.ctl.yaml_text import show
from netpold.printable import printable

_ANSWER_S = 60.0  # a table of many flows takes long to read
_MOST_NAMED = 5


def run(arguments: argparse.Namespace) -> Exit:
    """Raises Failure."""
    query = {"of": arguments.of, "dropped": int(not arguments.without_drops)}
    if arguments.direction:
        query["direction"] = arguments.direction
    with progress("looking at open flows"):
        answer = ask(arguments.socket, "GET", f"/v1/suggest?{urlencode(query)}", _ANSWER_S)
    if arguments.output == "json":
        say_json(answer)
        return Exit.FINE
    if not answer["suggestions"]:
        hint = "ask again while it works: flows that are open, and what was dropped since the daemon's start, count"
        raise Failure(f"no traffic of {arguments.of} was seen on this node", hint, Exit.NO)
    say(
        paint(
            f"# From what was seen on node {printable(answer['node'])}: open flows, and what policies dropped.", "dim"
        ),
        paint("# Look at each rule: what was seen is not what should be.", "dim"),
        *show(answer["suggestions"]),
    )
    if answer["unseen"]:
        names = ", ".join(printable(each) for each in answer["unseen"][:_MOST_NAMED])
        more = f" and {len(answer['unseen']) - _MOST_NAMED} more" if len(answer["unseen"]) > _MOST_NAMED else ""
        print(f"netpoldctl: nothing was seen of {names}{more}", file=sys.stderr)
    return Exit.FINE

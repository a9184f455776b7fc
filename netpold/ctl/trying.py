"""`netpoldctl try`: other policies in force for a while, which end by themselves unless they are confirmed.

The manifests are read and checked here, so that nothing is tried that has faults, and so that the directory may be one
that the daemon can't see.  Nothing is written to the manifests: what is tried becomes lasting when it is put there.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from netpold.ctl.client import ask
from netpold.ctl.failure import Exit, Failure
from netpold.ctl.findings import count, number
from netpold.ctl.offline import read, settings_of
from netpold.ctl.output import paint, say, say_json
from netpold.ctl.progress import progress
from netpold.policy.canonical import written
from netpold.policy.model import AnyPolicy, Namespace
from netpold.policy.rule_lines import rule_lines
from netpold.printable import printable

Json = Mapping[str, Any]

WAIT_S = 60.0


def run(arguments: argparse.Namespace) -> Exit:
    """Raises Failure."""
    if (arguments.directory is not None) + arguments.confirm + arguments.end != 1:
        raise Failure("nothing, or too much, is asked for", "give either DIR, or --confirm, or --end", Exit.USAGE)
    if arguments.directory is not None:
        return _begin(arguments, arguments.directory)
    what = "confirm" if arguments.confirm else "end"
    with progress("putting it in force"):
        answer: Json = ask(arguments.socket, "POST", f"/v1/try/{what}", WAIT_S)
    if arguments.output == "json":
        say_json(answer)
    elif arguments.confirm:
        directory, manifests = printable(answer["try"]["directory"]), printable(answer["manifests"])
        say(
            f"The policies of {directory} stay in force until a policy or namespace in {manifests} changes, or netpold "
            "restarts.",
            f"To make them lasting, put them into {manifests}, by git where it is kept in sync.",
        )
    else:
        manifests = printable(answer["manifests"])
        say(f"{'Ended' if answer['done'] else 'Nothing was tried'}: the policies of {manifests} are in force.")
    return Exit.FINE


def _begin(arguments: argparse.Namespace, directory: Path) -> Exit:
    body = _objects(arguments, directory)
    words = urlencode({"directory": str(directory.absolute()), "seconds": arguments.seconds})
    with progress("putting it in force"):
        answer: Json = ask(arguments.socket, "POST", f"/v1/try?{words}", WAIT_S, json.dumps({"objects": body}).encode())
    if arguments.output == "json":
        say_json(answer)
        return Exit.FINE
    policies = number(sum(each["manifest"]["kind"] != "Namespace" for each in body), "policy")
    until = datetime.fromisoformat(answer["try"]["until"]).astimezone()
    say(
        f"{paint('TRYING', 'yellow')} {policies} of {printable(str(directory))}, instead of those in "
        f"{printable(answer['manifests'])}, until {until:%H:%M:%S}.",
        "Pods are those of the manifests.  Then, or when netpold restarts, or when the manifests change, the manifests "
        "count again.",
        "`netpoldctl try --confirm` keeps it, `netpoldctl try --end` ends it now.",
    )
    return Exit.FINE


def _objects(arguments: argparse.Namespace, directory: Path) -> list[dict[str, Any]]:
    """What tryout.read takes.  Raises Failure where the manifests have faults."""
    manifests = read([directory.absolute()], settings_of(arguments))
    errors = [each for each in manifests.findings if each["severity"] == "error"]
    if errors:
        hint = f"`netpoldctl check {directory}` shows them"
        raise Failure(f"{directory} has {count(errors)}: only what is right is tried", hint, Exit.NO)
    world = manifests.index.world
    objects: list[AnyPolicy | Namespace] = [*world.policies.values(), *world.namespaces.values()]
    return [
        {
            "manifest": json.loads(written(each)),
            "file": each.position.file if each.position else str(directory),
            "line": each.position.line if each.position else 1,
            "rules": rule_lines(each),
        }
        for each in objects
    ]

"""`netpoldctl rollback`: back to the policies that were in force before, until the manifests say something else."""

from __future__ import annotations

import argparse
from datetime import datetime

from netpold.ctl.client import ask
from netpold.ctl.failure import Exit
from netpold.ctl.output import paint, say, say_json
from netpold.ctl.progress import progress
from netpold.printable import printable

WAIT_S = 60.0


def run(arguments: argparse.Namespace) -> Exit:
    """Raises Failure."""
    with progress("putting it in force"):
        answer = ask(arguments.socket, "POST", f"/v1/rollback{'/end' if arguments.end else ''}", WAIT_S)
    manifests = printable(answer["manifests"])
    if arguments.output == "json":
        say_json(answer)
    elif arguments.end:
        say(f"{'Ended' if answer['done'] else 'Nothing was rolled back'}: the policies of {manifests} are in force.")
    else:
        moment = datetime.fromisoformat(answer["rollback"]["to"]).astimezone()
        say(
            f"{paint('ROLLED BACK', 'yellow')} to the policies that came into force at {moment:%Y-%m-%d %H:%M:%S}, "
            f"instead of those in {manifests}.",
            "They stay until a policy or namespace there changes; `netpoldctl rollback --end` ends it now.",
            "Again, it goes one state further back.",
        )
    return Exit.FINE

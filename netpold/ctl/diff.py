"""`netpoldctl diff`: who reaches whom otherwise when manifests change, and because of which policy.

For a person in the order of weight: what opens, what changes, what closes; as Markdown for a pull request.
"""

from __future__ import annotations

import argparse

from netpold.config import compile_settings
from netpold.ctl.compared import compared, with_pods
from netpold.ctl.diff_json import diff_json
from netpold.ctl.diff_text import markdown, nothing_compared, text
from netpold.ctl.failure import Exit, Failure
from netpold.ctl.offline import settings_of
from netpold.ctl.output import say, say_json
from netpold.ctl.progress import progress
from netpold.ctl.sides import sides
from netpold.rules.difference import difference_in_steps


def run(arguments: argparse.Namespace) -> Exit:
    """Raises Failure."""
    settings = settings_of(arguments)
    names = [arguments.old, arguments.new]
    old, new = with_pods(sides(names, arguments.inventory, settings, arguments.socket))
    with progress("comparing") as told:
        rules = compile_settings(settings)
        changes = told.through(difference_in_steps(old.index, new.index, rules.mode, rules.host_access))
        found = compared(old, new, changes)
    match arguments.output:
        case "json":
            say_json(diff_json(found))
        case "markdown":
            say(*markdown(found))
        case _:
            say(*text(found))
    if arguments.fail_on != "never" and not found.compared and found.differs:
        hint = "name a directory that has the pods, and their addresses, with --inventory DIR"
        fault = f"{nothing_compared(found)}, so --fail-on {arguments.fail_on} can't tell"
        raise Failure(fault, hint, Exit.USAGE)
    opens = any(change.opens for change in found.changes)
    fails = {"open": opens, "any": bool(found.changes), "never": False}
    return Exit.NO if fails[arguments.fail_on] else Exit.FINE

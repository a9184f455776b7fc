"""`netpoldctl wait`: until everything that is on disk now is enforced or rejected."""

from __future__ import annotations

import argparse

from netpold.ctl.client import ANSWER_S, ask
from netpold.ctl.failure import Exit
from netpold.ctl.output import say_json


def run(arguments: argparse.Namespace) -> Exit:
    """Raises Failure, with TIMED_OUT when it took longer than asked for."""
    ask(arguments.socket, "POST", f"/v1/wait?timeout={arguments.timeout:g}", arguments.timeout + ANSWER_S)
    if arguments.output == "json":
        say_json({"version": 1, "done": True})
    return Exit.FINE

"""`netpoldctl wait`: until everything that is on disk now is enforced or rejected."""

from __future__ import annotations

import argparse
import time

from netpold.ctl.client import ANSWER_S, NotRunning, ask
from netpold.ctl.failure import Exit
from netpold.ctl.output import say_json
from netpold.ctl.progress import progress

GRACE_S = 5.0  # how long a daemon that was started a moment ago may take until its socket is there


def run(arguments: argparse.Namespace) -> Exit:
    """Raises Failure, with TIMED_OUT when it took longer than asked for."""
    with progress(f"waiting for up to {arguments.timeout:g} s until everything on disk is enforced or rejected"):
        _wait(arguments)
    if arguments.output == "json":
        say_json({"version": 1, "done": True})
    return Exit.FINE


def _wait(arguments: argparse.Namespace) -> None:
    began = time.monotonic()
    while True:
        left = max(arguments.timeout - (time.monotonic() - began), 0.0)
        try:
            ask(arguments.socket, "POST", f"/v1/wait?timeout={left:.3g}", left + ANSWER_S)
            return
        except NotRunning:
            if time.monotonic() - began >= min(arguments.timeout, GRACE_S):
                raise
            time.sleep(0.05)

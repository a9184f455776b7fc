"""Questions about what is in force: to the running daemon, and where none can be asked, to nobody."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from netpold.ctl.client import ANSWER_S, ask, warn
from netpold.ctl.failure import Exit, Failure
from netpold.ctl.progress import progress


def answer(arguments: argparse.Namespace, url: str, words: Mapping[str, str], timeout: float = ANSWER_S) -> Any | None:
    """The daemon's answer; None where the manifests are to be asked: they are given, or no daemon can be asked, which
    is said on standard error.  Raises Failure."""
    if arguments.manifests:
        return None
    try:
        with progress("asking the daemon"):
            answer: Any = ask(arguments.socket, "GET", f"{url}?{urlencode(words)}", timeout)
    except Failure as failure:
        if failure.code not in (Exit.NOT_RUNNING, Exit.NOT_PERMITTED):
            raise
        print(f"netpoldctl: {failure}; what follows is what the manifests say", file=sys.stderr)
        return None
    warn(answer)
    return answer

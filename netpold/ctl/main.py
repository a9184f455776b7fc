"""netpoldctl: reads the command line by the table of verbs, runs one, and says how it ended."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

from netpold import __version__
from netpold.ctl import streams
from netpold.ctl.arguments import MANIFESTS, SOCKET
from netpold.ctl.client import DEFAULT_SOCKET
from netpold.ctl.failure import Exit, Failure
from netpold.ctl.usage import Parser, parsed
from netpold.ctl.verbs import VERBS


def parser() -> argparse.ArgumentParser:
    """The parser that the table makes."""
    top = Parser(
        prog="netpoldctl",
        description="Questions about network policies on this node, to the daemon and to manifests.",
        epilog="Exit codes: 0 fine, 1 findings or a no, 2 usage, 3 no daemon runs, 4 not permitted, 5 timed out.",
    )
    top.add_argument("--version", action="version", version=f"netpoldctl {__version__}")
    top.add_argument("--socket", type=Path, metavar="PATH", default=DEFAULT_SOCKET, help=SOCKET.options["help"])
    top.add_argument("--manifests", type=Path, metavar="DIR", default=None, help=MANIFESTS.options["help"])
    verbs = top.add_subparsers(dest="verb", metavar="COMMAND", required=True)
    for verb in VERBS:
        description = f"{verb.summary[0].upper()}{verb.summary[1:]}.  {verb.description}"
        sub = verbs.add_parser(verb.name, help=verb.summary, description=description)
        sub.set_defaults(module=verb.module)
        for argument in verb.arguments:
            sub.add_argument(*argument.names, **argument.options)
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.  Returns the exit code; argparse exits with 0 itself where help is asked for."""
    if not streams.ready():
        return Exit.USAGE
    words = sys.argv[1:] if arguments is None else arguments
    code: int | None = None
    try:
        if words[:1] == ["complete"]:  # for the shells, on every press of a key
            code = int(importlib.import_module("netpold.ctl.complete").run(words[1:]))
        else:
            try:
                given = parsed(parser(), words)
            finally:
                sys.stdout.flush()  # where help is asked for, it ends here
            code = int(importlib.import_module(given.module).run(given))
        sys.stdout.flush()
        return code
    except Failure as failure:
        print(f"netpoldctl: {failure}\nhint: {failure.hint}", file=sys.stderr)
        return failure.code
    except MemoryError:
        hint = "ask about less at once, or where there is more memory"
        print(f"netpoldctl: there is not enough memory for this\nhint: {hint}", file=sys.stderr)
        return Exit.USAGE  # no verdict
    except KeyboardInterrupt:
        return 130
    except streams.OutputError as error:
        return streams.after(error, code)

"""netpoldctl's command line: one table of verbs.

A verb is a module with `run(arguments) -> exit code`; it is imported when it is called, so that questions to the
daemon need not wait for the compiler.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from netpold import __version__
from netpold.ctl.client import DEFAULT_SOCKET
from netpold.ctl.failure import Exit, Failure


@dataclass(frozen=True, slots=True)
class Argument:
    """One argument of a verb, as argparse's add_argument takes it."""

    names: tuple[str, ...]
    options: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Verb:
    """One row: `module` does it; `description` is for its own help, behind the summary."""

    name: str
    module: str
    summary: str
    arguments: tuple[Argument, ...]
    description: str = ""


def _argument(*names: str, **options: Any) -> Argument:
    return Argument(names, options)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= 3600:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds from 0 to 3600")
    return seconds


_FORMATS = {  # beside text and JSON
    "csv": "CSV",
    "dot": "Graphviz",
    "html": "HTML",
    "svg": "SVG",
    "sarif": "SARIF 2.1.0",
    "junit": "JUnit XML",
    "markdown": "Markdown",
}


def _output(*formats: str) -> Argument:
    """-o, with these formats beside text and JSON."""
    last = [", ".join(["JSON", *(_FORMATS[each] for each in formats[:-1])]), *(_FORMATS[each] for each in formats[-1:])]
    words = f"text for a person, {' or '.join(last)}" if formats else "text for a person, or JSON"
    return _argument(
        "-o", "--output", choices=("text", "json", *formats), default="text", help=f"{words} (default: text)"
    )


_OUTPUT = _output()
_SOCKET = _argument(
    "--socket", type=Path, metavar="PATH", default=argparse.SUPPRESS, help=f"the daemon's socket ({DEFAULT_SOCKET})"
)
_MANIFESTS = _argument(
    "--manifests",
    type=Path,
    metavar="DIR",
    default=argparse.SUPPRESS,
    help="directory of manifests (as the settings say)",
)

VERBS = (
    Verb(
        "status",
        "netpold.ctl.status",
        "what the daemon enforces, and what it found wrong",
        (_OUTPUT, _SOCKET, _argument("--watch", action="store_true", help="go on, and show every change")),
        "Exits with 1 when the daemon is degraded: what the manifests say is not in force.",
    ),
    Verb(
        "wait",
        "netpold.ctl.wait",
        "until everything that is on disk now is enforced or rejected",
        (
            _OUTPUT,
            _SOCKET,
            _argument("--timeout", type=_seconds, metavar="S", default=30.0, help="give up after S seconds (30)"),
        ),
        "Exits with 5 when that takes longer.",
    ),
    Verb(
        "flush",
        "netpold.ctl.flush",
        "take all rules and sets out of the kernel, so that nothing is enforced",
        (_OUTPUT, _SOCKET),
        "Works with and without a running daemon.  A running one enforces nothing until it is restarted.",
    ),
    Verb(
        "check",
        "netpold.ctl.check",
        "what is wrong in manifests",
        (
            _output("sarif", "junit"),
            _argument("--strict", action="store_true", help="exit with 1 for warnings, too"),
            _argument("paths", nargs="+", type=Path, metavar="DIR", help="directories or files"),
        ),
        "Works without a daemon.  Exits with 1 when there are errors; warnings are about what is in force as it is "
        "written, and likely not meant.",
    ),
    Verb(
        "explain",
        "netpold.ctl.explain",
        "whether one end reaches another, and which policy rule says so",
        (
            _OUTPUT,
            _SOCKET,
            _MANIFESTS,
            _argument("source", metavar="SRC", help="namespace/pod or an address"),
            _argument("destination", metavar="DST", help="namespace/pod or an address"),
            _argument("port", metavar="PORT/PROTO", help="80/TCP, 53/UDP, 7/SCTP; ICMP alone for ping"),
        ),
        "Says what the running daemon enforces; with --manifests, or where no daemon runs, what the manifests say.  "
        "Exits with 0 for allow and with 1 for deny.",
    ),
    Verb(
        "matrix",
        "netpold.ctl.matrix",
        "who reaches whom",
        (
            _output("csv", "markdown"),
            _SOCKET,
            _MANIFESTS,
            _argument(
                "--ports", default="", metavar="PORT/PROTO,...", help="80/TCP,53/UDP,ICMP (those that are named)"
            ),
            _argument("--namespace", default="", metavar="NAME,...", help="pods of these namespaces only"),
            _argument(
                "--pods", default="", metavar="PATTERN,...", help="pods like these only: shop/web, 'shop/*', '*/db-*'"
            ),
            _argument("--node", default="", metavar="NAME", help="pods of this node only"),
            _argument("--addresses", default="", metavar="A,...", help="addresses outside of the cluster to ask about"),
        ),
        "About what the running daemon enforces on its node; with --manifests, or where no daemon runs, about what the "
        "manifests say.  Pods on the host's network, finished ones and those without an address are left out.",
    ),
    Verb(
        "render",
        "netpold.ctl.render",
        "the ruleset that manifests make",
        (_OUTPUT, _MANIFESTS, _argument("--node", metavar="NAME", help="for the pods of this node (all pods)")),
        "Works without a daemon.  Pods are told apart by address: interfaces are known to the daemon only.",
    ),
)


def parser() -> argparse.ArgumentParser:
    """The parser that the table makes."""
    top = argparse.ArgumentParser(
        prog="netpoldctl",
        description="Questions about network policies on this node, to the daemon and to manifests.",
        epilog="Exit codes: 0 fine, 1 findings or a no, 2 usage, 3 no daemon runs, 4 not permitted, 5 timed out.",
    )
    top.add_argument("--version", action="version", version=f"netpoldctl {__version__}")
    top.add_argument("--socket", type=Path, metavar="PATH", default=DEFAULT_SOCKET, help=_SOCKET.options["help"])
    top.add_argument("--manifests", type=Path, metavar="DIR", default=None, help=_MANIFESTS.options["help"])
    verbs = top.add_subparsers(dest="verb", metavar="COMMAND", required=True)
    for verb in VERBS:
        description = f"{verb.summary[0].upper()}{verb.summary[1:]}.  {verb.description}"
        sub = verbs.add_parser(verb.name, help=verb.summary, description=description)
        sub.set_defaults(module=verb.module)
        for argument in verb.arguments:
            sub.add_argument(*argument.names, **argument.options)
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.  Returns the exit code; argparse exits with 2 itself."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    parsed = parser().parse_args(arguments)
    try:
        code = int(importlib.import_module(parsed.module).run(parsed))
        sys.stdout.flush()
        return code
    except Failure as failure:
        print(f"netpoldctl: {failure}\nhint: {failure.hint}", file=sys.stderr)
        return failure.code
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.FINE
    except KeyboardInterrupt:
        return 130

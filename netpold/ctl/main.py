"""netpoldctl's command line: one table of verbs.

A verb is a module with `run(arguments) -> exit code`; it is imported when it is called, so that questions to the
daemon need not wait for the compiler.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from netpold import __version__
from netpold.ctl import streams
from netpold.ctl.client import DEFAULT_SOCKET
from netpold.ctl.failure import Exit, Failure
from netpold.ctl.usage import Parser, parsed


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


def _moment(text: str) -> float:
    """`90`, `90s`, `15m`, `2h`, `1d` in seconds."""
    number, unit = (text[:-1], text[-1]) if text[-1:] in _UNITS else (text, "s")
    if not number.isascii() or not number.isdecimal() or len(number) > 6:
        raise argparse.ArgumentTypeError(f"{text!r} is no time: write 90s, 15m, 2h or 1d")
    return float(int(number) * _UNITS[unit])


_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def _patience(text: str) -> float:
    seconds = _moment(text)
    if not 1 <= seconds <= 3600:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time from 1s to 1h")
    return seconds


def _argument(*names: str, **options: Any) -> Argument:
    return Argument(names, options)


def _seconds(text: str, low: float = 0) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not low <= seconds <= 3600:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds from {low:g} to 3600")
    return seconds


def _interval(text: str) -> float:
    return _seconds(text, 0.5)


def _count(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or not 0 < int(text[:9]) < 1_000_000:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 to 999999")
    return int(text)


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
    "--socket",
    type=Path,
    metavar="PATH",
    default=argparse.SUPPRESS,
    help=f"the daemon's socket (default: {DEFAULT_SOCKET})",
)
_MANIFESTS = _argument(
    "--manifests",
    type=Path,
    metavar="DIR",
    default=argparse.SUPPRESS,
    help="directory of manifests (default: that of the settings)",
)
_INVENTORY = _argument(
    "--inventory",
    type=Path,
    metavar="DIR",
    default=None,
    help="more manifests, of pods for one, that count on both sides",
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
        "wait until everything that is on disk now is enforced or rejected",
        (
            _OUTPUT,
            _SOCKET,
            _argument(
                "--timeout", type=_seconds, metavar="S", default=30.0, help="give up after S seconds (default: 30)"
            ),
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
            _argument(
                "--live", action="store_true", help="wait for such a packet, and tell its way through the kernel"
            ),
            _argument(
                "--for", dest="seconds", type=_patience, metavar="TIME", help="with --live, so long (default: 30s)"
            ),
        ),
        "Says what the running daemon enforces; with --manifests, or where no daemon runs, what the manifests say.  "
        "Exits with 0 for allow and with 1 for deny.  With --live nothing is sent: the first packet that comes by is "
        "traced, whoever sends it, and told are the rules that it met, what became of it, and where kernel and model "
        "part, if they do; exits with 1 then, too, and with 5 when none comes.",
    ),
    Verb(
        "matrix",
        "netpold.ctl.matrix",
        "who reaches whom",
        (
            _output("csv", "markdown", "dot", "svg", "html"),
            _SOCKET,
            _MANIFESTS,
            _argument(
                "--ports",
                default="",
                metavar="PORT/PROTO,...",
                help="80/TCP,53/UDP,ICMP (default: the 12 that pods and policies name most)",
            ),
            _argument("--namespace", default="", metavar="NAME,...", help="pods of these namespaces only"),
            _argument(
                "--pods", default="", metavar="PATTERN,...", help="pods like these only: shop/web, 'shop/*', '*/db-*'"
            ),
            _argument("--node", default="", metavar="NAME", help="pods of this node only"),
            _argument("--addresses", default="", metavar="A,...", help="addresses outside of the cluster to ask about"),
        ),
        "About what the running daemon enforces on its node; with --manifests, or where no daemon runs, about what the "
        "manifests say.  Pods on the host's network, finished ones and those without an address are left out.  Up to "
        "1,000 pods at a time.",
    ),
    Verb(
        "diff",
        "netpold.ctl.diff",
        "who reaches whom otherwise when manifests change, and because of which policy",
        (
            _output("markdown"),
            _SOCKET,
            _INVENTORY,
            _argument(
                "--fail-on",
                choices=("open", "any", "never"),
                default="never",
                help="exit with 1 when something opens, or when anything changes (default: never)",
            ),
            _argument("old", metavar="OLD", help="a directory, git:REV, git:REV:PATH, or node"),
            _argument("new", metavar="NEW", help="the same; node: what the running daemon has in force"),
        ),
        "git:REV is the other directory at that revision, git:REV:PATH a path in the repository.  A side without pods "
        "is taken with the pods of the other one.",
    ),
    Verb(
        "plan",
        "netpold.ctl.plan",
        "the kernel's steps from what is in force to what manifests say",
        (
            _OUTPUT,
            _SOCKET,
            _INVENTORY,
            _argument(
                "--from",
                dest="source",
                metavar="OLD",
                default="node",
                help="from there: a directory, git:REV, git:REV:PATH or node (default: node)",
            ),
            _argument(
                "--node",
                metavar="NAME",
                help="for the pods of this node (default: the daemon's; all pods, where none is asked)",
            ),
            _argument(
                "destination",
                nargs="?",
                metavar="NEW",
                help="to there: the same (default: the manifests of the settings)",
            ),
        ),
        "Each step says why no packet can meet a mix.  Pods are told apart by address: interfaces are known to the "
        "daemon only.",
    ),
    Verb(
        "test",
        "netpold.ctl.unit_test",
        "whether policies do what test files expect of them",
        (
            _output("junit"),
            _SOCKET,
            _MANIFESTS,
            _argument("--live", action="store_true", help="test what the running daemon has in force"),
            _argument("files", nargs="+", type=Path, metavar="FILE", help="files of tests"),
        ),
        "Tests manifests without a daemon, or with --live what the node has in force; no connection is made.  Exits "
        "with 1 when a test fails.",
    ),
    Verb(
        "monitor",
        "netpold.ctl.monitor",
        "what is dropped, as it happens, and why",
        (
            _OUTPUT,
            _SOCKET,
            _argument("--follow", action="store_true", help="go on until interrupted (default on a terminal)"),
            _argument("--for", dest="seconds", type=_moment, metavar="TIME", help="go on for that long: 90s, 15m, 2h"),
            _argument("--allowed", action="store_true", help="first packets that are allowed, too"),
            _argument("--pod", default="", metavar="POD", help="from or to this pod (namespace/name) or address only"),
            _argument("--namespace", default="", metavar="NAME", help="from or to pods of this namespace only"),
            _argument("--direction", choices=("ingress", "egress"), help="judged in this direction only"),
            _argument("--port", default="", metavar="PORT/PROTO", help="to this port only: 80/TCP"),
        ),
        "Each packet that netpold drops, or that audited policies would drop, with pods, port, the policies that "
        "isolate, and the rule that is nearest to allowing it.  What says the same is told once a second, with how "
        "often it was.  Without a terminal, --follow and --for it shows what is remembered and ends.  JSON is one "
        "object a line.",
    ),
    Verb(
        "audit",
        "netpold.ctl.audit",
        "what policies in audit mode would drop, and what would allow it",
        (
            _OUTPUT,
            _SOCKET,
            _argument(
                "--since",
                type=_moment,
                metavar="TIME",
                help="seen within 15m, 2h, 1d (default: since the daemon's start)",
            ),
        ),
        "Sums by pair and port, and NetworkPolicies that would allow all of it.",
    ),
    Verb(
        "suggest",
        "netpold.ctl.suggest",
        "policies that allow the traffic that was seen",
        (
            _OUTPUT,
            _SOCKET,
            _argument("of", metavar="NAMESPACE[/POD]", help="a namespace, or one pod"),
            _argument("--direction", choices=("ingress", "egress"), help="for this direction only (default: both)"),
            _argument("--without-drops", action="store_true", help="leave out what policies drop now"),
        ),
        "From the open flows of this node's pods, and what was dropped and audited since the daemon's start.  The YAML "
        "goes to standard output; comments say what each rule is from.",
    ),
    Verb(
        "pod",
        "netpold.ctl.pod",
        "everything about one pod",
        (_OUTPUT, _SOCKET, _argument("name", metavar="POD", help="namespace/pod")),
        "Addresses, interface, the policies that isolate it, whom they allow, what was let pass and dropped, chains.  "
        "Counted are packets in the direction in which their flow was begun, since the kernel's rules were written.",
    ),
    Verb(
        "policy",
        "netpold.ctl.policy",
        "everything about one policy",
        (_OUTPUT, _SOCKET, _argument("name", metavar="POLICY", help="namespace/policy, or of the cluster its name")),
        "Where it is written, whom it selects, what its rules allow and have let pass, its chains and sets.",
    ),
    Verb(
        "top",
        "netpold.ctl.top",
        "packets and bytes by policy rule, by policy or by pod, as they come",
        (
            _OUTPUT,
            _SOCKET,
            _argument(
                "--by", choices=("rule", "policy", "pod"), default="rule", help="what a row is of (default: rule)"
            ),
            _argument("-n", type=_count, metavar="N", help="show so many rows (default: as many as fit; in JSON all)"),
            _argument(
                "--interval",
                type=_interval,
                metavar="S",
                default=2.0,
                help="seconds from reading to reading (default: 2)",
            ),
            _argument(
                "--once", action="store_true", help="two readings, and end (default for text without a terminal)"
            ),
        ),
        "Counted are packets in the direction in which their flow was begun; of pods, those that policies judged, "
        "whatever came of it.  JSON is one object a line.",
    ),
    Verb(
        "verify",
        "netpold.ctl.verify",
        "the kernel against what should be in it, chain by chain and set by set",
        (_OUTPUT, _SOCKET),
        "Reads all of netpold's rules and sets back.  Exits with 1 when anything is different; the daemon notices "
        "that, too, and puts it back.",
    ),
    Verb(
        "try",
        "netpold.ctl.trying",
        "have other policies in force for a while",
        (
            _OUTPUT,
            _SOCKET,
            _argument(
                "--for",
                dest="seconds",
                type=_patience,
                metavar="TIME",
                default=60.0,
                help="from 1s to 1h (default: 60s)",
            ),
            _argument("--confirm", action="store_true", help="keep what is tried when its time is over"),
            _argument("--end", action="store_true", help="go back to the manifests now"),
            _argument("directory", nargs="?", type=Path, metavar="DIR", help="where the policies are"),
        ),
        "The policies and namespaces of DIR count instead of those in the manifests; pods stay those of the "
        "manifests.  It ends by itself unless it is confirmed, and when a policy or namespace in the manifests changes "
        "or netpold restarts.  No file is changed.",
    ),
    Verb(
        "rollback",
        "netpold.ctl.rollback",
        "go back to the policies that were in force before",
        (
            _OUTPUT,
            _SOCKET,
            _argument("--end", action="store_true", help="have what the manifests say in force again"),
        ),
        "Each call goes one state further back, to the first that is known since the daemon's start.  It stays, over "
        "restarts, too, until a policy or namespace in the manifests changes.  Pods stay those of the manifests.",
    ),
    Verb(
        "support-bundle",
        "netpold.ctl.support_bundle",
        "what is needed to find a fault, in one archive",
        (
            _OUTPUT,
            _SOCKET,
            _argument(
                "--with-manifests", action="store_true", help="add the manifests in force, as netpold reads them"
            ),
            _argument(
                "file", nargs="?", type=Path, metavar="FILE", help="FILE.tar.gz (default: a new one in this directory)"
            ),
        ),
        "Status, settings, netpold's own rules, sets and journal, versions, interfaces.  README.txt in it lists all; "
        "never in it are environment variables, annotations but netpold's own, and rules of others.",
    ),
    Verb(
        "render",
        "netpold.ctl.render",
        "the ruleset that manifests make",
        (
            _OUTPUT,
            _MANIFESTS,
            _argument("--node", metavar="NAME", help="for the pods of this node (default: all pods)"),
        ),
        "Works without a daemon.  Pods are told apart by address: interfaces are known to the daemon only.",
    ),
)


def parser() -> argparse.ArgumentParser:
    """The parser that the table makes."""
    top = Parser(
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
    """Run one command.  Returns the exit code; argparse exits with 0 itself where help is asked for."""
    if not streams.ready():
        return Exit.USAGE
    words = sys.argv[1:] if arguments is None else arguments
    if words[:1] == ["complete"]:  # for the shells, on every press of a key
        return int(importlib.import_module("netpold.ctl.complete").run(words[1:]))
    code: int | None = None
    try:
        given = parsed(parser(), words)
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

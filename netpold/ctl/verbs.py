"""netpoldctl's command line: one table of verbs.

A verb is a module with `run(arguments) -> exit code`; it is imported when it is called, so that questions to the
daemon need not wait for the compiler.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from netpold.ctl.arguments import (
    INVENTORY,
    MANIFESTS,
    OUTPUT,
    SOCKET,
    Argument,
    argument,
    count,
    interval,
    moment,
    output,
    patience,
    seconds,
    span,
)


@dataclass(frozen=True, slots=True)
class Verb:
    """One row: `module` does it; `description` is for its own help, behind the summary."""

    name: str
    module: str
    summary: str
    arguments: tuple[Argument, ...]
    description: str = ""


VERBS = (
    Verb(
        "status",
        "netpold.ctl.status",
        "what the daemon enforces, and what it found wrong",
        (OUTPUT, SOCKET, argument("--watch", action="store_true", help="go on, and show every change")),
        "Exits with 1 when the daemon is degraded: what the manifests say is not in force.",
    ),
    Verb(
        "wait",
        "netpold.ctl.wait",
        "wait until everything that is on disk now is enforced or rejected",
        (
            OUTPUT,
            SOCKET,
            argument(
                "--timeout", type=seconds, metavar="S", default=30.0, help="give up after S seconds (default: 30)"
            ),
        ),
        "Exits with 5 when that takes longer.",
    ),
    Verb(
        "flush",
        "netpold.ctl.flush",
        "take all rules and sets out of the kernel, so that nothing is enforced",
        (OUTPUT, SOCKET),
        "Works with and without a running daemon.  A running one enforces nothing until it is restarted.",
    ),
    Verb(
        "check",
        "netpold.ctl.check",
        "what is wrong in manifests",
        (
            output("sarif", "junit"),
            argument("--strict", action="store_true", help="exit with 1 for warnings, too"),
            argument("paths", nargs="+", type=Path, metavar="DIR", help="directories or files"),
        ),
        "Works without a daemon.  Exits with 1 when there are errors; warnings are about what is in force as it is "
        "written, and likely not meant.",
    ),
    Verb(
        "explain",
        "netpold.ctl.explain",
        "whether one end reaches another, and which policy rule says so",
        (
            OUTPUT,
            SOCKET,
            MANIFESTS,
            argument("source", metavar="SRC", help="namespace/pod or an address"),
            argument("destination", metavar="DST", help="namespace/pod or an address"),
            argument("port", metavar="PORT/PROTO", help="80/TCP, 53/UDP, 7/SCTP; ICMP alone for ping"),
            argument("--live", action="store_true", help="wait for such a packet, and tell its way through the kernel"),
            argument(
                "--for", dest="seconds", type=patience, metavar="TIME", help="with --live, so long (default: 30s)"
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
            output("csv", "markdown", "dot", "svg", "html"),
            SOCKET,
            MANIFESTS,
            argument(
                "--ports",
                default="",
                metavar="PORT/PROTO,...",
                help="80/TCP,53/UDP,ICMP (default: the 12 that pods and policies name most)",
            ),
            argument("--namespace", default="", metavar="NAME,...", help="pods of these namespaces only"),
            argument(
                "--pods", default="", metavar="PATTERN,...", help="pods like these only: shop/web, 'shop/*', '*/db-*'"
            ),
            argument("--node", default="", metavar="NODE", help="pods of this node only"),
            argument("--addresses", default="", metavar="A,...", help="addresses outside of the cluster to ask about"),
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
            output("markdown"),
            SOCKET,
            INVENTORY,
            argument(
                "--fail-on",
                choices=("open", "any", "never"),
                default="never",
                help="exit with 1 when something opens, or when anything changes (default: never)",
            ),
            argument("old", metavar="OLD", help="a directory, git:REV, git:REV:PATH, or node"),
            argument("new", metavar="NEW", help="the same; node: what the running daemon has in force"),
        ),
        "git:REV is the other side's directory or PATH at that revision, or where that has none (node, another "
        "git:REV) the current directory; git:REV:PATH is a path in the repository.  Submodules are read where they are "
        "checked out.  A side without pods is taken with the pods of the other one.",
    ),
    Verb(
        "plan",
        "netpold.ctl.plan",
        "the kernel's steps from what is in force to what manifests say",
        (
            OUTPUT,
            SOCKET,
            INVENTORY,
            argument(
                "--from",
                dest="source",
                metavar="OLD",
                default="node",
                help="from there: a directory, git:REV, git:REV:PATH or node (default: node)",
            ),
            argument(
                "--node",
                metavar="NODE",
                help="for the pods of this node (default: the daemon's; all pods, where none is asked)",
            ),
            argument(
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
            output("junit"),
            SOCKET,
            MANIFESTS,
            argument("--live", action="store_true", help="test what the running daemon has in force"),
            argument("files", nargs="+", type=Path, metavar="FILE", help="files of tests"),
        ),
        "Tests manifests without a daemon, or with --live what the node has in force; no connection is made.  Exits "
        "with 1 when a test fails.",
    ),
    Verb(
        "monitor",
        "netpold.ctl.monitor",
        "what is dropped, as it happens, and why",
        (
            OUTPUT,
            SOCKET,
            argument("--follow", action="store_true", help="go on until interrupted (default on a terminal)"),
            argument("--for", dest="seconds", type=span, metavar="TIME", help="go on for that long: 90s, 15m, 2h"),
            argument("--allowed", action="store_true", help="first packets that are allowed, too"),
            argument("--pod", default="", metavar="POD", help="from or to this pod (namespace/name) or address only"),
            argument("--namespace", default="", metavar="NAME", help="from or to pods of this namespace only"),
            argument("--direction", choices=("ingress", "egress"), help="judged in this direction only"),
            argument("--port", default="", metavar="PORT/PROTO", help="to this port only: 80/TCP"),
        ),
        "Each packet that netpold drops, or that audited policies would drop, with pods, port, the policies that "
        "isolate, and the rule that is nearest to allowing it.  What says the same is told once a second, with how "
        "often it was.  Without a terminal, --follow and --for it shows what is remembered and ends.  Exits with 2 "
        "when nothing was seen of a pod or namespace that no manifest knows.  JSON is one object a line.",
    ),
    Verb(
        "audit",
        "netpold.ctl.audit",
        "what policies in audit mode would drop, and what would allow it",
        (
            OUTPUT,
            SOCKET,
            argument(
                "--since",
                type=moment,
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
            OUTPUT,
            SOCKET,
            argument("of", metavar="NAMESPACE[/POD]", help="a namespace, or one pod"),
            argument("--direction", choices=("ingress", "egress"), help="for this direction only (default: both)"),
            argument("--without-drops", action="store_true", help="leave out what policies drop now"),
        ),
        "From the open flows of this node's pods, and what was dropped and audited since the daemon's start.  The YAML "
        "goes to standard output; comments say what each rule is from.",
    ),
    Verb(
        "pod",
        "netpold.ctl.pod",
        "everything about one pod",
        (OUTPUT, SOCKET, argument("name", metavar="POD", help="namespace/pod")),
        "Addresses, interface, the policies that isolate it, whom they allow, what was let pass and dropped, chains.  "
        "Counted are packets in the direction in which their flow was begun, since the kernel's rules were written.",
    ),
    Verb(
        "policy",
        "netpold.ctl.policy",
        "everything about one policy",
        (OUTPUT, SOCKET, argument("name", metavar="POLICY", help="namespace/policy, or of the cluster its name")),
        "Where it is written, whom it selects, what its rules allow and have let pass, its chains and sets.",
    ),
    Verb(
        "top",
        "netpold.ctl.top",
        "packets and bytes by policy rule, by policy or by pod, as they come",
        (
            OUTPUT,
            SOCKET,
            argument(
                "--by", choices=("rule", "policy", "pod"), default="rule", help="what a row is of (default: rule)"
            ),
            argument("-n", type=count, metavar="N", help="show so many rows (default: as many as fit; in JSON all)"),
            argument(
                "--interval",
                type=interval,
                metavar="S",
                default=2.0,
                help="seconds from reading to reading (default: 2)",
            ),
            argument("--once", action="store_true", help="two readings, and end (default for text without a terminal)"),
        ),
        "Counted are packets in the direction in which their flow was begun; of pods, those that policies judged, "
        "whatever came of it.  JSON is one object a line.",
    ),
    Verb(
        "verify",
        "netpold.ctl.verify",
        "the kernel against what should be in it, chain by chain and set by set",
        (OUTPUT, SOCKET),
        "Reads all of netpold's rules and sets back.  Exits with 1 when anything is different; the daemon notices "
        "that, too, and puts it back.  Only rules of other programs that jump to netpold's chains stay as they are: "
        "`status` warns of them.",
    ),
    Verb(
        "try",
        "netpold.ctl.trying",
        "have other policies in force for a while",
        (
            OUTPUT,
            SOCKET,
            argument(
                "--for",
                dest="seconds",
                type=patience,
                metavar="TIME",
                default=60.0,
                help="from 1s to 1h (default: 60s)",
            ),
            argument("--confirm", action="store_true", help="keep what is tried when its time is over"),
            argument("--end", action="store_true", help="go back to the manifests now"),
            argument("directory", nargs="?", type=Path, metavar="DIR", help="where the policies are"),
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
            OUTPUT,
            SOCKET,
            argument("--end", action="store_true", help="have what the manifests say in force again"),
        ),
        "Each call goes one state further back, to the first that is known since the daemon's start.  It stays, over "
        "restarts, too, until a policy or namespace in the manifests changes.  Pods stay those of the manifests.",
    ),
    Verb(
        "support-bundle",
        "netpold.ctl.support_bundle",
        "what is needed to find a fault, in one archive",
        (
            OUTPUT,
            SOCKET,
            argument("--with-manifests", action="store_true", help="add the manifests in force, as netpold reads them"),
            argument(
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
            OUTPUT,
            MANIFESTS,
            argument("--node", metavar="NODE", help="for the pods of this node (default: all pods)"),
        ),
        "Works without a daemon.  Pods are told apart by address: interfaces are known to the daemon only.",
    ),
)

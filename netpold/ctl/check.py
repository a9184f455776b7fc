"""`netpoldctl check`: what is wrong in manifests, and what is right and likely not meant.

For a person, and for CI: JSON, SARIF for code hosts, JUnit for test reports.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from netpold.ctl.failure import Exit
from netpold.ctl.findings import count, line, number
from netpold.ctl.junit import Case, Suite, junit
from netpold.ctl.offline import Manifests, read, read_again, settings_of
from netpold.ctl.output import paint, pairs, say, say_json
from netpold.ctl.progress import progress
from netpold.ctl.sarif import sarif
from netpold.daemon.status import finding_json
from netpold.policy.codes import CODES
from netpold.policy.findings import MOST_IN_ALL, Findings
from netpold.policy.lint import lint
from netpold.policy.located import located
from netpold.policy.model import Finding
from netpold.printable import printable

FEW = 20  # findings that one can count

_Finding = Mapping[str, Any]


def run(arguments: argparse.Namespace) -> Exit:
    """Raises Failure."""
    settings = settings_of(arguments)
    manifests = read(arguments.paths, settings)
    with progress("checking what policies select"):
        noted = [*manifests.noted, *_lint(manifests)]
    with progress("finding the lines"):
        found = [finding_json(each) for each in located(noted, lambda file: read_again(file, settings))]
    found.sort(key=lambda each: (each["file"], each["line"], each["column"], each["code"], each["path"]))
    bad = {"error", "warning"} if arguments.strict else {"error"}
    match arguments.output:
        case "json":
            say_json(_json(manifests, found))
        case "sarif":
            say_json(sarif(found))
        case "junit":
            say(junit("netpoldctl check", [Suite("netpoldctl check", tuple(_cases(manifests, found, bad)))]))
        case _:
            say(*_text(manifests, found))
    return Exit.NO if any(each["severity"] in bad for each in found) else Exit.FINE


def _lint(manifests: Manifests) -> list[Finding]:
    told = Findings(MOST_IN_ALL)
    told.add(sorted(lint(manifests.index), key=lambda each: (each.position, each.code, each.path)))
    return told.told("these files")


def _json(manifests: Manifests, found: Sequence[_Finding]) -> dict[str, Any]:
    world = manifests.index.world
    return {
        "version": 1,
        "files": len(manifests.files),
        "objects": {
            "policies": len(world.policies),
            "pods": len(world.pods),
            "namespaces": len(world.namespaces),
            "nodes": len(world.nodes),
        },
        "passed_over": manifests.passed_over,
        "findings": found,
    }


def _text(manifests: Manifests, found: Sequence[_Finding]) -> Iterator[str]:
    yield from map(line, found)
    if len(found) > FEW:
        yield from ("", paint("what they are", "bold"), *pairs(_sums(found)), "")
    world = manifests.index.world
    counts = ((manifests.files, "file"), (world.policies, "policy"), (world.pods, "pod"))
    in_words = [number(len(many), what) for many, what in (*counts, (world.namespaces, "namespace"))]
    in_words += [number(len(world.nodes), "node")] if world.nodes else []
    yield f"{', '.join(in_words)}: {count(found)}"
    if manifests.passed_over:
        kinds = ", ".join(f"{many} {kind}" for kind, many in manifests.passed_over.items())
        yield printable(f"passed over, netpold has no use for them: {kinds}")


def _sums(found: Iterable[_Finding]) -> Iterator[tuple[str, str]]:
    """How many there are of each code, and what it means: errors first, then what there is most of."""
    sums = Counter((each["severity"], each["code"]) for each in found).most_common()
    room = len(str(sums[0][1]))
    for (_, code), many in sorted(sums, key=lambda each: each[0][0]):
        yield f"{many:>{room}} {code}", CODES[code].meaning


def _cases(manifests: Manifests, found: Iterable[_Finding], bad: set[str]) -> Iterator[Case]:
    """One for each file, and for each directory that something was found about."""
    by_file: dict[str, list[_Finding]] = {printable(file): [] for file in manifests.files}
    for each in found:
        by_file.setdefault(printable(each["file"]), []).append(each)
    for file, findings in sorted(by_file.items()):
        failure = tuple(_plain(each) for each in findings if each["severity"] in bad)
        notes = tuple(_plain(each) for each in findings if each["severity"] not in bad)
        yield Case(file, failure, notes)


def _plain(finding: _Finding) -> str:
    where = f"{finding['file']}:{finding['line']}:{finding['column']}"
    what = ": ".join(str(finding[name]) for name in ("severity", "subject", "path", "fault") if finding[name])
    return f"{where}: {what}; {finding['cure']} [{finding['code']}]"

"""`netpoldctl test`: whether policies do what test files expect of them.

Offline, the manifests are asked.  With --live, what the node has in force: the daemon's objects, and for each test some
pairs are put to the daemon itself, which answers from the ruleset that it has in the kernel.  No connection is made:
who would answer it is not netpold's to say.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from netpold.config import compile_settings
from netpold.ctl.client import ask
from netpold.ctl.diff_json import party_json
from netpold.ctl.failure import Exit, Failure
from netpold.ctl.findings import line, number
from netpold.ctl.groups_text import Names
from netpold.ctl.junit import Case, Suite, junit
from netpold.ctl.offline import index_of, settings_of
from netpold.ctl.output import paint, say, say_json, wrapped
from netpold.ctl.progress import progress
from netpold.ctl.services_text import services
from netpold.ctl.sides import in_force
from netpold.daemon.status import finding_json
from netpold.policy import manifest
from netpold.policy.index import Index
from netpold.policy.model import Direction, Family, IPBlock
from netpold.printable import printable
from netpold.rules.answers import explain_json
from netpold.rules.difference import Party
from netpold.rules.ends import NOWHERE, Home, UnknownEndpoint, asked_end, judges, node_at
from netpold.rules.expectations import Expectation, parse
from netpold.rules.offline import offline_ruleset
from netpold.rules.port import Port, show
from netpold.rules.reach import Outcome, Reach, Wrong
from netpold.rules.services import OTHER, Span
from netpold.rules.settings import CompileSettings

_MOST_FILE = 4 << 20
_OTHER: dict[Family, Family] = {4: 6, 6: 4}
_MOST_TOLD = 3  # groups of ends of one test that fail


@dataclass(frozen=True, slots=True)
class _Done:
    """A test, what became of it, and why, a line each."""

    test: Expectation
    outcome: Outcome
    reasons: tuple[str, ...]

    @property
    def passed(self) -> bool:
        return not self.reasons


class _Asked:
    """Who says why: the manifests, or the daemon at `socket`."""

    def __init__(self, index: Index, settings: CompileSettings, socket: Path | None, home: Home) -> None:
        self.index, self._settings, self.socket, self._home = index, settings, socket, home
        pods = {key: pod for key, pod in index.world.pods.items() if pod.takes_part and pod.addresses}
        self.names = Names(pods, index.world)

    def is_nobodys(self, address: str) -> bool:
        """Whether it is neither a pod's nor a node's."""
        return not self.index.claimants(address) and not node_at(self.index, address, self._home)

    def explain(self, source: str, destination: str, port: Port) -> Mapping[str, Any]:
        """As `netpoldctl explain` says it.  Raises Failure."""
        if self.socket is not None:
            words = {"source": source, "destination": destination, "port": show(port)}
            answer: Mapping[str, Any] = ask(self.socket, "GET", f"/v1/explain?{urlencode(words)}")
            return answer
        try:
            ends = asked_end(self.index, source), asked_end(self.index, destination)
            ruleset = offline_ruleset(self.index, sorted(judges(self.index, *ends)), self._settings)
            return explain_json(self.index, ruleset, source, destination, *port)
        except UnknownEndpoint as error:
            raise Failure(str(error), error.hint, Exit.USAGE) from error


def run(arguments: argparse.Namespace) -> Exit:
    """Raises Failure."""
    tests = _read(arguments.files)
    settings = settings_of(arguments)
    if arguments.live and arguments.manifests:
        hint = "leave out one of the two"
        raise Failure("--live asks the node, --manifests a directory: it can't be both", hint, Exit.USAGE)
    index, home = in_force(arguments.socket) if arguments.live else (index_of(settings), NOWHERE)
    asked = _Asked(index, compile_settings(settings), arguments.socket if arguments.live else None, home)
    everything: list[_Done] = []
    with progress("testing") as told:
        every = [test for several in tests.values() for test in several]
        reach = Reach(index, compile_settings(settings), every, home)
        for number, test in enumerate(every):
            told.tell(number / len(every))
            everything.append(_judged(reach, asked, test))
    rest = iter(everything)
    done = {file: list(islice(rest, len(several))) for file, several in tests.items()}
    match arguments.output:
        case "json":
            say_json(_json(asked, everything))
        case "junit":
            say(junit("netpoldctl test", [Suite(file, tuple(_cases(several))) for file, several in done.items()]))
        case _:
            say(*_text(everything))
    return Exit.FINE if all(each.passed for each in everything) else Exit.NO


def _read(files: Iterable[Path]) -> dict[str, list[Expectation]]:
    """The tests by file.  Raises Failure where a file is wrong, after what is wrong."""
    tests: dict[str, list[Expectation]] = {}
    findings = []
    for file in files:
        try:
            with file.open("rb") as opened:
                data = opened.read(_MOST_FILE + 1)
        except OSError as error:
            raise Failure(f"{file} can't be read: {error.strerror}", "name a file of tests", Exit.USAGE) from error
        if len(data) > _MOST_FILE:
            raise Failure(f"{file} is larger than {_MOST_FILE >> 20} MiB", "split it", Exit.USAGE)
        tests[str(file)], wrong = parse(data, str(file))
        findings += wrong
    errors = [each for each in findings if each.severity == "error"]
    if errors:
        for file in files:
            if (found := manifest.parse(file.read_bytes(), str(file))).objects:
                hint = "name a file of tests, and the directory of manifests with --manifests DIR"
                raise Failure(
                    f"{file} has manifests ({number(len(found.objects), 'object')}), no tests", hint, Exit.USAGE
                )
        print(*(line(finding_json(each)) for each in findings), sep="\n", file=sys.stderr)
        fault = f"{number(len(errors), 'error')} in test files: no test was run"
        raise Failure(fault, "the format is shown in docs/testing-policies.md", Exit.USAGE)
    if not any(tests.values()):
        raise Failure("there are no tests in these files", "write `tests:` and `- allow: ...` below it", Exit.USAGE)
    return tests


# One test -------------------------------------------------------------------------------------------------------------


def _judged(reach: Reach, asked: _Asked, test: Expectation) -> _Done:
    outcome = reach.judge(test)
    if outcome.fault:
        return _Done(test, outcome, (outcome.fault,))
    reasons = [line for wrong in outcome.wrong[:_MOST_TOLD] for line in _reasons(asked, wrong, test)]
    if len(outcome.wrong) > _MOST_TOLD:
        reasons.append(f"and {number(len(outcome.wrong) - _MOST_TOLD, 'other group')} of ends")
    if asked.socket is not None and not reasons:
        reasons += _contradictions(asked, test, reach)
    return _Done(test, outcome, tuple(reasons))


def _reasons(asked: _Asked, wrong: Wrong, test: Expectation) -> Iterator[str]:
    """What is wrong, and for one pair what `explain` says of it."""
    source, destination = _parties(wrong)
    passes = "should pass, and does not" if test.verdict == "allow" else "passes, and should not"
    ends = f"{asked.names.party(source)} -> {asked.names.party(destination)}"
    if len(wrong.families) == 1 and all(asked.names.could(_OTHER[wrong.families[0]], each) for each in _parties(wrong)):
        ends += f" (over IPv{wrong.families[0]})"  # the same may be told of the other one for other ends, too
    if wrong.node:
        ends += f" (pods of {wrong.node} and the node itself)"
    one = _one_of(asked, source, wrong.families)
    other = _one_of(asked, Party(destination.pods - set(sorted(source.pods)[:1]), destination.outside), wrong.families)
    port = _port(wrong.services[0])
    shown = [_shown(asked.index, each) for each in (one, other)]
    told = [f"{ends}: {passes}: {services(wrong.services)}", f"{shown[0]} -> {shown[1]}: {passes}: {show(port)}"]
    yield told[0]
    if told[0] != told[1]:
        yield f"as {told[1]}"
    yield from _why(asked, asked.explain(one, other, port), test)


def _parties(wrong: Wrong) -> tuple[Party, Party]:
    return Party(wrong.sources, wrong.from_outside), Party(wrong.destinations, wrong.to_outside)


def _one_of(asked: _Asked, party: Party, families: tuple[Family, ...]) -> str:
    """A pod (by its address, where only one of its families is meant), or an address that is no pod's."""
    if not party.pods:
        return _free_address(asked, party.outside[0], families[0])
    key = min(party.pods)
    addresses = asked.index.world.pods[key].addresses
    meant = [each for each in addresses if (6 if ":" in each else 4) in families]
    return key if meant == list(addresses) else meant[0]


def _shown(index: Index, name: str) -> str:
    """An address with the pod whose it is."""
    pod = _pod_at(index, name)
    return f"{pod} ({name})" if pod else name


def _pod_at(index: Index, name: str) -> str:
    """The pod whose alone an address is, or ''."""
    claimants = [] if "/" in name else index.claimants(name)
    return claimants[0].key if len(claimants) == 1 else ""


def _free_address(asked: _Asked, block: IPBlock, family: Family) -> str:
    at, last = int(block.cidr.network_address), int(block.cidr.broadcast_address)
    if at != last and family == block.cidr.version:
        at += 1  # the first one is the network's own
    while at <= last:
        address = ip_address(at) if family == 4 else ip_address(at.to_bytes(16))
        inside = [each for each in block.excepts if address in each]
        if inside:
            at = int(inside[0].broadcast_address) + 1
        elif asked.is_nobodys(str(address)):
            return str(address)
        else:
            at += 1
    return str(block.cidr.network_address)


def _port(span: Span) -> Port:
    return ("ICMP", None) if span.protocol == OTHER else (span.protocol, span.first)


def _why(asked: _Asked, answer: Mapping[str, Any], test: Expectation) -> Iterator[str]:
    """What the directions say: those that deny, where it should pass; else both."""
    for direction, near in ((Direction.EGRESS, "source"), (Direction.INGRESS, "destination")):
        judgement = answer[direction]
        if test.verdict == "allow" and judgement["verdict"] == "allow":
            continue
        rule = judgement.get("allowed_by")
        place = f" ({rule['file']}:{rule['line']})" if rule and rule["file"] and rule["line"] else ""
        yield f"{direction}: {_by_pod(asked.index, judgement['reason'], answer[near]['name'])}{place}"
        if miss := judgement.get("nearest_miss"):
            yield f"nearest: {miss['text']}"


def _by_pod(index: Index, reason: str, name: str) -> str:
    """A reason of an end that was asked about by its address, with the pod's name, as of those asked about by that."""
    pod = _pod_at(index, name)
    return re.sub(rf"(?<![\w.:/-]){re.escape(name)}(?![\w.:/-])", pod, reason) if pod else reason


def _contradictions(asked: _Asked, test: Expectation, reach: Reach) -> Iterator[str]:
    """Where the daemon says of a pair otherwise than its objects do: one pair of each test is asked."""
    for source, destination, span in reach.examples(test):
        port = _port(span)
        answer = asked.explain(source, destination, port)
        if answer["verdict"] != test.verdict:
            yield f"{source} -> {destination}: {show(port)} is judged otherwise by the node: {answer['verdict']}"
            yield from _why(asked, answer, test)


# Formats --------------------------------------------------------------------------------------------------------------


def _text(done: list[_Done]) -> Iterator[str]:
    for each in done:
        head = paint("ok  ", "green") if each.passed else paint("FAIL", "red")
        where = "" if each.passed else f" ({each.test.position})"
        yield f"{head}  {printable(each.test.name + where)}"
        for reason in each.reasons:
            first, *rest = wrapped(printable(reason), 8)
            yield from (f"      {first}", *(f"        {part}" for part in rest))
    failed = sum(not each.passed for each in done)
    yield f"{number(len(done), 'test')}: {len(done) - failed} passed, {failed} failed"


def _cases(done: list[_Done]) -> Iterator[Case]:
    for each in done:
        yield Case(each.test.name, tuple(f"{each.test.position}: {reason}" for reason in each.reasons))


def _json(asked: _Asked, done: list[_Done]) -> dict[str, Any]:
    failed = sum(not each.passed for each in done)
    return {
        "version": 1,
        "live": asked.socket is not None,
        "passed": len(done) - failed,
        "failed": failed,
        "tests": [_test_json(asked, each) for each in done],
    }


def _test_json(asked: _Asked, done: _Done) -> dict[str, Any]:
    test = done.test
    return {
        "name": test.name,
        "file": printable(test.position.file),
        "line": test.position.line,
        "expected": test.verdict,
        "passed": done.passed,
        "pairs": done.outcome.pairs,
        "reasons": list(done.reasons),
        "wrong": [
            {
                "source": party_json(asked.names, source),
                "destination": party_json(asked.names, destination),
                "ports": services(wrong.services),
                "families": [f"IPv{family}" for family in wrong.families],
                "node": wrong.node or None,
            }
            for wrong in done.outcome.wrong
            for source, destination in (_parties(wrong),)
        ],
    }

"""`netpoldctl status`: what the daemon enforces, and what it found wrong."""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from datetime import UTC, datetime
from functools import partial
from typing import Any, NoReturn

from netpold.ctl import findings
from netpold.ctl.client import ask
from netpold.ctl.failure import Exit, Failure
from netpold.ctl.findings import number
from netpold.ctl.output import Colour, is_terminal, paint, pairs, say, say_json, word, wrapped
from netpold.ctl.patient import patiently
from netpold.ctl.progress import progress
from netpold.ctl.screen import draw, page
from netpold.printable import printable

WATCH_S = 1.0
FINDINGS_SHOWN = 50
LAST_GOOD_SHOWN = 5
MOST_NAMED = 5  # interfaces, or pods

_STATES: dict[str, Colour] = {"enforcing": "green", "starting": "yellow", "degraded": "red"}


def run(arguments: argparse.Namespace) -> Exit:
    """Raises Failure."""
    if arguments.watch:
        _watch(arguments)
    with progress("asking the daemon"):
        status = ask(arguments.socket, "GET", "/v1/status")
    if arguments.output == "json":
        say_json(status)
    else:
        say(*text(status, datetime.now(UTC)))
    return Exit.NO if status["state"] == "degraded" else Exit.FINE


def _watch(arguments: argparse.Namespace) -> NoReturn:
    """Show the status until interrupted: on a terminal as it is now, elsewhere each change, JSON one object a line.
    The daemon may be away meanwhile, but not at the start."""
    question = partial(ask, arguments.socket, "GET", "/v1/status")
    status = question()
    if arguments.output != "json" and is_terminal():
        with page():
            while True:
                draw(text(status, datetime.now(UTC)))
                time.sleep(WATCH_S)
                status = patiently(question, math.inf, lambda failure: draw(_away(failure)))
    before: Any = None
    while True:
        if status != before:
            before = status
            if arguments.output == "json":
                say(json.dumps(status))
            else:
                say(*text(status, datetime.now(UTC)), "")
            sys.stdout.flush()
        time.sleep(WATCH_S)
        status = patiently(question, math.inf)


def _away(failure: Failure) -> list[str]:
    return [paint(paint(str(failure), "red"), "bold"), "Waiting for it; end with Ctrl-C."]


def text(status: dict[str, Any], now: datetime) -> list[str]:
    """The lines for a person."""
    state = str(status["state"])
    lines = [
        f"netpold is {paint(paint(state, _STATES.get(state, 'bold')), 'bold')} since {_when(status['since'], now)}"
    ]
    if status["error"]:
        lines += _item("error", str(status["error"]))
    if status["try"]:
        lines += _tried(status["try"], now)
    if status["rollback"]:
        lines += _rolled_back(status["rollback"])
    lines += _audited(status["audited"])
    lines += pairs(_facts(status, now))
    warnings = [each for each in status["warnings"] if each != status["error"]]
    if warnings or status["findings"]:
        lines.append("")
    for warning in warnings:
        lines += _item("warning", str(warning))
    ordered = sorted(status["findings"], key=lambda each: each["severity"])  # errors first
    lines += [findings.line(each) for each in ordered[:FINDINGS_SHOWN]]
    if len(ordered) > FINDINGS_SHOWN:
        lines.append(
            f"... and {len(ordered) - FINDINGS_SHOWN} more; `netpoldctl check {status['manifests']}` shows all"
        )
    return lines


def _tried(tried: dict[str, Any], now: datetime) -> list[str]:
    """What is in force instead of the manifests."""
    if tried["until"]:
        left = max(int((datetime.fromisoformat(tried["until"]) - now).total_seconds()), 0)
        until = f"{_age(left)} left; `netpoldctl try --confirm` keeps it"
    else:
        until = "confirmed; until a policy or namespace in the manifests changes, or netpold restarts"
    what = f"the policies of {tried['directory']}, not those of the manifests: for {tried['by']}, {until}"
    return _loud("TRYING", what)


def _rolled_back(rollback: dict[str, Any]) -> list[str]:
    moment = datetime.fromisoformat(rollback["to"]).astimezone()
    until = "until a policy or namespace in the manifests changes, or `netpoldctl rollback --end`"
    what = f"the policies of {moment:%Y-%m-%d %H:%M:%S}, not those of the manifests: for {rollback['by']}, {until}"
    return _loud("ROLLED BACK", what)


def _loud(head: str, what: str) -> list[str]:
    """A block that nobody overlooks."""
    first, *rest = wrapped(printable(what), len(head) + 2)
    return [paint(line, "yellow") for line in (f"{head}: {first}", *(" " * (len(head) + 2) + line for line in rest))]


def _audited(audited: dict[str, Any]) -> list[str]:
    """What is not enforced, and says so."""
    if not (audited["count"] or audited["namespaces"] or audited["by_settings"]):
        return []
    by = []
    if audited["namespaces"]:
        more = f" and {len(audited['namespaces']) - MOST_NAMED} more" if len(audited["namespaces"]) > MOST_NAMED else ""
        names = ", ".join(audited["namespaces"][:MOST_NAMED])
        one = len(audited["namespaces"]) == 1
        by.append(f"as namespace {names} says" if one else f"as the namespaces {names}{more} say")
    if audited["by_settings"]:
        by.append("as the settings say of all that say nothing")
    more = ", ..." if audited["count"] > MOST_NAMED else ""
    names = f": {', '.join(audited['policies'][:MOST_NAMED])}{more}" if audited["count"] else ""
    why = f" (as they say themselves, or {', or '.join(by)})" if by else ""
    what = (
        f"{number(audited['count'], 'policy')} in audit mode{names}{why}; `netpoldctl audit` shows what they would drop"
    )
    return _loud("NOT ENFORCED", what)


def _of_cluster(status: dict[str, Any]) -> str:
    count = status["cluster_policies"]
    return f"; {count} of the whole cluster" if count else ""


def _facts(status: dict[str, Any], now: datetime) -> list[tuple[str, str]]:
    policies, pods, last = status["policies"], status["pods"], status["last_apply"]
    applied = f", applied {_when(last['at'], now)} in {last['duration_ms']:g} ms" if last else ""
    kinds = sorted(status["passed_over"].items())
    closed, lingering = status["unclaimed_interfaces"], status["lingering"]
    tiers = f"{pods['in_tiers']} judged by tiers, " if pods["in_tiers"] else ""
    families = ", ".join(f"{count} {family}" for family, count in status["rules"].items())
    facts = [
        ("node", status["node"]),
        ("backend", status["backend"]),
        ("revision", f"{status['revision']}{applied}"),
        ("manifests", status["manifests"]),
        *([("commit", _commit(status["git"]))] if status["git"] else []),
        ("policies", f"{policies['accepted']} accepted, {policies['rejected']} rejected{_of_cluster(status)}"),
        *([("quarantined", _quarantined(status["quarantined"]))] if status["quarantined"] else []),
        (
            "pods",
            f"{pods['total']} known, {pods['local']} on this node, {pods['isolated']} of them isolated, {tiers}"
            f"{pods['without_interface']} without an interface",
        ),
        ("namespaces", str(status["namespaces"])),
        *([("nodes", str(status["nodes"]))] if status["nodes"] else []),
        ("rules", f"{families}; {number(status['sets'], 'set')}"),
    ]
    if status["other_tables"]:
        tables = ", ".join(f"{each['backend']} {each['family']}" for each in status["other_tables"])
        facts.append(("besides", f"the filter tables of another backend are in force, too: {tables}"))
    if status["without_interface"]["count"]:
        facts.append(("by address", f"{_named(status['without_interface'], 'pod')}: no interface was found"))
    if status["interfaces_without_pod"]["count"]:
        facts.append(("no pod has", _named(status["interfaces_without_pod"], "interface")))
    if status["drift"]:
        drift = status["drift"]
        who = ", ".join(drift["by"]) or "another program"
        times = f"{number(drift['repairs'], 'time')} since the start"
        facts.append(("drift", f"put back {times}, last {_when(drift['last'], now)}: {who} had changed it"))
    if lingering["count"]:
        one = lingering["count"] == 1
        gone = "manifest is gone, and the interface is" if one else "manifests are gone, and the interfaces are"
        facts.append(("lingering", f"{_named(lingering, 'pod')}: the {gone} still there"))
    if closed:
        shown = ", ".join(closed[:MOST_NAMED]) + (", ..." if len(closed) > MOST_NAMED else "")
        facts.append(("closed", f"{number(len(closed), 'interface')} that no pod claims: {shown}"))
    if status["last_good"]["count"]:
        facts.append(("last good", _last_good(status["last_good"])))
    if kinds:
        facts.append(("passed over", ", ".join(f"{count} {kind}" for kind, count in kinds)))
    return [(name, printable(str(value))) for name, value in facts]


def _quarantined(count: int) -> str:
    they = "it may select" if count == 1 else "they may select"
    return f"{number(count, 'policy')} of which no good version is known: all that {they} is closed"


def _commit(git: dict[str, Any]) -> str:
    branch = f"branch {git['branch']}" if git["branch"] else "no branch"
    return f"{git['commit'][:12]}, {branch}, of {git['repository']}"


def _named(some: dict[str, Any], what: str) -> str:
    more = ", ..." if some["count"] > MOST_NAMED else ""
    return f"{number(some['count'], what)}: {', '.join(some['names'][:MOST_NAMED])}{more}"


def _last_good(last_good: dict[str, Any]) -> str:
    names = last_good["objects"][:LAST_GOOD_SHOWN]
    more = ", ..." if last_good["count"] > len(names) else ""
    return f"{number(last_good['count'], 'object')} in force as before the manifest failed: {', '.join(names)}{more}"


def _item(severity: str, what: str) -> list[str]:
    first, *rest = wrapped(printable(what), len(severity) + 2)
    return [f"{word(severity)}: {first}", *(" " * (len(severity) + 2) + line for line in rest)]


def _when(moment: str, now: datetime) -> str:
    """A moment in local time, and how long ago that is."""
    then = datetime.fromisoformat(moment)
    seconds = max(int((now - then).total_seconds()), 0)
    return f"{then.astimezone():%Y-%m-%d %H:%M:%S} ({_age(seconds)} ago)"


def _age(seconds: int) -> str:
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"

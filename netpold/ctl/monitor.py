"""`netpoldctl monitor`: what netpold drops, and what audited policies would drop, as it happens.

Who asks for a pod or namespace that no manifest knows likely mistyped it, and is told so; what is watched may come yet.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
from datetime import datetime
from functools import partial
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlencode

from netpold.ctl import ports
from netpold.ctl.client import ANSWER_S, ask
from netpold.ctl.complete import namespaces
from netpold.ctl.failure import Exit, Failure
from netpold.ctl.output import Colour, is_terminal, paint, say, wrapped
from netpold.ctl.patient import patiently
from netpold.ctl.progress import progress
from netpold.daemon.wording import port, reason, way
from netpold.policy.undeclared import undeclared
from netpold.printable import printable

RECENT = 10  # of the past, where it goes on
ALL = 2000  # more than are kept
POLL_S = 20.0  # how long one question waits for something to happen

_COLOURS: dict[str, Colour] = {"drop": "red", "audit": "yellow", "allow": "green"}
_INDENT = 10  # of what stands below the first line

Event = dict[str, Any]


def run(arguments: argparse.Namespace) -> Exit:
    """Raises Failure."""
    wanted = _Wanted(arguments)
    unknown = _unknown(arguments)
    if arguments.seconds is None and not arguments.follow and not is_terminal():
        answer = _ask(arguments, latest=ALL)
        _check(answer, arguments)
        shown = _say(arguments, wanted, answer)
        if unknown and not shown:  # else it is of a pod that was there
            raise unknown
        _say_nothing(arguments, shown)
        return Exit.FINE
    if unknown:
        print(f"netpoldctl: {unknown}; watching for it even so\nhint: {unknown.hint}", file=sys.stderr)
    end = math.inf if arguments.seconds is None else time.monotonic() + arguments.seconds
    answer = _ask(arguments, latest=RECENT if arguments.seconds is None else 0)
    _check(answer, arguments)
    what = "watching what netpold drops"
    if arguments.output == "text" and is_terminal():
        until = "; end with Ctrl-C" if arguments.seconds is None else f" for {arguments.seconds:g} s"
        print(paint(f"{what}{until}", "dim"), file=sys.stderr)
    with nullcontext() if is_terminal() else progress(what, arguments.seconds):
        shown = sum(_say(arguments, wanted, each) for each in _answers(arguments, answer, end))
    _say_nothing(arguments, shown)
    return Exit.USAGE if unknown and not shown else Exit.FINE


def _unknown(arguments: argparse.Namespace) -> Failure | None:
    """That no manifest knows the pod or the namespace that is asked for, as far as the daemon can tell just now: it may
    come yet.  Raises Failure for a pod that never can."""
    pod, namespace = arguments.pod, arguments.namespace
    if _address(pod):
        pod = ""
    if not pod and not namespace:
        return None
    try:
        known = ask(arguments.socket, "GET", "/v1/names")
    except Failure as failure:
        if failure.code in (Exit.NOT_RUNNING, Exit.NOT_PERMITTED):
            raise
        return None  # nothing is in force yet, or any more
    if pod and pod not in known["pods"] and pod not in known["lingering"]:
        found = Failure(*undeclared("pod", pod, known["pods"]), Exit.USAGE)
        if "/" not in pod:
            raise found
        return found
    if namespace and namespace not in (there := namespaces(known)):
        return Failure(*undeclared("namespace", namespace, sorted(there)), Exit.USAGE)
    return None


def _address(text: str) -> str:
    """As events have it; '' for what is none."""
    try:
        return str(ip_address(text))
    except ValueError:
        return ""


def _say_nothing(arguments: argparse.Namespace, shown: int) -> None:
    if not shown and arguments.output == "text":
        asked = arguments.pod or arguments.namespace or arguments.direction or arguments.port
        what = "nothing like that was seen" if asked else "nothing was dropped"
        print(paint(f"{what}{'' if arguments.seconds else ', as far as is remembered'}", "dim"), file=sys.stderr)


def _answers(arguments: argparse.Namespace, answer: Event, end: float) -> Iterator[Event]:
    """This one, and what comes after it until the end (time.monotonic()), also from a daemon that was restarted."""
    before = {name: answer[name] for name in ("lost", "unlisted")}
    answer["missed"], since, was_uncounted = 0, answer["since"], answer["uncounted"]
    while True:
        for name, count in before.items():
            before[name], answer[name] = answer[name], answer[name] - count
        answer["earlier"], was_uncounted = was_uncounted, answer["uncounted"]
        answer["uncounted"] &= not answer["earlier"] or answer["lost"] > 0  # else that was said
        yield answer
        left = end - time.monotonic()
        if left <= 0:
            return
        after, wait = answer["last"], min(POLL_S, round(left, 2))
        answer = patiently(partial(_ask, arguments, after=after, wait=wait), end)
        if answer["since"] != since:  # it was restarted, and counts anew
            since, before, was_uncounted = answer["since"], dict.fromkeys(before, 0), False
            answer = patiently(partial(_ask, arguments, after=0), end)


def _ask(arguments: argparse.Namespace, wait: float = 0.0, **parameters: int) -> Event:
    query: dict[str, float] = {**parameters, "wait": wait, "allowed": int(arguments.allowed)}
    answer: Event = ask(arguments.socket, "GET", f"/v1/drops?{urlencode(query)}", ANSWER_S + wait)
    return answer


def _check(answer: Event, arguments: argparse.Namespace) -> None:
    """Say why nothing can be seen, where that is so."""
    if answer["warning"]:
        print(f"netpoldctl: {printable(answer['warning'])}", file=sys.stderr)
    if not answer["group"] and not arguments.allowed:
        raise Failure(
            "netpold does not look at what it drops: the setting nflog_group is 0",
            "take it out of the settings and reload the service",
            Exit.NO,
        )


class _Wanted:
    """The filters."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        """Raises Failure."""
        self._pod = _address(arguments.pod) or arguments.pod
        self._namespace, self._direction = arguments.namespace, arguments.direction
        self._port = ports.parse(arguments.port) if arguments.port else None
        self._allowed = arguments.allowed

    def __call__(self, event: Event) -> bool:
        pods = [each or "" for each in (event["source"]["pod"], event["destination"]["pod"], event["judged"])]
        addresses = [each["address"] for each in (event["source"], event["destination"])]
        return (
            (not self._pod or self._pod in pods or self._pod in addresses)
            and (not self._namespace or self._namespace in [each.partition("/")[0] for each in pods])
            and (not self._direction or event["direction"] == self._direction)
            and (not self._port or (event["protocol"], event["port"]) == self._port)
            and (self._allowed or event["verdict"] != "allow")
        )


def _say(arguments: argparse.Namespace, wanted: _Wanted, answer: Event) -> int:
    """Show what is wanted of an answer; how many events that is."""
    events = list(filter(wanted, answer["events"]))
    for event in events:
        if arguments.output == "json":
            say(json.dumps({"version": answer["version"], **event}))
        else:
            say(*_text(event))
    if arguments.output == "text":
        for name, what in (
            ("lost", "came too fast to be looked at" + (", before these" if answer.get("earlier") else "")),
            ("unlisted", "of too many different pairs and ports came, and are not shown"),
            ("missed", "were not shown in time"),
        ):
            if answer[name]:
                things = "events" if name == "missed" else "packets"
                say(paint(f"... {answer[name]} more {things} {what}", "dim"))
        if answer["uncounted"]:
            say(paint("... more packets came too fast to be looked at; the next one tells how many", "dim"))
    sys.stdout.flush()
    return len(events)


def _text(event: Event) -> list[str]:
    """One line with what happened, and below it why."""
    at = datetime.fromisoformat(event["last"]).astimezone()
    verdict = paint(event["verdict"].ljust(5), _COLOURS[event["verdict"]])
    times = f"  x{event['packets']}" if event["packets"] > 1 else ""
    first = f"{at:%H:%M:%S}  {verdict}  {_way(event)}{times}"
    return [first, *(paint(" " * _INDENT + line, "dim") for line in wrapped(printable(reason(event)), _INDENT))]


def _way(event: Event) -> str:
    """Pods by name and address, so that both can be looked for."""
    if not is_terminal():
        return printable(way(event))
    ends = [
        f"{printable(each['pod'])} {paint(each['address'], 'dim')}" if each["pod"] else printable(each["address"])
        for each in (event["source"], event["destination"])
    ]
    return f"{ends[0]} -> {ends[1]} {paint(port(event), 'bold')}"

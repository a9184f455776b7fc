"""`netpoldctl audit`: what audited policies would have dropped, and the policies that would allow it."""

from __future__ import annotations

import argparse
import sys
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

from netpold.ctl.client import ask
from netpold.ctl.failure import Exit
from netpold.ctl.findings import number
from netpold.ctl.output import paint, say, say_json, table
from netpold.ctl.yaml_text import show
from netpold.daemon.wording import port
from netpold.printable import printable

_MOST_NAMED = 5  # policies


def run(arguments: argparse.Namespace) -> Exit:
    """Raises Failure."""
    since = f"?{urlencode({'since': arguments.since})}" if arguments.since else ""
    answer = ask(arguments.socket, "GET", f"/v1/audit{since}")
    if arguments.output == "json":
        say_json(answer)
    else:
        say(*_text(answer, datetime.now(UTC)))
        if answer["warning"]:
            print(f"netpoldctl: {printable(answer['warning'])}", file=sys.stderr)
    return Exit.FINE


def _text(answer: dict[str, Any], now: datetime) -> list[str]:
    lines = [_audited(answer["audited"])]
    since = datetime.fromisoformat(answer["since"]).astimezone()
    if not answer["rows"]:
        lines.append(f"Nothing was let through since {since:%Y-%m-%d %H:%M:%S} that they would drop.")
    if answer["rows"]:
        lines += [
            "",
            f"{paint('audit', 'yellow')}: let through since {since:%Y-%m-%d %H:%M:%S}, would be dropped if enforced:",
            "",
        ]
        head = ("SOURCE", "DESTINATION", "PORT", "DIRECTION", "PACKETS", "LAST", "POLICIES")
        lines += table(head, [_row(row, now) for row in answer["rows"]])
    if answer["suggestions"]:
        lines += ["", paint("What would allow it, to add beside these policies:", "bold"), ""]
        lines += show(answer["suggestions"])
    if answer["forgotten"] or answer["lost"]:
        lines += ["", paint(_incomplete(answer), "dim")]
    return lines


def _audited(audited: dict[str, Any]) -> str:
    if not audited["count"]:
        return (
            "No policy is in audit mode: the annotation netpold.io/mode: audit, on a policy or a namespace, does that."
        )
    names = ", ".join(printable(each) for each in audited["policies"][:_MOST_NAMED])
    more = ", ..." if audited["count"] > _MOST_NAMED else ""
    return f"{paint('NOT ENFORCED', 'yellow')}: {number(audited['count'], 'policy')} in audit mode: {names}{more}"


def _row(row: dict[str, Any], now: datetime) -> tuple[str, ...]:
    ends = [printable(each["pod"] or each["address"]) for each in (row["source"], row["destination"])]
    seconds = max(int((now - datetime.fromisoformat(row["last"])).total_seconds()), 0)
    ago = f"{seconds} s ago" if seconds < 120 else f"{seconds // 60} min ago"
    return (*ends, port(row), row["direction"], str(row["packets"]), ago, printable(", ".join(row["isolating"])))


def _incomplete(answer: dict[str, Any]) -> str:
    said = []
    if answer["forgotten"]:
        said.append(f"{number(answer['forgotten'], 'pair')} not seen for longest had to be forgotten")
    if answer["lost"]:
        said.append(f"{number(answer['lost'], 'packet')} came too fast to be looked at")
    return f"Not all of it: {', '.join(said)}."

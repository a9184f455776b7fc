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
from netpold.ctl.output import paint, say, say_json, table, table_width, width, wrapped
from netpold.ctl.progress import progress
from netpold.ctl.yaml_text import show
from netpold.daemon.wording import port
from netpold.printable import printable

_MOST_NAMED = 5  # policies
_HOW = "To audit one, set the annotation netpold.io/mode: audit on it, or on its namespace."
_HEAD = ("SOURCE", "DESTINATION", "PORT", "DIRECTION", "PACKETS", "FLOWS", "LAST", "NOW", "POLICIES")
_NOW = {"audit": "audited", "allow": "allow", "deny": "deny", None: "gone"}


def run(arguments: argparse.Namespace) -> Exit:
    """Raises Failure."""
    since = f"?{urlencode({'since': arguments.since})}" if arguments.since else ""
    with progress("looking at open flows"):
        answer = ask(arguments.socket, "GET", f"/v1/audit{since}")
    if arguments.output == "json":
        say_json(answer)
    else:
        say(*_text(answer, datetime.now(UTC)))
        if answer["warning"]:
            print(f"netpoldctl: {printable(answer['warning'])}", file=sys.stderr)
    return Exit.FINE


def _text(answer: dict[str, Any], now: datetime) -> list[str]:
    audited, rows = answer["audited"], answer["rows"]
    since = f"{datetime.fromisoformat(answer['since']).astimezone():%Y-%m-%d %H:%M:%S}"
    lines = [_audited(audited)] if audited["count"] else ["No policy is in audit mode.", _HOW]
    if audited["count"] and not rows:
        lines.append(f"Nothing was let through since {since} that they would drop.")
    if rows:
        what = f"{paint('audit', 'yellow')}: let through since {since} only because policies were in audit mode"
        lines += ["", what, "", *_sums([_row(row, now) for row in rows])]
    if answer["suggestions"]:
        lines += ["", paint("What would allow it, to add beside these policies:", "bold"), ""]
        lines += show(answer["suggestions"])
    unsuggested = [row for row in rows if row["not_suggested"]]
    if unsuggested:
        lines += ["", paint("What is not suggested, and why:", "bold"), *_unsuggested(unsuggested)]
    if rows:
        lines += ["", *_outcome(rows)]
    if answer["forgotten"] or answer["lost"]:
        lines += ["", paint(_incomplete(answer), "dim")]
    return lines


def _outcome(rows: list[dict[str, Any]]) -> list[str]:
    """What becomes of it now."""
    dropped, audited = (sum(row["now"] == each for row in rows) for each in ("deny", "audit"))
    if not dropped and not audited:
        return ["All of it is allowed now, or its ends are gone: nothing of it would be dropped."]
    lines = []
    if dropped:
        lines.append(f"{paint('Dropped now', 'red')}: {_share(dropped, len(rows))}, by policies that are enforced.")
    if audited:
        lines.append(f"Would be dropped by the audited policies as they are: {_share(audited, len(rows))}.")
    return lines


def _unsuggested(rows: list[dict[str, Any]]) -> list[str]:
    """The rows by reason."""
    by_reason: dict[str, list[str]] = {}
    for row in rows:
        by_reason.setdefault(row["not_suggested"], []).append(f"{' -> '.join(_ends(row))} {port(row)}")
    lines = []
    for reason, pairs in by_reason.items():
        lines += ["", *pairs, *(f"    {line}" for line in wrapped(printable(reason), 4))]
    return lines


def _share(some: int, rows: int) -> str:
    return "all of it" if some == rows else f"{some} of these {rows} rows"


def _audited(audited: dict[str, Any]) -> str:
    names = ", ".join(printable(each) for each in audited["policies"][:_MOST_NAMED])
    more = ", ..." if audited["count"] > _MOST_NAMED else ""
    return f"{paint('NOT ENFORCED', 'yellow')}: {number(audited['count'], 'policy')} in audit mode: {names}{more}"


def _sums(rows: list[tuple[str, ...]]) -> list[str]:
    """A table; where the terminal is too narrow for that, each row in some lines."""
    columns = width()
    if columns is None or table_width(_HEAD, rows) <= columns:
        return table(_HEAD, rows)
    lines = []
    for source, destination, to, direction, packets, flows, last, now, policies in rows:
        lines.append(f"{source} -> {destination} {to}")
        counts = f"{direction}: packets {packets}, flows {flows}, last {last}, now {now}; {policies}"
        lines += [f"    {line}" for line in wrapped(counts, 4)]
    return lines


def _row(row: dict[str, Any], now: datetime) -> tuple[str, ...]:
    last = "open" if row["open_flows"] else _ago(row["last"], now)
    counts = str(row["packets"]), str(row["open_flows"])
    names = printable(", ".join(row["isolating"]))
    return (*_ends(row), port(row), row["direction"], *counts, last, _NOW[row["now"]], names)


def _ends(row: dict[str, Any]) -> tuple[str, ...]:
    return tuple(printable(row[end]["pod"] or row[end]["address"]) for end in ("source", "destination"))


def _ago(moment: str, now: datetime) -> str:
    seconds = max(int((now - datetime.fromisoformat(moment)).total_seconds()), 0)
    return f"{seconds} s ago" if seconds < 120 else f"{seconds // 60} min ago"


def _incomplete(answer: dict[str, Any]) -> str:
    said = []
    if answer["forgotten"]:
        said.append(f"{number(answer['forgotten'], 'pair')} not seen for longest had to be forgotten")
    if answer["lost"]:
        said.append(
            f"{number(answer['lost'], 'packet')} came too fast to be looked at, or were too many different ones"
        )
    return f"Not all of it: {', '.join(said)}."

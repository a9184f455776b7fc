"""`netpoldctl verify`: the kernel against the model, chain by chain and set by set."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping
from typing import Any

from netpold.ctl.client import Flushed, ask, warn
from netpold.ctl.failure import Exit, Failure
from netpold.ctl.findings import number
from netpold.ctl.output import Colour, paint, say, say_json, wrapped
from netpold.ctl.progress import progress
from netpold.printable import printable

Json = Mapping[str, Any]

WAIT_S = 60.0
MOST_SHOWN = 10  # rules or members of one

_STATES = {
    "not-first": "is not the first rule",
    "missing": "is not there",
    "different": "is different",
    "extra": "should not be there",
    "another-kind": "is a set of another type",
}


def run(arguments: argparse.Namespace) -> Exit:
    """Raises Failure."""
    with progress("reading the kernel's chains and sets"):
        try:
            found: Json = ask(arguments.socket, "GET", "/v1/verify", WAIT_S)
        except Flushed as failure:
            raise Failure(str(failure), failure.hint, Exit.NO) from failure
    warn(found)
    if arguments.output == "json":
        say_json(found)
    else:
        say(*text(found))
    return Exit.FINE if found["same"] else Exit.NO


def text(found: Json) -> list[str]:
    """The lines for a person: what differs, and sums."""
    lines: list[str] = []
    for each in found["unread"]:
        lines += wrapped(f"{each['family']}: {paint('not read', 'red')}: {printable(each['why'])}", 0)
    for each in found["hooks"]:
        if each["state"] != "ok":
            lines.append(_head(each, "jump", f"{each['builtin']} to {each['chain']}"))
    for each in found["chains"]:
        if each["state"] != "ok":
            lines += [_head(each, "chain", each["chain"]), *_changes(each)]
    for each in found["sets"]:
        if each["state"] != "ok":
            lines += [f"{_head(each, 'set', each['set'])}: {printable(each['meaning'])}", *_changes(each)]
    for each in found["tables"]:
        if each["state"] != "ok":
            lines += [_head(each, "table", each["table"]), *_changes(each)]
    sums = ", ".join(
        f"{_good(found[kind])} of {number(len(found[kind]), what)}"
        for kind, what in (("hooks", "jump"), ("chains", "chain"), ("sets", "set"), ("tables", "bridge table"))
        if found[kind] or kind != "tables"
    )
    verdict = paint("the same", "green") if found["same"] else paint("different", "red")
    if lines:
        lines.append("")
    lines.append(f"kernel ({found['backend']}) and revision {found['revision']}: {verdict}; as they should be: {sums}")
    return lines


def _good(parts: Iterable[Json]) -> int:
    return sum(each["state"] == "ok" for each in parts)


def _head(each: Json, kind: str, name: str) -> str:
    return f"{each['family']} {kind} {paint(printable(name), 'bold')} {paint(_STATES[each['state']], 'red')}"


def _changes(each: Json) -> list[str]:
    """What is missing and what is too much, like a diff."""
    lines: list[str] = []
    signs: tuple[tuple[str, Colour, Json], ...] = (("-", "red", each["missing"]), ("+", "green", each["extra"]))
    for sign, colour, part in signs:
        some = part["some"][:MOST_SHOWN]
        lines += [paint(f"  {sign} {printable(line)}", colour) for line in some]
        if part["count"] > len(some):
            lines.append(f"  {sign} ... and {part['count'] - len(some)} more")
    return lines

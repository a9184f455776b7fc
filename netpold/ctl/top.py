"""`netpoldctl top`: packets and bytes by policy rule, by policy or by pod, as they come.

The daemon gives sums (GET /v1/counters); two readings of them give what came in a second.  A rule that was written anew
counts from zero, and so does one whose counter another program has set to zero.  Where a sum is smaller than before,
what came between is not known, and nothing is said of it.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, Literal, NoReturn

from netpold.ctl.about import size
from netpold.ctl.client import ask
from netpold.ctl.failure import Exit
from netpold.ctl.output import is_terminal, paint, say, say_json, table, table_width, width
from netpold.ctl.progress import progress
from netpold.ctl.screen import draw, height, page
from netpold.printable import printable

Json = Mapping[str, Any]
By = Literal["rule", "policy", "pod"]
Key = tuple[str, str, int | None]  # policy or pod, direction, number of the rule

HEADS: Mapping[By, tuple[str, ...]] = {
    "rule": ("PACKETS/S", "BYTES/S", "PACKETS", "BYTES", "POLICY RULE", "WRITTEN AT"),
    "policy": ("PACKETS/S", "BYTES/S", "PACKETS", "BYTES", "DROPPED/S", "DROPPED", "POLICY", "DIRECTION"),
    "pod": ("PACKETS/S", "BYTES/S", "PACKETS", "BYTES", "DROPPED/S", "DROPPED", "POD", "DIRECTION"),
}
_SPARE = ("WRITTEN AT", "BYTES", "PACKETS", "DROPPED", "BYTES/S", "DROPPED/S")  # left out first where it is narrow
ROWS_WITHOUT_TERMINAL = 20
_ORDER = ("bytes_per_s", "packets_per_s", "dropped_per_s", "bytes")


def run(arguments: argparse.Namespace) -> Exit:
    """Raises Failure."""
    before = _reading(arguments)
    with progress("counting", arguments.interval):
        time.sleep(arguments.interval)
    now = _reading(arguments)
    if not arguments.once and (is_terminal() or arguments.output == "json"):
        _follow(before, now, arguments)
    if arguments.output == "json":
        say_json(_answer(before, now, arguments))
    else:
        say(*_text(_answer(before, now, arguments), arguments))
    return Exit.FINE


def _follow(before: Json, now: Json, arguments: argparse.Namespace) -> NoReturn:
    """Until interrupted."""
    with nullcontext() if arguments.output == "json" else page():
        while True:
            answer = _answer(before, now, arguments)
            if arguments.output == "json":
                print(json.dumps(answer), flush=True)
            else:
                draw(_text(answer, arguments))
            time.sleep(arguments.interval)
            before, now = now, _reading(arguments)


def _reading(arguments: argparse.Namespace) -> Json:
    found: Json = ask(arguments.socket, "GET", "/v1/counters")
    return found


def _answer(before: Json, now: Json, arguments: argparse.Namespace) -> Json:
    """The rows, those with the most bytes a second first (docs/json.md)."""
    rows = list(rates(before, now, arguments.by))
    rows.sort(key=lambda each: [-(each[name] or 0) for name in _ORDER])
    head = {name: now[name] for name in ("version", "revision", "state", "node")}
    most = len(rows) if arguments.n is None and arguments.output == "json" else arguments.n
    return {**head, "by": arguments.by, "seconds": now["at"] - before["at"], "rows": rows[:most]}


def rates(before: Json, now: Json, by: By) -> Iterable[dict[str, Any]]:
    """A row for each rule, policy or pod that is there now."""
    seconds = now["at"] - before["at"]
    was = {key: counts for key, _, *counts in _sums(before, by)}
    fallen = _fallen(before, now) if by == "policy" else frozenset()
    for key, where, passed, dropped in _sums(now, by):
        old_passed, old_dropped = was.get(key, (passed, dropped))
        name, direction, rule = key
        known = (name, direction) not in fallen and not _fell(old_passed, passed)
        of = {"pod": name} if by == "pod" else {"policy": name}
        yield {
            **of,
            "direction": direction,
            **({"rule": rule, **where} if by == "rule" else {}),
            "packets": passed["packets"],
            "bytes": passed["bytes"],
            "packets_per_s": _rate(old_passed["packets"], passed["packets"], seconds) if known else None,
            "bytes_per_s": _rate(old_passed["bytes"], passed["bytes"], seconds) if known else None,
            "dropped": dropped["packets"],
            "dropped_per_s": None
            if _fell(old_dropped, dropped)
            else _rate(old_dropped["packets"], dropped["packets"], seconds),
        }


def _sums(reading: Json, by: By) -> Iterable[tuple[Key, Json, Json, Json]]:
    """Each with where it is written, what passed, and what was dropped."""
    none = {"packets": 0, "bytes": 0}
    if by == "pod":
        for each in reading["pods"]:
            yield (each["pod"], each["direction"], None), {}, each["judged"], each["dropped"] or none
    elif by == "rule":
        for each in reading["rules"]:
            where = {"action": each["action"], "file": each["file"], "line": each["line"]}
            yield (each["policy"], each["direction"], each["rule"]), where, each["passed"], none
    else:
        passed: dict[tuple[str, str], dict[str, int]] = {}
        for each in (rule for rule in reading["rules"] if rule["action"] == "Accept"):
            total = passed.setdefault((each["policy"], each["direction"]), dict(none))
            for what in total:
                total[what] += each["passed"][what]
        for each in reading["policies"]:
            key = each["policy"], each["direction"]
            yield (*key, None), {}, passed.get(key, none), each["dropped"] or none


def _fallen(before: Json, now: Json) -> frozenset[tuple[str, str]]:
    """The policies, with the direction, of which any rule has counted less now."""
    was = {key: passed for key, _, passed, _ in _sums(before, "rule")}
    return frozenset(key[:2] for key, _, passed, _ in _sums(now, "rule") if _fell(was.get(key, passed), passed))


def _fell(before: Json, now: Json) -> bool:
    return any(now[each] < before[each] for each in ("packets", "bytes"))


def _rate(before: int, now: int, seconds: float) -> float:
    return round((now - before) / seconds, 2) if seconds > 0 else 0.0


def _text(answer: Json, arguments: argparse.Namespace) -> list[str]:
    head = HEADS[arguments.by]
    room = (height() - 2 if is_terminal() else ROWS_WITHOUT_TERMINAL) if arguments.n is None else arguments.n
    rows = [_row(each, arguments.by) for each in answer["rows"][: max(room, 1)]]
    more = len(answer["rows"]) - len(rows)
    what = {"pod": "judged", "policy": "passed", "rule": "matched"}[arguments.by]
    said = (
        f"{answer['node']}: revision {answer['revision']}; {what} within {answer['seconds']:.1f} s, by {arguments.by}"
    )
    first = printable(f"{said}{f'; {more} more rows' if more > 0 else ''}")
    lines = [paint(first[: width()], "dim")]
    return lines + table(*fitted(head, rows, width())) if rows else [*lines, "No pod of this node is isolated."]


def _row(each: Json, by: By) -> list[str]:
    bytes_per_s = each["bytes_per_s"]
    cells = [_shown(each["packets_per_s"]), "-" if bytes_per_s is None else size(bytes_per_s)]
    cells += [str(each["packets"]), size(each["bytes"])]
    cells = [cell.rjust(len(name)) for cell, name in zip(cells, HEADS[by], strict=False)]
    if by == "rule":
        place = f"{each['file']}:{each['line']}" if each["file"] else ""
        rule = f"{each['policy']} {each['direction']}[{each['rule']}]"
        what = f"{rule} {each['action']}" if each["action"] != "Accept" else rule
        return [*cells, printable(what), printable(place)]
    drops = [_shown(each["dropped_per_s"]).rjust(9), str(each["dropped"]).rjust(7)]
    return [*cells, *drops, printable(each[by]), each["direction"]]


def _shown(rate: float | None) -> str:
    return "-" if rate is None else f"{rate:.1f}"


def fitted(
    head: Sequence[str], rows: Sequence[Sequence[str]], columns: int | None
) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
    """The table so that each row is one line on a terminal of that width: without columns that can be spared, and where
    that is not enough, with shorter names."""
    for spare in _SPARE:
        if columns is None or table_width(head, rows) <= columns:
            return head, rows
        kept = [number for number, name in enumerate(head) if name != spare]
        head, rows = [head[each] for each in kept], [[row[each] for each in kept] for row in rows]
    excess = table_width(head, rows) - (columns or 0)
    if excess > 0:
        names = 1  # behind PACKETS/S
        room = max(max(len(row[names]) for row in rows) - excess, len(head[names]))
        rows = [[*row[:names], row[names][:room], *row[names + 1 :]] for row in rows]
    return head, rows

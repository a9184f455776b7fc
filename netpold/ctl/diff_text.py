"""What `diff` finds, for a person: on a terminal, and as Markdown for a pull request."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

from netpold.ctl.compared import KINDS, Diff, Kind, cause_place
from netpold.ctl.findings import number
from netpold.ctl.output import Colour, paint, wrapped
from netpold.ctl.services_text import services
from netpold.policy.manifest import Object
from netpold.policy.model import Family
from netpold.printable import printable
from netpold.rules.cause import Cause
from netpold.rules.difference import Change

_MOST_SHOWN = 40  # changes of a kind
_MOST_CAUSES = 4
_MOST_LISTED = 200  # objects, where they are folded


def _causes(found: Diff, change: Change) -> list[str]:
    """A line for each policy rule, and for each policy that isolates now, or did."""
    together: dict[tuple[str, str, str], list[Cause]] = {}
    for cause in change.causes:
        rule = f"{cause.direction}[{cause.rule}]" if cause.rule >= 0 else ""
        together.setdefault((cause.policy, rule, cause.does), []).append(cause)
    told = [_cause(found, causes) for causes in list(together.values())[:_MOST_CAUSES]]
    more = len(together) - len(told)
    return [*told, f"and {more} more"] if more else told


def _cause(found: Diff, causes: list[Cause]) -> str:
    """One rule; or one policy, in all directions for which it is a cause."""
    first = causes[0]
    side, position = cause_place(found, first)
    place = side.place(position)
    what = first.policy if first.rule < 0 else f"{first.policy} {first.direction}[{first.rule}]"
    directions = " and ".join(str(cause.direction) for cause in causes)
    match first.does:
        case "allows":
            does = "allows it"
        case "allowed":
            does = "allowed it before"
        case "denies" | "passes":
            does = f"{first.does} it now"
        case "denied" | "passed":
            does = f"{first.does} it before"
        case "isolates":
            does = f"isolates for {directions} now"
        case "isolated":
            does = f"no longer isolates for {directions}"
    return f"{what}{f' ({place})' if place else ''} {does}"


def _remark(found: Diff, change: Change) -> str:
    """Whose own address it is, where that is why; and the family, where the pods have addresses of the other one, for
    which another change may say the same."""
    return (f" (the own node, {change.node})" if change.node else "") + _families(found, change)


def _families(found: Diff, change: Change) -> str:
    if len(change.families) == 2:
        return ""
    other: Family = 4 if change.families[0] == 6 else 6
    both = all(found.names.could(other, party) for party in (change.source, change.destination))
    return f" (over IPv{change.families[0]})" if both else ""


def _objects(found: Diff) -> list[tuple[str, str]]:
    """What is not the same: a sign, and the object with its place."""
    told: list[tuple[str, str]] = []
    tables: tuple[tuple[str, Sequence[tuple[str, Object | None, Object | None]]], ...] = (
        ("policy", found.policies),
        ("namespace", found.namespaces),
        ("node", found.nodes),
        ("pod", found.pods),
    )
    for kind, table in tables:
        for key, was, now in table:
            side, each = (found.new, now) if now else (found.old, was)
            place = side.place(each.position if each else None) or side.name
            told.append(("+" if was is None else "~" if now else "-", f"{kind} {key} ({place})"))
    return told


def _notes(found: Diff) -> Iterator[str]:
    """What is not compared."""
    if not found.old.index.world.pods and not found.new.index.world.pods:
        yield "there are no pods in these manifests: name a directory that has them with --inventory DIR"
    for names, side in ((found.added, found.new), (found.gone, found.old)):
        if names:
            yield f"only in {side.name}, and not compared: {_some(names)}"
    left_out: dict[str, list[str]] = {}
    for each in found.left_out:
        where = f" in IPv{each.family}" if each.family else ""
        left_out.setdefault(f"{each.why}, and not compared{where}", []).append(each.pod)
    for why, names in left_out.items():
        yield f"{why}: {_some(names)}"


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def nothing_compared(found: Diff) -> str:
    """Why that is so, where it is."""
    return "no pod can be compared" if found.left_out else "no pods are on both sides"


def _summary(found: Diff) -> str:
    if not found.compared:
        return f"{nothing_compared(found)}, so nothing was compared"
    if not found.changes:
        return f"nothing opens and nothing closes between {number(found.compared, 'pod')}, or from or to any address"
    counts = [(kind, len(found.of(kind))) for kind in KINDS]
    told = [f"{count} {kind if count == 1 else kind.removesuffix('s')}" for kind, count in counts if count]
    return f"{number(len(found.changes), 'difference')}: {', '.join(told)}"


# Formats --------------------------------------------------------------------------------------------------------------


def text(found: Diff) -> Iterator[str]:
    """Its lines, on a terminal."""
    signs: dict[str, Colour] = {"+": "green", "-": "red", "~": "yellow"}
    objects = _objects(found)
    for sign, what in objects[:_MOST_SHOWN]:
        yield f"{paint(sign, signs[sign])} {printable(what)}"
    if len(objects) > _MOST_SHOWN:
        yield f"  and {len(objects) - _MOST_SHOWN} more objects"
    for kind in KINDS:
        yield from _kind_text(found, kind)
    if objects or found.changes:
        yield ""
    yield _summary(found)
    yield from (printable(note) for note in _notes(found))


def _kind_text(found: Diff, kind: Kind) -> Iterator[str]:
    colour: Literal["green", "red", "yellow"] = {"opens": "red", "closes": "green", "changes": "yellow"}[kind]  # type: ignore[assignment]
    changes = found.of(kind)
    for change in changes[:_MOST_SHOWN]:
        source, destination = found.names.party(change.source), found.names.party(change.destination)
        yield ""
        yield f"{paint(kind, colour)}  {printable(f'{source} -> {destination}')}{_remark(found, change)}"
        for sign, spans in (("+", change.opens), ("-", change.closes)):
            if spans:
                yield f"  {sign} {services(spans)}"
        for cause in _causes(found, change):
            first, *rest = wrapped(printable(cause), 4)
            yield from (paint(f"    {each}", "dim") for each in (first, *rest))
    if len(changes) > _MOST_SHOWN:
        yield ""
        yield f"{paint(kind, colour)}  {len(changes) - _MOST_SHOWN} more; -o json has all"


def markdown(found: Diff) -> Iterator[str]:
    """Its lines."""
    yield "### Network policies: who reaches whom"
    yield ""
    yield f"{_md(_summary(found)).capitalize()}."
    for kind in KINDS:
        changes = found.of(kind)
        if not changes:
            continue
        yield ""
        yield f"**{kind.capitalize()}**"
        yield ""
        yield "| from | to | ports | because |"
        yield "|---|---|---|---|"
        for change in changes[:_MOST_SHOWN]:
            ports = [
                f"{sign} {services(spans)}" for sign, spans in (("+", change.opens), ("-", change.closes)) if spans
            ]
            parties = [
                found.names.party(change.source),
                found.names.party(change.destination) + _remark(found, change),
            ]
            cells = ["; ".join(ports), "; ".join(_causes(found, change))]
            yield f"| {' | '.join(_md(cell) for cell in (*parties, *cells))} |"
        if len(changes) > _MOST_SHOWN:
            yield f"| {len(changes) - _MOST_SHOWN} more | | | |"
    if objects := _objects(found):
        yield ""
        yield f"<details><summary>{number(len(objects), 'object')} changed</summary>"
        yield ""
        yield from (f"- `{sign}` {_md(what)}" for sign, what in objects[:_MOST_LISTED])
        yield ""
        yield "</details>"
    for note in _notes(found):
        yield ""
        yield f"{_md(note)}."


def _md(text: str) -> str:
    """Text that Markdown and its HTML take as it is."""
    safe = printable(text).replace("&", "&amp;").replace("<", "&lt;")
    return "".join(f"\\{each}" if each in "\\|*_`[]~#@" else each for each in safe)

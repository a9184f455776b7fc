"""`netpoldctl diff`: who reaches whom otherwise when manifests change, and because of which policy.

For a person in the order of weight: what opens, what changes, what closes; as Markdown for a pull request.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from netpold.config import compile_settings
from netpold.ctl.failure import Exit
from netpold.ctl.findings import number
from netpold.ctl.groups_text import Names
from netpold.ctl.offline import settings_of
from netpold.ctl.output import paint, say, say_json, wrapped
from netpold.ctl.progress import progress
from netpold.ctl.services_text import services
from netpold.ctl.sides import Side, sides
from netpold.policy.index import Index
from netpold.policy.model import Family, IPBlock, Policy, World
from netpold.printable import printable
from netpold.rules.difference import Cause, Change, Party, difference
from netpold.rules.services import Span

Kind = Literal["opens", "changes", "closes"]

_KINDS: tuple[Kind, ...] = ("opens", "changes", "closes")
_MOST_SHOWN = 40  # changes of a kind, for a person
_MOST_CAUSES = 4


@dataclass(frozen=True, slots=True)
class _Diff:
    """The two sides and what is between them.  `changes` are in the order in which they are shown."""

    old: Side
    new: Side
    policies: list[tuple[str, Policy | None, Policy | None]]
    added: list[str]
    gone: list[str]
    changes: list[Change]
    compared: int
    names: Names

    def of(self, kind: Kind) -> list[Change]:
        return [each for each in self.changes if _kind(each) == kind]


def run(arguments: argparse.Namespace) -> Exit:
    """Raises Failure."""
    settings = settings_of(arguments)
    names = [arguments.old, arguments.new]
    old, new = _with_pods(sides(names, arguments.inventory, settings, arguments.socket))
    with progress("comparing"):
        found = _compared(old, new, difference(old.index, new.index, compile_settings(settings).mode))
    match arguments.output:
        case "json":
            say_json(_json(found))
        case "markdown":
            say(*_markdown(found))
        case _:
            say(*_text(found))
    opens = any(change.opens for change in found.changes)
    fails = {"open": opens, "any": bool(found.changes), "never": False}
    return Exit.NO if fails[arguments.fail_on] else Exit.FINE


def _with_pods(both: Sequence[Side]) -> list[Side]:
    """A side that holds policies alone is taken with the other one's inventory."""
    filled = []
    for side, other in zip(both, reversed(both), strict=True):
        mine, theirs = side.index.world, other.index.world
        if theirs.pods and not mine.pods:
            world = World(theirs.pods, {**theirs.namespaces, **mine.namespaces}, mine.policies)
            side = replace(side, index=Index(world))
        filled.append(side)
    return filled


def _compared(old: Side, new: Side, changes: list[Change]) -> _Diff:
    before, after = old.index.world, new.index.world
    keys = sorted(before.policies.keys() | after.policies.keys())
    policies = [(key, before.policies.get(key), after.policies.get(key)) for key in keys]
    policies = [(key, was, now) for key, was, now in policies if was != now]
    both = {key: pod for key, pod in after.pods.items() if pod.takes_part and key in before.pods}
    names = Names(both, World(after.pods, after.namespaces, {**before.policies, **after.policies}))
    added, gone = sorted(after.pods.keys() - before.pods.keys()), sorted(before.pods.keys() - after.pods.keys())
    ordered = sorted(changes, key=lambda each: (_KINDS.index(_kind(each)), _causes_key(each), -each.pairs))
    return _Diff(old, new, policies, added, gone, ordered, len(both), names)


def _causes_key(change: Change) -> list[tuple[str, str, int]]:
    return [(cause.policy, str(cause.direction), cause.rule) for cause in change.causes]


def _kind(change: Change) -> Kind:
    if change.opens and change.closes:
        return "changes"
    return "opens" if change.opens else "closes"


# Words ----------------------------------------------------------------------------------------------------------------


def _causes(found: _Diff, change: Change) -> list[str]:
    """A line for each policy rule, and for each policy that isolates now, or did."""
    together: dict[tuple[str, str, str], list[Cause]] = {}
    for cause in change.causes:
        rule = f"{cause.direction}[{cause.rule}]" if cause.rule >= 0 else ""
        together.setdefault((cause.policy, rule, cause.does), []).append(cause)
    told = [_cause(found, causes) for causes in list(together.values())[:_MOST_CAUSES]]
    more = len(together) - len(told)
    return [*told, f"and {more} more"] if more else told


def _cause(found: _Diff, causes: list[Cause]) -> str:
    first = causes[0]
    side = found.new if first.does in ("allows", "isolates") else found.old
    policy = side.index.world.policies[first.policy]
    what, position = first.policy, policy.position
    directions = " and ".join(str(cause.direction) for cause in causes)
    does = {"allows": "allows it", "allowed": "allowed it before", "isolates": f"isolates for {directions} now"}.get(
        first.does
    )
    if first.rule >= 0:
        rules = policy.rules(first.direction) or ()
        position = rules[first.rule].position or position
        what = f"{first.policy} {first.direction}[{first.rule}]"
    place = side.place(position)
    return f"{what}{f' ({place})' if place else ''} {does or f'no longer isolates for {directions}'}"


def _families(found: _Diff, change: Change) -> str:
    """The family, where the pods have addresses of the other one, too."""
    if len(change.families) == 2:
        return ""
    other: Family = 4 if change.families[0] == 6 else 6
    both = all(found.names.could(other, party) for party in (change.source, change.destination))
    return f" (IPv{change.families[0]} only)" if both else ""


def _policy(found: _Diff, key: str, was: Policy | None, now: Policy | None) -> tuple[str, str]:
    """A sign, and the policy with its place."""
    if now is None:
        assert was
        return "-", f"{key} ({found.old.place(was.position) or found.old.name})"
    return "~" if was else "+", f"{key} ({found.new.place(now.position) or found.new.name})"


def _notes(found: _Diff) -> Iterator[str]:
    """What is not compared."""
    if not found.old.index.world.pods and not found.new.index.world.pods:
        yield "there are no pods in these manifests, so no pairs to compare: name some with --inventory DIR"
    for names, side in ((found.added, found.new), (found.gone, found.old)):
        if names:
            some = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
            yield f"only in {side.name}, and not compared: {some}"


def _summary(found: _Diff) -> str:
    if not found.changes:
        return f"nothing opens and nothing closes between {number(found.compared, 'pod')}, or from or to any address"
    counts = [(kind, len(found.of(kind))) for kind in _KINDS]
    told = [f"{count} {kind if count == 1 else kind.removesuffix('s')}" for kind, count in counts if count]
    return f"{number(len(found.changes), 'difference')}: {', '.join(told)}"


# Formats --------------------------------------------------------------------------------------------------------------


def _text(found: _Diff) -> Iterator[str]:
    signs = {"+": "green", "-": "red", "~": "yellow"}
    for each in found.policies[:_MOST_SHOWN]:
        sign, what = _policy(found, *each)
        yield f"{paint(sign, signs[sign])} policy {printable(what)}"  # type: ignore[arg-type]
    if len(found.policies) > _MOST_SHOWN:
        yield f"  and {len(found.policies) - _MOST_SHOWN} more policies"
    for kind in _KINDS:
        yield from _kind_text(found, kind)
    if found.policies or found.changes:
        yield ""
    yield _summary(found)
    yield from (printable(note) for note in _notes(found))


def _kind_text(found: _Diff, kind: Kind) -> Iterator[str]:
    colour: Literal["green", "red", "yellow"] = {"opens": "red", "closes": "green", "changes": "yellow"}[kind]  # type: ignore[assignment]
    changes = found.of(kind)
    for change in changes[:_MOST_SHOWN]:
        source, destination = found.names.party(change.source), found.names.party(change.destination)
        yield ""
        yield f"{paint(kind, colour)}  {printable(f'{source} -> {destination}')}{_families(found, change)}"
        for sign, spans in (("+", change.opens), ("-", change.closes)):
            if spans:
                yield f"  {sign} {services(spans)}"
        for cause in _causes(found, change):
            first, *rest = wrapped(printable(cause), 4)
            yield from (paint(f"    {each}", "dim") for each in (first, *rest))
    if len(changes) > _MOST_SHOWN:
        yield ""
        yield f"{paint(kind, colour)}  {len(changes) - _MOST_SHOWN} more; -o json has all"


def _markdown(found: _Diff) -> Iterator[str]:
    yield "### Network policies: who reaches whom"
    yield ""
    yield f"{_md(_summary(found)).capitalize()}."
    for kind in _KINDS:
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
                found.names.party(change.destination) + _families(found, change),
            ]
            cells = ["; ".join(ports), "; ".join(_causes(found, change))]
            yield f"| {' | '.join(_md(cell) for cell in (*parties, *cells))} |"
        if len(changes) > _MOST_SHOWN:
            yield f"| {len(changes) - _MOST_SHOWN} more | | | |"
    if found.policies:
        yield ""
        yield "<details><summary>" + number(len(found.policies), "policy") + "</summary>"
        yield ""
        yield from (
            f"- `{sign}` {_md(what)}" for sign, what in (_policy(found, *each) for each in found.policies[:200])
        )
        yield ""
        yield "</details>"
    for note in _notes(found):
        yield ""
        yield f"{_md(note)}."


def _md(text: str) -> str:
    """Text that Markdown and its HTML take as it is."""
    safe = printable(text).replace("&", "&amp;").replace("<", "&lt;")
    return "".join(f"\\{each}" if each in "\\|*_`[]~#@" else each for each in safe)


def _json(found: _Diff) -> dict[str, Any]:
    return {
        "version": 1,
        "old": found.old.name,
        "new": found.new.name,
        "policies": [
            {"policy": key, "change": "added" if was is None else "removed" if now is None else "changed"}
            | _placed(found.new if now else found.old, now or was)
            for key, was, now in found.policies
        ],
        "pods": {"only_in_old": found.gone, "only_in_new": found.added},
        "changes": [_change_json(found, change) for change in found.changes],
    }


def _change_json(found: _Diff, change: Change) -> dict[str, Any]:
    return {
        "kind": _kind(change),
        "source": _party_json(found, change.source),
        "destination": _party_json(found, change.destination),
        "opens": [_span_json(span) for span in change.opens],
        "closes": [_span_json(span) for span in change.closes],
        "families": [f"IPv{family}" for family in change.families],
        "because": [_cause_json(found, cause) for cause in change.causes],
    }


def _party_json(found: _Diff, party: Party) -> dict[str, Any]:
    return {
        "text": found.names.party(party),
        "pods": sorted(party.pods),
        "addresses": [_block_json(block) for block in party.outside],
    }


def _block_json(block: IPBlock) -> dict[str, Any]:
    return {"cidr": str(block.cidr), "except": [str(each) for each in block.excepts]}


def _span_json(span: Span) -> dict[str, Any]:
    if span.protocol == "other":
        return {"protocol": "other", "port": None, "end_port": None}
    return {"protocol": span.protocol, "port": span.first, "end_port": span.last}


def _cause_json(found: _Diff, cause: Cause) -> dict[str, Any]:
    side = found.new if cause.does in ("allows", "isolates") else found.old
    policy = side.index.world.policies[cause.policy]
    return {
        "policy": cause.policy,
        "direction": str(cause.direction),
        "rule": cause.rule if cause.rule >= 0 else None,
        "does": cause.does,
        **_placed(side, policy, cause),
    }


def _placed(side: Side, policy: Policy | None, cause: Cause | None = None) -> dict[str, Any]:
    position = policy.position if policy else None
    if policy and cause and cause.rule >= 0:
        rules: Iterable[Any] = policy.rules(cause.direction) or ()
        position = list(rules)[cause.rule].position or position
    if position is None or not position.line:
        return {"file": None, "line": None}
    return {"file": side.file(position), "line": position.line}

"""`netpoldctl policy`: everything about one policy."""

from __future__ import annotations

import argparse

from netpold.ctl import about
from netpold.ctl.about import Json
from netpold.ctl.failure import Exit
from netpold.ctl.findings import number
from netpold.ctl.output import paint, pairs
from netpold.policy.model import Direction
from netpold.printable import printable

_DROPPED = "of these pods, by whichever policy, since netpold started"
_DENIED = "by its own rules, since netpold started"


def run(arguments: argparse.Namespace) -> Exit:
    """Raises Failure."""
    return about.run(arguments, "policy", text)


def text(policy: Json) -> list[str]:
    """The lines for a person."""
    lines = [about.title(policy["policy"], policy)]
    facts = [
        *_place(policy),
        ("subject", policy["subject"]),
        ("selects", about.some(policy["selects"])),
        ("on this node", f"{_does(policy)} {policy['here']} of them"),
        ("in force", about.in_force(policy)),
    ]
    if policy["audited"]:
        lines.append(paint("NOT ENFORCED: it is in audit mode; `netpoldctl audit` shows what it would drop", "yellow"))
    facts += [
        ("set", f"{each['name']}: {each['meaning']}; {number(each['members'], 'member')}") for each in policy["sets"]
    ]
    lines += pairs([(name, printable(value)) for name, value in facts])
    for direction in Direction:
        lines += ["", *_direction(policy[direction], direction, policy)]
    return lines


def _place(policy: Json) -> list[tuple[str, str]]:
    """Where one of the cluster stands."""
    if policy["tier"] is None:
        return []
    return [("kind", policy["kind"]), ("tier", f"{policy['tier']}, priority {policy['priority']}")]


def _does(policy: Json) -> str:
    if policy["tier"]:
        return "selects"
    return "would isolate" if policy["audited"] else "isolates"


def _direction(found: Json | None, direction: Direction, policy: Json) -> list[str]:
    name = paint(direction, "bold")
    if found is None:
        return [f"{name}: {'no rules' if policy['tier'] else 'does not isolate'}"]
    isolates = "would isolate, and allow" if policy["audited"] else "isolates, and allows"
    says = f"{isolates} {'nothing' if not found['rules'] else 'what follows'}"
    lines = [f"{name}: {'the first of these that matches counts' if policy['tier'] else says}"]
    if found["pods_here"]["count"]:
        by = _DENIED if policy["tier"] else _DROPPED
        facts = [
            ("pods here", about.some(found["pods_here"])),
            *([("dropped", about.count(found["dropped"], by))] if found["dropped"] or not policy["tier"] else []),
            *about.chains(found["chains"]),
        ]
        lines += pairs([(name, printable(value)) for name, value in facts])
    return [*lines, *about.rules(found["rules"])]

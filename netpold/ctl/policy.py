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


def run(arguments: argparse.Namespace) -> Exit:
    """Raises Failure."""
    return about.run(arguments, "policy", text)


def text(policy: Json) -> list[str]:
    """The lines for a person."""
    lines = [about.title(policy["policy"], policy)]
    facts = [
        ("selects", about.some(policy["selects"])),
        ("on this node", f"{'would isolate' if policy['audited'] else 'isolates'} {policy['here']} of them"),
        ("in force", about.in_force(policy)),
    ]
    if policy["audited"]:
        lines.append(paint("NOT ENFORCED: it is in audit mode; `netpoldctl audit` shows what it would drop", "yellow"))
    facts += [
        ("set", f"{each['name']}: {each['meaning']}; {number(each['members'], 'member')}") for each in policy["sets"]
    ]
    lines += pairs([(name, printable(value)) for name, value in facts])
    for direction in Direction:
        lines += ["", *_direction(policy[direction], direction, audited=policy["audited"])]
    return lines


def _direction(found: Json | None, direction: Direction, *, audited: bool) -> list[str]:
    name = paint(direction, "bold")
    if found is None:
        return [f"{name}: does not isolate"]
    isolates = "would isolate, and allow" if audited else "isolates, and allows"
    lines = [f"{name}: {isolates} {'nothing' if not found['rules'] else 'what follows'}"]
    if found["pods_here"]["count"]:
        facts = [
            ("pods here", about.some(found["pods_here"])),
            ("dropped", about.count(found["dropped"], "of these pods, by whichever policy, since netpold started")),
            *about.chains(found["chains"]),
        ]
        lines += pairs([(name, printable(value)) for name, value in facts])
    return [*lines, *about.rules(found["rules"])]

"""What `netpoldctl pod` and `netpoldctl policy` have in common: how the parts of an answer read."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

from netpold.ctl import findings
from netpold.ctl.client import ask, warn
from netpold.ctl.failure import Exit
from netpold.ctl.findings import number
from netpold.ctl.output import paint, say, say_json, wrapped
from netpold.ctl.progress import progress
from netpold.printable import printable

Json = Mapping[str, Any]

MOST_NAMED = 5  # pods, of many

_IN_FORCE = {
    "written": "as it is written",
    "last-good": "in its last good version: the manifest failed the checks",
    "closed": "closed: the manifest failed the checks, and no good version is known",
}


def run(arguments: argparse.Namespace, what: str, text: Callable[[Json], list[str]]) -> Exit:
    """Show what the daemon says of a pod or a policy; `text`: its lines for a person.  Raises Failure."""
    with progress("asking the daemon"):
        found: Json = ask(arguments.socket, "GET", f"/v1/{what}?{urlencode({'name': arguments.name})}")
    warn(found)
    if arguments.output == "json":
        say_json(found)
        return Exit.FINE
    say(*text(found))
    if found["findings"]:
        say("", *(findings.line(each) for each in found["findings"]))
    return Exit.FINE


def title(name: str, found: Json) -> str:
    return f"{paint(printable(name), 'bold')}{place(found)}"


def place(found: Json) -> str:
    """` (file:line)`, where that is known."""
    return printable(f" ({found['file']}:{found['line']})") if found["file"] else ""


def in_force(found: Json) -> str:
    return _IN_FORCE[found["in_force_as"]]


def labels(found: Mapping[str, str]) -> str:
    return ", ".join(f"{name}={value}" for name, value in sorted(found.items())) or "none"


def some(found: Json, most: int = MOST_NAMED) -> str:
    """`3 pods: x/a, x/b, x/c`, of a count and names."""
    names = ", ".join(found["names"][:most])
    more = ", ..." if found["count"] > most else ""
    return number(found["count"], "pod") + (f": {names}{more}" if names else "")


def count(found: Json | None, since: str = "") -> str:
    """`12 packets, 3.4 kB`; `since`: of what, or since when."""
    if found is None:
        return "not counted here"
    counted = f"{number(found['packets'], 'packet')}, {size(found['bytes'])}" if found["packets"] else "nothing"
    return f"{counted}, {since}" if since else counted


def size(octets: float) -> str:
    """Bytes as a person reads them."""
    for unit in ("B", "kB", "MB", "GB"):
        if octets < 1000:
            return f"{octets:.0f} {unit}" if unit == "B" or octets >= 100 else f"{octets:.1f} {unit}"
        octets /= 1000
    return f"{octets:.1f} TB"


def chains(found: Mapping[str, Sequence[str]]) -> list[tuple[str, str]]:
    """For `pairs`; one row where both families have the same."""
    families = [(family, ", ".join(names)) for family, names in found.items() if names]
    if len(families) == 2 and families[0][1] == families[1][1]:
        return [("chains", families[0][1])]
    return [(f"chains, {family}", names) for family, names in families]


def rules(found: Sequence[Json], *, with_policy: str = "") -> list[str]:
    """The policies' rules, with whom they mean and what they have let pass; `with_policy`: the direction's name, where
    they are of several policies."""
    lines = []
    for rule in found:
        head = f"{rule['policy']} {with_policy}[{rule['rule']}]" if with_policy else f"[{rule['rule']}]"
        head += f" {rule['name']!r}" if rule["name"] else ""
        pods = f"; now {some(rule['peer_pods'])}" if rule["peer_pods"] is not None else ""
        word = "passed" if rule["action"] == "Accept" else "matched"
        whose = " of all pods here" if with_policy else ""
        passed = f"; {word}{whose}: {count(rule['passed'])}" if rule["passed"] is not None else ""
        text = printable(f"{rule['text']}{pods}{passed}")
        lines.append(f"    {paint(printable(head), 'bold')}{place(rule)}")
        lines += [f"      {line}" for line in wrapped(text, 6)]
    return lines

"""`netpoldctl explain`: whether one end reaches another, and which policy rule says so.

A running daemon is asked, for it knows what is in force; without one, or with --manifests, the manifests are read and
compiled here, for the pods in question as if they ran on this node.  With --live: explain_live.py.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from netpold.ctl import in_force, ports
from netpold.ctl.failure import Exit, Failure
from netpold.ctl.output import paint, pairs, say, say_json, word
from netpold.policy.model import Direction
from netpold.printable import printable

Json = Mapping[str, Any]


def run(arguments: argparse.Namespace) -> Exit:
    """Raises Failure."""
    if arguments.live:
        return _live(arguments)
    if arguments.seconds is not None:
        raise Failure("--for says how long to wait for a packet, and none is waited for", "add --live", Exit.USAGE)
    port = ports.parse(arguments.port)
    words = {"source": arguments.source, "destination": arguments.destination, "port": ports.show(port)}
    answer: Json = in_force.answer(arguments, "/v1/explain", words) or _from_manifests(arguments, port)
    if arguments.output == "json":
        say_json(answer)
    else:
        say(*text(answer))
    return Exit.FINE if answer["verdict"] == "allow" else Exit.NO


def _live(arguments: argparse.Namespace) -> Exit:
    from netpold.ctl import explain_live  # which uses `text`

    return explain_live.run(arguments)


def _from_manifests(arguments: argparse.Namespace, port: ports.Port) -> Json:
    from netpold.ctl.without_daemon import explain_answer  # the compiler: not where the daemon answers

    return explain_answer(arguments, port)


# Text -----------------------------------------------------------------------------------------------------------------


def text(answer: Json) -> list[str]:
    """The answer's lines for a person."""
    port = ports.show((answer["protocol"], answer["port"]))
    source, destination = _end(answer["source"]), _end(answer["destination"])
    lines = [f"{word(answer['verdict'])}  {source} -> {destination} {port}{_families(answer)}"]
    for direction in (Direction.EGRESS, Direction.INGRESS):
        judgement = answer[direction]
        audited = paint(" (audit mode; else it would be denied)", "yellow") if judgement["audit"] else ""
        lines += ["", f"{paint(direction, 'bold')}: {word(judgement['verdict'])}{audited}"]
        far = answer["destination" if direction is Direction.EGRESS else "source"]
        lines += pairs([(name, printable(value)) for name, value in _facts(judgement, far)])
    return lines


def _families(answer: Json) -> str:
    """What is said of the other family, where that is something else."""
    others = [f"{family}: {verdict}" for family, verdict in answer["families"].items() if verdict != answer["verdict"]]
    own = "IPv6" if ":" in answer["source"]["address"] else "IPv4"
    return f" over {own}; {', '.join(others)}" if others else ""


def _facts(judgement: Json, far: Json) -> list[tuple[str, str]]:
    facts = [("because", str(judgement["reason"]))]
    facts += [_met(judgement, rule) for rule in judgement["tiers"] if rule["tier"] == "Admin"]
    decides = judgement["denied_by"] if judgement["verdict"] == "deny" else judgement["allowed_by"]
    if judgement["isolating"]:
        asked = "" if not decides or decides["tier"] != "Admin" else "; not asked, for Admin rules come before"
        policies = ", ".join(_located(each["policy"], each) for each in judgement["isolated_at"])
        facts.append(("isolated by", policies + asked))
        rule, miss = judgement["allowed_by"], judgement["nearest_miss"]
        if decides and decides["tier"] != "NetworkPolicy":
            pass  # it is told with its tier
        elif rule:
            facts.append(("allowed by", _located(f"{rule['policy']} {rule['direction']}[{rule['rule']}]", rule)))
        elif judgement["verdict"] == "deny" or judgement["audit"]:
            facts.append(("allowed by", "no rule of these policies"))
            facts.append(
                ("nearest miss", _located(miss["text"], miss) if miss else "none: no rule lacks just one thing")
            )
    facts += [_met(judgement, rule) for rule in judgement["tiers"] if rule["tier"] == "Baseline"]
    if not judgement.get("in_force", True):
        node = judgement.get("node")
        facts.append(("judged", f"by its own node{f', {node}' if node else ''}, not by this one"))
    if judgement["chain"]:
        facts.append(("chain", judgement["chain"]))
    if judgement["rule"]:
        facts.append(("rule", judgement["rule"]))
    for each in judgement["sets"]:
        is_member = "is one of them" if each["has_peer"] else "is not one of them"
        count = each["members"]  # null: of a set of another node
        members = "" if count is None else f"{count} member{'' if count == 1 else 's'}, "
        facts.append(("set", f"{each['name']}: {each['meaning']}; {members}{far['address']} {is_member}"))
    return facts


def _met(judgement: Json, rule: Json) -> tuple[str, str]:
    """A rule of a tier that it meets, and what that does."""
    name = f" {rule['name']!r}" if rule["name"] else ""
    what = f"{rule['tier']} {rule['policy']} {rule['direction']}[{rule['rule']}]{name}"
    if rule["action"] == "Pass":
        return "on the way", _located(f"{what} passes it on", rule)
    if rule["action"] == "Accept":
        return "allowed by", _located(what, rule)
    if rule == judgement["denied_by"] and judgement["verdict"] == "deny":
        return "denied by", _located(what, rule)
    return "audited", _located(f"{what} would deny it", rule)


def _located(what: str, place: Json) -> str:
    return f"{what} ({place['file']}:{place['line']})" if place["file"] else what


def _end(each: Json) -> str:
    name, address = printable(each["name"]), each["address"]
    return name if name == address else f"{name} ({address})"

"""`netpoldctl explain`: whether one end reaches another, and which policy rule says so."""

from __future__ import annotations

import argparse
from typing import Any

from netpold.ctl import ports
from netpold.ctl.failure import Exit, Failure
from netpold.ctl.offline import model
from netpold.ctl.output import paint, pairs, say, say_json, word
from netpold.policy.index import Index
from netpold.policy.model import Direction, Position
from netpold.printable import printable
from netpold.rules.explain import Explanation, Judgement, UnknownEndpoint, explain
from netpold.rules.ruleset import Origin


def run(arguments: argparse.Namespace) -> Exit:
    """Raises Failure."""
    port = ports.parse(arguments.port)
    index, ruleset = model(arguments)
    try:
        answer = explain(index, ruleset, arguments.source, arguments.destination, *port)
    except UnknownEndpoint as error:
        raise Failure(str(error), error.hint, Exit.USAGE) from error
    if arguments.output == "json":
        say_json(_json(arguments, port, index, answer))
    else:
        say(*_text(arguments, port, index, answer))
    return Exit.FINE if answer.verdict == "allow" else Exit.NO


def _json(arguments: argparse.Namespace, port: ports.Port, index: Index, answer: Explanation) -> dict[str, Any]:
    protocol, number = port
    return {
        "version": 1,
        "verdict": answer.verdict,
        "source": {"name": arguments.source, "address": answer.packet.source},
        "destination": {"name": arguments.destination, "address": answer.packet.destination},
        "protocol": protocol,
        "port": number,
        "egress": _judgement_json(index, answer.egress),
        "ingress": _judgement_json(index, answer.ingress),
    }


def _judgement_json(index: Index, judgement: Judgement) -> dict[str, Any]:
    origin = judgement.allowed_by
    position = _position(index, origin) if origin else None
    return {
        "verdict": judgement.verdict,
        "isolating": list(judgement.isolating),
        "allowed_by": origin
        and {
            "policy": origin.policy,
            "direction": str(origin.direction),
            "rule": origin.index,
            "file": position.file if position else None,
            "line": position.line if position else None,
        },
        "chain": judgement.chain,
        "rule": judgement.rule,
        "reason": judgement.reason,
    }


def _text(arguments: argparse.Namespace, port: ports.Port, index: Index, answer: Explanation) -> list[str]:
    packet = answer.packet
    source, destination = _end(arguments.source, packet.source), _end(arguments.destination, packet.destination)
    lines = [f"{word(answer.verdict)}  {source} -> {destination} {ports.show(port)}"]
    for direction, judgement in ((Direction.EGRESS, answer.egress), (Direction.INGRESS, answer.ingress)):
        lines += ["", f"{paint(direction, 'bold')}: {word(judgement.verdict)}"]
        lines += pairs([(name, printable(value)) for name, value in _facts(index, judgement)])
    return lines


def _facts(index: Index, judgement: Judgement) -> list[tuple[str, str]]:
    facts = [("because", judgement.reason)]
    if judgement.isolating:
        names = [_located(key, index.world.policies[key].position) for key in judgement.isolating]
        facts.append(("isolated by", ", ".join(names)))
        origin = judgement.allowed_by
        if origin:
            rule = f"{origin.policy} {origin.direction}[{origin.index}]"
            facts.append(("allowed by", _located(rule, _position(index, origin))))
        elif judgement.verdict == "deny":
            facts.append(("allowed by", "no rule of these policies"))
    if judgement.chain:
        facts.append(("chain", judgement.chain))
    if judgement.rule:
        facts.append(("rule", judgement.rule))
    return facts


def _position(index: Index, origin: Origin) -> Position | None:
    """Where the policy rule is written, or else its policy."""
    policy = index.world.policies.get(origin.policy)
    if policy is None:
        return None
    rules = policy.rules(origin.direction) or ()
    rule = rules[origin.index] if origin.index < len(rules) else None
    return (rule and rule.position) or policy.position


def _located(what: str, position: Position | None) -> str:
    return f"{what} ({position})" if position else what


def _end(name: str, address: str) -> str:
    return name if name == address else f"{name} ({address})"

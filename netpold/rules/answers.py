"""Answers as plain values that become JSON (docs/json.md): what the daemon sends and netpoldctl prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from netpold.policy.index import Index
from netpold.policy.model import Family, PolicyRule, Position, TierRule
from netpold.rules.endpoint import Interface
from netpold.rules.ends import NOWHERE, End, Home
from netpold.rules.explain import Judgement, explain
from netpold.rules.matrix import Matrix
from netpold.rules.near import Miss
from netpold.rules.ruleset import FAMILIES, Origin, Ruleset

Json = dict[str, Any]


def explain_json(
    index: Index,
    ruleset: Ruleset,
    source: str,
    destination: str,
    protocol: str,
    port: int | None,
    own: Interface | None = None,
    home: Home = NOWHERE,
) -> Json:
    """What `explain` finds.  Raises UnknownEndpoint."""
    answer = explain(index, ruleset, source, destination, protocol, port, own, home)
    return {
        "version": 1,
        "verdict": answer.verdict,
        "families": {f"IPv{family}": decision for family, decision in answer.families.items()},
        "source": {"name": source, "address": answer.packet.source},
        "destination": {"name": destination, "address": answer.packet.destination},
        "protocol": protocol,
        "port": port,
        "egress": _judgement(index, answer.egress),
        "ingress": _judgement(index, answer.ingress),
    }


def _judgement(index: Index, judgement: Judgement) -> Json:
    policies = index.world.policies
    places = ((key, policies[key].position if key in policies else None) for key in judgement.isolating)
    return {
        "verdict": judgement.verdict,
        "audit": judgement.audit,
        "isolating": list(judgement.isolating),
        "isolated_at": [{"policy": key, **place_json(position)} for key, position in places],
        "allowed_by": judgement.allowed_by and rule_json(index, judgement.allowed_by),
        "denied_by": judgement.denied_by and rule_json(index, judgement.denied_by),
        "tiers": [rule_json(index, origin) for origin in judgement.tiers],
        "nearest_miss": judgement.nearest_miss and miss_json(judgement.nearest_miss),
        "chain": judgement.chain,
        "rule": judgement.rule,
        "sets": [
            {"name": each.name, "meaning": each.meaning, "members": each.members, "has_peer": each.has_peer}
            for each in judgement.sets
        ],
        "reason": judgement.reason,
    }


def rule_json(index: Index, origin: Origin) -> Json:
    """A policy rule, and where it is written, or else its policy; `closed`: whether that failed the checks."""
    policy = index.world.policies.get(origin.policy)
    rules: Sequence[PolicyRule | TierRule] = (policy.rules(origin.direction) if policy else None) or ()
    rule = rules[origin.index] if origin.index < len(rules) else None
    position = (rule and rule.position) or (policy.position if policy else None)
    name = rule.name if isinstance(rule, TierRule) else ""
    closed = policy is not None and policy.quarantined
    return _origin(origin) | {"name": name, "closed": closed} | place_json(position)


def miss_json(miss: Miss) -> Json:
    """A rule that lacks one thing, where it is written, and what it lacks."""
    return _origin(miss.origin) | place_json(miss.position) | {"but_for": miss.but_for, "text": miss.text}


def _origin(origin: Origin) -> Json:
    """`tier`: Admin, NetworkPolicy or Baseline."""
    return {
        "policy": origin.policy,
        "direction": str(origin.direction),
        "rule": origin.index,
        "tier": str(origin.tier) if origin.tier else "NetworkPolicy",
        "action": str(origin.action),
    }


def place_json(position: Position | None) -> Json:
    """`file` and `line`; null where nothing is written."""
    return {"file": position.file if position else None, "line": position.line if position else None}


# Matrix ---------------------------------------------------------------------------------------------------------------


def matrix_json(matrix: Matrix) -> Json:
    """A matrix in short: for each family and port, the number of each source's row among `rows`, which are the
    destinations that it reaches as bits (bit n: `ends[n]`) in hexadecimal digits.  `audited`: likewise those that it
    reaches because policies are audited only."""
    rows: dict[int, int] = {}

    def numbers(table: Mapping[tuple[Family, int], tuple[int, ...]]) -> Json:
        return {
            f"IPv{family}": [
                [rows.setdefault(row, len(rows)) for row in table[family, port]] for port in range(len(matrix.ports))
            ]
            for family in FAMILIES
        }

    return {
        "version": 1,
        "ends": [_end(each) for each in matrix.ends],
        "ports": [{"protocol": protocol, "port": number} for protocol, number in matrix.ports],
        "reach": numbers(matrix.allowed),
        "audited": numbers(matrix.audited),
        "rows": [f"{row:x}" for row in rows],
    }


def _end(each: End) -> Json:
    """`addresses`: one for each family, the one that is judged first before the other."""
    families = sorted(FAMILIES, key=lambda family: (family == 6) != (":" in each.addresses[0]))
    judged = {f"IPv{family}": address for family in families if (address := each.address(family))}
    pod = each.pod
    return {
        "name": each.name,
        "pod": pod and pod.key,
        "namespace": pod and pod.namespace,
        "labels": dict(pod.labels) if pod else {},
        "node": pod and pod.node,
        "addresses": judged,
    }

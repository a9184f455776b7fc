"""What `diff` finds, as JSON (docs/json.md)."""

from __future__ import annotations

from typing import Any

from netpold.ctl.compared import Diff, cause_place, kind_of
from netpold.ctl.groups_text import Names
from netpold.ctl.sides import Side
from netpold.policy.manifest import Object
from netpold.policy.model import IPBlock, Position
from netpold.rules.cause import Cause
from netpold.rules.difference import Change, Party
from netpold.rules.services import Span


def diff_json(found: Diff) -> dict[str, Any]:
    """The shape of `netpoldctl diff -o json`."""
    return {
        "version": 1,
        "old": found.old.name,
        "new": found.new.name,
        "policies": [_object_json(found, "policy", *each) for each in found.policies],
        "namespaces": [_object_json(found, "namespace", *each) for each in found.namespaces],
        "nodes": [_object_json(found, "node", *each) for each in found.nodes],
        "pods": {
            "only_in_old": found.gone,
            "only_in_new": found.added,
            "changed": [_object_json(found, "pod", *each) for each in found.pods],
            "not_compared": [
                {"pod": each.pod, "family": f"IPv{each.family}" if each.family else None, "why": each.why}
                for each in found.left_out
            ],
        },
        "changes": [_change_json(found, change) for change in found.changes],
    }


def _object_json(found: Diff, kind: str, key: str, was: Object | None, now: Object | None) -> dict[str, Any]:
    side, each = (found.new, now) if now else (found.old, was)
    change = "added" if was is None else "changed" if now else "removed"
    return {kind: key, "change": change, **_placed(side, each.position if each else None)}


def _change_json(found: Diff, change: Change) -> dict[str, Any]:
    return {
        "kind": kind_of(change),
        "source": party_json(found.names, change.source),
        "destination": party_json(found.names, change.destination),
        "opens": [_span_json(span) for span in change.opens],
        "closes": [_span_json(span) for span in change.closes],
        "families": [f"IPv{family}" for family in change.families],
        "node": change.node or None,
        "because": [_cause_json(found, cause) for cause in change.causes],
    }


def party_json(names: Names, party: Party) -> dict[str, Any]:
    """Pods and addresses, and both in words."""
    return {
        "text": names.party(party),
        "pods": sorted(party.pods),
        "addresses": [_block_json(block) for block in party.outside],
    }


def _block_json(block: IPBlock) -> dict[str, Any]:
    return {"cidr": str(block.cidr), "except": [str(each) for each in block.excepts]}


def _span_json(span: Span) -> dict[str, Any]:
    if span.protocol == "other":
        return {"protocol": "other", "port": None, "end_port": None}
    return {"protocol": span.protocol, "port": span.first, "end_port": span.last}


def _cause_json(found: Diff, cause: Cause) -> dict[str, Any]:
    side, position = cause_place(found, cause)
    return {
        "policy": cause.policy,
        "direction": str(cause.direction),
        "rule": cause.rule if cause.rule >= 0 else None,
        "does": cause.does,
        **_placed(side, position),
    }


def _placed(side: Side, position: Position | None) -> dict[str, Any]:
    if position is None or not position.line:
        return {"file": None, "line": None}
    return {"file": side.file(position), "line": position.line}

"""Where packets pass a pod: the matches on it, and the names of the chains that judge there."""

from __future__ import annotations

from collections.abc import Iterable

from netpold.policy.model import Direction
from netpold.rules.ruleset import BridgePort, Interface, Match, Rule, Side, short_hash


def interface_chain(interface: str, direction: Direction) -> str:
    """The name of the chain that judges for the pods behind an interface."""
    return f"{'NP-OUT' if direction is Direction.EGRESS else 'NP-IN'}-{interface}"


def address_chain(address: str, pods: Iterable[str], direction: Direction) -> str:
    """The name of the chain that judges for the pods (their keys) at an address, those that are isolated."""
    named = " ".join((address, *pods))
    return interface_chain(f"@{short_hash(named)}", direction)


def passes(side: Side, name: str, bridged: bool, prefix: bool = False) -> Match:
    """That a packet comes in by an interface or the port of a bridge (src), or goes out by it (dst)."""
    return BridgePort(side, name, prefix) if bridged else Interface(side, name, prefix)


def where(match: Match, rules: Iterable[Rule]) -> tuple[Rule, ...]:
    """The rules with one more match, in front of their own."""
    return tuple(Rule((match, *rule.matches), rule.target, rule.comment, rule.origin) for rule in rules)

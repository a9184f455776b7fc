"""What pods may send to their own node.

NetworkPolicies leave that free (unless the settings say otherwise); rules of tiers do not, for these can name nodes.
So a pod that a ClusterNetworkPolicy is about has one more chain, for what comes to INPUT: the one of its tiers, where
the policies that isolate it say nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from netpold.policy.model import Direction, Family
from netpold.rules import icmp
from netpold.rules.local import Local
from netpold.rules.ruleset import Address, Jump, Match, Reply, Rule, short_hash
from netpold.rules.shared import SharedRules


def interface_chain(interface: str) -> str:
    """The name of the chain that judges for the pods behind an interface."""
    return f"NP-HOST-{interface}"


def chain(address: str, pods: Iterable[str]) -> str:
    """The name of the chain that judges for the pods (keys, sorted) at an address."""
    return interface_chain(f"@{short_hash(' '.join((address, *pods)))}")


def judged(
    pods: Sequence[Local], shared: SharedRules, family: Family
) -> tuple[list[Rule], dict[str, tuple[Rule, ...]]]:
    """The rules for what these pods send to their own node, none where all of it is free; and their chains."""
    concerned = [each for each in pods if each.isolation[Direction.EGRESS].tiers]
    if not concerned:
        return [], {}
    rules = [
        Rule((Reply(),), "RETURN", "replies"),
        *icmp.neighbour_discovery(family),
        Rule(icmp.error(family), "RETURN", "errors about known connections"),
    ]
    chains: dict[str, tuple[Rule, ...]] = {}
    for each in concerned:
        made = shared.of(each, Direction.EGRESS, at_home=True)
        chains.update(made.chains)
        alone: list[tuple[Match, ...]] = [()]
        if len(pods) > 1:
            alone = [(Address("src", address),) for address in each.judged_at(family)]
            alone += [(Address("src", icmp.LINK_LOCAL),)] if family == 6 else []  # it may be any of them
        rules += [Rule(matches, Jump(made.name)) for matches in alone if made.name]
    return rules, chains

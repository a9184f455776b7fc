"""What leaves a bridge by a pod's port, and whom it is for.

Whom a frame goes to says nothing of whom the packet in it is for: it may go to every port, or to any that its sender
chose.  Judged by the port alone, a packet for a pod that would refuse it passes at the port of one that nobody
isolates, and makes a connection, whose answers the first pod may then send.  So what is not for a port's own pods is
judged by its destination address as well.
"""

from __future__ import annotations

from netpold.policy.model import Family
from netpold.rules.ruleset import Address, InSet, Match, Rule, Target
from netpold.rules.sets import Sets


def own(addresses: list[str], pods: str, target: Target, negate: bool, family: Family, sets: Sets) -> tuple[Rule, ...]:
    """Sends what is for these addresses (with `negate`: for others) to `target`; `pods`: whose they are, as text."""
    comment = "for another than the port's pod" if negate else ""
    matches: tuple[Match, ...] = ()
    if len(addresses) == 1:
        matches = (Address("dst", addresses[0], negate),)
    elif addresses:
        matches = (InSet(sets.addresses(f"addresses of {pods}", family, addresses), "dst", negate),)
    return (Rule(matches, target, comment),) if addresses or negate else ()

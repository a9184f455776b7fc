"""What the rules make of a packet that was seen, of whatever protocol: which rule of a tier denied it, if one did.

The chains that the kernel has are walked with the packet as it came, its interfaces included.  So nothing has to be
known of whose addresses its ends are, and protocols that nobody asks `explain` about are judged like any others.
"""

from __future__ import annotations

from dataclasses import dataclass

from netpold.policy.model import Direction
from netpold.rules.audit import PREFIX
from netpold.rules.explain import denies, root
from netpold.rules.ruleset import Log, Origin, Ruleset
from netpold.rules.walk import Packet, walk


@dataclass(frozen=True, slots=True)
class Made:
    """Whether it is dropped; the rule of a tier that denies it, or would as the first if its policy were not audited;
    and how many rules of audited policies report it, each for itself."""

    dropped: bool
    denied_by: Origin | None
    reports: int


def made(ruleset: Ruleset, packet: Packet, way: str, direction: Direction) -> Made:
    """What a direction's rules make of a packet; `way`: the built-in chain that it takes."""
    chain, _ = root(ruleset, packet.family, way, direction)
    if not chain:
        return Made(False, None, 0)
    found = walk(ruleset, chain, packet)
    reporting = [
        rule for _, rule in found.passed if isinstance(rule.target, Log) and rule.target.prefix.startswith(PREFIX)
    ]
    if found.verdict == "DROP":
        # the rule that drops may stand behind the one that is the policy's, which says why
        last = next((rule for _, rule in reversed(found.passed) if rule.origin), None)
        return Made(True, last.origin if last and denies(last) else None, len(reporting))
    return Made(False, reporting[0].origin if reporting else None, len(reporting))

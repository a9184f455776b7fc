"""Counting what is dropped, by the pod that it is dropped for.

Rules are shared by pods, so a rule's own counter tells nothing of a pod.  A set can: one that is made with `counters`
keeps packets and bytes for each member, and a rule that looks an address up in it counts for that member.  So before
each DROP there is another one for the addresses in such a set: those of this node's isolated pods, by family and
direction.  The verdict is the same with the address inside and outside, and what is allowed never gets there.

Whoever sends with an address that is not its own can't be told by that address: that is counted for all together, by a
set of two networks that between them are everything.

These sets have names of their own and keep their counters for as long as rules refer to them: what changes is only
which members they have (plan.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from netpold.policy.model import Direction, Family
from netpold.rules.ruleset import FAMILIES, InSet, IPSet, Rule

DROPPED: Mapping[tuple[Family, Direction], str] = {
    (family, direction): f"NP{family}-DROPPED-{'IN' if direction is Direction.INGRESS else 'OUT'}"
    for family in FAMILIES
    for direction in Direction
}
SPOOFED: Mapping[Family, str] = {4: "NP4-SPOOFED", 6: "NP6-SPOOFED"}

_EVERYTHING: Mapping[Family, frozenset[str]] = {  # hash:net takes no /0
    4: frozenset(("0.0.0.0/1", "128.0.0.0/1")),
    6: frozenset(("::/1", "8000::/1")),
}


class Count(NamedTuple):
    """What a rule has matched, or what was found in a set or at one of its members; bytes are those of whole IP
    packets."""

    packets: int = 0
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class Isolated:
    """A pod of this node in a direction in which policies isolate it.

    `pod`: its key; `addresses`: of both families; `policies`: the keys of those that isolate it.
    """

    pod: str
    direction: Direction
    addresses: tuple[str, ...]
    policies: tuple[str, ...]


def dropped(family: Family, direction: Direction, comment: str) -> tuple[Rule, Rule]:
    """Drops everything, and counts it for the isolated pod that it was for or came from."""
    side = InSet(DROPPED[family, direction], "dst" if direction is Direction.INGRESS else "src")
    return Rule((side,), "DROP", comment), Rule((), "DROP", comment)


def dropped_spoofed(family: Family, comment: str) -> tuple[Rule, Rule]:
    """Drops everything, and counts it as spoofed."""
    return Rule((InSet(SPOOFED[family], "src"),), "DROP", comment), Rule((), "DROP", comment)


def counting_sets(isolated: Iterable[Isolated]) -> dict[str, IPSet]:
    """All sets that count, by name."""
    members: dict[tuple[Family, Direction], set[str]] = {key: set() for key in DROPPED}
    for each in isolated:
        for address in each.addresses:
            members[6 if ":" in address else 4, each.direction].add(address)
    found = {
        name: IPSet(
            name,
            family,
            "hash:ip",
            f"isolated pods of this node, counting dropped {direction}",
            frozenset(members[family, direction]),
            "counts",
        )
        for (family, direction), name in DROPPED.items()
    }
    for family, name in SPOOFED.items():
        found[name] = IPSet(name, family, "hash:net", "everything, counting spoofed", _EVERYTHING[family], "counts")
    return found

"""Where a pod of this node is found: its addresses and its interfaces on the host, as frozen values."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, order=True)
class Interface:
    """A pod's interface as the host sees it.

    `name` holds only letters, digits, `.`, `_` and `-`, at most 15 of them, so that it means itself in a rule.
    `bridged`: it is the port of a bridge (rules have to match it with physdev), else packets are routed through it.
    """

    name: str
    bridged: bool = False


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A local pod that takes part in policies.

    `pod`: its key (`namespace/name`).  `addresses`: canonical text, in the pod's order, without the host's own.
    `interfaces`: empty where none is known (yet); such a pod is enforced by its addresses.  `taken`: the host itself
    has some address of the pod's manifest, so there may be none left; unlike with a pod that has none yet.
    `lost`: addresses that its manifest says no more, and that it may have all the same: what is sent there is judged as
    before, and they are no longer its own.
    """

    pod: str
    addresses: tuple[str, ...]
    interfaces: tuple[Interface, ...] = ()
    taken: bool = False
    lost: tuple[str, ...] = ()

    @property
    def judged_at(self) -> tuple[str, ...]:
        """The addresses by which the pod's policies judge."""
        return self.addresses + self.lost

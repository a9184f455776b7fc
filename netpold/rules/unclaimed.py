"""Closes the interfaces that pods are behind by their names (setting `pod_interfaces`) where no pod claims them.

The trees of interfaces (chains.py) come first, so what gets here passes an interface that no pod is known to have.
Names are matched by wildcards: a new interface is closed before the daemon has heard of it.  Two chains say what holds:

    NETPOLD-UNCLAIMED   what comes from such an interface is dropped, unless its source is the address of a pod whose
                        interface is not known: that pod may be the one behind it, and is judged by its address
    NETPOLD-STRAY       what goes to such an interface, or to a bridge of that name, is dropped unless it is for an
                        address of a pod of this node; replies, too, so that no open flow outlives a pod's claim

Bridges and physical interfaces that such a name happens to cover are nobody's own: nothing is dropped for coming from
there.  To a bridge nothing is routed but what is for a known pod, for a rule can't tell which port that leaves by.

The interfaces of pods that are gone and whose addresses are other pods' now are closed by exact name, whatever the
address: the other pod may not be found yet, and what it may do is not theirs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from netpold.policy.model import Family
from netpold.rules.endpoint import Endpoint, Interface
from netpold.rules.ruleset import Address, BridgePort, Goto, InSet, Jump, Log, Match, Rule, Side
from netpold.rules.ruleset import Interface as Passes
from netpold.rules.sets import Sets

CHAIN: dict[Side, str] = {"src": "NETPOLD-UNCLAIMED", "dst": "NETPOLD-STRAY"}
_CLOSED = "NETPOLD-CLOSED"


@dataclass(frozen=True, slots=True)
class Unclaimed:
    """What is closed beside the policies.

    `names`: of pods' interfaces, a `*` at the end stands for any rest.  `bridges`, `shared`: those interfaces of the
    host that a name covers and that can't be one pod's own; of the latter, with whether it is a bridge's port.
    `interfaces`: closed by exact name, unless a pod claims them.
    """

    names: tuple[str, ...] = ()
    bridges: frozenset[str] = frozenset()
    shared: frozenset[Interface] = frozenset()
    interfaces: frozenset[Interface] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.names or self.interfaces)

    def covers(self, name: str) -> bool:
        """Whether it is a name of a pod's interface."""
        return any(name.startswith(each[:-1]) if each.endswith("*") else name == each for each in self.names)


NOTHING = Unclaimed()


def closing(
    unclaimed: Unclaimed, local: Iterable[Endpoint], family: Family, sets: Sets, nflog_group: int
) -> dict[str, tuple[Rule, ...]]:
    """The chains that close; `local`: all pods of this node."""
    here = list(local)
    placeless = [each for each in here if not each.interfaces]
    log = [Rule((), Log(nflog_group, "netpold drop unclaimed"))] if nflog_group else []
    return {
        CHAIN["src"]: (
            *_exact("src", unclaimed),
            _free("src", "pods with no interface known", placeless, family, sets),
            *_drops("src", unclaimed),
        ),
        CHAIN["dst"]: (
            *_exact("dst", unclaimed),
            _free("dst", "pods of this node", here, family, sets),
            *_without_address(here),
            *_drops("dst", unclaimed),
        ),
        _CLOSED: (*log, Rule((), "DROP", "no pod has this interface")),
    }


def before_replies(family: Family, matches: tuple[Match, ...]) -> Rule:
    """Has replies (which `matches` tells) to an interface that no pod claims dropped; its place is before the rule that
    lets them pass.  Link-local addresses are in no manifest."""
    routable = (Address("dst", "fe80::/10", negate=True),) if family == 6 else ()
    return Rule((*matches, *routable), Jump(CHAIN["dst"]))


def _free(side: Side, meaning: str, pods: list[Endpoint], family: Family, sets: Sets) -> Rule:
    own = [address for each in pods for address in each.addresses if (":" in address) == (family == 6)]
    return Rule((InSet(sets.addresses(f"addresses of {meaning}", family, own), side),), "RETURN", meaning)


def _without_address(here: list[Endpoint]) -> Iterator[Rule]:
    """A pod has its interface before its manifest tells its address."""
    claimed = {interface for each in here if not each.addresses for interface in each.interfaces}
    for interface in sorted(claimed):
        yield Rule((_passes("dst", interface.name, interface.bridged),), "RETURN", "its pod has no address yet")


def _exact(side: Side, unclaimed: Unclaimed) -> Iterator[Rule]:
    for interface in sorted(unclaimed.interfaces):
        yield Rule((_passes(side, interface.name, interface.bridged),), Goto(_CLOSED))


def _drops(side: Side, unclaimed: Unclaimed) -> Iterator[Rule]:
    for bridged in (True, False):
        for interface in sorted(each for each in unclaimed.shared if each.bridged is bridged):
            yield Rule((_passes(side, interface.name, bridged),), "RETURN", "not a pod's own")
        if side == "src" and not bridged:
            for bridge in sorted(unclaimed.bridges):
                yield Rule((_passes(side, bridge, bridged=False),), "RETURN", "a bridge")
        for name in unclaimed.names:
            prefix = name.endswith("*")
            yield Rule((_passes(side, name.removesuffix("*"), bridged, prefix),), Goto(_CLOSED))
        if side == "dst" and bridged:  # these leave by a bridge, too, that has to let pass what is for other ports
            yield Rule((_passes(side, "", bridged, prefix=True),), "RETURN", "bridged, to another port")


def _passes(side: Side, name: str, bridged: bool, prefix: bool = False) -> Match:
    return BridgePort(side, name, prefix) if bridged else Passes(side, name, prefix)

"""What iptables does not see of the packets between ports of a bridge, and whom an answer about them is about.

br_netfilter hands bridged packets to iptables, unless a sysctl of a family says otherwise: then none of them meets
netpold's rules, which every answer has to say.  Those with a VLAN tag or a PPPoE header it hands over only where two
further sysctls have it so, which the kernel's defaults have not; that is of weight only for two ends that are on ports
of one bridge.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from netpold.host.view import HostView
from netpold.policy.model import Family
from netpold.rules.endpoint import Endpoint
from netpold.rules.ends import End
from netpold.rules.ruleset import FAMILIES


@dataclass(frozen=True, slots=True)
class BridgeFilter:
    """`off`: the families of which iptables sees no bridged packet; `tagged`: what it does not see even of the others,
    "pppoe" or "vlan".  `view`: where the ports are."""

    off: tuple[Family, ...] = ()
    tagged: tuple[str, ...] = ()
    view: HostView = field(default_factory=HostView)

    @classmethod
    def of(cls, view: HostView) -> BridgeFilter:
        off = tuple(family for family in FAMILIES if family not in view.bridge_nf_call)
        return cls(off, tuple(sorted(view.bridge_nf_misses)), view)

    def unfiltered(self) -> list[str]:
        """The packets that no rule of netpold's meets, and what to do about it, a sentence for each family."""
        return list(map(not_filtered, self.off))

    def warnings(self) -> list[str]:
        """The same, with those that have tags."""
        return [*self.unfiltered(), *map(_tagged_not_filtered, self.tagged)]

    def tagged_between(self, ends: Iterable[End], endpoints: Mapping[str, Endpoint]) -> list[str]:
        """What has tags and is not seen, where two of the ends are known to be on ports of one bridge.  `endpoints`:
        the local pods."""
        if not self.tagged:
            return []
        at: dict[str, set[str]] = {}  # interfaces, by address
        for endpoint in endpoints.values():
            for address in endpoint.judged_at:
                at.setdefault(address, set()).update(each.name for each in endpoint.interfaces)
        return self._where_two(self._ports(each.addresses, at) for each in ends)

    def tagged_of(self, endpoints: Mapping[str, Endpoint]) -> list[str]:
        """The same among all local pods."""
        return self._where_two({each.name for each in endpoint.interfaces} for endpoint in endpoints.values())

    def _ports(self, addresses: Iterable[str], at: Mapping[str, set[str]]) -> set[str]:
        """The interfaces behind which the addresses are, whether pods have them or others on a bridge."""
        found: set[str] = set()
        for address in addresses:
            port = self.view.port(address)
            found |= at.get(address) or ({port} if port else set())
        return found

    def _where_two(self, ends: Iterable[set[str]]) -> list[str]:
        """`tagged`, where two of the ends, each with its interfaces, are on different ports of one bridge."""
        seen: dict[str, set[str]] = {}  # ports, by bridge
        for interfaces in ends:
            ports = dict(self._bridges(interfaces)).items()
            if any(seen.get(bridge, set()) - {port} for port, bridge in ports):
                return list(self.tagged)
            for port, bridge in ports:
                seen.setdefault(bridge, set()).add(port)
        return []

    def _bridges(self, interfaces: Iterable[str]) -> Iterator[tuple[str, str]]:
        """The bridges that the interfaces are ports of."""
        for name in interfaces:
            link = self.view.links.get(name)
            if link is not None and link.master is not None:
                yield name, link.master


ALL_SEEN = BridgeFilter()


def not_filtered(family: Family) -> str:
    """A sentence."""
    sysctl = f"net.bridge.bridge-nf-call-ip{'6' if family == 6 else ''}tables"
    return f"IPv{family} packets between ports of a bridge are not filtered: set the sysctl {sysctl} to 1"


def _tagged_not_filtered(kind: str) -> str:
    what = "VLAN tags" if kind == "vlan" else "PPPoE headers"
    sysctl = f"net.bridge.bridge-nf-filter-{kind}-tagged"
    return f"packets with {what} between ports of a bridge are not filtered: set the sysctl {sysctl} to 1"

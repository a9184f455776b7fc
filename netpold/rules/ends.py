"""The two ends of a question: pods and plain addresses, and the packet that goes from one to the other."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Set
from dataclasses import dataclass, field, replace
from ipaddress import ip_address, ip_network
from itertools import islice

from netpold.policy.index import Index
from netpold.policy.isolation import Isolation
from netpold.policy.model import Direction, Family, Pod
from netpold.rules.icmp import LINK_LOCAL
from netpold.rules.reasons import left_of, lost_by
from netpold.rules.ruleset import FAMILIES
from netpold.rules.walk import Packet

MOST_SIMILAR = 1000
ICMP_ECHO: dict[Family, int] = {4: 8, 6: 128}


class UnknownEndpoint(Exception):
    """Neither an address nor a pod of the inventory; `hint` says what may have been meant."""

    def __init__(self, fault: str, hint: str) -> None:
        super().__init__(fault)
        self.hint = hint


@dataclass(frozen=True, slots=True)
class Lingerer:
    """A pod whose manifest is gone while its interface is still there, or (`lost`) says an address no more (past.py).

    `pod`: as the manifest said it last; `isolation`: what holds for it, by direction.
    """

    pod: Pod
    isolation: Mapping[Direction, Isolation]
    lost: bool = False

    def said(self, address: str) -> str:
        """What an address of it is, for a sentence."""
        return (lost_by if self.lost else left_of)(address, self.pod.key)


@dataclass(frozen=True, slots=True)
class Home:
    """The node that is asked: its name, the addresses that are its own, the pods (keys) that are on it, and those that
    linger there, by address."""

    node: str = ""
    addresses: Set[str] = frozenset()
    pods: Set[str] = frozenset()
    lingering: Mapping[str, Lingerer] = field(default_factory=dict)


NOWHERE = Home()
_LINK_LOCAL = ip_network(LINK_LOCAL)


@dataclass(frozen=True, slots=True)
class End:
    """A pod or a plain address, with its addresses.  `pod`: also the (first) one that a plain address is of.

    `node`: on which it is, as far as that is known; `is_host`: it is the node itself, or a pod on the node's network.
    `lingerer`: it is the address of a pod of which that is left, or that lost it.
    `beside`: of the pods that claim its addresses, too, those (keys) that have a say, where these are not all: what a
    pod sends on its own node, no other node's pod judges.
    """

    name: str
    pod: Pod | None
    addresses: tuple[str, ...]

    node: str = ""
    is_host: bool = False
    lingerer: Lingerer | None = None
    beside: Set[str] | None = None

    def address(self, family: Family) -> str | None:
        return next((each for each in self.addresses if (":" in each) == (family == 6)), None)


def end(index: Index, name: str, home: Home = NOWHERE) -> End:
    """What `namespace/pod` or an address means.  Raises UnknownEndpoint."""
    if "/" not in name:
        try:
            address = str(ip_address(name))
        except ValueError:
            raise UnknownEndpoint(f"{name!r} is neither an address nor namespace/pod", "write namespace/pod") from None
        if "%" in address:
            raise UnknownEndpoint(
                f"{name!r} has a zone, which policies know nothing of", "leave out the % and the rest"
            )
        claimants = index.claimants(address)
        if claimants:
            return _pod_end(name, claimants[0], (address,), home)
        if address in home.lingering:
            return End(name, None, (address,), home.node, lingerer=home.lingering[address])
        node = node_at(index, address, home)
        return End(name, None, (address,), node, bool(node))
    pod = index.world.pods.get(name)
    if pod is None and _is_block(name):
        hint = "ask about one address of it; `netpoldctl test` is about all of them"
        raise UnknownEndpoint(f"{name} is a block of addresses", hint)
    if pod is None and (left := lingering(home, name)):
        raise UnknownEndpoint(*left)
    if pod is None:
        near = difflib.get_close_matches(name, _similar(index, name), n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else "`netpoldctl matrix` lists the pods that are known"
        raise UnknownEndpoint(f"no manifest declares the pod {name}", hint)
    if pod.finished:
        raise UnknownEndpoint(f"the pod {name} has finished; its addresses are no longer its own", "ask by address")
    if not pod.addresses:
        raise UnknownEndpoint(f"the pod {name} has no address yet", "write status.podIPs into its manifest")
    return _pod_end(name, pod, pod.addresses, home)


def asked_end(index: Index, name: str, home: Home = NOWHERE) -> End:
    """The same, of what somebody asks about.  Whose an IPv6 link-local address is no manifest tells, so that nothing
    that is true can be said of it, unless a pod's manifest has it."""
    found = end(index, name, home)
    if found.pod is None and any(ip_address(each) in _LINK_LOCAL for each in found.addresses):
        fault = f"{name} is a link-local address: whose it is, and so which policies judge it, is not known"
        raise UnknownEndpoint(fault, "ask about the pod, or by another address")
    return found


def _pod_end(name: str, pod: Pod, addresses: tuple[str, ...], home: Home) -> End:
    node = node_of(pod, home)
    beside = home.pods if name == pod.key and name in home.pods else None
    return End(name, pod, addresses, node, pod.host_network, beside=beside)


def node_at(index: Index, address: str, home: Home = NOWHERE) -> str:
    """The name of the node whose own the address is, '' for none.  Of the node that is asked its own word counts, not
    what manifests say of it: what is translated elsewhere does not come to it."""
    if address in home.addresses:
        return home.node
    found = index.node_at(address)
    return "" if found == home.node else found


def node_of(pod: Pod, home: Home = NOWHERE) -> str:
    """The name of the node that the pod is on, '' where that is not known."""
    return home.node if pod.key in home.pods else pod.node or ""


def claimants(index: Index, end: End, address: str) -> list[Pod]:
    """The pods that have a say about packets of this end at that address of its."""
    found = index.claimants(address)
    return found if end.beside is None else [pod for pod in found if pod.key in end.beside]


def lingering(home: Home, name: str) -> tuple[str, str] | None:
    """That the pod of that name, which no manifest declares any more, is still there, and a hint; None where it is
    not."""
    if not any(key.startswith(f"{name}@") for key in home.pods):  # so are those named that linger (past.py)
        return None
    addresses = [address for address, each in home.lingering.items() if each.pod.key == name]
    hint = (
        f"ask `netpoldctl explain` by its address: {' or '.join(addresses)}" if addresses else "take its interface away"
    )
    return f"the pod {name} lingers: its manifest is gone, and it keeps its policies while its interface is there", hint


def _is_block(name: str) -> bool:
    try:
        ip_network(name, strict=False)
    except ValueError:
        return False
    return True


def _similar(index: Index, name: str) -> list[str]:
    """Names to look for similar ones among: those of the namespace, or else all, but so many that it takes some ms."""
    namespace = name.partition("/")[0] + "/"
    own = islice((key for key in index.world.pods if key.startswith(namespace)), MOST_SIMILAR)
    return list(own) or list(islice(index.world.pods, MOST_SIMILAR))


def judges(index: Index, *ends: End) -> set[str]:
    """The keys of all pods whose policies have a say about packets between these ends."""
    return {pod.key for each in ends for address in each.addresses for pod in claimants(index, each, address)}


def families(source: End, destination: End) -> list[Family]:
    """The families that both have an address of, that of the source's first address first."""
    both = [family for family in FAMILIES if source.address(family) and destination.address(family)]
    first: Family = 6 if ":" in source.addresses[0] else 4
    return sorted(both, key=lambda family: family != first)


def first_packet(source: End, destination: End, family: Family, protocol: str, port: int | None) -> Packet:
    """The first packet of a flow.  `protocol` is TCP, UDP, SCTP or ICMP (echo request, no port)."""
    packet = Packet(source.address(family) or "", destination.address(family) or "", protocol.lower(), port)
    if protocol == "ICMP":
        name = "icmp" if family == 4 else "ipv6-icmp"
        return replace(packet, protocol=name, port=None, icmp_type=ICMP_ECHO[family])
    return packet


def hook(source: End, destination: End) -> str:
    """The built-in chain that the packet takes on the node: pods on the host's network are the node itself."""
    if source.node and source.node == destination.node:
        if source.is_host:
            return "OUTPUT"
        if destination.is_host:
            return "INPUT"
    return "FORWARD"

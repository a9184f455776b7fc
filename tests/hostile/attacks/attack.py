"""An attack, and how those are made that several tables have."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from scapy.layers.inet import (
    ICMP,
    UDP,
    IPerror,
    UDPerror,
)
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6PacketTooBig,
    ICMPv6TimeExceeded,
    IPerror6,
)
from scapy.layers.l2 import Dot1Q, Ether
from scapy.packet import Packet, Raw

from tests.hostile.ground import CONTROL, WIRINGS, Ground, Wiring, ip

Act = Callable[[Ground, int], None]


@dataclass(frozen=True)
class Attack:
    """`act` sends it, for a family (4 or 6), with the ground's token in it; `passes`: it may reach the target."""

    name: str
    sender: str
    target: str
    act: Act
    passes: bool = False
    families: tuple[int, ...] = (4, 6)
    wirings: tuple[Wiring, ...] = WIRINGS


def once(sender: str, target: str, make: Callable[[Ground, int], Packet]) -> Act:
    """Sends what is made for a family behind an honest IP header."""

    def act(ground: Ground, family: int) -> None:
        header = ip(ground.address(sender, family), ground.address(target, family))
        ground.send(sender, header / make(ground, family))

    return act


def honest(name: str, sender: str, target: str, make: Callable[[Ground, int], Packet], passes: bool = False) -> Attack:
    """An attack behind an honest IP header."""
    return Attack(name, sender, target, once(sender, target, make), passes)


def ask(ground: Ground, family: int, asker: str, asked: str, sport: int, dport: int) -> None:
    """An allowed datagram, which conntrack remembers."""
    mark = b"asked" + ground.token
    header = ip(ground.address(asker, family), ground.address(asked, family))
    ground.send(asker, header / UDP(sport=sport, dport=dport) / Raw(mark[:13]))
    assert ground.arrives(asked, mark[:13])


def icmp_error(ground: Ground, family: int, kind: str, source: str, destination: str, ports: tuple[int, int]) -> Packet:
    """An error of a kind about a datagram from `source` to `destination` (addresses)."""
    data = Raw(ground.token)
    if family == 4:
        inner = IPerror(src=source, dst=destination, proto=17, len=28 + 16) / UDPerror(
            sport=ports[0], dport=ports[1], len=24, chksum=0
        )
        number, code = {"unreachable": (3, 3), "too-big": (3, 4), "expired": (11, 0), "redirect": (5, 1)}[kind]
        return ICMP(type=number, code=code, gw="10.72.0.200") / inner / data
    inner6 = IPerror6(src=source, dst=destination, nh=17, plen=24) / UDPerror(
        sport=ports[0], dport=ports[1], len=24, chksum=0
    )
    head = {"unreachable": ICMPv6DestUnreach(code=4), "too-big": ICMPv6PacketTooBig(mtu=1280),
            "expired": ICMPv6TimeExceeded()}[kind]  # fmt: skip
    return head / inner6 / data


def about(
    sender: str, asker: str, asked: str, kind: str, known: bool = True, to: str = "", reverse: bool = False
) -> Act:
    """`asker` asks `asked`; then `sender` sends an error of a kind about that, to `asker` or `to`."""

    def act(ground: Ground, family: int) -> None:
        ports = (4000, CONTROL)
        if known:
            ask(ground, family, asker, asked, *ports)
        quoted = ground.address(asker, family), ground.address(asked, family)
        if reverse:
            quoted, ports = quoted[::-1], ports[::-1]
        error = icmp_error(ground, family, kind, *quoted, ports)
        ground.send(sender, ip(ground.address(sender, family), ground.address(to or asker, family)) / error)

    return act


def tagged(*tags: int) -> Act:
    """Between two ports of a bridge, with VLAN tags.  Number 0 is taken off by any Linux host that gets it."""

    def act(ground: Ground, family: int) -> None:
        packet: Packet = ip(ground.address("c", family), ground.address("b", family)) / UDP(sport=1, dport=81)
        packet /= Raw(ground.token)
        for tag in tags:
            packet = Dot1Q(vlan=tag) / packet
        ground.send("c", Ether(src=ground.mac("c"), dst=ground.mac("b")) / packet)

    return act

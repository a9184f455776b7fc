"""Fragments, IPv6 extension headers, IPv4 options: packets whose ports are not where a port usually is."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from scapy.layers.inet import (
    IP,
    UDP,
    IPOption_LSRR,
    IPOption_Router_Alert,
    IPOption_SSRR,
)
from scapy.layers.inet6 import (
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    PadN,
    RouterAlert,
)
from scapy.layers.ipsec import AH
from scapy.packet import Packet, Raw

from tests.hostile.attacks.attack import Act, Attack, once
from tests.hostile.ground import Ground


def _fragments(sender: str, target: str, port: int, cuts: list[tuple[int, int]], mends: dict[int, bytes]) -> Act:
    """A datagram to `port` in fragments (begin and end of each in bytes, multiples of 8 but the last end); `mends`:
    other bytes for the fragment of that number."""

    def act(ground: Ground, family: int) -> None:
        source, destination = ground.address(sender, family), ground.address(target, family)
        body = bytes(UDP(sport=4000, dport=port, len=8 + 64, chksum=0) / (ground.token * 4))
        if family == 6:  # the checksum may not be left out there
            body = bytes(IPv6(src=source, dst=destination) / UDP(sport=4000, dport=port) / (ground.token * 4))[40:]
        for number, (begin, end) in enumerate(cuts):
            data = Raw(mends.get(number, body[begin:end]))
            more = end < len(body)
            if family == 4:
                flags = "MF" if more else 0
                part = IP(src=source, dst=destination, id=ground.number, proto=17, flags=flags, frag=begin // 8) / data
            else:
                head = IPv6ExtHdrFragment(nh=17, offset=begin // 8, m=int(more), id=ground.number)
                part = IPv6(src=source, dst=destination) / head / data
            ground.send(sender, part)

    return act


_DECOY = bytes(UDP(sport=4000, dport=80, len=72, chksum=0))  # the header of a datagram to a port that is open
_TWO = [(0, 40), (40, 72)]


def _behind(*headers: Callable[[], Packet]) -> Callable[[Ground, int], Packet]:
    def make(ground: Ground, family: int) -> Packet:
        packet: Packet = UDP(sport=4000, dport=81) / Raw(ground.token)
        for header in reversed(headers):
            packet = header() / packet
        return packet

    return make


_HEADERS: dict[str, tuple[Callable[[], Packet], ...]] = {
    "hop-by-hop": (lambda: IPv6ExtHdrHopByHop(options=[PadN(optdata=b"\0" * 4)]),),
    "router-alert": (lambda: IPv6ExtHdrHopByHop(options=[RouterAlert()]),),
    "destination-options": (lambda: IPv6ExtHdrDestOpt(options=[PadN(optdata=b"\0" * 4)]),),
    "routing-0": (lambda: IPv6ExtHdrRouting(type=0, addresses=["2001:db8::1"], segleft=0),),
    "routing-2": (lambda: IPv6ExtHdrRouting(type=2, addresses=["2001:db8::1"], segleft=1),),
    "atomic-fragment": (lambda: IPv6ExtHdrFragment(offset=0, m=0, id=9),),
    "authentication": (lambda: AH(spi=1, seq=1, icv=b"\0" * 12, padding=b""),),
    "many": (*(lambda: IPv6ExtHdrDestOpt(options=[PadN(optdata=b"\0" * 4)]),) * 8,),
    "all-at-once": (
        lambda: IPv6ExtHdrHopByHop(options=[RouterAlert()]),
        lambda: IPv6ExtHdrDestOpt(options=[PadN(optdata=b"\0" * 4)]),
        lambda: IPv6ExtHdrRouting(type=0, addresses=["2001:db8::1"], segleft=0),
        lambda: IPv6ExtHdrFragment(offset=0, m=0, id=9),
        lambda: IPv6ExtHdrDestOpt(options=[PadN(optdata=b"\0" * 4)]),
    ),
}


def _headers() -> Iterator[Attack]:
    for name, headers in _HEADERS.items():
        for sender in "ac":
            yield Attack(f"header-{name}-{sender}", sender, "b", once(sender, "b", _behind(*headers)), False, (6,))


def _option(option: Callable[[Ground], object], port: int, to: str = "b") -> Act:
    def act(ground: Ground, family: int) -> None:
        header = IP(src=ground.address("a", 4), dst=ground.address(to, 4), options=[option(ground)])
        ground.send("a", header / UDP(sport=4000, dport=port) / Raw(ground.token))

    return act


def _through(kind: type[Packet]) -> Callable[[Ground], object]:
    return lambda ground: kind(routers=[ground.address("b", 4)], pointer=4)


SHAPES = (
    Attack("fragments-to-an-open-port", "a", "b", _fragments("a", "b", 80, _TWO, {}), True),
    Attack("fragments-backwards", "a", "b", _fragments("a", "b", 80, _TWO[::-1], {}), True),
    Attack("fragments-to-a-closed-port", "a", "b", _fragments("a", "b", 81, _TWO, {})),
    Attack("fragments-backwards-to-a-closed-port", "c", "b", _fragments("c", "b", 80, _TWO[::-1], {})),
    Attack("fragment-without-the-first", "a", "b", _fragments("a", "b", 80, _TWO[1:], {})),
    Attack("fragment-without-the-last", "a", "b", _fragments("a", "b", 80, _TWO[:1], {})),
    Attack(
        "fragments-twice-are-judged-by-what-arrives",
        "a",
        "b",
        _fragments("a", "b", 81, [(0, 40), (0, 40), (40, 72)], {0: _DECOY * 5}),
        True,
    ),
    Attack("fragments-that-overlap-later", "a", "b", _fragments("a", "b", 81, [(8, 72), (0, 16)], {1: _DECOY * 2})),
    Attack("fragment-tiny", "c", "b", _fragments("c", "b", 80, [(0, 8), (8, 72)], {})),
    *_headers(),
    Attack("option-router-alert", "a", "b", _option(lambda ground: IPOption_Router_Alert(), 81), False, (4,)),
    Attack("option-loose-source-route", "a", "b", _option(_through(IPOption_LSRR), 81), False, (4,)),
    Attack("option-strict-source-route", "a", "b", _option(_through(IPOption_SSRR), 81), False, (4,)),
    Attack("option-source-route-by-the-node", "a", "b", _option(_through(IPOption_LSRR), 81, "node"), False, (4,)),
    Attack("option-source-route-by-a-pod", "a", "b", _option(_through(IPOption_LSRR), 81, "e"), False, (4,)),
)

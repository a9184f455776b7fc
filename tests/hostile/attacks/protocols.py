"""Protocols without ports, or with ports that policies do not name."""

from __future__ import annotations

from collections.abc import Iterator

from scapy.layers.inet import (
    ICMP,
    IP,
)
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    IPv6,
)
from scapy.layers.sctp import SCTP, SCTPChunkInit
from scapy.packet import Packet, Raw

from tests.hostile.attacks.attack import Act, Attack, honest
from tests.hostile.ground import Ground, ip


def _of_protocol(number: int, sender: str, target: str) -> Act:
    def act(ground: Ground, family: int) -> None:
        source, destination = ground.address(sender, family), ground.address(target, family)
        if family == 4:
            header = IP(src=source, dst=destination, proto=number)
        else:
            header = IPv6(src=source, dst=destination, nh=number)
        ground.send(sender, header / Raw(b"\0\x50\0\x50" + b"\0" * 12 + ground.token * 2))

    return act


_NUMBERS = {
    "hopopt": 0, "igmp": 2, "ipip": 4, "egp": 8, "dccp": 33, "ipv6": 41, "gre": 47, "esp": 50, "none": 59, "ospf": 89,
    "pim": 103, "vrrp": 112, "udplite": 136, "mobility": 135, "any": 253, "reserved": 255,
}  # fmt: skip
_ODD4 = {  # ICMP types
    "echo": 8, "echo-reply": 0, "timestamp": 13, "timestamp-reply": 14, "information": 15, "mask": 17, "quench": 4,
    "router-advertisement": 9, "router-solicitation": 10, "unknown": 200,
}  # fmt: skip
_ODD6 = {"echo": 128, "echo-reply": 129, "query": 139, "reply": 140, "renumbering": 138, "unknown": 200, "error": 100}


def _icmp(family: int, kind: int, sender: str) -> Act:
    def act(ground: Ground, family: int) -> None:
        header = ip(ground.address(sender, family), ground.address("b", family))
        if family == 4:
            ground.send(sender, header / ICMP(type=kind, id=7, seq=7) / Raw(ground.token))
            return
        echo = bytes(header / ICMPv6EchoRequest(type=kind, id=7, seq=7, data=ground.token))
        ground.send(sender, IPv6(echo))

    return act


def _protocols() -> Iterator[Attack]:
    for name, number in _NUMBERS.items():
        # some of these are extension headers in IPv6, and no protocols
        families = (4,) if number in (0, 59, 135, 50) else (4, 6)
        yield Attack(f"{name}-where-only-ports-are-open", "a", "b", _of_protocol(number, "a", "b"), False, families)
        yield Attack(f"{name}-from-a-stranger", "c", "g", _of_protocol(number, "c", "g"), False, families)
    for name in ("igmp", "dccp", "gre", "esp", "udplite", "any"):
        families = (4,) if name == "esp" else (4, 6)
        number = _NUMBERS[name]
        yield Attack(f"{name}-where-all-is-open", "a", "g", _of_protocol(number, "a", "g"), True, families)
        yield Attack(f"{name}-without-egress", "d", "e", _of_protocol(number, "d", "e"), False, families)
    for family, types in ((4, _ODD4), (6, _ODD6)):
        for name, kind in types.items():
            for sender in "ac":
                yield Attack(f"icmp-{name}-{sender}", sender, "b", _icmp(family, kind, sender), False, (family,))


def _sctp(ground: Ground, family: int) -> Packet:
    return SCTP(sport=80, dport=80) / SCTPChunkInit(init_tag=1) / Raw(ground.token)


PROTOCOLS = (
    *_protocols(),
    honest("sctp-where-only-tcp-is-open", "a", "b", _sctp),
    honest("sctp-from-a-stranger", "c", "g", _sctp),
)

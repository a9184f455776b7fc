"""The node's loopback, and the ways that lead through a bridge."""

from __future__ import annotations

from collections.abc import Callable

from scapy.layers.inet import (
    UDP,
)
from scapy.packet import Raw

from tests.hostile.attacks.attack import Act, Attack, tagged
from tests.hostile.ground import CONTROL, Ground, Wiring, ip


def _to_loopback(ground: Ground, family: int) -> None:
    destination = "127.0.0.1" if family == 4 else "::1"
    packet = ip(ground.address("c", family), destination) / UDP(sport=1, dport=CONTROL) / Raw(ground.token)
    ground.send("c", packet, ground.via_node("c"))


def _by_the_gateway(sender: str, port: int) -> Act:
    """Between two pods of a bridge, but by the node, which routes it back."""

    def act(ground: Ground, family: int) -> None:
        packet = ip(ground.address(sender, family), ground.address("b", family)) / UDP(sport=1, dport=port)
        ground.send(sender, packet / Raw(ground.token), ground.via_node(sender))

    return act


def _to_a_link_local_address(source: Callable[[Ground], str]) -> Act:
    """By the node, which routes it back: the address is b's own, though no manifest says so."""

    def act(ground: Ground, family: int) -> None:
        packet = ip(source(ground), ground.link_local("b")) / UDP(sport=1, dport=81)
        ground.send("c", packet / Raw(ground.token), ground.via_node("c"))

    return act


def _wrong_mac(mac: Callable[[Ground], str], address: str) -> Act:
    def act(ground: Ground, family: int) -> None:
        packet = ip(ground.address("c", family), ground.address(address, family)) / UDP(sport=1, dport=81)
        ground.send("c", packet / Raw(ground.token), mac(ground))

    return act


_BRIDGED: tuple[Wiring, ...] = ("bridged",)
WAYS = (
    Attack("to-the-node's-loopback", "c", "node", _to_loopback),
    Attack("by-the-gateway", "c", "b", _by_the_gateway("c", 81)),
    Attack("by-the-gateway-to-an-open-port", "a", "b", _by_the_gateway("a", 80), True),
    Attack("by-the-gateway-to-a-link-local-address", "c", "b",
           _to_a_link_local_address(lambda ground: ground.address("c", 6)), families=(6,)),
    Attack("by-the-gateway-from-link-local-to-link-local", "c", "b",
           _to_a_link_local_address(lambda ground: ground.link_local("c")), families=(6,)),
    Attack("another's-address-to-the-victim's-mac", "c", "b", _wrong_mac(lambda ground: ground.mac("b"), "e"),
           wirings=_BRIDGED),
    Attack("the-victim's-address-to-all", "c", "b", _wrong_mac(lambda ground: "ff:ff:ff:ff:ff:ff", "b"),
           wirings=_BRIDGED),
    Attack("the-victim's-address-to-a-group", "c", "b", _wrong_mac(lambda ground: "33:33:00:00:00:01", "b"),
           wirings=_BRIDGED),
    Attack("vlan-0", "c", "b", tagged(0), wirings=_BRIDGED),
    Attack("vlan-7", "c", "b", tagged(7), wirings=_BRIDGED),
)  # fmt: skip

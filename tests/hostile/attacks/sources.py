"""Forged source addresses: senders, sources and targets are crossed; answers and requests in another's name."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

from scapy.layers.inet import (
    UDP,
)
from scapy.packet import Raw

from tests.hostile.attacks.attack import Act, Attack
from tests.hostile.ground import CONTROL, Ground, ip

_BROADCAST = {4: "255.255.255.255", 6: "ff02::1"}
FORGED: dict[str, Callable[[Ground, int], str]] = {
    "a-pod": lambda ground, family: ground.address("a", family),
    "an-isolated-pod": lambda ground, family: ground.address("b", family),
    "the-target": lambda ground, family: ground.address("e", family),
    "far-pod": lambda ground, family: ground.address("far", family),
    "outside": lambda ground, family: ground.address("out", family),
    "nobody": lambda ground, family: "10.72.8.200" if family == 4 else "fd72:0:0:8::200",
    "the-node": lambda ground, family: ground.address("node", family),
    "the-gateway": lambda ground, family: ground.gateway(family),
    "loopback": lambda ground, family: "127.0.0.1" if family == 4 else "::1",
    "unspecified": lambda ground, family: "0.0.0.0" if family == 4 else "::",
    "broadcast": lambda ground, family: _BROADCAST[family],
    "multicast": lambda ground, family: "224.0.0.5" if family == 4 else "ff02::5",
    "mapped": lambda ground, family: f"::ffff:{ground.address('a', 4)}",
}
LIARS = ("c", "d", "g", "b")  # no policy; egress; ingress; both


def _lie(sender: str, forged: str, target: str) -> Act:
    def act(ground: Ground, family: int) -> None:
        source = FORGED[forged](ground, family)
        packet = ip(source, ground.address(target, family)) / UDP(sport=CONTROL, dport=CONTROL)
        ground.send(sender, packet / Raw(ground.token))

    return act


def _spoofed() -> Iterator[Attack]:
    for sender, forged, target in itertools.product(LIARS, FORGED, ("e", "g", "b", "node", "out", "far")):
        if sender == target or (sender == "b" and forged == "an-isolated-pod"):
            continue
        families = (6,) if forged == "mapped" else (4, 6)
        yield Attack(f"{sender}-as-{forged}-to-{target}", sender, target, _lie(sender, forged, target), False, families)


def _forged_link_local(sender: str, whose: str) -> Act:
    def act(ground: Ground, family: int) -> None:
        source = ground.link_local(whose)
        # link-local addresses of a bridge's stations are in no manifest: those of others are free without egress policy
        ground.send(sender, ip(source, ground.address("e", 6)) / UDP(sport=1, dport=CONTROL) / Raw(ground.token))

    return act


def _forged_reply(ground: Ground, family: int) -> None:
    """a asks e, and c answers for e before it can."""
    ask = ip(ground.address("a", family), ground.address("e", family)) / UDP(sport=4000, dport=5000)
    ground.send("a", ask / Raw(b"asked"))
    ground.arrives("e", b"asked")
    reply = ip(ground.address("e", family), ground.address("a", family)) / UDP(sport=5000, dport=4000)
    ground.send("c", reply / Raw(ground.token))


def _forged_request(ground: Ground, family: int) -> None:
    """c asks e in the name of b, and e's answer would reach b, whom nobody may talk to."""
    ask = ip(ground.address("b", family), ground.address("e", family)) / UDP(sport=4000, dport=5000)
    ground.send("c", ask / Raw(b"asked"))
    reply = ip(ground.address("e", family), ground.address("b", family)) / UDP(sport=5000, dport=4000)
    ground.send("e", reply / Raw(ground.token))


SPOOFED = (
    *_spoofed(),
    Attack("link-local-of-the-node", "d", "e", _forged_link_local("d", "node"), False, (6,)),
    Attack("link-local-of-the-node-without-a-policy", "c", "e", _forged_link_local("c", "node"), False, (6,)),
    Attack("link-local-of-a-pod", "d", "e", _forged_link_local("d", "a"), False, (6,)),
    Attack("reply-in-another-name", "c", "a", _forged_reply),
    Attack("request-in-another-name", "e", "b", _forged_request),
)

"""What routers, neighbours and DHCP servers say, and who only pretends to be one."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

from scapy.layers.dhcp import BOOTP, DHCP
from scapy.layers.dhcp6 import DHCP6_Advertise
from scapy.layers.inet import (
    UDP,
)
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    ICMPv6MLDone,
    ICMPv6MLQuery,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6ND_RA,
    ICMPv6ND_Redirect,
    ICMPv6ND_RS,
    ICMPv6NDOptPrefixInfo,
    IPv6,
)
from scapy.packet import Packet, Raw

from tests.hostile.attacks.attack import Act, Attack
from tests.hostile.ground import WIRINGS, Ground, Wiring, ip


def _options(ground: Ground) -> Packet:
    """The token as an option of neighbour discovery that nobody knows (type 253, in units of 8 bytes)."""
    return Raw(bytes((253, 3)) + ground.token.ljust(22, b"\0"))


def _router(sender: str, source: Callable[[Ground], str], target: str, make: Callable[[Ground], Packet]) -> Act:
    def act(ground: Ground, family: int) -> None:
        bridged = target in ground.pods and ground.wiring == "bridged"
        to = ground.mac(target) if bridged else ground.via_node(sender)
        destination = ground.address(target, 6) if target != "node" else ground.link_local("node", sender)
        header = IPv6(src=source(ground), dst=destination, hlim=255)
        ground.send(sender, header / make(ground), to)

    return act


def _advertisement(ground: Ground) -> Packet:
    prefix = ICMPv6NDOptPrefixInfo(prefix="2001:db8:bad::", prefixlen=64, L=1, A=1)
    return ICMPv6ND_RA(routerlifetime=1800) / prefix / _options(ground)


def _redirect(ground: Ground) -> Packet:
    return ICMPv6ND_Redirect(tgt="fe80::bad", dst=ground.address("out", 6)) / _options(ground)


def _neighbours() -> Iterator[Attack]:
    bridge: tuple[Wiring, ...] = ("bridged",)
    own_link_local = {name: (lambda ground, name=name: ground.link_local(name)) for name in "bcdg"}
    own = {name: (lambda ground, name=name: ground.address(name, 6)) for name in "bcdg"}
    gateway: Callable[[Ground], str] = lambda ground: ground.link_local("node")  # noqa: E731
    for sender, (what, make) in itertools.product("cdg", (("advertisement", _advertisement), ("redirect", _redirect))):
        for target in ("e", "b", "node"):
            wirings = WIRINGS if target == "node" else bridge
            for who, source in (("itself", own_link_local[sender]), ("own-address", own[sender]), ("router", gateway)):
                if (who, target) == ("own-address", "node"):
                    continue  # the node's kernel ignores it (RFC 4861, 6.1.2 and 8.1)
                act = _router(sender, source, target, make)
                yield Attack(f"router-{what}-{sender}-as-{who}-to-{target}", sender, target, act, False, (6,), wirings)
    for kind, message in (
        ("solicitation", lambda ground: ICMPv6ND_NS(tgt=ground.address("b", 6)) / _options(ground)),
        ("advertisement", lambda ground: ICMPv6ND_NA(tgt=ground.address("d", 6), R=0) / _options(ground)),
    ):
        act = _router("d", own["d"], "b", message)
        yield Attack(f"neighbour-{kind}-works", "d", "b", act, True, (6,), bridge)
    act = _router("d", own_link_local["d"], "node", lambda ground: ICMPv6ND_RS() / _options(ground))
    yield Attack("router-solicitation-to-the-node", "d", "node", act, True, (6,))
    for name, message in (
        ("mld-query", lambda ground: ICMPv6MLQuery() / Raw(ground.token)),
        ("mld-done", lambda ground: ICMPv6MLDone() / Raw(ground.token)),
        ("echo", lambda ground: ICMPv6EchoRequest(data=ground.token)),
    ):
        for sender in "cd":
            yield Attack(
                f"{name}-link-local-{sender}", sender, "b", _router(sender, own_link_local[sender], "b", message),
                False, (6,), bridge,
            )  # fmt: skip
    act = _router("c", own_link_local["c"], "e", lambda ground: ICMPv6MLQuery() / Raw(ground.token))
    yield Attack("mld-query-to-nobody's-policy", "c", "e", act, False, (6,), bridge)
    act = _router("c", lambda ground: "::", "e", lambda ground: ICMPv6EchoRequest(data=ground.token))
    yield Attack("echo-from-unspecified", "c", "e", act, False, (6,), bridge)


def _dhcp(source_port: int, port: int, source: str, destination: str) -> Act:
    def act(ground: Ground, family: int) -> None:
        message = BOOTP(chaddr=b"\2\0\0\0\0\1", xid=1) / DHCP(options=[("vendor_class_id", ground.token), "end"])
        header = ip(source or ground.address("c", 4), destination)
        ground.send("c", header / UDP(sport=source_port, dport=port) / message)

    return act


def _rogue_dhcp6(ground: Ground, family: int) -> None:
    header = IPv6(src=ground.link_local("c"), dst=ground.address("e", 6))
    packet = header / UDP(sport=547, dport=546) / DHCP6_Advertise(trid=1) / Raw(ground.token)
    ground.send("c", packet, ground.mac("e"))


ROUTERS = (
    *_neighbours(),
    Attack("dhcp-request-is-no-way-to-other-ports", "c", "e", _dhcp(68, 5000, "0.0.0.0", "255.255.255.255"), False,
           (4,), ("bridged",)),
    Attack("dhcp-request-of-a-pod-that-no-policy-isolates", "c", "e", _dhcp(68, 67, "0.0.0.0", "255.255.255.255"), True,
           (4,), ("bridged",)),
    Attack("dhcp-answer-to-an-isolated-pod", "c", "b", _dhcp(67, 68, "", "255.255.255.255"), False, (4,), ("bridged",)),
    Attack("dhcpv6-answer", "c", "e", _rogue_dhcp6, False, (6,), ("bridged",)),
)  # fmt: skip

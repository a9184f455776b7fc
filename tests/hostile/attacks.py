"""The table of attacks: who sends what to whom, and whether it may arrive.

`SPOOFED` is made by crossing senders, forged sources and targets; the other tables are written out.  In each attack
only one thing is amiss: a forged source goes to a port that is open to everybody, a forbidden port comes from an
honest source.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from scapy.layers.dhcp import BOOTP, DHCP
from scapy.layers.dhcp6 import DHCP6_Advertise
from scapy.layers.inet import (
    ICMP,
    IP,
    TCP,
    UDP,
    IPerror,
    IPOption_LSRR,
    IPOption_Router_Alert,
    IPOption_SSRR,
    UDPerror,
)
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6EchoRequest,
    ICMPv6MLDone,
    ICMPv6MLQuery,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6ND_RA,
    ICMPv6ND_Redirect,
    ICMPv6ND_RS,
    ICMPv6NDOptPrefixInfo,
    ICMPv6PacketTooBig,
    ICMPv6TimeExceeded,
    IPerror6,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    PadN,
    RouterAlert,
)
from scapy.layers.ipsec import AH
from scapy.layers.l2 import Dot1Q, Ether
from scapy.layers.sctp import SCTP, SCTPChunkInit
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


# Forged sources ------------------------------------------------------------------------------------------------------

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


def spoofed() -> Iterator[Attack]:
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
    *spoofed(),
    Attack("link-local-of-the-node", "d", "e", _forged_link_local("d", "node"), False, (6,)),
    Attack("link-local-of-the-node-without-a-policy", "c", "e", _forged_link_local("c", "node"), False, (6,)),
    Attack("link-local-of-a-pod", "d", "e", _forged_link_local("d", "a"), False, (6,)),
    Attack("reply-in-another-name", "c", "a", _forged_reply),
    Attack("request-in-another-name", "e", "b", _forged_request),
)


# IPv6 neighbours and routers, DHCP -----------------------------------------------------------------------------------


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


# Fragments, extension headers, options -------------------------------------------------------------------------------


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


# Other protocols -----------------------------------------------------------------------------------------------------


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


# Connections that never were -----------------------------------------------------------------------------------------


def _tcp(flags: str, sport: int = 4000, dport: int = 80) -> Callable[[Ground, int], Packet]:
    return lambda ground, family: TCP(sport=sport, dport=dport, flags=flags, seq=1000, ack=1000) / Raw(ground.token)


_FLAGS = {
    "syn": "S", "ack": "A", "push": "PA", "syn-ack": "SA", "fin": "F", "fin-ack": "FA", "rst": "R", "rst-ack": "RA",
    "null": "", "xmas": "FPU", "everything": "FSRPAUEC", "syn-fin": "SF", "ecn-syn": "SEC",
}  # fmt: skip


def _flags() -> Iterator[Attack]:
    for name, flags in _FLAGS.items():
        yield honest(f"tcp-{name}-from-a-stranger", "c", "b", _tcp(flags))
        yield honest(f"tcp-{name}-to-a-closed-port", "a", "b", _tcp(flags, dport=81))
        # b may connect to port 80 of d: so d has to pass for one who answers
        yield honest(f"tcp-{name}-as-an-answer", "d", "b", _tcp(flags, sport=80, dport=4000))
        yield honest(f"tcp-{name}-out-of-a-closed-pod", "d", "e", _tcp(flags, sport=80, dport=4000))


def _udp(sport: int, dport: int) -> Callable[[Ground, int], Packet]:
    return lambda ground, family: UDP(sport=sport, dport=dport) / Raw(ground.token)


def _asked(ground: Ground, family: int, asker: str, asked: str, sport: int, dport: int) -> None:
    """An allowed datagram, which conntrack remembers."""
    mark = b"asked" + ground.token
    header = ip(ground.address(asker, family), ground.address(asked, family))
    ground.send(asker, header / UDP(sport=sport, dport=dport) / Raw(mark[:13]))
    assert ground.arrives(asked, mark[:13])


def _answer(sport: int, dport: int) -> Act:
    """b asks d, and d answers from one port to another."""

    def act(ground: Ground, family: int) -> None:
        _asked(ground, family, "b", "d", 4000, 80)
        header = ip(ground.address("d", family), ground.address("b", family))
        ground.send("d", header / UDP(sport=sport, dport=dport) / Raw(ground.token))

    return act


def _simultaneous(ground: Ground, family: int) -> None:
    """d sends a SYN first, then b, which may connect to d; d goes on as if b had answered."""
    there, back = ground.address("d", family), ground.address("b", family)
    ground.send("d", ip(there, back) / TCP(sport=80, dport=4000, flags="S", seq=1) / Raw(b"first"))
    ground.send("d", ip(there, back) / TCP(sport=80, dport=4000, flags="A", seq=2, ack=1) / Raw(ground.token))


CONNECTIONS = (
    *_flags(),
    honest("udp-as-an-answer", "d", "b", _udp(80, 4000)),
    honest("udp-as-a-resolver", "c", "b", _udp(53, 4000)),
    Attack("answer-that-was-asked-for", "d", "b", _answer(80, 4000), True),
    Attack("answer-to-another-port", "d", "b", _answer(80, 4001)),
    Attack("answer-from-another-port", "d", "b", _answer(81, 4000)),
    Attack("syn-before-the-other's", "d", "b", _simultaneous),
)


# ICMP errors ---------------------------------------------------------------------------------------------------------


def _error(ground: Ground, family: int, kind: str, source: str, destination: str, ports: tuple[int, int]) -> Packet:
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


def _about(
    sender: str, asker: str, asked: str, kind: str, known: bool = True, to: str = "", reverse: bool = False
) -> Act:
    """`asker` asks `asked`; then `sender` sends an error of a kind about that, to `asker` or `to`."""

    def act(ground: Ground, family: int) -> None:
        ports = (4000, CONTROL)
        if known:
            _asked(ground, family, asker, asked, *ports)
        quoted = ground.address(asker, family), ground.address(asked, family)
        if reverse:
            quoted, ports = quoted[::-1], ports[::-1]
        error = _error(ground, family, kind, *quoted, ports)
        ground.send(sender, ip(ground.address(sender, family), ground.address(to or asker, family)) / error)

    return act


_ERRORS = ("unreachable", "too-big", "expired")


def _errors() -> Iterator[Attack]:
    for kind in _ERRORS:
        yield Attack(f"error-{kind}-of-the-other-end", "d", "b", _about("d", "b", "d", kind), True)
        yield Attack(f"error-{kind}-of-a-router-outside", "out", "b", _about("out", "b", "far", kind), True)
        yield Attack(f"error-{kind}-about-nothing", "c", "b", _about("c", "b", "c", kind, known=False))
        yield Attack(f"error-{kind}-about-a-foreign-flow", "c", "b", _about("c", "b", "d", kind))
        yield Attack(f"error-{kind}-about-a-foreign-flow-without-egress", "d", "b", _about("d", "b", "e", kind))
        yield Attack(f"error-{kind}-about-a-flow-to-afar", "c", "b", _about("c", "b", "far", kind))
        yield Attack(
            f"error-{kind}-about-another's-answers", "c", "b", _about("c", "a", "b", kind, to="b", reverse=True)
        )
        yield Attack(f"error-{kind}-to-who-has-no-part", "d", "b", _about("d", "e", "d", kind, to="b"))


def _redirected(sender: str, asked: str) -> Attack:
    return Attack(f"error-redirect-{sender}", sender, "b", _about(sender, "b", asked, "redirect"), False, (4,))


def _from_link_local(ground: Ground, family: int) -> None:
    _asked(ground, 6, "b", "d", 4000, CONTROL)
    quoted = ground.address("b", 6), ground.address("d", 6)
    error = _error(ground, 6, "unreachable", *quoted, (4000, CONTROL))
    ground.send("c", ip(ground.link_local("c"), quoted[0], hlim=255) / error)


ERRORS = (
    *_errors(),
    _redirected("d", "d"),
    _redirected("c", "d"),
    Attack("error-from-a-link-local-address", "c", "b", _from_link_local, False, (6,)),
)


# Loopback, and the two ways through a bridge -------------------------------------------------------------------------


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


def _wrong_mac(mac: Callable[[Ground], str], address: str) -> Act:
    def act(ground: Ground, family: int) -> None:
        packet = ip(ground.address("c", family), ground.address(address, family)) / UDP(sport=1, dport=81)
        ground.send("c", packet / Raw(ground.token), mac(ground))

    return act


def _tagged(*tags: int) -> Act:
    """Between two ports of a bridge, with VLAN tags.  Number 0 is taken off by any Linux host that gets it."""

    def act(ground: Ground, family: int) -> None:
        packet: Packet = ip(ground.address("c", family), ground.address("b", family)) / UDP(sport=1, dport=81)
        packet /= Raw(ground.token)
        for tag in tags:
            packet = Dot1Q(vlan=tag) / packet
        ground.send("c", Ether(src=ground.mac("c"), dst=ground.mac("b")) / packet)

    return act


_BRIDGED: tuple[Wiring, ...] = ("bridged",)
WAYS = (
    Attack("to-the-node's-loopback", "c", "node", _to_loopback),
    Attack("by-the-gateway", "c", "b", _by_the_gateway("c", 81)),
    Attack("by-the-gateway-to-an-open-port", "a", "b", _by_the_gateway("a", 80), True),
    Attack("another's-address-to-the-victim's-mac", "c", "b", _wrong_mac(lambda ground: ground.mac("b"), "e"),
           wirings=_BRIDGED),
    Attack("the-victim's-address-to-all", "c", "b", _wrong_mac(lambda ground: "ff:ff:ff:ff:ff:ff", "b"),
           wirings=_BRIDGED),
    Attack("the-victim's-address-to-a-group", "c", "b", _wrong_mac(lambda ground: "33:33:00:00:00:01", "b"),
           wirings=_BRIDGED),
    Attack("vlan-0", "c", "b", _tagged(0), wirings=_BRIDGED),
    Attack("vlan-7", "c", "b", _tagged(7), wirings=_BRIDGED),
)  # fmt: skip

ATTACKS = (*SPOOFED, *ROUTERS, *SHAPES, *PROTOCOLS, *CONNECTIONS, *ERRORS, *WAYS)

"""A packet's way through a ruleset, as the kernel would take it, over the data that the kernel gets."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import ip_address, ip_network

from netpold.policy.model import Family
from netpold.rules.ruleset import (
    Address,
    BridgePort,
    Goto,
    HopLimit,
    IcmpType,
    InSet,
    Interface,
    IPSet,
    Jump,
    Log,
    Match,
    NoSyn,
    NotBetween,
    OwnSource,
    Ports,
    Proto,
    Related,
    Reply,
    Routed,
    Rule,
    Ruleset,
    SourcePort,
    Translated,
    Unknown,
    Verdict,
)


@dataclass(frozen=True, slots=True)
class Packet:
    """The first packet of a flow (with `reply`: an answer to it) as netfilter sees it.

    Addresses are canonical text; `protocol` is iptables' name (tcp, udp, sctp, icmp, ipv6-icmp) or a number as text;
    interface names are '' where there is none.
    """

    source: str
    destination: str
    protocol: str
    port: int | None = None
    in_interface: str = ""
    out_interface: str = ""
    in_port: str = ""
    out_port: str = ""
    source_port: int | None = None
    icmp_type: int | None = None
    hop_limit: int = 63
    reply: bool = False
    related: bool = False
    middle: bool = False  # of a connection that conntrack does not know any more
    between: tuple[str, ...] = ()  # the ends of the connection that it is about, where it is not one of them that sends
    known: bool = False  # of a connection that conntrack knows

    @property
    def family(self) -> Family:
        return 6 if ":" in self.source else 4


@dataclass(slots=True)
class Walk:
    """What became of a packet: the verdict (RETURN: given back to the host's other rules), by which rule of which
    chain (none where every chain ended), and all rules that matched on the way."""

    verdict: Verdict
    chain: str
    rule: Rule | None
    passed: list[tuple[str, Rule]] = field(default_factory=list)


def walk(ruleset: Ruleset, chain: str, packet: Packet) -> Walk:
    """Send a packet through a chain of its family and all chains that this leads to."""
    chains = ruleset.chains[packet.family]
    passed: list[tuple[str, Rule]] = []
    last: tuple[str, Rule | None] = (chain, None)
    stack: list[tuple[str, int]] = []  # where jumps came from
    name, position = chain, 0
    while True:
        rules = chains.get(name, ())
        if position >= len(rules):
            if not stack:
                return Walk("RETURN", *last, passed)
            name, position = stack.pop()
            continue
        rule = rules[position]
        position += 1
        if not all(holds(match, packet, ruleset) for match in rule.matches):
            continue
        passed.append((name, rule))
        match rule.target:
            case Jump(target):
                stack.append((name, position))
                name, position = target, 0
            case Goto(target):
                name, position = target, 0
            case Log():
                pass
            case "RETURN":
                last = (name, rule)
                if not stack:
                    return Walk("RETURN", name, rule, passed)
                name, position = stack.pop()
            case verdict:
                return Walk(verdict, name, rule, passed)


def holds(match: Match, packet: Packet, ruleset: Ruleset) -> bool:
    """Whether the packet meets a match."""
    match match:
        case Proto(name):
            return packet.protocol == name
        case Ports(ranges):
            return packet.port is not None and any(low <= packet.port <= high for low, high in ranges)
        case SourcePort(port):
            return packet.source_port == port
        case Address(side, network, negate):
            return _inside(_side(packet, side), network) != negate
        case InSet(name, side, negate):
            return is_member(ruleset.sets[name], packet, side) != negate
        case Interface(side, name, prefix):
            return _named(packet.in_interface if side == "src" else packet.out_interface, name, prefix)
        case BridgePort("src", name, prefix):
            return _named(packet.in_port, name, prefix)
        case BridgePort(_, name, prefix):
            return _is_bridged(packet) and _named(packet.out_port, name, prefix)
        case Routed():
            return not _is_bridged(packet)
        case Reply():
            return packet.reply
        case Unknown():
            return not packet.reply and not packet.related and not packet.known
        case NoSyn():
            return packet.protocol == "tcp" and (packet.middle or packet.reply)
        case Related():
            return packet.related
        case IcmpType(number, negate):
            return (packet.icmp_type == number) != negate
        case HopLimit(value):
            return packet.hop_limit == value
        case NotBetween(address):
            return address not in (packet.between or (packet.source, packet.destination))
        case Translated() | OwnSource():
            return False  # a packet here is as its sender wrote it, and not of the host itself


def _side(packet: Packet, side: str) -> str:
    return packet.source if side == "src" else packet.destination


def _named(interface: str, name: str, prefix: bool) -> bool:
    return interface.startswith(name) if prefix else interface == name


def _is_bridged(packet: Packet) -> bool:
    return bool(packet.in_port) and bool(packet.out_port)


def _inside(address: str, network: str) -> bool:
    shift, prefix = _prefix(network)
    return _number(address) >> shift == prefix


@lru_cache(maxsize=65536)
def _number(address: str) -> int:
    return int(ip_address(address))


@lru_cache(maxsize=65536)
def _prefix(network: str) -> tuple[int, int]:
    """How many bits the hosts have in a network, and the bits before them."""
    parsed = ip_network(network)
    shift = parsed.max_prefixlen - parsed.prefixlen
    return shift, int(parsed.network_address) >> shift


def is_member(ipset: IPSet, packet: Packet, side: str) -> bool:
    """Whether what a rule looks up of the packet (`side` as InSet has it) is in the set."""
    if ipset.kind == "hash:ip,port":
        return f"{packet.destination},{packet.protocol}:{packet.port}" in ipset.members
    if ipset.kind == "hash:ip,port,ip":
        return f"{packet.source},{packet.protocol}:{packet.source_port},{packet.destination}" in ipset.members
    address = _side(packet, side)
    if ipset.kind == "hash:ip":
        return address in ipset.members
    return _longest_prefix(frozenset(ipset.members), address)


def _longest_prefix(members: frozenset[str], address: str) -> bool:
    number = _number(address)
    return next((inside[number >> shift] for shift, inside in _networks(members) if number >> shift in inside), False)


@lru_cache(maxsize=1024)
def _networks(members: frozenset[str]) -> list[tuple[int, dict[int, bool]]]:
    """The networks by the bits that their hosts have, fewest first: prefix -> whether it is inside."""
    found: dict[int, dict[int, bool]] = {}
    for member in members:
        shift, prefix = _prefix(member.removesuffix(" nomatch"))
        found.setdefault(shift, {})[prefix] = not member.endswith(" nomatch")
    return sorted(found.items())

"""A ruleset as data: chains, rules and sets of the kernel's filter table, for both families.

A rule is a tuple of matches (all have to hold) and a target, each a small frozen value.  Nothing here is text: the
last step (`render` for iptables-restore, `host/kernel/legacy` for libiptc) turns matches into what a backend takes,
and `explain` walks the same values with a packet in hand.  The meaning of each match and target is that of
iptables-extensions(8).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field
from typing import Literal

from netpold.policy.model import Action, AnyPolicy, ClusterPolicy, Direction, Family, Tier

Side = Literal["src", "dst"]

# Limits of the kernel and its tools, in characters: XT_EXTENSION_MAXNAMELEN - 1, IPSET_MAXNAMELEN - 1, and the
# shortest comment limit among the backends with room to spare.
CHAIN_NAME_LIMIT = 28
SET_NAME_LIMIT = 31
COMMENT_LIMIT = 200

CHAIN_PREFIXES = ("NETPOLD-", "NP-IN-", "NP-OUT-", "NP-HOST-", "NP-RULES-")
HEADS = frozenset(("NETPOLD-FORWARD", "NETPOLD-INPUT", "NETPOLD-OUTPUT"))  # that built-in chains may jump to
SET_PREFIXES = ("NP4-", "NP6-")

FAMILIES: tuple[Family, Family] = (4, 6)


def short_hash(text: str) -> str:
    """Twelve characters that stand for `text` in names of chains and sets (60 bits of SHA-256)."""
    number = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) >> 4
    digits = "0123456789abcdefghjkmnpqrstvwxyz"
    return "".join(digits[(number >> shift) & 31] for shift in range(55, -1, -5))


# Matches -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Proto:
    """The transport protocol: tcp, udp, sctp, icmp or ipv6-icmp."""

    name: str


@dataclass(frozen=True, slots=True)
class Ports:
    """Destination ports: ranges with both ends, at most 15 slots (a range counts two).  Comes after its Proto."""

    ranges: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class SourcePort:
    """One source port.  Comes after its Proto."""

    port: int


@dataclass(frozen=True, slots=True)
class Address:
    """The source or destination address inside a network (text, with its length), or outside with `negate`."""

    side: Side
    network: str
    negate: bool = False


@dataclass(frozen=True, slots=True)
class InSet:
    """The address is in the set of that logical name; "dst,dst" looks a hash:ip,port set up by destination address,
    protocol and destination port, "src,src,dst" a hash:ip,port,ip set by the source's and the destination's address."""

    name: str
    side: Literal["src", "dst", "dst,dst", "src,src,dst"]
    negate: bool = False


@dataclass(frozen=True, slots=True)
class Interface:
    """The interface that a packet comes in by (src) or goes out by (dst); `prefix`: every name that begins so."""

    side: Side
    name: str
    prefix: bool = False


@dataclass(frozen=True, slots=True)
class BridgePort:
    """The same for ports of a bridge (physdev): valid only where bridge-nf-call-iptables is on."""

    side: Side
    name: str
    prefix: bool = False


@dataclass(frozen=True, slots=True)
class Routed:
    """A packet that does not go from one port of a bridge to another."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A packet of an established connection, from the side that answers."""


@dataclass(frozen=True, slots=True)
class Unknown:
    """A packet of no connection that conntrack knows: the first of one (NEW), such as fits none (INVALID), or such as
    it is told not to look at (UNTRACKED)."""


@dataclass(frozen=True, slots=True)
class NoSyn:
    """A TCP packet that begins no connection.  Comes after its Proto."""


@dataclass(frozen=True, slots=True)
class Related:
    """A packet that conntrack relates to a known connection (with Proto icmp: an error about one of its packets)."""


@dataclass(frozen=True, slots=True)
class IcmpType:
    """An ICMP or ICMPv6 type (by the Proto before it)."""

    number: int
    negate: bool = False


@dataclass(frozen=True, slots=True)
class HopLimit:
    """The IPv6 hop limit; 255 proves that no router has passed the packet on."""

    value: int


@dataclass(frozen=True, slots=True)
class NotBetween:
    """A packet of, or an error about, a connection that neither began at that address nor is answered from there."""

    address: str


@dataclass(frozen=True, slots=True)
class Translated:
    """A packet of a connection whose destination was changed on the way (DNAT)."""


@dataclass(frozen=True, slots=True)
class OwnSource:
    """The source is an address that the interface which the packet comes in by has itself."""


Match = (
    Proto
    | Ports
    | SourcePort
    | Address
    | InSet
    | Interface
    | BridgePort
    | Routed
    | Reply
    | Unknown
    | NoSyn
    | Related
    | IcmpType
    | HopLimit
    | NotBetween
    | Translated
    | OwnSource
)


# Targets -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Jump:
    """Go on in that chain, and come back when it ends or returns."""

    chain: str


@dataclass(frozen=True, slots=True)
class Goto:
    """Go on in that chain; its return is the return of this one."""

    chain: str


@dataclass(frozen=True, slots=True)
class Log:
    """Copy the packet to an NFLOG group and go on."""

    group: int
    prefix: str


Verdict = Literal["RETURN", "DROP", "ACCEPT"]
Target = Verdict | Jump | Goto | Log


@dataclass(frozen=True, slots=True)
class Origin:
    """What in a policy a rule comes from: rule `index` (from 0) of a direction.  `tier`: of a ClusterNetworkPolicy,
    what `action` does to what the rule matches; a NetworkPolicy's rules have no tier, and accept."""

    policy: str
    direction: Direction
    index: int
    tier: Tier | None = None
    action: Action = Action.ACCEPT

    @property
    def place(self) -> str:
        """Of a ClusterNetworkPolicy with its tier."""
        where = f"{self.policy} {self.direction}[{self.index}]"
        return f"{self.tier} {where}" if self.tier else where

    def __str__(self) -> str:
        return f"{self.place} {self.action}" if self.tier else self.place


def origin(policy: AnyPolicy, direction: Direction, index: int) -> Origin:
    """Of a rule that the policy has."""
    if isinstance(policy, ClusterPolicy):
        return Origin(policy.key, direction, index, policy.tier, policy.rules(direction)[index].action)
    return Origin(policy.key, direction, index)


@dataclass(frozen=True, slots=True)
class Rule:
    """If every match holds, do `target`.  `comment`: printable ASCII without quotes, at most COMMENT_LIMIT."""

    matches: tuple[Match, ...]
    target: Target
    comment: str = ""
    origin: Origin | None = field(default=None, compare=False)


# Sets and the whole --------------------------------------------------------------------------------------------------

SetKind = Literal["hash:ip", "hash:net", "hash:ip,port", "hash:ip,port,ip"]
Larger = Literal["allows", "forbids", "counts"] | None


@dataclass(frozen=True, slots=True)
class IPSet:
    """A set of peers.

    `name` is its logical name, made from what it means (`meaning`, for a person) and not from its members: the plan
    may hold the members of one logical set in the kernel under a name with a generation behind it.
    `members` are texts as ipset prints them: `10.0.0.1`, `10.0.0.0/8`, `10.1.0.0/16 nomatch`, `10.0.0.1,tcp:80`,
    `10.0.0.1,tcp:80,10.0.0.2`.
    They may be another's who goes on to change them (rules/sets.py); a SetChange then says what became of them.
    `larger`: what more members mean to packets, wherever the set is used: more of them are allowed, or fewer; None: it
    depends, so that a set that rules use must never be changed; "counts": nothing, the kernel counts for each member
    the packets that were found in it (count.py).
    """

    name: str
    family: Family
    kind: SetKind
    meaning: str
    members: Set[str]
    larger: Larger = "allows"


@dataclass(frozen=True, slots=True)
class SetChange:
    """Members that a set did not have before, and those that it has no more."""

    added: frozenset[str]
    removed: frozenset[str]


Chains = Mapping[str, tuple[Rule, ...]]


@dataclass(frozen=True, slots=True)
class Ruleset:
    """What the kernel should hold: own chains by family and name, the sets by logical name, and in which built-in
    chains (first rule) a jump to which own chain stands."""

    chains: Mapping[Family, Chains]
    sets: Mapping[str, IPSet]
    hooks: Mapping[str, str]  # built-in chain -> own chain, both families
    # by chain, the logical names of the sets that it refers to (chains that refer to none may be missing)
    uses: Mapping[Family, Mapping[str, frozenset[str]]] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        if not self.uses:
            found = {
                family: {name: sets_used([rules]) for name, rules in self.chains[family].items()} for family in FAMILIES
            }
            object.__setattr__(self, "uses", found)

    def rules(self, family: Family, chain: str) -> tuple[Rule, ...]:
        return self.chains[family][chain]


EMPTY = Ruleset(chains={4: {}, 6: {}}, sets={}, hooks={})


def sets_used(chains: Iterable[tuple[Rule, ...]]) -> frozenset[str]:
    """The logical names of the sets that these chains refer to."""
    return frozenset(
        match.name for rules in chains for rule in rules for match in rule.matches if isinstance(match, InSet)
    )

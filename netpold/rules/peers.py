"""One policy rule as kernel rules, and the sets that these look peers up in.

A policy rule is about (any of its peers) and (any of its ports).  Peers become alternatives of matches: one set with
the addresses of all selected pods, one for all ipBlocks (or a plain network where that says the same).  Ports become
alternatives too: by protocol, as many ports to a rule as multiport takes.  The kernel rules are all combinations.

A named port is a number only on the destination pod: for ingress that is the isolated pod itself, so its number is
written in; for egress the peers go into a set of address, protocol and port.  Where a pod's manifest can't be read, its
ports are not known: such pods are in a set of their own, to which nothing goes that may have to be denied.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Set
from typing import NamedTuple

from netpold.policy.groups import Group, NodeGroup, PodGroup
from netpold.policy.model import (
    EVERYTHING,
    Action,
    AnyPolicy,
    ContainerPort,
    Direction,
    Family,
    IPBlock,
    NodePeer,
    PodPeer,
    PolicyPort,
    PolicyRule,
    Protocol,
    TierRule,
)
from netpold.rules.icmp import LINK_LOCAL
from netpold.rules.regions import entries, member, region
from netpold.rules.ruleset import (
    COMMENT_LIMIT,
    Address,
    InSet,
    Larger,
    Match,
    Ports,
    Proto,
    Rule,
    Side,
    origin,
    sets_used,
)
from netpold.rules.sets import Sets

Alternative = tuple[Match, ...]
Ranges = list[tuple[int, int]]
_Key = tuple[str, Direction, tuple[ContainerPort, ...] | None, Family]

GROUPS_V6 = "ff00::/8"
SEVERAL_V4 = frozenset(("224.0.0.0/4", "255.255.255.255"))  # groups, and all on the link
MULTIPORT_SLOTS = 15  # XT_MULTI_PORTS: a port takes one, a range two


# What more members of a set mean to packets, where a rule that does this looks a peer up in it.
_LARGER: Mapping[Action, Larger] = {Action.ACCEPT: "allows", Action.DENY: "forbids", Action.PASS: None}


class _Made(NamedTuple):
    policy: AnyPolicy
    rules: tuple[Rule, ...]
    sets: frozenset[str]


class PolicyRules:
    """The kernel rules of policies, each made once as long as the policy is the same."""

    def __init__(self, sets: Sets) -> None:
        self._sets = sets
        self._made: dict[_Key, _Made] = {}

    def of(
        self,
        policy: AnyPolicy,
        direction: Direction,
        pod_ports: tuple[ContainerPort, ...] | None,
        family: Family,
    ) -> tuple[Rule, ...]:
        """The kernel rules of a policy for a pod with these ports (None: they are not known, and a port name may stand
        for any) that it isolates or is about.  Each is a RETURN: what its action is, its origin says."""
        ports = pod_ports if direction is Direction.INGRESS and _uses_named_ports(policy) else ()
        key = (policy.key, direction, ports, family)
        made = self._made.get(key)
        if made is None or made.policy != policy:
            rules = tuple(_kernel_rules(policy, direction, ports, family, self._sets))
            made = self._made[key] = _Made(policy, rules, sets_used([rules]))
        return made.rules

    def retain(self, sets: Set[str]) -> None:
        """Forget the rules that refer to other sets than these, which nobody keeps up to date any more."""
        self._made = {key: made for key, made in self._made.items() if made.sets <= sets}


def _kernel_rules(
    policy: AnyPolicy,
    direction: Direction,
    ports: tuple[ContainerPort, ...] | None,
    family: Family,
    sets: Sets,
) -> Iterator[Rule]:
    """The kernel rules of one policy in one direction; `ports`: the named ports of the pod that it is about."""
    entries: Iterable[PolicyRule | TierRule] = policy.rules(direction) or ()
    for number, rule in enumerate(entries):
        came_from = origin(policy, direction, number)
        comment = str(came_from)[-COMMENT_LIMIT:]
        for matches in _combinations(_Subject(policy, rule, came_from.action), direction, ports, family, sets):
            yield Rule(matches, "RETURN", comment, came_from)


def _uses_named_ports(policy: AnyPolicy) -> bool:
    """Whether the policy's ingress rules name ports, so that they differ with the ports of the isolated pod."""
    return any(isinstance(port.port, str) for rule in policy.ingress or () for port in rule.ports or ())


class _Subject(NamedTuple):
    """A rule of a policy, and what it does."""

    policy: AnyPolicy
    rule: PolicyRule | TierRule
    action: Action


def _combinations(
    about: _Subject, direction: Direction, own_ports: tuple[ContainerPort, ...] | None, family: Family, sets: Sets
) -> Iterator[Alternative]:
    rule = about.rule
    numeric = [port for port in rule.ports or () if not isinstance(port.port, str)]
    named = [port for port in rule.ports or () if isinstance(port.port, str)]
    if direction is Direction.INGRESS:
        for port in named:
            numeric += _own(port, own_ports)
        named = []
    port_alternatives = [()] if rule.ports is None else list(_port_matches(numeric))
    if port_alternatives:
        for peer in _peer_matches(about, direction, family, sets):
            yield from (peer + ports for ports in port_alternatives)
    groups = frozenset(group for group in _groups(about) if isinstance(group, PodGroup))
    for port in named if groups else ():
        assert isinstance(port.port, str)
        proto, larger = Proto(port.protocol.lower()), _LARGER[about.action]
        yield (proto, InSet(sets.named_port(groups, family, port.protocol, port.port, larger), "dst,dst"))
        if about.action is Action.DENY:  # any port may have that name
            yield (proto, InSet(sets.unread(groups, family, larger), "dst"))
            yield from ((proto, *match) for match in _may_be_any(about, family, "dst", sets))


def _own(port: PolicyPort, own_ports: tuple[ContainerPort, ...] | None) -> list[PolicyPort]:
    """What a port's name stands for on the pod; every port of the protocol where that is not known."""
    if own_ports is None:
        return [PolicyPort(port.protocol)]
    return [
        PolicyPort(port.protocol, own.port)
        for own in own_ports
        if own.name == port.port and own.protocol == port.protocol
    ]


def _groups(about: _Subject) -> frozenset[Group]:
    """The pods and nodes among a rule's peers; every pod where it has no peers at all."""
    possible = about.action is Action.DENY  # what may have to be denied is
    if about.rule.peers is None:
        return frozenset((PodGroup("", EVERYTHING, EVERYTHING, possible),))
    pods = (PodGroup.of(peer, about.policy, possible) for peer in about.rule.peers if isinstance(peer, PodPeer))
    nodes = (NodeGroup.of(peer, possible) for peer in about.rule.peers if isinstance(peer, NodePeer))
    return frozenset((*pods, *nodes))


def _peer_matches(about: _Subject, direction: Direction, family: Family, sets: Sets) -> Iterator[Alternative]:
    rule = about.rule
    side: Side = "src" if direction is Direction.INGRESS else "dst"
    if rule.peers is None:
        yield ()
        return
    table = region([peer for peer in rule.peers if isinstance(peer, IPBlock)], family)
    if len(table) == 1:
        (prefix,) = table
        if prefix.prefixlen == 0:
            yield ()
            return
        yield (Address(side, member(prefix)),)
    elif table:
        yield (InSet(sets.networks(entries(table), family), side),)
    groups = _groups(about)
    if groups:
        yield (InSet(sets.selected(groups, family, _LARGER[about.action]), side),)
        yield from _may_be_any(about, family, side, sets)


def _may_be_any(about: _Subject, family: Family, side: Side, sets: Sets) -> Iterator[Alternative]:
    """Pods and nodes have link-local addresses that no manifest tells, and get what is for groups and for all: to deny
    what one of them sends or gets is to deny it to all of these."""
    if about.action is not Action.DENY:
        return
    if family == 6:
        yield (Address(side, LINK_LOCAL),)
        if side == "dst":
            yield (Address(side, GROUPS_V6),)
    elif side == "dst":
        yield (InSet(sets.networks(SEVERAL_V4, family), side),)


def _port_matches(ports: Iterable[PolicyPort]) -> Iterator[Alternative]:
    by_protocol: dict[Protocol, Ranges] = defaultdict(list)
    for port in ports:
        if isinstance(port.port, int):
            by_protocol[port.protocol].append((port.port, port.end_port or port.port))
        else:
            by_protocol[port.protocol].append((0, 65535))
    for protocol in sorted(by_protocol):
        ranges = merged(by_protocol[protocol])
        proto = Proto(protocol.lower())
        if ranges == [(0, 65535)]:
            yield (proto,)
            continue
        for chunk in _chunks(ranges):
            yield (proto, Ports(chunk))


def merged(ranges: Ranges) -> Ranges:
    """The same ports in as few ranges as can be, sorted."""
    result: Ranges = []
    for low, high in sorted(ranges):
        if result and low <= result[-1][1] + 1:
            result[-1] = (result[-1][0], max(high, result[-1][1]))
        else:
            result.append((low, high))
    return result


def _chunks(ranges: Ranges) -> Iterator[tuple[tuple[int, int], ...]]:
    chunk: Ranges = []
    slots = 0
    for low, high in ranges:
        need = 1 if low == high else 2
        if slots + need > MULTIPORT_SLOTS:
            yield tuple(chunk)
            chunk, slots = [], 0
        chunk.append((low, high))
        slots += need
    if chunk:
        yield tuple(chunk)

"""One policy rule as kernel rules, and the sets that these look peers up in.

A policy rule allows (any of its peers) and (any of its ports).  Peers become alternatives of matches: one set with
the addresses of all selected pods, one for all ipBlocks (or a plain network where that says the same).  Ports become
alternatives too: by protocol, as many ports to a rule as multiport takes.  The kernel rules are all combinations.

A named port is a number only on the destination pod: for ingress that is the isolated pod itself, so its number is
written in; for egress the peers go into a set of address, protocol and port.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator

from netpold.policy.index import EVERY_POD, Index, PodGroup
from netpold.policy.model import (
    ContainerPort,
    Direction,
    Family,
    IPBlock,
    Pod,
    PodPeer,
    Policy,
    PolicyPort,
    PolicyRule,
    Protocol,
)
from netpold.rules.regions import entries, member, region
from netpold.rules.ruleset import (
    COMMENT_LIMIT,
    Address,
    InSet,
    IPSet,
    Match,
    Origin,
    Ports,
    Proto,
    Rule,
    SetKind,
    Side,
    short_hash,
)

Alternative = tuple[Match, ...]
Ranges = list[tuple[int, int]]

MULTIPORT_SLOTS = 15  # XT_MULTI_PORTS: a port takes one, a range two


class Sets:
    """The sets that rules ask for, each made once for one index; and the rules of policies, which are what asks."""

    def __init__(self, index: Index) -> None:
        self._index = index
        self.sets: dict[str, IPSet] = {}
        self._rules: dict[tuple[str, Direction, tuple[ContainerPort, ...], Family], list[Rule]] = {}

    def rules(self, policy: Policy, direction: Direction, pod: Pod, family: Family) -> list[Rule]:
        """The kernel rules of a policy for a pod that it isolates, each a RETURN."""
        ports = pod.ports if direction is Direction.INGRESS and _uses_named_ports(policy) else ()
        key = (policy.key, direction, ports, family)
        if key not in self._rules:
            self._rules[key] = _kernel_rules(policy, direction, ports, family, self)
        return self._rules[key]

    def pods(self, groups: frozenset[PodGroup], family: Family) -> str:
        """The logical name of the set with the addresses of these pods."""
        return self._make(family, "hash:ip", _meaning(groups), lambda: self._index.addresses(groups))

    def named_port(self, groups: frozenset[PodGroup], family: Family, protocol: Protocol, port: str) -> str:
        """The set of address, protocol and number of the port of that name, on these pods."""

        def members() -> Iterable[str]:
            for address in self._index.addresses(groups):
                claims = [numbers(pod, protocol, port) for pod in self._index.claimants(address)]
                for number in frozenset.intersection(*claims):
                    yield f"{address},{protocol.lower()}:{number}"

        meaning = f"port {port}/{protocol} of {_meaning(groups)}"
        return self._make(family, "hash:ip,port", meaning, members)

    def addresses(self, meaning: str, family: Family, addresses: Iterable[str]) -> str:
        """A set of the given addresses, which may be others the next time; `meaning` tells it apart."""
        self.sets.pop(_name(family, "hash:ip", meaning), None)
        return self._make(family, "hash:ip", meaning, lambda: addresses)

    def networks(self, members: frozenset[str], family: Family) -> str:
        """A hash:net set with these entries; what it means is what it holds."""
        return self._make(family, "hash:net", ", ".join(sorted(members)), lambda: members)

    def _make(self, family: Family, kind: SetKind, meaning: str, members: Callable[[], Iterable[str]]) -> str:
        name = _name(family, kind, meaning)
        if name not in self.sets:
            own = frozenset(each for each in members() if (":" in each.split(",")[0]) == (family == 6))
            self.sets[name] = IPSet(name, family, kind, meaning, own)
        return name


def _name(family: Family, kind: SetKind, meaning: str) -> str:
    return f"NP{family}-{short_hash(f'{kind} {meaning}')}"


def _kernel_rules(
    policy: Policy, direction: Direction, ports: tuple[ContainerPort, ...], family: Family, sets: Sets
) -> list[Rule]:
    """The kernel rules of one policy in one direction; `ports`: the named ports of the isolated pod."""
    rules: list[Rule] = []
    for number, rule in enumerate(policy.rules(direction) or ()):
        origin = Origin(policy.key, direction, number)
        comment = f"{policy.key} {direction}[{number}]"[-COMMENT_LIMIT:]
        alternatives = _combinations(policy, rule, direction, ports, family, sets)
        rules += [Rule(matches, "RETURN", comment, origin) for matches in alternatives]
    return rules


def _uses_named_ports(policy: Policy) -> bool:
    """Whether the policy's ingress rules name ports, so that they differ with the ports of the isolated pod."""
    return any(isinstance(port.port, str) for rule in policy.ingress or () for port in rule.ports or ())


def numbers(pod: Pod, protocol: Protocol, name: str) -> frozenset[int]:
    """The numbers that a port name stands for on a pod; none when no container has it."""
    return frozenset(port.port for port in pod.ports if port.name == name and port.protocol == protocol)


def _combinations(
    policy: Policy,
    rule: PolicyRule,
    direction: Direction,
    own_ports: tuple[ContainerPort, ...],
    family: Family,
    sets: Sets,
) -> Iterator[Alternative]:
    numeric = [port for port in rule.ports or () if not isinstance(port.port, str)]
    named = [port for port in rule.ports or () if isinstance(port.port, str)]
    if direction is Direction.INGRESS:
        for port in named:
            numeric += [
                PolicyPort(port.protocol, own.port)
                for own in own_ports
                if own.name == port.port and own.protocol == port.protocol
            ]
        named = []
    port_alternatives = [()] if rule.ports is None else list(_port_matches(numeric))
    if port_alternatives:
        for peer in _peer_matches(policy, rule, direction, family, sets):
            yield from (peer + ports for ports in port_alternatives)
    groups = _groups(policy, rule)
    for port in named:
        if groups and isinstance(port.port, str):
            name = sets.named_port(groups, family, port.protocol, port.port)
            yield (Proto(port.protocol.lower()), InSet(name, "dst,dst"))


def _groups(policy: Policy, rule: PolicyRule) -> frozenset[PodGroup]:
    """The pods among a rule's peers; every pod where it has no peers at all."""
    if rule.peers is None:
        return frozenset((EVERY_POD,))
    return frozenset(PodGroup.of(peer, policy) for peer in rule.peers if isinstance(peer, PodPeer))


def _peer_matches(
    policy: Policy, rule: PolicyRule, direction: Direction, family: Family, sets: Sets
) -> Iterator[Alternative]:
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
    groups = _groups(policy, rule)
    if groups:
        yield (InSet(sets.pods(groups, family), side),)


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


def _meaning(groups: frozenset[PodGroup]) -> str:
    return "; ".join(sorted(map(str, groups)))

"""The nearest miss: the policy rule that would have allowed a denied packet but for one thing.

A rule allows a packet when one of its peers is the far end, and one of its ports the destination port.  So a rule is
looked at in two halves: what the far end lacks to be a peer of it (`peer_lack`), and what the port lacks (`port_lack`).
Where just one half is missing, and in that half just one thing (the pod's labels, its namespace's labels, the port,
the protocol), the rule is a miss; the nearest is the one that lacks least.

Nothing is judged here: a packet that the ruleset allows is never asked about, and that mending what is named makes
the ruleset allow it, is tested.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Literal, NamedTuple

from netpold.policy.model import (
    EVERYTHING,
    NAME_LABEL,
    Direction,
    IPBlock,
    Peer,
    Pod,
    PodPeer,
    Policy,
    PolicyPort,
    Position,
    Selector,
    World,
)
from netpold.policy.selector import describe, matches
from netpold.policy.unmet import lacks, satisfying, unmet
from netpold.rules.ruleset import Origin

ButFor = Literal["protocol", "port", "pod-labels", "namespace-labels", "namespace", "manifest", "address"]

MOST_NAMED = 4  # ports or blocks in a sentence


class Lack(NamedTuple):
    """One thing that is missing.  `rank`: how much that is, the least first; `text` goes on after "but for"."""

    rank: tuple[int, int]
    but_for: ButFor
    text: str


# How far away each thing is: a rule that was written for this peer, or this port, is what its author thought of.
(
    _MANIFEST,
    _CONTESTED,
    _PROTOCOL,
    _PORT,
    _LABELS,
    _ANYBODYS_PORT,
    _EXCEPT,
    _NAMESPACE,
    _BLOCK,
    _NO_POD,
    _PODS_BLOCK,
) = range(11)


@dataclass(frozen=True, slots=True)
class Far:
    """The other end of a packet: its address, and the live pods that claim it."""

    name: str
    address: str
    pods: tuple[Pod, ...]


@dataclass(frozen=True, slots=True)
class Clause:
    """A policy rule, or a part of one: any of these peers with any of these ports (None: anybody, every port).

    A rule with named ports for egress is two: names mean something on pods only, numbers also on other addresses.
    """

    origin: Origin
    namespace: str  # the policy's
    peers: tuple[Peer, ...] | None
    ports: tuple[PolicyPort, ...] | None
    position: Position | None


@dataclass(frozen=True, slots=True)
class Miss:
    """A rule that would allow it but for one thing; `text` is all of it in a sentence."""

    origin: Origin
    position: Position | None
    but_for: ButFor
    text: str


def clauses(policy: Policy, direction: Direction) -> Iterator[Clause]:
    """The clauses of a policy's rules in a direction."""
    for number, rule in enumerate(policy.rules(direction) or ()):
        origin = Origin(policy.key, direction, number)
        where = rule.position or policy.position
        named = any(isinstance(port.port, str) for port in rule.ports or ())
        if direction is Direction.EGRESS and named:
            peers = (PodPeer(EVERYTHING, EVERYTHING),) if rule.peers is None else rule.peers
            pods = tuple(peer for peer in peers if isinstance(peer, PodPeer))
            numbers = tuple(port for port in rule.ports or () if not isinstance(port.port, str))
            others = None if rule.peers is None else tuple(peer for peer in peers if isinstance(peer, IPBlock))
            if pods:
                yield Clause(origin, policy.namespace, pods, rule.ports, where)
            if others is None or others:
                yield Clause(origin, policy.namespace, others, numbers, where)
        else:
            yield Clause(origin, policy.namespace, rule.peers, rule.ports, where)


def misses(
    world: World, policies: Iterable[Policy], near: Pod, direction: Direction, far: Far, protocol: str, port: int | None
) -> list[Miss]:
    """Of the rules of these policies, which isolate `near`, those that lack just one thing, the nearest first.

    `protocol` and `port` are as in `explain`.  The packet is one that none of the rules allows.
    """
    owners = (near,) if direction is Direction.INGRESS else far.pods
    found: list[tuple[Lack, Clause]] = []
    for policy in policies:
        for clause in () if policy.quarantined else clauses(policy, direction):
            lack = one_lack(peer_lack(world, clause, far), port_lack(clause, owners, protocol, port))
            if lack:
                found.append((lack, clause))
    found.sort(key=lambda each: (each[0].rank, each[1].origin.policy, each[1].origin.index))
    written = world.policies  # one that holds for what lingers alone is written nowhere any more
    return [
        Miss(
            each.origin,
            each.position if each.origin.policy in written else None,
            lack.but_for,
            sentence(each.origin, lack),
        )
        for lack, each in found
    ]


def sentence(origin: Origin, lack: Lack) -> str:
    return f"{origin.policy} {origin.direction}[{origin.index}] would allow it but for {lack.text}"


def one_lack(peer: Lack | Literal["more"] | None, port: Lack | None) -> Lack | None:
    """What a clause lacks, where that is one thing."""
    if peer == "more" or (peer and port):
        return None
    return peer or port


# Ports ----------------------------------------------------------------------------------------------------------------


def port_lack(clause: Clause, owners: Sequence[Pod], protocol: str, port: int | None) -> Lack | None:
    """What the port lacks; None: nothing.  `owners`: the pods that port names are looked up on."""
    if clause.ports is None:
        return None
    if not clause.ports:
        return Lack(
            (_PORT, 0), "port", "the port: the rule has port names alone, which mean nothing on plain addresses"
        )
    if port is None:
        shown = _listed(_port(each, owners) for each in clause.ports)
        return Lack((_rank(clause), 1), "port", f"its ports: it has {shown}, and {protocol} passes rules without ports")
    reached = [each for each in clause.ports if _covers(each, owners, port)]
    if any(each.protocol == protocol for each in reached):
        return None
    if reached:
        shown = _listed(_port(each, owners) for each in reached)
        return Lack(
            (_PROTOCOL if clause.peers is not None else _rank(clause), 0), "protocol", f"the protocol: it has {shown}"
        )
    shown = _listed(_port(each, owners) for each in clause.ports)
    return Lack((_rank(clause), 0), "port", f"the port: it has {shown}")


def _rank(clause: Clause) -> int:
    return _ANYBODYS_PORT if clause.peers is None else _PORT


def _covers(port: PolicyPort, owners: Sequence[Pod], number: int) -> bool:
    """Whether the number is one of the port's, in its protocol."""
    if port.port is None:
        return True
    if isinstance(port.port, str):
        return bool(owners) and all(number in _numbers(port, owner) for owner in owners)
    return port.port <= number <= (port.end_port or port.port)


def _numbers(port: PolicyPort, owner: Pod) -> list[int]:
    return sorted({each.port for each in owner.ports if each.name == port.port and each.protocol == port.protocol})


def _port(port: PolicyPort, owners: Sequence[Pod]) -> str:
    if port.port is None:
        return f"all of {port.protocol}"
    if port.end_port and port.end_port != port.port:
        return f"{port.port}-{port.end_port}/{port.protocol}"
    if isinstance(port.port, int):
        return f"{port.port}/{port.protocol}"
    name = f"{port.port}/{port.protocol}"
    if not owners:
        return name
    numbers = _numbers(port, owners[0])
    if not numbers:
        return f"{name}, which no container of {owners[0].key} has"
    return f"{name}, which is {' and '.join(map(str, numbers))} on {owners[0].key}"


def _listed(parts: Iterable[str]) -> str:
    every = list(dict.fromkeys(parts))
    more = len(every) - MOST_NAMED
    return ", ".join(every[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


# Peers ----------------------------------------------------------------------------------------------------------------


def peer_lack(world: World, clause: Clause, far: Far) -> Lack | Literal["more"] | None:
    """What the far end lacks to be a peer; None: nothing; "more": more than one thing."""
    if clause.peers is None:
        return None
    address = ip_address(far.address)
    blocks = [peer for peer in clause.peers if isinstance(peer, IPBlock)]
    holding = [block for block in blocks if address in block.cidr]
    if any(not any(address in each for each in block.excepts) for block in holding):
        return None
    pods = [peer for peer in clause.peers if isinstance(peer, PodPeer)]
    are_peers = [any(_is_peer(world, clause, peer, pod) for peer in pods) for pod in far.pods]
    if far.pods and all(are_peers):
        return None
    found: list[Lack] = []
    if any(are_peers):
        text = f"the address: several pods claim {far.address}, and not all of them are peers"
        found.append(Lack((_CONTESTED, 0), "address", text))
    if len(far.pods) == 1:
        lacking = (_pod_lack(world, clause, peer, far.pods[0]) for peer in pods)
        found += [lack for lack in lacking if lack]
    found += _block_lack(far, blocks, holding)
    return min(found, default="more")


def _is_peer(world: World, clause: Clause, peer: PodPeer, pod: Pod) -> bool:
    return not pod.quarantined and matches(peer.pods, pod.labels) and _selects(world, clause, peer.namespaces, pod)


def _selects(world: World, clause: Clause, selector: Selector | None, pod: Pod) -> bool:
    if selector is None:
        return pod.namespace == clause.namespace
    namespace = world.namespace(pod.namespace)
    return not namespace.quarantined and matches(selector, namespace.labels)


def _pod_lack(world: World, clause: Clause, peer: PodPeer, pod: Pod) -> Lack | None:
    """What the pod lacks to be that peer, where it is one thing."""
    there = _selects(world, clause, peer.namespaces, pod)
    failing = unmet(peer.pods, pod.labels)
    if pod.quarantined:
        if failing or not there:
            return None
        return Lack(
            (_MANIFEST, 0),
            "manifest",
            f"the manifest of {pod.key}: it failed the checks, so its labels count for nothing",
        )
    if there:
        if satisfying(peer.pods, pod.labels) is None:
            return None  # it selects nobody, whatever the labels
        return Lack((_LABELS, len(failing)), "pod-labels", f"the pod's labels: {lacks(pod.key, failing, pod.labels)}")
    return None if failing else _namespace_lack(world, clause, peer.namespaces, pod)


def _namespace_lack(world: World, clause: Clause, selector: Selector | None, pod: Pod) -> Lack | None:
    name = pod.namespace
    namespace = world.namespace(name)
    if selector is None and namespace.quarantined:
        return None  # with a namespaceSelector, its manifest would be lacking
    if selector is None:
        text = f"the namespace: it has no namespaceSelector, so it means pods of {clause.namespace} alone"
        return Lack((_NAMESPACE, 0), "namespace", text)
    if namespace.quarantined:
        text = f"the manifest of the namespace {name}: it failed the checks, so its labels are unknown"
        return (
            Lack((_MANIFEST, 0), "manifest", text) if satisfying(selector, {NAME_LABEL: name}, {NAME_LABEL}) else None
        )
    failing = unmet(selector, namespace.labels)
    if satisfying(selector, namespace.labels, {NAME_LABEL}) is not None:
        text = lacks(name, failing, namespace.labels)
        return Lack((_LABELS, len(failing)), "namespace-labels", f"the namespace: {text}")
    if satisfying(selector, {}) is None:
        return None
    text = f"the namespace: it means those with {describe(selector)}, and {pod.key} is in {name}"
    return Lack((_NAMESPACE, 1), "namespace", text)


def _block_lack(far: Far, blocks: list[IPBlock], holding: list[IPBlock]) -> list[Lack]:
    """What the address lacks.  Blocks are mostly written for what is no pod, so a pod's address lacks more."""
    if holding:
        block = holding[0]
        excepted = next(each for each in block.excepts if ip_address(far.address) in each)
        text = f"the address: {far.address} is in {excepted}, which is excepted from {block.cidr}"
        return [Lack((_EXCEPT, 0), "address", text)]
    if blocks:
        version = ip_address(far.address).version
        is_other = all(block.cidr.version != version for block in blocks)
        why = f"is IPv{version}, and it has" if is_other else "is not in"
        shown = _listed(str(block.cidr) for block in blocks)
        if far.pods:
            return [Lack((_PODS_BLOCK, 0), "address", f"the address: that of {far.pods[0].key} {why} {shown}")]
        return [Lack((_BLOCK, 0), "address", f"the address: {far.address} {why} {shown}")]
    if far.pods:
        return []
    what = "is on the host's network" if "/" in far.name else "is no pod's address"
    return [Lack((_NO_POD, 0), "address", f"the address: it means pods by their labels, and {far.name} {what}")]

"""Why: what the compiled ruleset does with a packet, and which policy rule says so.

Nothing is judged here a second time.  A packet is walked through the chains that the kernel gets; the rule that
decides knows the policy rule that it was made from.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from ipaddress import ip_address
from typing import Literal

from netpold.policy.index import Index
from netpold.policy.model import Direction, Family, Pod, Protocol
from netpold.rules.render import text
from netpold.rules.ruleset import FAMILIES, Origin, Ruleset
from netpold.rules.walk import Packet, Walk, walk

Decision = Literal["allow", "deny"]
ICMP_ECHO: dict[Family, int] = {4: 8, 6: 128}


class UnknownEndpoint(Exception):
    """Neither an address nor a pod of the inventory; `hint` says what may have been meant."""

    def __init__(self, fault: str, hint: str) -> None:
        super().__init__(fault)
        self.hint = hint


@dataclass(frozen=True, slots=True)
class Judgement:
    """One direction: the verdict and what it rests on.

    `isolating`: keys of the policies that isolate the pod in this direction; with none, everything is allowed.
    `allowed_by`: the policy rule that allows it.  `chain`, `rule`: where in the kernel it is decided, '' for nowhere.
    `reason`: all of it in a sentence.
    """

    verdict: Decision
    isolating: tuple[str, ...]
    allowed_by: Origin | None
    chain: str
    rule: str
    reason: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """The answer for one pair of addresses."""

    packet: Packet
    verdict: Decision
    egress: Judgement
    ingress: Judgement


@dataclass(frozen=True, slots=True)
class Row:
    """One cell of a matrix; `families` has the verdict for each family that both ends have, `verdict` is that of the
    first of them: the one that `explain` judges."""

    source: str
    destination: str
    protocol: Protocol | Literal["ICMP"]
    port: int | None
    verdict: Decision
    families: tuple[tuple[Family, Decision], ...]


@dataclass(frozen=True, slots=True)
class _End:
    """A pod or a plain address, with its addresses by family."""

    name: str
    pod: Pod | None
    addresses: tuple[str, ...]

    def address(self, family: Family) -> str | None:
        return next((each for each in self.addresses if (":" in each) == (family == 6)), None)


def explain(
    index: Index, ruleset: Ruleset, source: str, destination: str, protocol: str, port: int | None
) -> Explanation:
    """Judge the first packet between two ends (`namespace/pod` or an address) in their first common family.

    `protocol` is TCP, UDP, SCTP or ICMP (echo request, no port).  Raises UnknownEndpoint.
    """
    ends = _end(index, source), _end(index, destination)
    family = _families(*ends)
    if not family:
        raise UnknownEndpoint(
            f"{source} and {destination} have no address of the same family",
            "write both addresses into status.podIPs of the pods' manifests",
        )
    return _explain(index, ruleset, *ends, family[0], protocol, port)


def matrix(
    index: Index, ruleset: Ruleset, pods: Iterable[str], others: Iterable[str], ports: Iterable[tuple[str, int | None]]
) -> Iterator[Row]:
    """Who reaches whom: all pairs of the pods (keys) and other addresses, but those with no family in common."""
    ends = [_end(index, name) for name in [*pods, *others]]
    ports = list(ports)
    for source in ends:
        for destination in ends:
            if source.pod is None and destination.pod is None:
                continue
            families = _families(source, destination)
            for protocol, port in ports if families else ():
                verdicts = tuple(
                    (
                        family,
                        _verdict(ruleset, _packet(source, destination, family, protocol, port), source, destination),
                    )
                    for family in families
                )
                yield Row(source.name, destination.name, protocol, port, verdicts[0][1], verdicts)  # type: ignore[arg-type]


def _end(index: Index, name: str) -> _End:
    if "/" not in name:
        try:
            address = str(ip_address(name))
        except ValueError:
            raise UnknownEndpoint(f"{name!r} is neither an address nor namespace/pod", "write namespace/pod") from None
        claimants = index.claimants(address)
        return _End(name, claimants[0] if claimants else None, (address,))
    pod = index.world.pods.get(name)
    if pod is None:
        near = difflib.get_close_matches(name, index.world.pods, n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else "`netpoldctl matrix` lists the pods that are known"
        raise UnknownEndpoint(f"no manifest declares the pod {name}", hint)
    if pod.finished:
        raise UnknownEndpoint(f"the pod {name} has finished; its addresses are no longer its own", "ask by address")
    if not pod.addresses:
        raise UnknownEndpoint(f"the pod {name} has no address yet", "write status.podIPs into its manifest")
    return _End(name, pod, pod.addresses)


def _families(source: _End, destination: _End) -> list[Family]:
    both = [family for family in FAMILIES if source.address(family) and destination.address(family)]
    first: Family = 6 if ":" in source.addresses[0] else 4
    return sorted(both, key=lambda family: family != first)


def _packet(source: _End, destination: _End, family: Family, protocol: str, port: int | None) -> Packet:
    packet = Packet(source.address(family) or "", destination.address(family) or "", protocol.lower(), port)
    if protocol == "ICMP":
        name = "icmp" if family == 4 else "ipv6-icmp"
        return replace(packet, protocol=name, port=None, icmp_type=ICMP_ECHO[family])
    return packet


def _hooks(source: _End, destination: _End) -> str:
    """The built-in chain that the packet takes on the node: pods on the host's network are the node itself."""
    here, there = source.pod, destination.pod
    if here and there and here.node and here.node == there.node:
        if here.host_network:
            return "OUTPUT"
        if there.host_network:
            return "INPUT"
    return "FORWARD"


def _verdict(ruleset: Ruleset, packet: Packet, source: _End, destination: _End) -> Decision:
    chain = ruleset.hooks.get(_hooks(source, destination), "")
    if chain and walk(ruleset, chain, packet).verdict == "DROP":
        return "deny"
    return "allow"


def _explain(
    index: Index, ruleset: Ruleset, source: _End, destination: _End, family: Family, protocol: str, port: int | None
) -> Explanation:
    packet = _packet(source, destination, family, protocol, port)
    verdict = _verdict(ruleset, packet, source, destination)
    hook = _hooks(source, destination)
    judged = {
        "FORWARD": (True, True),
        "INPUT": (ruleset.chains[family].get("NETPOLD-INPUT", ()) != (), False),
        "OUTPUT": (False, "OUTPUT" in ruleset.hooks),
    }[hook]
    egress = _judgement(index, ruleset, packet, source, Direction.EGRESS, judged[0])
    ingress = _judgement(index, ruleset, packet, destination, Direction.INGRESS, judged[1])
    return Explanation(packet, verdict, egress, ingress)


def _judgement(
    index: Index, ruleset: Ruleset, packet: Packet, end: _End, direction: Direction, judged: bool
) -> Judgement:
    if end.pod is None:
        return Judgement("allow", (), None, "", "", f"{end.name} is no pod that policies select")
    if end.pod.host_network:
        return Judgement("allow", (), None, "", "", f"{end.name} is on the host's network: policies do not select it")
    if not judged:
        return Judgement("allow", (), None, "", "", "traffic between a node and its own pods is free")
    isolating = tuple(policy.key for policy in index.isolation(end.pod, direction).policies)
    if not isolating:
        return Judgement("allow", (), None, "", "", f"no policy isolates {end.name} for {direction}")
    found = walk(ruleset, "NETPOLD-FROM" if direction is Direction.EGRESS else "NETPOLD-TO", packet)
    return _from_walk(found, packet, end, direction, isolating)


def _from_walk(found: Walk, packet: Packet, end: _End, direction: Direction, isolating: tuple[str, ...]) -> Judgement:
    decisive = next(((chain, rule) for chain, rule in found.passed if rule.origin), None)
    chain, rule = (found.chain, found.rule)
    if found.verdict != "DROP" and decisive:
        chain, rule = decisive
    line = text(rule, packet.family) if rule else ""
    origin = rule.origin if rule else None
    if found.verdict == "DROP":
        why = rule.comment if rule else ""
        return Judgement("deny", isolating, None, chain, line, f"{end.name} is isolated for {direction}: {why}")
    if origin:
        return Judgement(
            "allow", isolating, origin, chain, line, f"{origin.policy} {direction}[{origin.index}] allows it"
        )
    return Judgement("allow", isolating, None, chain, line, rule.comment if rule else "not isolated on this node")

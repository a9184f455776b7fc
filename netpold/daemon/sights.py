"""What a logged packet means, as the loop finds out, which knows the model: the verdict, between whom, and why.

Packets that say the same are one Sight, and are told together.  A rule that logs says by its prefix what it does next:
only netpold's own rules have these prefixes, and each stands directly before the rule that drops, or lets through.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from ipaddress import ip_address
from typing import Any, Literal, Protocol

from netpold.host.nflog import Logged
from netpold.policy.index import Index
from netpold.policy.model import Direction, Pod
from netpold.rules.answers import miss_json, rule_json
from netpold.rules.audit import PREFIX
from netpold.rules.endpoint import Endpoint
from netpold.rules.ends import Home, Lingerer, end
from netpold.rules.explain import explain_between
from netpold.rules.made import Made, made
from netpold.rules.near import Far, misses
from netpold.rules.revoke import Flow
from netpold.rules.ruleset import Ruleset
from netpold.rules.walk import Packet

Json = dict[str, Any]
Verdict = Literal["drop", "audit", "allow"]
Why = Literal["policy", "spoofed", "unclaimed"]

MEANING: Mapping[str, tuple[Verdict, Why, Direction | None]] = {
    **{f"netpold drop {direction}": ("drop", "policy", direction) for direction in Direction},
    **{f"{PREFIX}{direction}": ("audit", "policy", direction) for direction in Direction},
    "netpold drop spoofed": ("drop", "spoofed", None),
    "netpold drop unclaimed": ("drop", "unclaimed", None),
}
PROTOCOLS = {"tcp": "TCP", "udp": "UDP", "sctp": "SCTP", "icmp": "ICMP", "ipv6-icmp": "ICMP"}
WITH_PORTS = ("TCP", "UDP", "SCTP")
_ECHO = (8, 128)
_MLD = (130, 131, 132, 143)  # of ICMPv6: which groups a host is in, as it says whenever an interface comes up


class Model(Protocol):
    """What is in force, for the loop's thread alone."""

    @property
    def index(self) -> Index: ...
    @property
    def ruleset(self) -> Ruleset: ...
    @property
    def endpoints(self) -> Mapping[str, Endpoint]: ...
    @property
    def home(self) -> Home: ...


@dataclass(frozen=True, slots=True)
class Sight:
    """Packets that are told together.  `protocol`: TCP, UDP, SCTP, ICMP, or a number as text; `incoming`, `outgoing`:
    indexes of interfaces, 0 for none; `hook`: the built-in chain that it came through."""

    verdict: Verdict
    why: Why
    direction: Direction | None
    source: str
    destination: str
    protocol: str
    port: int | None = None
    icmp_type: int | None = None
    incoming: int = 0
    outgoing: int = 0
    hook: str = "FORWARD"


@dataclass(frozen=True, slots=True)
class Described:
    """A sight with what the model says of it.  `source`, `destination`: the pods, where each is one; `judged`: the one
    of which policies judge it, and `lingers`: whether its manifest is gone (then the address is no pod's any more);
    `sender`: of what has another's address, the one by whose interface it came.
    `isolating`: the keys of those that isolate it.  `miss`, `allowed_by`, `denied_by` (the rule of a tier): as in JSON.
    `passes`: of what is allowed by no rule, why it passes, a sentence for each pod.  `reports`: how often each packet
    was reported: each rule of an audited policy does so for itself.
    """

    sight: Sight
    source: Pod | None
    destination: Pod | None
    judged: Pod | None = None
    isolating: tuple[str, ...] = ()
    miss: Json | None = None
    allowed_by: tuple[Json, ...] = ()
    sender: Pod | None = None
    denied_by: Json | None = None
    lingers: bool = False
    passes: tuple[str, ...] = ()
    reports: int = 1

    @property
    def policies(self) -> tuple[str, ...]:
        """The keys of those that drop it, or would."""
        return (self.denied_by["policy"],) if self.denied_by else self.isolating


def of_packet(logged: Logged) -> Sight | None:
    """What a packet means; None: another program's rule has logged it."""
    if logged.prefix not in MEANING:
        return None
    head = logged.heading
    protocol = PROTOCOLS.get(head.protocol, head.protocol)
    port = head.port if protocol in WITH_PORTS else None
    where = (logged.incoming, logged.outgoing)
    ends = head.source, head.destination
    return Sight(*MEANING[logged.prefix], *ends, protocol, port, head.icmp_type, *where, logged.hook)


def of_flow(flow: Flow) -> Sight:
    """A flow that has come about: its first packet was let through."""
    protocol = PROTOCOLS.get(flow.protocol, flow.protocol)
    port = flow.peer_port if protocol in WITH_PORTS else None
    return Sight("allow", "policy", None, flow.source, flow.peer, protocol, port)


def describe(model: Model, sight: Sight, names: Mapping[int, str]) -> Described | None:
    """What the model says of it; `names` of interfaces by index.  None: what is allowed, and no pod's, or not let
    through in the end; and what audited policies let through of MLD, which is nobody's to allow."""
    if sight.verdict == "audit" and sight.icmp_type in _MLD and ":" in sight.source:
        return None
    return _allowed(model, sight) if sight.verdict == "allow" else _judged(model, sight, names)


def _judged(model: Model, sight: Sight, names: Mapping[int, str]) -> Described | None:
    index = model.index
    source, destination = _pod(index, sight.source), _pod(index, sight.destination)
    liar = _liar(model, sight, names)
    sender = liar.pod if isinstance(liar, Lingerer) else liar
    if sight.direction is None:
        return Described(sight, source, destination, sender=sender)
    own, far, there, interface = sight.source, destination, sight.destination, sight.incoming
    if sight.direction is Direction.INGRESS:
        own, far, there, interface = sight.destination, source, sight.source, sight.outgoing
    found = _pod(index, own) or model.home.lingering.get(own) or _behind(model, names.get(interface))
    if liar and sight.direction is Direction.EGRESS:
        found = liar  # by its interface it is judged, whatever address it says
    lingers = isinstance(found, Lingerer) and not found.lost
    near = found.pod if isinstance(found, Lingerer) else found
    if isinstance(found, Lingerer):
        isolations = [found.isolation[sight.direction]]
    else:  # where several pods have its address, all of them judge it
        isolations = [index.isolation(pod, sight.direction) for pod in ([near] if near else index.claimants(own))]
    isolating = {policy.key: policy for each in isolations for policy in each.policies}
    policies = tuple(isolating[key] for key in sorted(isolating))
    done = made(model.ruleset, _packet(model, sight, names), sight.hook, sight.direction)
    if done.dropped and sight.verdict == "audit":
        return None  # what comes behind the audited policy drops it, and reports that itself
    if not _is_theirs(sight, done) and any(each.tiers for each in isolations):
        policies = ()  # by the rules that are in force now it was none of them
    keys = tuple(policy.key for policy in policies)
    told = Described(
        sight, source, destination, near, keys, sender=sender, lingers=lingers, reports=max(1, done.reports)
    )
    if done.denied_by is not None:
        return replace(told, denied_by=rule_json(index, done.denied_by))
    is_known = sight.protocol in WITH_PORTS or sight.icmp_type in _ECHO
    if is_known and near and not near.quarantined:
        other = Far(far.key if far else there, there, tuple(index.claimants(there)))
        nearest = misses(index.world, policies, near, sight.direction, other, sight.protocol, sight.port)
        if nearest:
            return replace(told, miss=miss_json(nearest[0]))
    return told


def _is_theirs(sight: Sight, done: Made) -> bool:
    """Whether the rules still do with it what was seen."""
    return done.dropped if sight.verdict == "drop" else done.reports > 0


def _packet(model: Model, sight: Sight, names: Mapping[int, str]) -> Packet:
    """The packet as the rules saw it."""
    ports = {at.name for each in model.endpoints.values() for at in each.interfaces if at.bridged}
    come, gone = names.get(sight.incoming, ""), names.get(sight.outgoing, "")
    is_bridged = gone in ports  # what a port of a bridge is named for was never routed
    protocol = sight.protocol.lower()
    if sight.protocol == "ICMP":
        protocol = "ipv6-icmp" if ":" in sight.source else "icmp"
    return Packet(
        sight.source,
        sight.destination,
        protocol,
        sight.port,
        in_interface="" if is_bridged or come in ports else come,
        out_interface="" if is_bridged else gone,
        in_port=come if is_bridged or come in ports else "",
        out_port=gone if is_bridged else "",
        icmp_type=sight.icmp_type,
    )


def _liar(model: Model, sight: Sight, names: Mapping[int, str]) -> Pod | Lingerer | None:
    """The pod that sent it from an address that is not its own, which passes where nothing that is enforced isolates
    it; None: it is its own as far as is known, and link-local addresses are."""
    found = _only_at(model, names.get(sight.incoming)) if sight.why != "unclaimed" else None
    if found is None:
        return None
    _, there = found
    is_known = there.addresses and not there.taken
    is_own = sight.source in there.addresses or ip_address(sight.source).is_link_local
    return _whose(model, *found) if sight.why == "spoofed" or (is_known and not is_own) else None


def _behind(model: Model, name: str | None) -> Pod | Lingerer | None:
    """The pod behind an interface, where it is one, or what is left of one: of what is for a group of receivers, or for
    an address that several pods claim."""
    found = _only_at(model, name)
    return _whose(model, *found) if found else None


def _only_at(model: Model, name: str | None) -> tuple[str, Endpoint] | None:
    """What is behind an interface, with its key, where it is one."""
    found = [each for each in model.endpoints.items() if any(at.name == name for at in each[1].interfaces)]
    return found[0] if len(found) == 1 else None


def _whose(model: Model, key: str, endpoint: Endpoint) -> Pod | Lingerer | None:
    left = (model.home.lingering.get(address) for address in endpoint.addresses)
    return model.index.world.pods.get(key) or next(filter(None, left), None)


def _allowed(model: Model, sight: Sight) -> Described | None:
    index = model.index
    pods = _pod(index, sight.source), _pod(index, sight.destination)
    if not any(pods) and not model.home.lingering.keys() & {sight.source, sight.destination}:
        return None
    source, destination = (
        replace(found, name=pod.key) if pod else found
        for pod, address in zip(pods, (sight.source, sight.destination), strict=True)
        for found in (end(index, address, model.home),)
    )
    answer = explain_between(index, model.ruleset, (source, destination), sight.protocol, sight.port)
    judgements = (answer.egress, answer.ingress)
    isolating = tuple(dict.fromkeys(key for each in judgements for key in each.isolating))
    by = tuple(rule_json(index, each.allowed_by) for each in judgements if each.allowed_by)
    passes = tuple(
        each.reason
        for each, near in ((answer.egress, source), (answer.ingress, destination))
        if (near.pod or near.lingerer) and each.verdict == "allow" and not each.allowed_by
    )
    return Described(sight, *pods, None, isolating, None, by, passes=passes)


def _pod(index: Index, address: str) -> Pod | None:
    """The pod of an address, where it is one."""
    claimants = index.claimants(address)
    return claimants[0] if len(claimants) == 1 else None

"""Why: what the compiled ruleset does with a packet, and which policy rule says so.

Nothing is judged here a second time.  A packet is walked through the chains that the kernel gets; the rule that
decides knows the policy rule that it was made from.  Where none allows, `near` says which one is nearest to it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from netpold.policy.index import Index
from netpold.policy.model import Action, Direction, Family, Pod, Policy
from netpold.rules.audit import lets_through
from netpold.rules.endpoint import Interface
from netpold.rules.ends import (
    NOWHERE,
    End,
    Home,
    Lingerer,
    UnknownEndpoint,
    claimants,
    end,
    families,
    first_packet,
    hook,
)
from netpold.rules.near import Far, Miss, misses
from netpold.rules.reasons import ITSELF, REACHES_ITSELF, denial
from netpold.rules.render import text
from netpold.rules.ruleset import Goto, InSet, Jump, Log, Origin, Rule, Ruleset
from netpold.rules.walk import Packet, Walk, is_member, walk

Decision = Literal["allow", "deny"]
RULES_CHAIN = "NP-RULES-"
_SENDER, _RECEIVER = "NETPOLD-FROM", "NETPOLD-TO"
_PODS_OWN = ("NP-OUT-", "NP-IN-", "NP-HOST-")  # so the chains begin that judge for one pod or address
AT_HOME = "traffic between a node and its own pods is free"
CLOSED = "; the policy is closed: its manifest failed the checks"
NOTHING_ELSE = "nothing that is enforced denies it"


@dataclass(frozen=True, slots=True)
class SetFact:
    """A set that a rule looks the far end up in: its logical name, what it means, how many members it has, and
    whether the far end is one of them."""

    name: str
    meaning: str
    members: int
    has_peer: bool


@dataclass(frozen=True, slots=True)
class Judgement:
    """One direction: the verdict and what it rests on.

    `isolating`: keys of the policies that isolate the pod in this direction; with none, everything is allowed.
    `allowed_by`: the policy rule that allows it.  `chain`, `rule`: where in the kernel it is decided, '' for nowhere.
    `reason`: all of it in a sentence.  `nearest_miss`: for a denial, the rule that lacks one thing to allow it.
    `sets`: those of the rule that allows, or else is nearest to it.  `audit`: it would be dropped, were the policies
    that isolate the pod enforced and not only audited; then `nearest_miss` is as for a denial.
    `tiers`: the rules of ClusterNetworkPolicies that it meets on its way, in order; `denied_by`: that which denies it.
    """

    verdict: Decision
    isolating: tuple[str, ...]
    allowed_by: Origin | None
    chain: str
    rule: str
    reason: str
    nearest_miss: Miss | None = None
    sets: tuple[SetFact, ...] = ()
    audit: bool = False
    tiers: tuple[Origin, ...] = ()
    denied_by: Origin | None = None


@dataclass(frozen=True, slots=True)
class Explanation:
    """The answer for one pair of addresses; `families`: the verdict for each family that both ends have, this one's
    first."""

    packet: Packet
    verdict: Decision
    families: Mapping[Family, Decision]
    egress: Judgement
    ingress: Judgement


@dataclass(frozen=True, slots=True)
class _Question:
    """What is asked, in one family; `protocol` and `port` as in `explain`."""

    index: Index
    ruleset: Ruleset
    packet: Packet
    protocol: str
    port: int | None


def explain(
    index: Index,
    ruleset: Ruleset,
    source: str,
    destination: str,
    protocol: str,
    port: int | None,
    own: Interface | None = None,
    home: Home = NOWHERE,
) -> Explanation:
    """Judge the first packet between two ends (`namespace/pod` or an address) in their first common family.

    `protocol` is TCP, UDP, SCTP, ICMP (echo request, no port) or the number of another (no port).  `own`: the interface
    of a pod that sends to itself: only by that does the kernel tell it from others that send with its address.  `home`:
    the node that is asked.
    Raises UnknownEndpoint.
    """
    ends = end(index, source, home), end(index, destination, home)
    return explain_between(index, ruleset, ends, protocol, port, own)


def explain_between(
    index: Index,
    ruleset: Ruleset,
    ends: tuple[End, End],
    protocol: str,
    port: int | None,
    own: Interface | None = None,
) -> Explanation:
    """The same of ends that are known already.  Raises UnknownEndpoint where they have no family in common."""
    common = families(*ends)
    if not common:
        source, destination = (each.name for each in ends)
        raise UnknownEndpoint(
            f"{source} and {destination} have no address of the same family",
            "write both addresses into status.podIPs of the pods' manifests"
            if "/" in source and "/" in destination
            else "ask with addresses of the same family, IPv4 or IPv6",
        )
    packets = {family: _at(own, first_packet(*ends, family, protocol, port)) for family in common}
    verdicts = {family: verdict(ruleset, packet, *ends) for family, packet in packets.items()}
    return _explain(_Question(index, ruleset, packets[common[0]], protocol, port), *ends, verdicts)


def _at(own: Interface | None, packet: Packet) -> Packet:
    """The packet of a pod to itself, at its interface."""
    if own is None:
        return packet
    if own.bridged:
        return replace(packet, in_port=own.name, out_port=own.name)
    return replace(packet, in_interface=own.name, out_interface=own.name)


def verdict(ruleset: Ruleset, packet: Packet, source: End, destination: End) -> Decision:
    """What becomes of a packet from end to end."""
    return fate(ruleset, packet, source, destination)[0]


def fate(ruleset: Ruleset, packet: Packet, source: End, destination: End) -> tuple[Decision, bool]:
    """What becomes of a packet from end to end, and whether it passes because policies are audited only."""
    chain = ruleset.hooks.get(hook(source, destination), "")
    if not chain:
        return "allow", False
    found = walk(ruleset, chain, packet)
    if found.verdict == "DROP":
        return "deny", False
    return "allow", any(lets_through(rule) for _, rule in found.passed)


def _explain(asked: _Question, source: End, destination: End, verdicts: Mapping[Family, Decision]) -> Explanation:
    ruleset, packet = asked.ruleset, asked.packet
    roots = {each: root(ruleset, packet.family, hook(source, destination), each) for each in Direction}
    return Explanation(
        packet,
        verdicts[packet.family],
        verdicts,
        _judgement(asked, source, destination, Direction.EGRESS, *roots[Direction.EGRESS]),
        _judgement(asked, destination, source, Direction.INGRESS, *roots[Direction.INGRESS]),
    )


def root(ruleset: Ruleset, family: Family, way: str, direction: Direction) -> tuple[str, bool]:
    """The chain that judges in a direction what goes this way (`hook`), '' for none; and whether that judges as a pod's
    own node alone does: by the tiers."""
    usual = _SENDER if direction is Direction.EGRESS else _RECEIVER
    if way == "FORWARD" or (way == "OUTPUT" and way in ruleset.hooks and direction is Direction.INGRESS):
        return usual, False
    if way != "INPUT" or way not in ruleset.hooks or direction is Direction.INGRESS:
        return "", True
    chain = ruleset.hooks[way]
    judges_all = any(rule.target == Goto(usual) for rule in ruleset.chains[family].get(chain, ()))
    return (usual, False) if judges_all else (chain, True)


def reaches_pod(found: Walk) -> bool:
    """Whether it comes to a chain that judges for the pod."""
    targets = (rule.target for _, rule in found.passed)
    return any(isinstance(target, Jump | Goto) and target.chain.startswith(_PODS_OWN) for target in targets)


def _judgement(asked: _Question, near: End, far: End, direction: Direction, root: str, at_home: bool) -> Judgement:
    """`root`, `at_home`: as the function `root` has it."""
    if near.lingerer:
        return _of_lingerer(asked, near, near.lingerer, far, direction, root, at_home)
    if near.pod is None:
        return _free(f"{near.name} is no pod that policies select")
    if near.pod.host_network:
        return _free(f"{near.name} is on the host's network: policies do not select it")
    pods = claimants(asked.index, near, _own(asked, direction)) or [near.pod]
    isolations = [asked.index.isolation(pod, direction) for pod in pods]
    isolating = {each.key: each for isolation in isolations for each in isolation.policies}
    policies = tuple(isolating[key] for key in sorted(isolating))
    if not root or (at_home and not any(isolation.tiers for isolation in isolations)):
        return _free(AT_HOME)
    if not any(isolations):
        return _free(f"no policy isolates {near.name} for {direction}")
    found = walk(asked.ruleset, root, asked.packet)
    return _told(asked, found, near, far, direction, () if at_home else policies, at_home)


def _of_lingerer(
    asked: _Question, near: End, lingerer: Lingerer, far: End, direction: Direction, root: str, at_home: bool
) -> Judgement:
    """Of a pod that is left without its manifest, or an address that it lost: what its chains say."""
    found = walk(asked.ruleset, root, asked.packet)
    if not reaches_pod(found):
        told = _free(AT_HOME if at_home else f"none isolates it for {direction}")
    else:
        policies = () if at_home else lingerer.isolation[direction].policies
        told = _told(asked, found, near, far, direction, policies, at_home)
    return replace(told, reason=f"{lingerer.said(near.name)}: {told.reason}")


def _told(
    asked: _Question,
    found: Walk,
    near: End,
    far: End,
    direction: Direction,
    policies: tuple[Policy, ...],
    at_home: bool,
) -> Judgement:
    """What a walk through the chains of one direction comes to."""
    origins = (rule.origin for _, rule in found.passed)
    tiers = tuple(dict.fromkeys(each for each in origins if each and each.tier))
    told = replace(_outcome(asked, found, near, far, direction, policies, at_home), tiers=tiers)
    passed = [f"{each.place} passes it on" for each in tiers if each.action is Action.PASS]
    return replace(told, reason="; ".join((*passed, told.reason)))


def _outcome(
    asked: _Question,
    found: Walk,
    near: End,
    far: End,
    direction: Direction,
    policies: tuple[Policy, ...],
    at_home: bool,
) -> Judgement:
    keys = tuple(policy.key for policy in policies)
    chain, rule = next(((chain, rule) for chain, rule in reversed(found.passed) if rule.origin), ("", None))
    if found.verdict == "DROP" and rule and denies(rule):
        line = text(rule, asked.packet.family)
        reason = f"{rule.origin.place} denies it{_closed(asked, rule.origin)}" if rule.origin else ""
        return Judgement("deny", keys, None, chain, line, reason, None, _sets(asked, [rule]), denied_by=rule.origin)
    reported = next((rule for _, rule in found.passed if lets_through(rule)), None)
    if found.verdict == "DROP" or (reported and reported.origin is None):
        return _denial(asked, found, near, far, direction, policies)
    told = _allowance(asked, found, near, direction, keys, at_home)
    if reported and reported.origin:
        then = told.reason if told.allowed_by else NOTHING_ELSE
        reason = f"audited: {reported.origin.place} would deny it; {then}"
        return replace(told, reason=reason, audit=True, denied_by=reported.origin)
    return told


def _closed(asked: _Question, origin: Origin) -> str:
    policy = asked.index.world.policies.get(origin.policy)
    return CLOSED if policy and policy.quarantined else ""


def denies(rule: Rule) -> bool:
    """Whether it is a tier's, and not only reports."""
    return rule.origin is not None and rule.origin.action is Action.DENY and not isinstance(rule.target, Log)


def _own(asked: _Question, direction: Direction) -> str:
    """The address of the end that is judged."""
    return asked.packet.source if direction is Direction.EGRESS else asked.packet.destination


def _free(reason: str) -> Judgement:
    return Judgement("allow", (), None, "", "", reason)


def _allowance(
    asked: _Question, found: Walk, near: End, direction: Direction, isolating: tuple[str, ...], at_home: bool
) -> Judgement:
    for chain, rule in found.passed:
        if rule.origin and rule.origin.action is Action.ACCEPT:
            line, reason = text(rule, asked.packet.family), f"{rule.origin.place} allows it"
            return Judgement("allow", isolating, rule.origin, chain, line, reason, None, _sets(asked, [rule]))
    if not reaches_pod(found):
        return Judgement("allow", isolating, None, "", "", elsewhere(near, direction, bool(isolating)))
    if found.rule is not None and not found.chain.startswith(RULES_CHAIN):
        says = REACHES_ITSELF if found.rule.comment == ITSELF else found.rule.comment
        return Judgement("allow", isolating, None, found.chain, text(found.rule, asked.packet.family), says)
    return Judgement("allow", isolating, None, "", "", unsaid(near, direction, bool(isolating), at_home))


def elsewhere(near: End, direction: Direction, isolated: bool) -> str:
    """Where this node judges nothing for it."""
    where = f"on {near.pod.node}, its own node" if near.pod and near.pod.node else "on its own node"
    what = "isolated" if isolated else "judged"
    return f"{near.name} is {what} for {direction} {where}, which is not this one"


def unsaid(near: End, direction: Direction, isolated: bool, at_home: bool) -> str:
    """Of what no rule matches, and all the same passes."""
    if at_home:
        return "no tier denies it, and NetworkPolicies leave traffic between a node and its own pods free"
    if isolated:
        return f"no tier denies it, and the NetworkPolicies that isolate {near.name} for {direction} are only audited"
    return f"no tier denies it, and no NetworkPolicy isolates {near.name} for {direction}"


def _denial(
    asked: _Question, found: Walk, near: End, far: End, direction: Direction, policies: tuple[Policy, ...]
) -> Judgement:
    """What no rule allows; with audited policies alone, it passes all the same."""
    isolating = tuple(policy.key for policy in policies)
    audit = found.verdict != "DROP"
    chain, rule = found.chain, found.rule
    if audit:
        chain, rule = next((chain, rule) for chain, rule in found.passed if lets_through(rule))
    miss = _miss(asked, near, far, direction, policies) if chain.startswith(RULES_CHAIN) else None
    rules = asked.ruleset.chains[asked.packet.family].get(chain, ())
    sets = _sets(asked, (each for each in rules if miss and each.origin == miss.origin))
    line, why = (text(rule, asked.packet.family), rule.comment) if rule else ("", "")
    pods = _judged(asked, near, direction)
    if audit:
        reason = denial(near.name, direction, policies, audit)
        return Judgement("allow", isolating, None, chain, line, reason, miss, sets, True)
    reason = f"{near.name} is isolated for {direction}: {why}"
    if len(pods) == 1 and pods[0].quarantined:
        why = "its manifest failed the checks, so nothing is granted to it"
        reason = f"{near.name} is isolated for {direction}: {why}"
    elif chain.startswith(RULES_CHAIN) and policies:
        reason = denial(near.name, direction, policies, audit)
    if len(pods) > 1:
        names = " and ".join(pod.key for pod in pods)
        reason = f"{_own(asked, direction)} is the address of {names}; what isolates any of them holds: {why}"
    return Judgement("deny", isolating, None, chain, line, reason, miss, sets)


def _miss(asked: _Question, near: End, far: End, direction: Direction, policies: tuple[Policy, ...]) -> Miss | None:
    """The nearest miss; none where several pods claim the address, for all their policies would have to allow."""
    pods = _judged(asked, near, direction)
    if len(pods) != 1 or pods[0].quarantined:
        return None
    address = asked.packet.destination if direction is Direction.EGRESS else asked.packet.source
    there = Far(far.name, address, tuple(asked.index.claimants(address)))
    found = misses(asked.index.world, policies, pods[0], direction, there, asked.protocol, asked.port)
    return found[0] if found else None


def _judged(asked: _Question, near: End, direction: Direction) -> list[Pod]:
    """The pods whose policies have a say about this end."""
    return [near.lingerer.pod] if near.lingerer else claimants(asked.index, near, _own(asked, direction))


def _sets(asked: _Question, rules: Iterable[Rule]) -> tuple[SetFact, ...]:
    """The sets that rules look the far end up in, each once."""
    packet, found = asked.packet, dict[str, SetFact]()
    for rule in rules:
        for match in rule.matches:
            if isinstance(match, InSet):
                each = asked.ruleset.sets[match.name]
                has_peer = is_member(each, packet, match.side)
                found[each.name] = SetFact(each.name, each.meaning, len(each.members), has_peer)
    return tuple(found.values())

"""Everything about one pod, or about one policy, and what was counted of all, as JSON (docs/json.md).

Three questions to the loop, with what it holds beside Facts (`Held`); what the kernel has counted is read before, by
whoever asks (inspection.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import reduce
from typing import Any, Literal

from netpold.daemon.inbox import Question
from netpold.daemon.questions import Facts, NoAnswer, Why
from netpold.daemon.status import finding_json
from netpold.host.drops import DropTotals
from netpold.policy.groups import EVERY_POD, PodGroup
from netpold.policy.isolation import Isolation
from netpold.policy.model import (
    EVERYTHING,
    Action,
    AnyPolicy,
    ClusterPolicy,
    Direction,
    Finding,
    Pod,
    PodPeer,
    Policy,
    PolicyRule,
    TierRule,
    policy_title,
)
from netpold.policy.undeclared import undeclared
from netpold.policy.words import peer_text, peers_text, ports_text, rule_text
from netpold.rules.answers import place_json
from netpold.rules.count import Count, Isolated
from netpold.rules.counted import RULES_PREFIX, PodChains, add, rules_chains
from netpold.rules.ends import lingering
from netpold.rules.plan import Installed
from netpold.rules.ruleset import FAMILIES, InSet, Origin, origin

STEP = 200  # rows between two pauses
MOST_NAMED = 100  # pods, of one policy or peer

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Held:
    """What the loop holds beside Facts.  For its thread alone, but for what is frozen.

    `installed`: what the kernel holds, all members known; `isolated`: of this node's pods; `findings`: all of them;
    `as_before`: `Kind namespace/name` of what is in force in an earlier version; `audited`: the keys of policies;
    `frames`: see BridgeFrames.listing.
    """

    installed: Installed
    isolated: Sequence[Isolated]
    findings: Sequence[Finding]
    as_before: Sequence[str]
    audited: Set[str]
    frames: str | None = None


@dataclass(frozen=True, slots=True)
class Tally:
    """What was counted: `rules`: what each has let pass; `judged`: for each isolated pod; `dropped`: since the daemon's
    start."""

    rules: Mapping[Origin, Count]
    judged: Mapping[tuple[str, Direction], Count]
    dropped: DropTotals


def about_pod(facts: Facts, held: Held, tally: Tally, chains: PodChains, name: str) -> Question[Json]:
    """Raises NoAnswer where no manifest declares it."""
    pod = facts.world.pods.get(name)
    if pod is None:
        raise no_pod(facts, name)
    yield
    endpoint, namespace = facts.endpoints.get(name), facts.world.namespace(pod.namespace)
    directions = {}
    for direction in Direction:
        isolating = facts.index.isolation(pod, direction) if pod.takes_part else None
        policies = isolating.policies if isolating else ()
        directions[str(direction)] = {
            "isolated": bool(policies),
            "audited": bool(policies) and all(each.key in held.audited for each in policies),
            "policies": [_policy_place(each, held) for each in policies],
            "rules": [
                rule
                for each in (policies if isolating and isolating.grants else ())
                for rule in _rules(facts, tally, each, direction)
            ],
            "judged": _count(tally.judged.get((name, direction))),
            "dropped": _count(tally.dropped.pods.get((name, direction))),
            "chains": _pod_chains(facts, chains.get((name, direction), ())),
            "tiers": [_in_tier(facts, held, tally, each, isolating, direction) for each in isolating.tiers]
            if isolating
            else [],
        }
        yield
    return {
        "pod": name,
        **place_json(pod.position),
        "addresses": list(pod.addresses),
        "enforced_addresses": list(endpoint.judged_at) if endpoint else [],
        "also_claimed_by": _also_claimed(facts, pod),
        "interfaces": [{"name": each.name, "bridged": each.bridged} for each in endpoint.interfaces]
        if endpoint
        else [],
        "on_node": pod.node,
        "here": endpoint is not None,
        "host_network": pod.host_network,
        "finished": pod.finished,
        "ports": [{"name": each.name, "protocol": each.protocol, "port": each.port} for each in pod.ports],
        "labels": dict(pod.labels),
        "namespace_labels": dict(namespace.labels),
        "in_force_as": _as(f"Pod {name}", pod, held),
        **directions,
        "findings": _findings(held, f"Pod {name}"),
    }


def _also_claimed(facts: Facts, pod: Pod) -> Json:
    """The other pods that claim addresses of its, by address, where there are any."""
    claimants = {address: facts.index.claims.of(address) for address in pod.addresses if pod.takes_part}
    return {
        address: [key for key in keys if key != pod.key][:MOST_NAMED]
        for address, keys in claimants.items()
        if len(keys) > 1
    }


def _in_tier(
    facts: Facts, held: Held, tally: Tally, policy: ClusterPolicy, isolation: Isolation, direction: Direction
) -> Json:
    """What a policy of the cluster says to a pod."""
    sure = isolation.grants and policy.key not in isolation.denying
    rules = _rules(facts, tally, policy, direction)
    return {
        **_policy_place(policy, held),
        "tier": str(policy.tier),
        "priority": policy.priority,
        "only_denies": not sure,
        "rules": [rule for rule in rules if sure or rule["action"] == str(Action.DENY)],
    }


def about_policy(facts: Facts, held: Held, tally: Tally, chains: PodChains, name: str) -> Question[Json]:
    """Raises NoAnswer where no manifest declares it."""
    policy = facts.world.policies.get(name)
    if policy is None:
        raise unknown("policy", name, facts.world.policies)
    yield
    selected = sorted(facts.index.members(_selects(policy)))
    isolated = {(each.pod, each.direction): each for each in held.isolated if name in each.policies}
    yield
    directions: Json = {}
    for direction in Direction:
        rules = policy.rules(direction)
        if rules is None or (isinstance(policy, ClusterPolicy) and not rules):
            directions[str(direction)] = None
            continue
        here = sorted(pod for pod, way in isolated if way is direction)
        found = {each for pod in here for each in chains.get((pod, direction), ())}
        directions[str(direction)] = {
            "pods_here": _some(here),
            "rules": list(_rules(facts, tally, policy, direction)),
            "dropped": _count(_dropped(held, tally, policy, direction)),
            "chains": _policy_chains(facts, name, found),
        }
        yield
    return {
        "policy": name,
        **place_json(policy.position),
        "subject": _subject(policy),
        "selects": _some(selected),
        "here": len({pod for pod, _ in isolated}),
        "audited": name in held.audited,
        "in_force_as": _as(policy_title(name), policy, held),
        **_tier(policy),
        **directions,
        "sets": _sets(facts, held, name),
        "findings": _findings(held, policy_title(name)),
    }


def _selects(policy: AnyPolicy) -> PodGroup:
    if isinstance(policy, ClusterPolicy):
        return PodGroup.of(policy.subject, policy)
    return PodGroup(policy.namespace, EVERYTHING, policy.selector)


def _subject(policy: AnyPolicy) -> str:
    """Whom it selects, in words."""
    if isinstance(policy, ClusterPolicy):
        return peer_text(policy.subject, "")
    return peer_text(PodPeer(policy.selector), policy.namespace)


def _tier(policy: AnyPolicy) -> Json:
    if isinstance(policy, ClusterPolicy):
        return {"kind": policy.kind, "tier": policy.tier.value, "priority": policy.priority}
    return {"kind": policy.kind, "tier": None, "priority": None}


def counted(facts: Facts, held: Held, tally: Tally, at: float) -> Question[Json]:
    """By policy rule, by policy and by pod; `at`: when that was, in seconds of some clock that only goes on."""
    rules: list[Json] = []
    for number, (each, count) in enumerate(sorted(tally.rules.items(), key=_by_origin)):
        policy = facts.world.policies.get(each.policy)
        found = (policy.rules(each.direction) if policy else None) or ()
        rule = found[each.index] if each.index < len(found) else None
        where = (rule and rule.position) or (policy.position if policy else None)
        of = {"policy": each.policy, "direction": str(each.direction), "rule": each.index, "action": str(each.action)}
        rules.append({**of, **place_json(where), "passed": _count(count)})
        if number % STEP == 0:
            yield
    isolated = {(key, each.direction) for each in held.isolated for key in each.policies}
    known = facts.world.policies
    policies = [
        {
            "policy": key,
            "direction": str(direction),
            "audited": key in held.audited,
            "dropped": _count(_dropped(held, tally, known.get(key), direction, key)),
        }
        for key, direction in sorted(isolated)
    ]
    yield
    pods = [
        {
            "pod": key,
            "direction": str(direction),
            "judged": _count(count),
            "dropped": _count(tally.dropped.pods.get((key, direction))),
        }
        for (key, direction), count in sorted(tally.judged.items())
    ]
    return {"at": at, "rules": rules, "policies": policies, "pods": pods}


def _dropped(held: Held, tally: Tally, policy: AnyPolicy | None, direction: Direction, key: str = "") -> Count | None:
    """By a policy: of the cluster what its rules deny; a NetworkPolicy denies by what it leaves out, so it is all that
    was dropped for the pods that it isolates."""
    if not isinstance(policy, ClusterPolicy):
        return tally.dropped.policies.get((policy.key if policy else key, direction))
    if policy.key in held.audited:
        return None
    rules = ((origin(policy, direction, number), rule) for number, rule in enumerate(policy.rules(direction)))
    counts = [tally.rules.get(each) for each, rule in rules if rule.action is Action.DENY]
    return reduce(add, (each for each in counts if each), Count())


def _by_origin(each: tuple[Origin, Count]) -> tuple[str, Direction, int]:
    origin, _ = each
    return origin.policy, origin.direction, origin.index


def _rules(facts: Facts, tally: Tally, policy: AnyPolicy, direction: Direction) -> Iterable[Json]:
    namespace = policy.namespace if isinstance(policy, Policy) else ""
    rules: Sequence[PolicyRule | TierRule] = policy.rules(direction) or ()
    for number, rule in enumerate(rules):
        yield {
            "policy": policy.key,
            "rule": number,
            "action": str(rule.action if isinstance(rule, TierRule) else Action.ACCEPT),
            "name": rule.name if isinstance(rule, TierRule) else "",
            **place_json(rule.position or policy.position),
            "text": rule_text(rule, direction, namespace),
            "peers": peers_text(rule, direction, namespace),
            "ports": ports_text(rule),
            "peer_pods": _peer_pods(facts, policy, rule),
            "passed": _count(tally.rules.get(origin(policy, direction, number))),
        }


def _peer_pods(facts: Facts, policy: AnyPolicy, rule: PolicyRule | TierRule) -> Json | None:
    """The pods that a rule means by labels; None where it means none that way."""
    if rule.peers is None:
        return _some(sorted(facts.index.members(EVERY_POD)))
    groups = {PodGroup.of(each, policy) for each in rule.peers if isinstance(each, PodPeer)}
    if not groups:
        return None
    return _some(sorted(set().union(*(facts.index.members(each) for each in groups))))


def _pod_chains(facts: Facts, names: Iterable[str]) -> Json:
    """By family, those that are in the kernel, and the one with the policies' rules."""
    found: Json = {}
    for family in FAMILIES:
        chains = facts.ruleset.chains[family]
        own = [name for name in names if name in chains]
        shared = {each for name in own for each in rules_chains(chains, name)}
        found[f"IPv{family}"] = [*own, *sorted(shared)]
    return found


def _policy_chains(facts: Facts, policy: str, names: Iterable[str]) -> Json:
    """By family, the chains with its rules."""
    return {
        f"IPv{family}": sorted(
            {
                each
                for name in names
                for each in rules_chains(facts.ruleset.chains[family], name)
                if any(rule.origin and rule.origin.policy == policy for rule in facts.ruleset.chains[family][each])
            }
        )
        for family in FAMILIES
    }


def _sets(facts: Facts, held: Held, policy: str) -> list[Json]:
    """The sets that its rules look peers up in."""
    used: dict[str, None] = {}
    for family in FAMILIES:
        for chain, rules in facts.ruleset.chains[family].items():
            if chain.startswith(RULES_PREFIX) and facts.ruleset.uses[family].get(chain):
                for rule in rules:
                    if rule.origin is not None and rule.origin.policy == policy:
                        used |= dict.fromkeys(each.name for each in rule.matches if isinstance(each, InSet))
    sets = facts.ruleset.sets
    return [
        {
            "name": held.installed.names.get(name, name),
            "meaning": sets[name].meaning,
            "members": len(sets[name].members),
        }
        for name in used
        if name in sets
    ]


def _as(title: str, found: Pod | AnyPolicy, held: Held) -> str:
    """Whether it is in force as it is written."""
    if found.quarantined:
        return "closed"
    return "last-good" if title in held.as_before else "written"


def _policy_place(policy: AnyPolicy, held: Held) -> Json:
    audited = policy.key in held.audited
    return {
        "policy": policy.key,
        **place_json(policy.position),
        "audited": audited,
        "in_force_as": _as(policy_title(policy.key), policy, held),
    }


def _findings(held: Held, subject: str) -> list[Json]:
    return [finding_json(each) for each in held.findings if each.subject == subject]


def _count(count: Count | None) -> Json | None:
    return None if count is None else {"packets": count.packets, "bytes": count.bytes}


def _some(names: Sequence[str]) -> Json:
    return {"count": len(names), "names": list(names[:MOST_NAMED])}


def no_pod(facts: Facts, name: str) -> NoAnswer:
    """No manifest declares the pod of that name, or none does any more."""
    left = lingering(facts.home, name)
    return NoAnswer(Why.UNKNOWN, *left) if left else unknown("pod", name, facts.world.pods)


def unknown(what: Literal["pod", "policy"], name: str, known: Iterable[str]) -> NoAnswer:
    """No manifest declares the pod or policy of that name; with names that are near."""
    return NoAnswer(Why.UNKNOWN, *undeclared(what, name, known))

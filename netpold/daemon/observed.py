"""Questions about what was seen: sums of what audited policies let through, and policies from it.

They are answered by the loop (questions.py) from what was gathered beside it: sums (seen.py) and open flows.  Their
`suggestions` are not JSON yet, for to write them takes long.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Collection, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from netpold.daemon.inbox import Question
from netpold.daemon.questions import Facts, NoAnswer, Why
from netpold.daemon.questions_about import no_pod
from netpold.daemon.seen import Pair, Party, Times, moment
from netpold.daemon.sights import PROTOCOLS, WITH_PORTS
from netpold.policy.model import MODE_ANNOTATION, Direction, Mode, Tier, World
from netpold.policy.suggest import Member, Suggestion, Use, suggest_in_steps
from netpold.rules.audit import inherited, is_audited
from netpold.rules.ends import UnknownEndpoint
from netpold.rules.explain import Judgement, explain
from netpold.rules.revoke import Flow

MOST_NAMED = 100  # policies
MOST_FLOWS = 2000  # different open ones that are looked at
STEP = 200  # flows that are looked at between two pauses

Json = dict[str, Any]
Sums = Mapping[Pair, tuple[Times, tuple[str, ...]]]


def audit(facts: Facts, sums: Sums, flows: Iterable[Flow], since: float) -> Question[Json]:
    """What audited policies have let through and was seen since then (Unix time), what of it flows on, and what would
    allow it."""
    world, mode = facts.world, facts.settings.mode
    audited = sorted(key for key, policy in world.policies.items() if is_audited(policy, world, mode))
    yield
    found = {pair: each for pair, each in sums.items() if pair.verdict == "audit" and each[0].last >= since}
    still_open = (yield from _open(facts, flows)) if audited else {}
    rows, uses = [], []
    for pair in sorted(
        found.keys() | still_open, key=lambda pair: -found[pair][0].last if pair in found else -math.inf
    ):
        times, isolating = found.get(pair, (None, still_open.get(pair, ((), 0))[0]))
        count = still_open[pair][1] if pair in still_open else 0
        judgement = _judged(facts, pair)
        now = judgement and ("audit" if judgement.audit else judgement.verdict)
        why_not = _why_not(facts, judgement, pair) if judgement and judgement.audit else ""
        row = {**_row(pair, times, isolating), "open_flows": count, "now": now, "not_suggested": why_not or None}
        rows.append(row)
        if judgement and judgement.audit and not why_not:
            words = _words({"open": count, "audit": times.packets if times else 0})
            uses += [use for use in _uses(pair, words) if use.direction is pair.direction]
        yield
    suggestions = yield from suggest_in_steps(world, uses)
    return {
        "audited": {"count": len(audited), "policies": audited[:MOST_NAMED]},
        "rows": rows,
        "suggestions": [_audited(each, world, mode) for each in suggestions],
    }


def _audited(suggestion: Suggestion, world: World, mode: Mode) -> Suggestion:
    """In audit mode as the policies that it stands beside: enforced, it would isolate its pods, and have dropped what
    none of them allows and nobody has seen yet."""
    metadata = suggestion.manifest["metadata"]
    if inherited(metadata["namespace"], world, mode) == "audit":
        return suggestion
    manifest = {**suggestion.manifest, "metadata": {**metadata, "annotations": {MODE_ANNOTATION: "audit"}}}
    note = "in audit mode as the policies beside it: to enforce them, take the annotation out of all of them"
    return replace(suggestion, manifest=manifest, notes=(*suggestion.notes, note))


def _why_not(facts: Facts, judgement: Judgement, pair: Pair) -> str:
    """Why no NetworkPolicy is to allow what is audited; '' where one is."""
    by = judgement.denied_by
    ends = pair.source, pair.destination
    near, far = ends if pair.direction is Direction.EGRESS else ends[::-1]
    if by is None or (by.tier is not Tier.ADMIN and judgement.isolating):
        return "" if far.pod else _not_known(facts, far.address)
    if by.tier is Tier.ADMIN:
        return f"{by.place} would deny it, whatever NetworkPolicies say"
    return (
        f"{by.place} would deny it, and no NetworkPolicy isolates {near.pod or near.address} for {pair.direction}: one "
        "that allowed it would shut out all else; let a rule before that one accept it"
    )


def _open(facts: Facts, flows: Iterable[Flow]) -> Generator[None, None, dict[Pair, tuple[tuple[str, ...], int]]]:
    """Open flows that only audited policies let through: by pair, the policies that isolate, and how many there are.
    They may have begun before these were audited."""
    alike: Counter[tuple[str, str, str, int | None]] = Counter()
    for number, flow in enumerate(flows):
        protocol = PROTOCOLS.get(flow.protocol, flow.protocol)
        if protocol in WITH_PORTS:
            alike[flow.source, flow.peer, protocol, flow.peer_port] += 1
        if number % STEP == 0:
            yield
    found: dict[Pair, tuple[tuple[str, ...], int]] = {}
    for (source, peer, protocol, port), count in alike.most_common(MOST_FLOWS):
        answer = explain(facts.index, facts.ruleset, source, peer, protocol, port, home=facts.home)
        for direction, judgement in ((Direction.EGRESS, answer.egress), (Direction.INGRESS, answer.ingress)):
            if judgement.audit:
                ends = _party(facts, source), _party(facts, peer)
                pair = Pair("audit", direction, *ends, protocol, port)
                by = (judgement.denied_by.policy,) if judgement.denied_by else judgement.isolating
                found[pair] = by, found.get(pair, ((), 0))[1] + count
        yield
    return found


def _judgements(facts: Facts, pair: Pair) -> Mapping[Direction, Judgement]:
    """What would become of it now; none: that can't be told, as of pods that are gone."""
    ends = [each.pod or each.address for each in (pair.source, pair.destination)]
    try:
        answer = explain(facts.index, facts.ruleset, ends[0], ends[1], pair.protocol, pair.port, home=facts.home)
    except UnknownEndpoint:
        return {}
    return {Direction.EGRESS: answer.egress, Direction.INGRESS: answer.ingress}


def _judged(facts: Facts, pair: Pair) -> Judgement | None:
    """The same, in the direction in which it was judged before."""
    return _judgements(facts, pair).get(pair.direction or Direction.EGRESS)


def _forbidden(judgement: Judgement | None) -> str:
    """That a rule of the Admin tier denies it, so that no NetworkPolicy could allow it; '' where none does."""
    if judgement is None or judgement.verdict != "deny":  # what is audited only, is named, too
        return ""
    by = judgement.denied_by
    return f"{by.place} denies it, whatever NetworkPolicies say" if by and by.tier is Tier.ADMIN else ""


def _not_known(facts: Facts, address: str) -> str:
    """Why a block of just that address would allow others than who was seen; '' where it would not."""
    if left := facts.home.lingering.get(address):
        return f"{address} is what {left.pod.key} has left, and the next pod may get it"
    owners = [pod.key for pod in facts.index.claimants(address)]
    return f"{address} is the address of {' and '.join(owners)} now, and who had it then is not known" if owners else ""


def _row(pair: Pair, times: Times | None, isolating: tuple[str, ...]) -> Json:
    return {
        "direction": pair.direction and str(pair.direction),
        "source": {"pod": pair.source.pod or None, "address": pair.source.address or None},
        "destination": {"pod": pair.destination.pod or None, "address": pair.destination.address or None},
        "protocol": pair.protocol,
        "port": pair.port,
        "icmp_type": pair.icmp_type,
        "packets": times.packets if times else 0,
        "first": times and moment(times.first),
        "last": times and moment(times.last),
        "isolating": list(isolating),
    }


def suggestion_json(found: Suggestion) -> Json:
    return {
        "pods": list(found.pods),
        "policy": found.manifest,
        "notes": list(found.notes),
        "yaml": found.text(),
    }


def _not_here(facts: Facts, wanted: Wanted) -> NoAnswer:
    """Why nothing can be seen of what is wanted."""
    elsewhere = "ask on its own node: flows are seen there alone"
    if not wanted.pod:
        fault = f"no pod of the namespace {wanted.namespace} is on this node"
        known = wanted.namespace in facts.world.namespaces or any(map(wanted.covers, facts.world.pods))
        hint = elsewhere.replace("its own node", "its pods' nodes") if known else "no manifest names that namespace"
        return NoAnswer(Why.UNKNOWN, fault, hint)
    pod = facts.world.pods.get(wanted.pod)
    if pod is None:
        return no_pod(facts, wanted.pod)
    if pod.host_network:
        fault, hint = "is on its node's own network: policies do not select it", "ask about the pods that it talks to"
    elif not pod.takes_part or not pod.addresses:
        fault, hint = "has no address", "ask again when its manifest has status.podIPs"
    else:
        fault, hint = "is not on this node", elsewhere
    return NoAnswer(Why.UNKNOWN, f"the pod {wanted.pod} {fault}", hint)


@dataclass(frozen=True, slots=True)
class Wanted:
    """Of which pods policies are wanted (`pod`: a key; `namespace`: all of it; one of them is empty), for which
    directions, and whether what was dropped is to be allowed, too."""

    pod: str
    namespace: str
    directions: Sequence[Direction]
    dropped: bool

    def covers(self, key: str) -> bool:
        return key == self.pod if self.pod else key.partition("/")[0] == self.namespace


def suggested(facts: Facts, wanted: Wanted, flows: Iterable[Flow], sums: Sums, own: Collection[str]) -> Question[Json]:
    """Policies that allow what these flows and sums show, for the pods of this node that are wanted.

    `own`: the node's addresses, whose traffic with its own pods is free, as the settings say.  Raises NoAnswer.
    """
    here = [key for key in facts.endpoints if wanted.covers(key) and key in facts.world.pods]
    if not here:
        raise _not_here(facts, wanted)
    seen: dict[Use, Counter[str]] = defaultdict(Counter)
    for number, flow in enumerate(flows):
        for use in _uses(_of_flow(facts, flow), ""):
            seen[use]["open"] += 1
        if number % STEP == 0:
            yield
    for number, (pair, (times, _)) in enumerate(sums.items()):
        is_dropped = pair.verdict == "drop"
        now = _judgements(facts, pair) if is_dropped and wanted.dropped and facts.index.has_tiers else {}
        for use in _uses(pair, "") if wanted.dropped or not is_dropped else ():
            # one packet may have been seen as it was sent, and as it came
            counts = seen[replace(use, why_not=_forbidden(now.get(use.direction)))]
            counts[pair.verdict] = max(counts[pair.verdict], times.packets)
        if number % STEP == 0:
            yield
    free = _free(facts, own)
    uses = [
        replace(
            use,
            seen=_words(counts),
            why_not=use.why_not or (_not_known(facts, use.peer) if isinstance(use.peer, str) else ""),
        )
        for use, counts in seen.items()
        if f"{use.pod.namespace}/{use.pod.name}" in here
        and use.direction in wanted.directions
        and not (isinstance(use.peer, str) and (use.direction, use.peer) in free)
    ]
    found = yield from suggest_in_steps(facts.world, uses, tuple(wanted.directions))
    of = {key for each in found for key in each.pods}
    return {"suggestions": found, "unseen": sorted(set(here) - of)}


def _free(facts: Facts, own: Collection[str]) -> set[tuple[Direction, str]]:
    """The directions in which traffic with these addresses needs no rule."""
    free = set()
    if facts.settings.host_access == "allow":
        free |= {(Direction.EGRESS, address) for address in own}
    if facts.settings.host_to_pods == "allow":
        free |= {(Direction.INGRESS, address) for address in own}
    return free


def _of_flow(facts: Facts, flow: Flow) -> Pair:
    ends = _party(facts, flow.source), _party(facts, flow.peer)
    protocol = PROTOCOLS.get(flow.protocol, flow.protocol)
    return Pair("allow", None, *ends, protocol, flow.peer_port if protocol in WITH_PORTS else None)


def _party(facts: Facts, address: str) -> Party:
    pods = facts.index.claimants(address)
    return Party.of(pods[0] if len(pods) == 1 else None, address)


def _uses(pair: Pair, words: str) -> Iterator[Use]:
    """A flow as what each of its pods does."""
    if pair.source.pod == pair.destination.pod:
        return
    for direction, near, far in (
        (Direction.EGRESS, pair.source, pair.destination),
        (Direction.INGRESS, pair.destination, pair.source),
    ):
        if near.pod:
            peer = _member(far) if far.pod else far.address
            yield Use(_member(near), direction, peer, pair.protocol, pair.port, words)


def _member(party: Party) -> Member:
    namespace, _, name = party.pod.partition("/")
    return Member(namespace, name, party.labels)


def _words(counts: Mapping[str, int]) -> str:
    """How something was seen, and how often."""
    words = {"open": "open flow", "allow": "new flow", "audit": "audited packet", "drop": "dropped packet"}
    said = [
        f"{counts[each]} {what if counts[each] == 1 else what + 's'}" for each, what in words.items() if each in counts
    ]
    return f"({', '.join(said)})"

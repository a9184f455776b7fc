"""Questions about what was seen: sums of what audited policies let through, and policies from it.

They are answered by the loop (questions.py) from what was gathered beside it: sums (seen.py) and open flows.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from netpold.daemon.inbox import Question
from netpold.daemon.questions import Facts, NoAnswer, Why
from netpold.daemon.seen import Pair, Party, Times, moment
from netpold.daemon.sights import PROTOCOLS, WITH_PORTS
from netpold.policy.model import Direction
from netpold.policy.suggest import Member, Suggestion, Use, suggest
from netpold.rules.audit import is_audited
from netpold.rules.revoke import Flow

MOST_NAMED = 100  # policies
STEP = 200  # flows that are looked at between two pauses

Json = dict[str, Any]
Sums = Mapping[Pair, tuple[Times, tuple[str, ...]]]


def audit(facts: Facts, sums: Sums, since: float) -> Question[Json]:
    """What audited policies have let through, if it was seen since then (Unix time), and what would allow it."""
    world, mode = facts.world, facts.settings.mode
    audited = sorted(key for key, policy in world.policies.items() if is_audited(policy, world, mode))
    yield
    rows, uses = [], []
    for pair, (times, isolating) in sorted(sums.items(), key=lambda each: -each[1][0].last):
        if pair.verdict != "audit" or times.last < since:
            continue
        rows.append(_row(pair, times, isolating))
        uses += [use for use in _uses(pair, _words({"audit": times.packets})) if use.direction is pair.direction]
    yield
    found = suggest(facts.world, uses)
    return {
        "audited": {"count": len(audited), "policies": audited[:MOST_NAMED]},
        "rows": rows,
        "suggestions": [_suggestion(each) for each in found],
    }


def _row(pair: Pair, times: Times, isolating: tuple[str, ...]) -> Json:
    return {
        "direction": pair.direction and str(pair.direction),
        "source": {"pod": pair.source.pod or None, "address": pair.source.address or None},
        "destination": {"pod": pair.destination.pod or None, "address": pair.destination.address or None},
        "protocol": pair.protocol,
        "port": pair.port,
        "icmp_type": pair.icmp_type,
        "packets": times.packets,
        "first": moment(times.first),
        "last": moment(times.last),
        "isolating": list(isolating),
    }


def _suggestion(found: Suggestion) -> Json:
    return {
        "pods": list(found.pods),
        "policy": found.manifest,
        "notes": list(found.notes),
        "yaml": found.text(),
    }


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
        what = f"the pod {wanted.pod}" if wanted.pod else f"a pod of the namespace {wanted.namespace}"
        hint = "ask on its own node, for flows are seen there alone; `netpoldctl status` counts the pods of this one"
        raise NoAnswer(Why.UNKNOWN, f"{what} is not on this node", hint)
    seen: dict[Use, Counter[str]] = defaultdict(Counter)
    for number, flow in enumerate(flows):
        for use in _uses(_of_flow(facts, flow), ""):
            seen[use]["open"] += 1
        if number % STEP == 0:
            yield
    for pair, (times, _) in sums.items():
        if pair.verdict != "drop" or wanted.dropped:
            for use in _uses(pair, ""):  # one packet may have been seen as it was sent, and as it came
                seen[use][pair.verdict] = max(seen[use][pair.verdict], times.packets)
    free = _free(facts, own)
    uses = [
        Use(use.pod, use.direction, use.peer, use.protocol, use.port, _words(counts))
        for use, counts in seen.items()
        if f"{use.pod.namespace}/{use.pod.name}" in here
        and use.direction in wanted.directions
        and not (isinstance(use.peer, str) and (use.direction, use.peer) in free)
    ]
    found = suggest(facts.world, uses, tuple(wanted.directions))
    of = {key for each in found for key in each.pods}
    return {"suggestions": [_suggestion(each) for each in found], "unseen": sorted(set(here) - of)}


def _free(facts: Facts, own: Collection[str]) -> set[tuple[Direction, str]]:
    """The directions in which traffic with these addresses needs no rule."""
    free = set()
    if facts.settings.host_access == "allow":
        free |= {(Direction.EGRESS, address) for address in own}
    if facts.settings.host_to_pods == "allow":
        free |= {(Direction.INGRESS, address) for address in own}
    return free


def _of_flow(facts: Facts, flow: Flow) -> Pair:
    ends = [facts.index.claimants(address) for address in (flow.source, flow.peer)]
    source, destination = (
        Party.of(pods[0] if len(pods) == 1 else None, address)
        for pods, address in zip(ends, (flow.source, flow.peer), strict=True)
    )
    protocol = PROTOCOLS.get(flow.protocol, flow.protocol)
    return Pair("allow", None, source, destination, protocol, flow.peer_port if protocol in WITH_PORTS else None)


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

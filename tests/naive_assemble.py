"""The naive way from files to a world: all files at once, every time.  netpold.policy.assemble is compared with it.

An object is, in this order: its one good version; where its manifest is rejected, its good version in `before`; else
its closed version.  A file that could not be read to its end may hold any policy and namespace that is in no file any
more, and the pods that it held before or that went in the change in which it broke: so those stay.

What is naive is when and of what a world is made.  What a closed version is, and what a finding of claimed addresses
says, does not depend on that: these are netpold's own, and tests/test_assemble.py has what they should be.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from netpold.policy.assemble import may_be_there, place
from netpold.policy.claims import claim_finding
from netpold.policy.closed import closed_any_policy, closed_namespace, closed_node, closed_pod
from netpold.policy.manifest import Parsed
from netpold.policy.model import (
    AnyPolicy,
    ClusterPolicy,
    Finding,
    Namespace,
    Node,
    Pod,
    Position,
    World,
    policy_title,
)

_T = TypeVar("_T", bound=Pod | Namespace | Node | AnyPolicy)

_NOWHERE = Position("", 0)


@dataclass(frozen=True, slots=True)
class Assembled:
    """What should be in force.

    `findings`: those of the files and those between files, in order of place.  `rejected`: `Kind namespace/name` of
    objects whose manifests are not in force as they are written: an earlier version is, or a closed one.
    """

    world: World
    findings: tuple[Finding, ...]
    rejected: frozenset[str]
    kept_pods: Mapping[str, frozenset[str]]


def assemble(
    parsed: Mapping[str, Parsed],
    before: World,
    changed: Collection[str] = (),
    kept_pods: Mapping[str, frozenset[str]] = {},
) -> Assembled:
    """The world that the files say (`parsed`, by file), with what was in force `before` for what they fail to say.

    `changed`: the files that said something else before; `kept_pods`: the pods that stayed in no file then, with the
    files that may hold them, as Assembled tells them.
    """
    pods: list[Pod] = []
    namespaces: list[Namespace] = []
    nodes: list[Node] = []
    policies: list[AnyPolicy] = []
    findings: list[Finding] = []
    for says in parsed.values():
        findings += says.findings
        for found in says.objects:
            if isinstance(found, Pod):
                pods.append(found)
            elif isinstance(found, Namespace):
                namespaces.append(found)
            elif isinstance(found, Node):
                nodes.append(found)
            else:
                policies.append(found)
    broken = frozenset(file for file, says in parsed.items() if says.truncated)
    merge = _Merge(broken, broken & frozenset(changed), kept_pods, findings)
    world = World(
        merge.objects("Pod", pods, before.pods, closed_pod),
        merge.objects("Namespace", namespaces, before.namespaces, closed_namespace),
        merge.objects("", policies, before.policies, closed_any_policy),
        merge.objects("Node", nodes, before.nodes, closed_node),
    )
    findings += _claimed_twice(world.pods.values())
    findings += _equal_priorities(world.policies)
    findings.sort(key=lambda finding: (finding.position, finding.code, finding.path, finding.fault))
    return Assembled(world, tuple(findings), frozenset(merge.rejected), merge.kept_pods)


def _there(good: object, copies: Iterable[object]) -> bool:
    """Whether a pod's or node's good version says all places that the others say."""
    places = [{*each.addresses, *each.interfaces} for each in (good, *copies) if isinstance(each, Pod)]
    places += [{*each.addresses} for each in (good, *copies) if isinstance(each, Node)]
    return not places or set().union(*places[1:]) <= places[0]


def _title(kind: str, key: str) -> str:
    return f"{kind} {key}" if kind else policy_title(key)


class _Merge:
    """Puts the objects of one kind after the other together, and notes what is wrong between files."""

    def __init__(
        self,
        broken: frozenset[str],
        changed: frozenset[str],
        kept_pods: Mapping[str, frozenset[str]],
        findings: list[Finding],
    ) -> None:
        self._broken, self._changed, self._were_kept, self._findings = broken, changed, kept_pods, findings
        self.kept_pods: dict[str, frozenset[str]] = {}
        self.rejected: set[str] = set()

    def objects(
        self, kind: str, found: Iterable[_T], before: Mapping[str, _T], close: Callable[[list[_T]], _T]
    ) -> dict[str, _T]:
        """The objects by key: one for all that have the same key, and those that broken files held before."""
        merged: dict[str, _T] = {}
        copies: dict[str, list[_T]] = {}
        bad: set[str] = set()
        for each in found:
            key = each.key
            first = merged.setdefault(key, each)
            if first is not each:
                copies.setdefault(key, [first]).append(each)
            if each.quarantined:
                bad.add(key)
        for key, several in copies.items():
            several.sort(key=place)
            merged[key] = several[0]
            same = all(each == several[0] for each in several)
            self._note_copies(_title(kind, key), several, same)
            if not same:
                merged[key] = close(several)
                bad.add(key)
        kept: dict[str, _T] = self._kept(kind, merged, before)
        for key in bad:
            if key in before and not before[key].quarantined and _there(before[key], copies.get(key, [merged[key]])):
                merged[key] = before[key]
        self.rejected.update(_title(kind, key) for key in (*bad, *kept))
        return {**merged, **kept} if kept else merged

    def _kept(self, kind: str, merged: Mapping[str, _T], before: Mapping[str, _T]) -> dict[str, _T]:
        """What no file is known to hold now, and broken ones may."""
        found = {}
        for key in before.keys() - merged.keys():
            where = before[key].position or _NOWHERE
            files = self._broken
            if kind in ("Pod", "Node"):
                files &= self._were_kept.get(key) or self._changed | {where.file}
            if files:
                found[key] = before[key]
                self.kept_pods.update({key: files} if kind in ("Pod", "Node") else {})
            if files and where.file not in files:
                note = may_be_there(_title(kind, key), where, min(files))
                self._findings.append(note)
        return found

    def _note_copies(self, subject: str, copies: list[_T], same: bool) -> None:
        first = copies[0].position
        for copy in copies[1:]:
            where = copy.position or _NOWHERE
            if same and copy.quarantined:
                fault = f"{subject} is here and in {first}, with errors in both"
                cure = "keep the one that is meant: whether they say the same is not known before the errors are mended"
                note = Finding(where, "duplicate-object", "", fault, cure, subject, "warning")
            elif same:
                fault = f"{subject} is here and, the same, in {first}"
                note = Finding(where, "duplicate-object", "", fault, "keep one of them", subject, "warning")
            else:
                fault = f"{subject} is here and, different, in {first}: neither is in force"
                note = Finding(where, "conflicting-objects", "", fault, "keep one of them", subject)
            self._findings.append(note)


def _equal_priorities(policies: Mapping[str, AnyPolicy]) -> list[Finding]:
    """A finding for each but the first policy, by key, that stands at one place with others."""
    found: list[Finding] = []
    firsts: dict[tuple[str, int], ClusterPolicy] = {}
    for key in sorted(policies):
        policy = policies[key]
        if not isinstance(policy, ClusterPolicy) or policy.quarantined:
            continue
        first = firsts.setdefault((policy.tier, policy.priority), policy)
        if first is not policy:
            fault = (
                f"{policy_title(first.key)} ({first.position}) has the priority {policy.priority} in the tier "
                f"{policy.tier}, too; it comes before this one, as its "
                f"{'name' if policy.kind == first.kind else 'kind'} does"
            )
            where, cure = policy.position or _NOWHERE, "give each a priority of its own"
            found.append(Finding(where, "equal-priority", "spec.priority", fault, cure, policy_title(key), "warning"))
    return found


def _claimed_twice(pods: Iterable[Pod]) -> list[Finding]:
    """A finding for each address that two live pods have; those on the host's network share its addresses."""
    owners: dict[str, Pod] = {}
    claims: dict[str, list[Pod]] = {}
    for pod in pods:
        if pod.host_network or pod.finished:
            continue
        for address in pod.addresses:
            owner = owners.setdefault(address, pod)
            if owner is not pod:
                claims.setdefault(address, [owner]).append(pod)
    return [claim_finding(address, claimants) for address, claimants in claims.items()]

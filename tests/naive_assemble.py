"""The naive way from files to a world: all files at once, every time.  netpold.policy.assemble is compared with it.

An object is, in this order: its one good version; where its manifest is rejected, its good version in `last_good`; else
its closed version.  A file that could not be read to its end may hold any object that it held before, so those stay.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import reduce
from typing import TypeVar

from netpold.policy.manifest import Parsed
from netpold.policy.model import EVERYTHING, NAME_LABEL, Finding, Namespace, Pod, Policy, Position, World

_T = TypeVar("_T", Pod, Namespace, Policy)

_NOWHERE = Position("", 0)
_MOST_NAMED = 3  # of the pods that claim one address


@dataclass(frozen=True, slots=True)
class Assembled:
    """What should be in force.

    `findings`: those of the files and those between files, in order of place.  `rejected`: `Kind namespace/name` of
    objects whose manifests are not in force as they are written: an earlier version is, or a closed one.
    """

    world: World
    findings: tuple[Finding, ...]
    rejected: frozenset[str]


def assemble(parsed: Mapping[str, Parsed], last_good: World) -> Assembled:
    """The world that the files say (`parsed`, by file), with `last_good` for what they fail to say."""
    pods: list[Pod] = []
    namespaces: list[Namespace] = []
    policies: list[Policy] = []
    findings: list[Finding] = []
    for says in parsed.values():
        findings += says.findings
        for found in says.objects:
            if isinstance(found, Pod):
                pods.append(found)
            elif isinstance(found, Namespace):
                namespaces.append(found)
            else:
                policies.append(found)
    broken = frozenset(file for file, says in parsed.items() if says.truncated)
    merge = _Merge(broken, findings)
    world = World(
        merge.objects("Pod", pods, last_good.pods, _closed_pod),
        merge.objects("Namespace", namespaces, last_good.namespaces, _closed_namespace),
        merge.objects("NetworkPolicy", policies, last_good.policies, _closed_policy),
    )
    findings += _claimed_twice(world.pods.values())
    findings.sort(key=lambda finding: (finding.position, finding.code, finding.path, finding.fault))
    return Assembled(world, tuple(findings), frozenset(merge.rejected))


class _Merge:
    """Puts the objects of one kind after the other together, and notes what is wrong between files."""

    def __init__(self, broken: frozenset[str], findings: list[Finding]) -> None:
        self._broken, self._findings = broken, findings
        self.rejected: set[str] = set()

    def objects(
        self, kind: str, found: Iterable[_T], good: Mapping[str, _T], close: Callable[[list[_T]], _T]
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
            several.sort(key=_place)
            merged[key] = several[0]
            same = all(each == several[0] for each in several)
            self._note_copies(f"{kind} {key}", several, same)
            if not same:
                merged[key] = close(several)
                bad.add(key)
        kept: dict[str, _T] = self._kept(merged, good) if self._broken else {}
        for key in bad:
            if key in good and not good[key].quarantined:
                merged[key] = good[key]
        self.rejected.update(f"{kind} {key}" for key in (*bad, *kept))
        return {**merged, **kept} if kept else merged

    def _kept(self, merged: Mapping[str, _T], good: Mapping[str, _T]) -> dict[str, _T]:
        """What the files that are broken now held before, and no file is known to hold now."""
        return {
            key: each
            for key, each in good.items()
            if key not in merged and each.position is not None and each.position.file in self._broken
        }

    def _note_copies(self, subject: str, copies: list[_T], same: bool) -> None:
        first = copies[0].position
        for copy in copies[1:]:
            where = copy.position or _NOWHERE
            if same:
                fault = f"{subject} is here and, the same, in {first}"
                note = Finding(where, "duplicate-object", "", fault, "keep one of them", subject, "warning")
            else:
                fault = f"{subject} is here and, different, in {first}: neither is in force"
                note = Finding(where, "conflicting-objects", "", fault, "keep one of them", subject)
            self._findings.append(note)


def _place(found: Pod | Namespace | Policy) -> Position:
    return found.position or _NOWHERE


def _closed_policy(copies: list[Policy]) -> Policy:
    """What all copies may select, in all their directions, and no grant."""
    first = copies[0]
    return Policy(
        first.namespace,
        first.name,
        first.selector if all(copy.selector == first.selector for copy in copies) else EVERYTHING,
        None if all(copy.ingress is None for copy in copies) else (),
        None if all(copy.egress is None for copy in copies) else (),
        first.position,
        quarantined=True,
    )


def _closed_pod(copies: list[Pod]) -> Pod:
    """Wherever any copy says that it is; an address that only a copy on the host's network has is the host's."""
    first = copies[0]
    host_network = all(copy.host_network for copy in copies)
    placed = copies if host_network else [copy for copy in copies if not copy.host_network]
    return Pod(
        first.namespace,
        first.name,
        dict(reduce(lambda common, copy: common & copy.labels.items(), copies, set(first.labels.items()))),
        tuple(dict.fromkeys(address for copy in placed for address in copy.addresses)),
        first.node if all(copy.node == first.node for copy in copies) else None,
        host_network,
        all(copy.finished for copy in copies),
        (),
        tuple(dict.fromkeys(interface for copy in placed for interface in copy.interfaces)),
        first.position,
        quarantined=True,
    )


def _closed_namespace(copies: list[Namespace]) -> Namespace:
    first = copies[0]
    return Namespace(first.name, {NAME_LABEL: first.name}, first.position, quarantined=True)


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
    return [_claim(address, claimants) for address, claimants in claims.items()]


def _claim(address: str, claimants: list[Pod]) -> Finding:
    claimants.sort(key=lambda pod: (_place(pod), pod.key))
    last = claimants[-1]
    names = [f"{pod.key} ({_place(pod)})" for pod in claimants[:_MOST_NAMED]]
    if len(claimants) > _MOST_NAMED:
        names.append(f"{len(claimants) - _MOST_NAMED} more")
    fault = f"the address {address} is claimed by {', '.join(names[:-1])} and {names[-1]}"
    cure = "give each live pod its own address, or take out the manifest of the one that is gone"
    return Finding(_place(last), "address-claimed-twice", "status.podIPs", fault, cure, f"Pod {last.key}")

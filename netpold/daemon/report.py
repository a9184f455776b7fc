"""From what the rounds of the loop did to lines in the journal: one for each change, finding and turn for the worse or
the better, and none for what stays as it is."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Collection, Iterable, Mapping, Sequence, Set
from heapq import nsmallest
from itertools import islice

from netpold.daemon.fight import Repairs
from netpold.daemon.status import Status
from netpold.host import journal
from netpold.host.journal import Message, say
from netpold.policy.changes import Changes
from netpold.policy.model import AnyPolicy, ClusterPolicy, Finding, Namespace, Node, Pod, Policy, World, policy_key
from netpold.rules.endpoint import Endpoint

MOST_NAMES = 3  # that one line tells of each kind
MOST_FINDINGS = 200  # that one round tells; `netpoldctl status` has all
MOST_WARNINGS = 20
REPEAT_S = 600.0  # how soon a warning that came and went is told again
CUT_S = 1.0  # between lines about flows that were cut: in a fight with another program some are all the time

log = logging.getLogger(journal.LOGGER)

_Object = Pod | Namespace | Node | AnyPolicy


class Report:
    """What was said so far.  For use by one thread."""

    def __init__(self) -> None:
        self._waiting = _Waiting()  # not in force yet
        self._findings: Sequence[Finding] = ()
        self._rejected: Set[str] = frozenset()
        self._mended: dict[str, None] = {}  # not in force yet
        self._warned: dict[str, float] = {}  # when it was last true and told
        self._failure = ""
        self._failing_since = 0.0
        self._cut = 0  # flows, not told yet
        self._tell_cut_at = 0.0

    def changed(self, changes: Changes, before: Mapping[str, Endpoint], now: Mapping[str, Endpoint]) -> None:
        """Objects that are others now, and the local pods as they were placed before and are now."""
        self._waiting.note(changes, before, now)

    def applied(self, status: Status, took_s: float | None, repaired: bool = False) -> None:
        """All that was noted is in force.  `took_s`: how long the change of the kernel took; None: there was none.
        `repaired`: another program's doing was undone by it, of which `drifted` tells."""
        for subject in islice(self._mended, MOST_FINDINGS):
            say(journal.MENDED, f"{subject} is in force as it is written", **_subject_fields(subject))
        if len(self._mended) > MOST_FINDINGS:
            log.info("and %d more are in force as they are written", len(self._mended) - MOST_FINDINGS)
        self._mended = {}
        took = {} if took_s is None else {"duration_us": round(took_s * 1e6)}
        what = f"revision {status.revision} stays" if took_s is None else _revision(status, took_s)
        waiting, self._waiting = self._waiting, _Waiting()
        words = waiting.words()
        if took_s is None and not words:
            return
        if words or not repaired:
            text = f"{what}: {'; '.join([*words, status.summary()])}"
            say(journal.APPLIED, text, revision=status.revision, **took, **waiting.fields())

    def drifted(self, status: Status, repairs: Iterable[Repairs]) -> None:
        """Other programs' doing was undone."""
        for names, last, times, longest_s in repairs:
            who = f"{', '.join(names)} (process {last.pid})" if last else "another program"
            often = f" {times} times" if times > 1 else ""
            text = f"{who} had changed netpold's rules or sets{often}: they are put back"
            within = f"within {longest_s * 1000:.0f} ms of being noticed"
            fields = {"program": names} if names else {}
            say(
                journal.DRIFT_REPAIRED,
                f"revision {status.revision}: {text}, {within}",
                revision=status.revision,
                duration_us=round(longest_s * 1e6),
                **fields,
            )

    def cut(self, flows: int) -> None:
        """So many open flows were cut; `tell_cut` says so."""
        self._cut += flows

    def tell_cut(self, now: float = math.inf) -> None:
        """Say how many flows were cut since the last time (at a moment, time.monotonic(); in the end without one)."""
        if self._cut and now >= self._tell_cut_at:
            say(journal.CUT, f"cut {self._cut} open flow(s), no longer allowed", flows=self._cut)
            self._cut, self._tell_cut_at = 0, now + CUT_S

    @property
    def due(self) -> float | None:
        """When (time.monotonic()) there is something to tell."""
        return self._tell_cut_at if self._cut else None

    def found(self, findings: Sequence[Finding], rejected: Set[str], world: World) -> None:
        """All findings there are now, in order, and the `Kind namespace/name` of what is rejected."""
        if findings is self._findings and rejected == self._rejected:
            return
        before = frozenset(self._findings)
        new = [each for each in findings if each not in before]
        for finding in new[:MOST_FINDINGS]:
            _say_finding(finding, rejected, world)
        if len(new) > MOST_FINDINGS:
            log.error("and %d more findings; `netpoldctl status` has all of them", len(new) - MOST_FINDINGS)
        for subject in sorted(self._rejected - rejected):
            if _object(subject, world) is not None:
                self._mended[subject] = None
        for subject in rejected & self._mended.keys():
            del self._mended[subject]
        self._findings, self._rejected = findings, rejected

    def warned(self, warnings: Collection[str]) -> None:
        """What on the host weakens what is enforced, all of it."""
        now = time.monotonic()
        new = [each for each in warnings if each not in self._warned]
        for each in new[:MOST_WARNINGS]:
            say(journal.ADVICE, each)
        if len(new) > MOST_WARNINGS:
            log.warning("and %d more warnings; `netpoldctl status` has all of them", len(new) - MOST_WARNINGS)
        self._warned = {each: told for each, told in self._warned.items() if told > now - REPEAT_S}
        self._warned.update(dict.fromkeys(warnings, now))

    def failed(self, error: Exception, again_s: float) -> None:
        """A round failed.  The same failure is told once."""
        text = str(error)
        if not self._failure:
            self._failing_since = time.monotonic()
        if text != self._failure:
            say(journal.DEGRADED, f"degraded: {text}; trying again in {again_s:.1f} s", error=text)
        self._failure = text

    def recovered(self, status: Status) -> None:
        """What the manifests say is in force."""
        if self._failure:
            after = time.monotonic() - self._failing_since
            say(journal.RECOVERED, f"recovered after {after:.1f} s: {self._failure}", revision=status.revision)
        self._failure = ""


class _Waiting:
    """Changes that are not in force yet, by kind and key: the object before all of them and after."""

    def __init__(self) -> None:
        self._objects: dict[str, dict[str, tuple[_Object | None, _Object | None]]] = {
            "policy": {},
            "namespace": {},
            "node": {},
            "pod": {},
        }
        self._moved: dict[str, tuple[Endpoint | None, Endpoint | None]] = {}

    def note(self, changes: Changes, before: Mapping[str, Endpoint], now: Mapping[str, Endpoint]) -> None:
        tables: tuple[tuple[str, Mapping[str, tuple[_Object | None, _Object | None]]], ...] = (
            ("policy", changes.policies),
            ("namespace", changes.namespaces),
            ("node", changes.nodes),
            ("pod", changes.pods),
        )
        for kind, found in tables:
            noted = self._objects[kind]
            for key, (old, new) in found.items():
                noted[key] = (noted[key][0] if key in noted else old), new
        if now is not before:
            for key in before.keys() | now.keys():
                if before.get(key) != now.get(key):
                    self._moved[key] = self._moved.get(key, (before.get(key),))[0], now.get(key)

    def words(self) -> list[str]:
        """`policies a/b, a/c added`, each kind and what became of it apart."""
        said: list[str] = []
        for kind, found in self._objects.items():
            for became, keys in (
                ("added", [key for key, (old, new) in found.items() if old is None and new is not None]),
                ("changed", [key for key, (old, new) in found.items() if old and new and old != new]),
                ("removed", [key for key, (old, new) in found.items() if old is not None and new is None]),
            ):
                if keys:
                    said.append(f"{_several(kind, keys)} {became}")
        if moved := self._moved_keys():
            said.append(f"{_several('pod', moved)} at another interface or address")
        return said

    def fields(self) -> dict[str, list[str]]:
        changed = {
            kind: [key for key, (old, new) in found.items() if old != new] for kind, found in self._objects.items()
        }
        changed["pod"] = [*changed["pod"], *self._moved_keys()]
        files = {
            each.position.file: None
            for found in self._objects.values()
            for old, new in found.values()
            for each in (new or old,)
            if old != new and each is not None and each.position is not None
        }
        return {**{kind: keys for kind, keys in changed.items() if keys}, **({"file": list(files)} if files else {})}

    def _moved_keys(self) -> list[str]:
        """Pods that are elsewhere on this node, though their manifests say nothing else."""
        pods = self._objects["pod"]
        return sorted(key for key, (old, new) in self._moved.items() if old != new and key not in pods)


def _revision(status: Status, took_s: float) -> str:
    return f"revision {status.revision} in {took_s * 1000:.1f} ms"


_PLURAL = {"policy": "policies", "namespace": "namespaces", "node": "nodes", "pod": "pods"}


def _several(kind: str, keys: Sequence[str]) -> str:
    if len(keys) == 1:
        return f"{kind} {keys[0]}"
    shown = ", ".join(nsmallest(MOST_NAMES, keys))
    more = len(keys) - MOST_NAMES
    return f"{len(keys)} {_PLURAL[kind]} ({shown}, ...)" if more > 0 else f"{_PLURAL[kind]} {shown}"


def _say_finding(finding: Finding, rejected: Set[str], world: World) -> None:
    message, consequence = _consequence(finding, rejected, world)
    where = finding.position
    say(
        message,
        f"{finding}{consequence}",
        file=where.file,
        line=where.line,
        code=finding.code,
        **_subject_fields(finding.subject),
    )


def _consequence(finding: Finding, rejected: Set[str], world: World) -> tuple[Message, str]:
    """The kind of event that an error is, and what becomes of the object, in words."""
    if finding.severity == "warning":
        return journal.FLAWED, ""
    subject = finding.subject
    found = _object(subject, world)
    if subject not in rejected or found is None:
        return journal.REJECTED, ""
    if not found.quarantined:
        return journal.REJECTED, f": the last good version of {subject} stays in force"
    if isinstance(found, Policy):
        return journal.QUARANTINED, f": {subject} is quarantined, what it selects is isolated"
    if isinstance(found, ClusterPolicy):
        return journal.QUARANTINED, f": {subject} is quarantined, it grants nothing and denies what it may deny"
    if isinstance(found, Pod) and not found.addresses and not found.interfaces:
        return (
            journal.QUARANTINED,
            f": {subject} can't be found; on this node it is free unless pod_interfaces says else",
        )
    return journal.QUARANTINED, f": {subject} is quarantined"


def _object(subject: str, world: World) -> _Object | None:
    kind, _, name = subject.partition(" ")
    tables: Mapping[str, Mapping[str, _Object]] = {
        "Pod": world.pods,
        "Namespace": world.namespaces,
        "Node": world.nodes,
    }
    return tables.get(kind, world.policies).get(policy_key(kind, name))


def _subject_fields(subject: str) -> dict[str, Iterable[str]]:
    kind, _, key = subject.partition(" ")
    field = {"Pod": "pod", "Namespace": "namespace", "Node": "node"}.get(kind, "policy")
    return {field: [policy_key(kind, key)]} if key else {}

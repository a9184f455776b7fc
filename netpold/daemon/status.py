"""What the daemon says about itself: one frozen value, and its JSON shape (docs/json.md)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Literal

from netpold import __version__
from netpold.config import Settings
from netpold.host.git_commit import GitCommit
from netpold.policy.model import Finding
from netpold.printable import printable

VERSION = 1  # of the JSON shape; goes up when a field changes its meaning or goes away

MOST_NAMED = 100  # objects that are listed by name; the number is always of all

State = Literal["enforcing", "degraded", "starting"]


@dataclass(frozen=True, slots=True)
class PolicyCounts:
    """NetworkPolicies in force, and those whose manifests failed the checks; of the latter, those of which no good
    version is known, so that what they select is isolated.  `instead`: how many are in force in place of these, while
    others are tried or gone back to."""

    accepted: int = 0
    rejected: int = 0
    quarantined: int = 0
    instead: int | None = None


@dataclass(frozen=True, slots=True)
class PodCounts:
    """Pods in the manifests; on this node; of those, isolated by a NetworkPolicy, judged by ClusterNetworkPolicies, and
    with no interface found (yet); and pods whose manifests are gone, and their interfaces not yet, so that they keep
    their policies."""

    total: int = 0
    local: int = 0
    isolated: int = 0
    in_tiers: int = 0
    without_interface: int = 0
    lingering: int = 0


@dataclass(frozen=True, slots=True)
class Audited:
    """What is not enforced: the keys of the policies in audit mode, the namespaces that say so, and whether the
    settings say so of all that say nothing."""

    policies: tuple[str, ...] = ()
    namespaces: tuple[str, ...] = ()
    by_settings: bool = False


@dataclass(frozen=True, slots=True)
class LastApply:
    """When the kernel was last changed (ISO 8601, UTC), and how long that took."""

    at: str
    duration_ms: float


@dataclass(frozen=True, slots=True)
class Table:
    """What netpold has in the filter table of a family ("IPv4", "IPv6")."""

    backend: str
    family: str
    chains: int
    rules: int
    sets: int


@dataclass(frozen=True, slots=True)
class Tried:
    """Policies that are in force instead of those of the manifests: from which directory, on whose request, since when
    and until when (ISO 8601, UTC; None: confirmed).  `rollback`: they were in force before, from the moment that stands
    in place of the directory."""

    source: str
    by: str
    since: str
    until: str | None
    rollback: bool = False

    def words(self) -> str:
        if self.rollback:
            return f"ROLLED BACK to {self.source}"
        return f"TRYING {self.source}"


@dataclass(frozen=True, slots=True)
class Drifted:
    """What other programs changed and was put back: how often since the start, when last (ISO 8601, UTC), and by which
    programs then, as far as they are known."""

    repairs: int
    last: str
    by: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """The daemon at one moment.

    `state`: `starting` until the first round is done; `enforcing`: what the manifests say is in the kernel;
    `degraded`: it is not, or packets of isolated pods go past it; `error` says why.  `since`: when it came to that
    state (ISO 8601, UTC).  `revision` goes up with every change of the kernel.  `passed_over`: objects of other kinds,
    counted by kind.  `rules`: by "IPv4" and "IPv6".  `git`: what the manifests are a work tree of, as of the last time
    that they were read.  `without_interface`: local pods that are enforced by address; `without_pod`: interfaces that
    look like a pod's and are none's; `lingering`: pods whose manifests are gone, and their interfaces not.  `others`:
    the backend and family of tables that are in force beside.
    """

    state: State
    since: str
    node: str
    backend: str
    manifests: str
    revision: int = 0
    policies: PolicyCounts = PolicyCounts()
    pods: PodCounts = PodCounts()
    unclaimed: tuple[str, ...] = ()
    namespaces: int = 0
    nodes: int = 0
    cluster_policies: int = 0
    passed_over: Mapping[str, int] = field(default_factory=dict)
    rules: Mapping[str, int] = field(default_factory=lambda: {"IPv4": 0, "IPv6": 0})
    sets: int = 0
    last_apply: LastApply | None = None
    tables: tuple[Table, ...] = ()
    others: tuple[tuple[str, str], ...] = ()
    git: GitCommit | None = None
    without_interface: tuple[str, ...] = ()
    without_pod: tuple[str, ...] = ()
    lingering: tuple[str, ...] = ()
    drift: Drifted | None = None
    tried: Tried | None = None
    error: str | None = None
    last_good: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()
    warnings: tuple[str, ...] = ()
    audited: Audited = Audited()

    @staticmethod
    def starting(settings: Settings, backend: str) -> Status:
        """Before anything is known."""
        return Status(
            state="starting",
            since=timestamp(datetime.now(UTC)),
            node=settings.node,
            backend=backend,
            manifests=str(settings.manifests),
        )

    def as_json(self) -> dict[str, object]:
        """The shape of `GET /v1/status` and `netpoldctl status -o json`."""
        return {
            "version": VERSION,
            "release": __version__,
            "state": self.state,
            "since": self.since,
            "node": self.node,
            "backend": self.backend,
            "revision": self.revision,
            "manifests": self.manifests,
            "policies": {"accepted": self.policies.accepted, "rejected": self.policies.rejected},
            "quarantined": self.policies.quarantined,
            "last_good": {"count": len(self.last_good), "objects": list(self.last_good[:MOST_NAMED])},
            "pods": asdict(self.pods),
            "without_interface": _some(self.without_interface),
            "lingering": _some(self.lingering),
            "interfaces_without_pod": _some(self.without_pod),
            "unclaimed_interfaces": list(self.unclaimed),
            "namespaces": self.namespaces,
            "nodes": self.nodes,
            "cluster_policies": self.cluster_policies,
            "passed_over": dict(self.passed_over),
            "rules": dict(self.rules),
            "sets": self.sets,
            "tables": [asdict(each) for each in self.tables],
            "other_tables": [{"backend": backend, "family": family} for backend, family in self.others],
            "git": asdict(self.git) if self.git else None,
            "drift": {**asdict(self.drift), "by": list(self.drift.by)} if self.drift else None,
            **_tried(self.tried),
            "last_apply": asdict(self.last_apply) if self.last_apply else None,
            "error": self.error,
            "findings": [finding_json(each) for each in self.findings],
            "warnings": list(self.warnings),
            "audited": {
                "count": len(self.audited.policies),
                "policies": list(self.audited.policies[:MOST_NAMED]),
                "namespaces": list(self.audited.namespaces[:MOST_NAMED]),
                "by_settings": self.audited.by_settings,
            },
        }

    @property
    def is_in_force(self) -> bool:
        """Whether what the manifests say is in the kernel.  Degraded it is too where packets go past it for what is the
        host's doing: then the error is one of the warnings."""
        return self.state == "enforcing" or (self.state == "degraded" and self.error in self.warnings)

    def line(self) -> str:
        """What is enforced, or why it is not, in one line: the service's STATUS."""
        text = f"{self.state}, revision {self.revision}: {self.summary()}"
        if self.tried:
            text = f"{self.tried.words()} instead of the manifests; {text}"
        return printable(f"{text}; {self.error}" if self.error else text)

    def summary(self) -> str:
        """What is in force, in numbers."""
        counts = self.policies
        rejected = f" (and {counts.rejected} rejected)" if counts.rejected and counts.instead is None else ""
        audited = f", {len(self.audited.policies)} of them in audit mode: NOT ENFORCED" if self.audited.policies else ""
        number = counts.accepted if counts.instead is None else counts.instead
        policies = "1 policy" if number == 1 else f"{number} policies"
        tiers = f" and judge{'s' * (number == 1)} {self.pods.in_tiers} by tiers" if self.pods.in_tiers else ""
        return (
            f"{policies}{rejected} isolate{'s' * (number == 1)} {self.pods.isolated} of {self.pods.local} pods on "
            f"this node{tiers} ({self.pods.total} known), by {sum(self.rules.values())} rules and {self.sets} sets"
            f"{audited}"
        )


def _tried(tried: Tried | None) -> dict[str, object]:
    """What is in force instead of the manifests, in the field of its kind."""
    found: dict[str, object] = {"try": None, "rollback": None}
    if tried and tried.rollback:
        found["rollback"] = {"to": tried.source, "by": tried.by, "since": tried.since}
    elif tried:
        found["try"] = {"directory": tried.source, "by": tried.by, "since": tried.since, "until": tried.until}
    return found


def _some(names: Sequence[str]) -> dict[str, object]:
    return {"count": len(names), "names": list(names[:MOST_NAMED])}


def finding_json(finding: Finding) -> dict[str, object]:
    """A finding as all JSON outputs show it."""
    return {
        "file": finding.position.file,
        "line": finding.position.line,
        "column": finding.position.column,
        "path": finding.path,
        "code": finding.code,
        "severity": finding.severity,
        "fault": finding.fault,
        "cure": finding.cure,
        "subject": finding.subject,
    }


def timestamp(moment: datetime) -> str:
    """ISO 8601 in UTC, with milliseconds: `2026-01-31T08:15:30.125Z`."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")

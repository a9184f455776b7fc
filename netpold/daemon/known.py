"""What the loop knows as of its last round: from what files say and where the pods are to a ruleset, step by step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from netpold.config import Settings, compile_settings
from netpold.daemon.lingering import Lingering
from netpold.daemon.status import PodCounts, PolicyCounts
from netpold.host.locate import Places, nobodys, unclaimed
from netpold.host.source import Reading
from netpold.host.view import HostView
from netpold.policy.assemble import Assembly
from netpold.policy.changes import Changes
from netpold.policy.index import Index
from netpold.policy.manifest import MOST_KINDS
from netpold.policy.model import Finding, World
from netpold.rules.compile import Compiled, Compiler
from netpold.rules.endpoint import Endpoint
from netpold.rules.ruleset import FAMILIES


class Known:
    """Each step keeps its own state, and works on what changed alone.  For use by one thread."""

    def __init__(self, settings: Settings, were_here: frozenset[str] = frozenset()) -> None:
        self.places = Places(settings.node, were_here)
        self._assembly = Assembly()
        self._index = Index(self._assembly.world)
        self._compiler = Compiler(self._index, compile_settings(settings))
        self._lingering = Lingering()
        self._pod_interfaces = settings.pod_interfaces
        self._view = HostView()
        self.endpoints: Mapping[str, Endpoint] = {}  # of the local pods and of those that linger, by key
        self.unclaimed: tuple[str, ...] = ()  # interfaces that are closed since no pod claims them
        self._source_findings: tuple[Finding, ...] = ()
        self.findings: tuple[Finding, ...] = ()  # all there are, in order
        self.changes = Changes()  # what the last update took in
        self._unfiltered: list[str] = []  # families of which iptables does not see bridged packets

    def update(self, reading: Reading | None, view: HostView) -> Compiled:
        """Take in what changed in the files (None: they could not be read), and how the host's network is now."""
        changes = self._assembly.update(reading.changed) if reading and reading.changed else Changes()
        self.changes = changes
        places = self.places
        before = places.endpoints
        places.update(view, changes.pods)
        lingering = self._lingering
        past = lingering.past
        lingering.update(changes, self.world, self._index.claims, (before, places.endpoints), (self._view, view))
        closed = replace(nobodys(view, self._pod_interfaces), interfaces=lingering.closed)
        compiled = self._compiler.update(changes, places.endpoints, lingering.past, closed)
        if places.endpoints is not before or lingering.past is not past:
            gone = {name: each.endpoint for name, each in lingering.past.pods.items()}
            self.endpoints = {**places.endpoints, **gone} if gone else places.endpoints
        self.unclaimed = unclaimed(view, closed, self.endpoints.values()) if closed else ()
        if places.endpoints is not before or view is not self._view:
            bridged = any(each.bridged for endpoint in places.endpoints.values() for each in endpoint.interfaces)
            self._unfiltered = [f"IPv{family}" for family in FAMILIES if bridged and family not in view.bridge_nf_call]
            self._view = view
        if reading and (reading.changed or reading.findings != self._source_findings):
            self._source_findings = reading.findings
            self._collect_findings()
        return compiled

    @property
    def world(self) -> World:
        return self._assembly.world

    @property
    def rejected(self) -> frozenset[str]:
        """`Kind namespace/name` of what is not in force as it is written."""
        return self._assembly.rejected

    def _collect_findings(self) -> None:
        claimed = self._index.claims.findings(self._assembly.world.pods)
        found = [*self._source_findings, *self._assembly.findings(), *claimed]
        if found or self.findings:
            found.sort(key=lambda each: (each.position, each.code, each.path, each.fault))
            self.findings = tuple(found)

    def told(self) -> dict[str, object]:
        """The fields of Status that the inputs tell."""
        world, endpoints = self._assembly.world, self.places.endpoints
        rejected = self._assembly.rejected_policies
        return {
            "policies": PolicyCounts(
                max(len(world.policies) - rejected, 0), rejected, self._assembly.quarantined_policies
            ),
            "pods": PodCounts(
                total=len(world.pods),
                local=len(endpoints),
                isolated=self._compiler.isolated(),
                without_interface=sum(not each.interfaces for each in endpoints.values()),
                lingering=len(self._lingering.past.pods),
            ),
            "unclaimed": self.unclaimed,
            "namespaces": len(world.namespaces),
            "passed_over": dict((+self._assembly.passed_over).most_common(MOST_KINDS)),
            "findings": self.findings,
        }

    def warnings(self) -> list[str]:
        """What a person should look at on the host, one sentence each."""
        return [*self.places.warnings, *self._lingering.warnings()] + [
            f"{family} packets between ports of a bridge are not filtered: "
            f"set the sysctl net.bridge.bridge-nf-call-ip{'6' if family == 'IPv6' else ''}tables to 1"
            for family in self._unfiltered
        ]

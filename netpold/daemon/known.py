"""What the loop knows as of its last round: from what files say and where the pods are to a ruleset, step by step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace

from netpold.config import Settings, compile_settings
from netpold.daemon.bridge_filter import ALL_SEEN, BridgeFilter, not_filtered
from netpold.daemon.isolate import Culprit
from netpold.daemon.kept_namespaces import KeptNamespaces
from netpold.daemon.lingering import Lingering
from netpold.daemon.quarantine import Quarantine
from netpold.daemon.rollback import History
from netpold.daemon.status import Audited, PodCounts, PolicyCounts
from netpold.host.last_good import LastGood
from netpold.host.locate import Places, nobodys, unclaimed
from netpold.host.remains import Remains
from netpold.host.source import Reading
from netpold.host.view import HostView
from netpold.policy.assemble import Assembly
from netpold.policy.changes import Changes, then
from netpold.policy.index import Index
from netpold.policy.instead import Instead
from netpold.policy.manifest import MOST_KINDS
from netpold.policy.model import (
    AnyPolicy,
    ClusterPolicy,
    Finding,
    Policy,
    World,
    policy_kind,
    policy_title,
)
from netpold.rules.compile import Compiled, Compiler
from netpold.rules.count import Isolated
from netpold.rules.endpoint import Endpoint
from netpold.rules.ends import Lingerer
from netpold.rules.unclaimed import NOTHING


class Known:
    """Each step keeps its own state, and works on what changed alone.  For use by one thread."""

    def __init__(self, settings: Settings, were_here: frozenset[str], remains: Remains, last_good: LastGood) -> None:
        """`were_here`, `remains`: what there was before the daemon's start."""
        self.places = Places(settings.node, were_here, remains.pods)
        self._last_good = last_good
        self._assembly = Assembly(last_good)
        self._instead = Instead(self._assembly.world)  # of policies that are tried
        self._quarantine = Quarantine(self._instead.world, self._recall)  # of what the kernel refuses
        self.history = History()
        self._not_in_force = Changes()  # of what is to be, since all was
        self._index = Index(self._quarantine.world)
        self._compiler = Compiler(self._index, compile_settings(settings))
        self._lingering = Lingering(remains)
        self._kept_namespaces = KeptNamespaces(remains.namespaces)
        self._pod_interfaces = settings.pod_interfaces
        self._audits = settings.mode == "audit"
        self._view = HostView()
        self._placed: Mapping[str, Endpoint] = {}
        self._closed = NOTHING
        self._isolated: tuple[Isolated, ...] = ()
        self.endpoints: Mapping[str, Endpoint] = {}  # of the local pods and of those that linger, by key
        self._outlasting: object = None  # what `remains` hangs on, as of the last `outlasts_anew`
        self.unclaimed: tuple[str, ...] = ()  # interfaces that are closed since no pod claims them
        self._source_findings: tuple[Finding, ...] = ()
        self.findings: tuple[Finding, ...] = ()  # all there are, in order
        self.changes = Changes()  # what the last update took in
        self.moment = 0  # how often something changed in the world or where its pods are
        self._as_before: tuple[str, ...] = ()  # `Kind namespace/name` of what is in force in an earlier version
        self._without_pod: tuple[str, ...] = ()  # interfaces that look like a pod's, and are none's
        self.bridge_filter = ALL_SEEN  # what it does not see of packets between this node's pods

    def update(self, reading: Reading | None, view: HostView, tried: World | None = None) -> Compiled:
        """Take in what changed in the files (None: they could not be read), how the host's network is now, and what is
        tried instead of the policies that are written."""
        written = self._assembly.update(reading.changed) if reading else Changes()
        before_it = self._instead.tried
        wanted = self._instead.update(written)
        if tried is not before_it:
            wanted = then(wanted, self._instead.put(tried))
        changes = self.changes = self._quarantine.update(wanted)
        self._not_in_force = then(self._not_in_force, changes)
        places = self.places
        before = places.endpoints
        places.update(view, changes.pods)
        lingering = self._lingering
        past = lingering.past
        both, views = (before, places.endpoints), (self._view, view)
        kept = self._kept_namespaces
        kept.update(Changes(changes.pods, written.namespaces), self.world, self.written.namespaces)
        lingering.update(changes, self.world, self._index.claims, both, views, places.abandoned, kept.found)
        elsewhere = places.endpoints is not before or view is not self._view
        if elsewhere or lingering.closed != self._closed.interfaces:
            self._closed = replace(nobodys(view, self._pod_interfaces), interfaces=lingering.closed)
        compiled = self._compile(changes, anew=places.endpoints is not before or lingering.past is not past)
        self.unclaimed = unclaimed(view, self._closed, self.endpoints.values()) if self._closed else ()
        if elsewhere:
            bridged = any(each.bridged for endpoint in places.endpoints.values() for each in endpoint.interfaces)
            self.bridge_filter = BridgeFilter.of(view) if bridged else ALL_SEEN
            self._without_pod = tuple(_without_pod(view, self.endpoints.values()))
            self._view = view
        if reading and (reading.changed or reading.findings != self._source_findings):
            self._source_findings = reading.findings
            self._as_before = tuple(sorted(self._assembly.last_good))
            self._collect_findings()
        return compiled

    def refuse(self, culprits: Iterable[Culprit]) -> Compiled | None:
        """Take in that the kernel refuses these; nothing else has changed since the last `update`.  None: there is
        nothing left to take out of any of them."""
        culprits = list(culprits)
        of_the_past = self._lingering.refuse(each.policy for each in culprits)
        changes = self._quarantine.refuse(culprits)
        if changes is None and not of_the_past:
            return None
        changes = changes or Changes()
        self._not_in_force = then(self._not_in_force, changes)
        self._collect_findings()
        return self._compile(changes, anew=True)

    def try_refused(self, is_refused: Callable[[Culprit], bool]) -> Compiled | None:
        """Ask again for what was refused and is due; None: nothing has changed."""
        changes = self._quarantine.try_again(is_refused)
        if changes is None:
            return None
        self._not_in_force = then(self._not_in_force, changes)
        self._collect_findings()
        return self._compile(changes, anew=True)

    def in_force(self) -> None:
        """What was compiled last is."""
        self._quarantine.in_force()
        if self._instead.tried is None:  # what is only tried is no last good version
            self._last_good.changed(self._not_in_force, self.world)
            self.history.note(self._not_in_force, self.world)
            self._not_in_force = Changes()

    @property
    def tried(self) -> World | None:
        """What is to be in force instead of the policies that are written."""
        return self._instead.tried

    @property
    def error(self) -> str | None:
        """What is not in force as it is written, because the kernel refuses it."""
        return self._quarantine.error

    @property
    def try_again_at(self) -> float | None:
        """When (time.monotonic()) something that was refused is due."""
        return self._quarantine.due

    def _recall(self, key: str) -> AnyPolicy | None:
        found = self._last_good.version(policy_kind(key), key)
        return found if isinstance(found, Policy | ClusterPolicy) else None

    def _compile(self, changes: Changes, *, anew: bool) -> Compiled:
        """`anew`: pods may be at other places than the last time."""
        self.moment += bool(changes or anew)
        placed = self._placed
        if anew:
            placed = self._lingering.placed(self._quarantine.placed(self.places.endpoints))
        self._placed = placed
        past = self._lingering.past
        self._index.lasting = past.lasting()
        if anew:
            gone = {name: each.endpoint for name, each in past.pods.items()}
            self.endpoints = {**placed, **gone} if gone else placed
        compiled = self._compiler.update(changes, placed, past, self._closed)
        self._isolated = compiled.isolated
        return compiled

    @property
    def isolated(self) -> tuple[Isolated, ...]:
        """The pods of this node that policies isolate."""
        return self._isolated

    @property
    def lingering(self) -> Mapping[str, Lingerer]:
        """By address, what is left of pods whose manifests are gone, and pods whose manifests say it no more."""
        past = self._lingering.past
        lost = {
            address: Lingerer(pod, self._compiler.isolation(pod.key), lost=True)
            for address, ((pod, _), *_) in past.lost.items()
        }
        return lost | {
            address: Lingerer(each.pod, self._compiler.isolation(name))
            for name, each in past.pods.items()
            for address in each.endpoint.addresses
        }

    @property
    def as_before(self) -> tuple[str, ...]:
        """`Kind namespace/name` of what is in force in an earlier version."""
        return self._as_before

    @property
    def audited(self) -> frozenset[str]:
        """The keys of the policies that are not enforced."""
        return frozenset(self._compiler.audited.keys)

    @property
    def closed_ports(self) -> frozenset[str]:
        """The names of the ports of bridges that are closed, for their pods have left them."""
        return frozenset(each.name for each in self._lingering.closed if each.bridged)

    def remains(self) -> Remains:
        """What is to be known after a restart of this node's pods, and of namespaces."""
        isolating = {key for each in self._isolated for key in each.policies}
        found = self._lingering.remains(self.world, self.places.endpoints, isolating, self._view)
        return replace(found, namespaces=self._kept_namespaces.remains(self.written.namespaces))

    def outlasts_anew(self) -> bool:
        """Whether `remains` has other pods, policies, interfaces or namespaces than when this was asked last."""
        policies = frozenset(key for each in self._isolated for key in each.policies)
        links = frozenset(_links(self._view, self.endpoints.values()))
        now = self._lingering.past, links, policies, dict(self.written.namespaces)
        before, self._outlasting = self._outlasting, now
        return now != before

    @property
    def written(self) -> World:
        """What the manifests say."""
        return self._assembly.world

    @property
    def world(self) -> World:
        return self._quarantine.world

    @property
    def index(self) -> Index:
        """Of that world."""
        return self._index

    @property
    def rejected(self) -> frozenset[str]:
        """`Kind namespace/name` of what is not in force as it is written."""
        return self._assembly.rejected | {policy_title(key) for key in self._quarantine.refused}

    def _collect_findings(self) -> None:
        claimed = self._index.claims.findings(self._assembly.world.pods)
        found = [*self._source_findings, *self._assembly.findings(), *claimed]
        found += self._quarantine.findings(self.places.endpoints)
        if found or self.findings:
            found.sort(key=lambda each: (each.position, each.code, each.path, each.fault))
            self.findings = tuple(found)

    def told(self) -> dict[str, object]:
        """The fields of Status that the inputs tell."""
        world, endpoints = self._assembly.world, self.places.endpoints
        refused = self._quarantine.refused
        rejected = self._assembly.rejected_policies + len(refused)
        return {
            "policies": PolicyCounts(
                max(len(world.policies) - rejected, 0),
                rejected,
                self._assembly.quarantined_policies + self._quarantine.closed,
                None if self.tried is None else len(self.world.policies),
            ),
            "pods": PodCounts(
                total=len(world.pods),
                local=len(endpoints),
                isolated=self._compiler.isolated(),
                in_tiers=self._compiler.in_tiers(),
                without_interface=sum(not each.interfaces for each in endpoints.values()),
                lingering=len(self._lingering.past.pods),
            ),
            "without_interface": tuple(sorted(key for key, each in endpoints.items() if not each.interfaces)),
            "without_pod": self._without_pod,
            "lingering": tuple(sorted(each.pod.key for each in self._lingering.past.pods.values())),
            "unclaimed": self.unclaimed,
            "namespaces": len(world.namespaces),
            "nodes": len(world.nodes),
            "cluster_policies": self._index.cluster_policies,
            "passed_over": dict((+self._assembly.passed_over).most_common(MOST_KINDS)),
            "last_good": self._as_before,
            "findings": self.findings,
            "audited": self._audited(),
        }

    def _audited(self) -> Audited:
        audited = self._compiler.audited
        return Audited(tuple(sorted(audited.keys)), tuple(sorted(audited.namespaces)), self._audits)

    def warnings(self) -> list[str]:
        """What a person should look at on the host, one sentence each."""
        kept = self._kept_namespaces.warnings()
        return [*self.places.warnings, *kept, *self._lingering.warnings(), *self.bridge_filter.warnings()]

    @property
    def past_the_rules(self) -> str | None:
        """The packets of isolated pods that iptables does not see at all, in the words of the warning."""
        off = BridgeFilter.of(self._view).off
        isolated = {each.pod for each in self._isolated} if off else set()
        places = [self.endpoints[key] for key in isolated if key in self.endpoints]
        bridged = [each for each in places if any(interface.bridged for interface in each.interfaces)]
        has = {6 if ":" in address else 4 for each in bridged for address in each.judged_at}
        return next((not_filtered(family) for family in off if family in has), None)


def _links(view: HostView, endpoints: Iterable[Endpoint]) -> Iterator[tuple[str, int]]:
    """The interfaces of pods, with their indexes."""
    for interface in (interface for each in endpoints for interface in each.interfaces):
        if interface.name in view.links:
            yield interface.name, view.links[interface.name].index


def _without_pod(view: HostView, endpoints: Iterable[Endpoint]) -> Iterator[str]:
    """The interfaces whose other end is in another network namespace, as a pod's is, and that no pod has."""
    of_pods = {interface.name for each in endpoints for interface in each.interfaces}
    return (name for name, link in sorted(view.links.items()) if link.away and name not in of_pods)

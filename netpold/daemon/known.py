"""What the loop knows as of its last round: its inputs, and what status says of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from netpold.daemon.status import PodCounts, PolicyCounts
from netpold.host.locate import Located
from netpold.host.source import Reading
from netpold.policy.index import Index
from netpold.policy.model import Direction, Finding, World
from netpold.rules.peers import Sets
from netpold.rules.ruleset import Ruleset


@dataclass(slots=True)
class Known:
    """The inputs as of the last round, so that a round reads only what woke it."""

    reading: Reading | None = None
    world: World = field(default_factory=World)
    last_good: World = field(default_factory=World)
    index: Index = field(default_factory=lambda: Index(World()))
    findings: tuple[Finding, ...] = ()
    rejected: frozenset[str] = frozenset()
    passed_over: Mapping[str, int] = field(default_factory=dict)
    sets: Sets | None = None  # what of the compiler's work holds as long as the index does
    compiled: Ruleset | None = None
    located: Located | None = None
    unfiltered: list[str] = field(default_factory=list)  # families of which iptables does not see bridged packets

    def told(self) -> dict[str, object]:
        """The fields of Status that the inputs tell."""
        endpoints = self.located.endpoints if self.located else {}
        # a round that failed may have read a new world and not located its pods yet
        local = [self.world.pods[key] for key in endpoints if key in self.world.pods]
        rejected = sum(1 for each in self.rejected if each.startswith("NetworkPolicy "))
        return {
            "policies": PolicyCounts(max(len(self.world.policies) - rejected, 0), rejected),
            "pods": PodCounts(
                total=len(self.world.pods),
                local=len(local),
                isolated=sum(any(self.index.isolation(pod, way) for way in Direction) for pod in local),
                without_interface=sum(not each.interfaces for each in endpoints.values()),
            ),
            "namespaces": len(self.world.namespaces),
            "passed_over": dict(self.passed_over),
            "findings": self.findings,
        }

    def warnings(self) -> list[str]:
        """What a person should look at on the host, one sentence each."""
        found = list(self.located.warnings) if self.located else []
        return found + [
            f"{family} packets between ports of a bridge are not filtered: "
            f"set the sysctl net.bridge.bridge-nf-call-ip{'6' if family == 'IPv6' else ''}tables to 1"
            for family in self.unfiltered
        ]


def good(world: World) -> World:
    """The objects that passed the checks: what stays in force when their manifests break."""
    return World(
        {key: pod for key, pod in world.pods.items() if not pod.quarantined},
        {key: namespace for key, namespace in world.namespaces.items() if not namespace.quarantined},
        {key: policy for key, policy in world.policies.items() if not policy.quarantined},
    )


def total(counts: Iterable[Mapping[str, int]]) -> Mapping[str, int]:
    """The sum of several counts by kind."""
    found: Counter[str] = Counter()
    for each in counts:
        found.update(each)
    return found

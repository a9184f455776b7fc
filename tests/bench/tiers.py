"""What ClusterNetworkPolicies cost the compiler: from scratch, and for changes, with more and more of them.

    python3 -m tests.bench.tiers [--pods 10000] [--policies 1000] [--local 110] [--counts 0,10,100,500] [--repeat 15]

In this process, without files and kernel: from a change of the world to the plan.  Each policy is about one application
in all namespaces and has eight rules with peers and ports: a third deny alone, the others begin with an Accept or a
Pass; a tenth of them are Baseline.  Medians in ms; the rows of a column are taken in turn.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import time
from dataclasses import replace
from typing import Any

from netpold.policy.changes import Changes
from netpold.policy.index import Index
from netpold.policy.manifest import parse
from netpold.policy.model import ClusterPolicy, Direction, Namespace, Pod, Policy, World
from netpold.rules.compile import Compiler
from netpold.rules.endpoint import Endpoint, Interface
from netpold.rules.plan import Installed, plan
from netpold.rules.ruleset import FAMILIES
from netpold.rules.settings import CompileSettings
from tests.bench.cluster import Size, manifests

APPS = ("shop", "search", "cart", "mail", "login")
RULES = 8


def manifest(number: int) -> dict[str, Any]:
    """The policy of that number."""
    chance = random.Random(number)
    app, other = chance.choice(APPS), chance.choice(APPS)

    def rule(each: int, peers: str) -> dict[str, Any]:
        peer: dict[str, Any] = {"pods": {"podSelector": {"matchLabels": {"app": other, "tier": "db"}}}}
        if each % 3 == 1:
            peer = {"namespaces": {"matchLabels": {"team": str((number + each) % 10)}}}
        ports = [{"tcp": {"destinationPort": {"number": 1000 + number * RULES + each}}}]
        first = ("Deny", "Accept", "Pass")[number % 3]
        return {"action": first if each == 0 else "Deny", peers: [peer], "protocols": ports}

    return {
        "apiVersion": "policy.networking.k8s.io/v1alpha2",
        "kind": "ClusterNetworkPolicy",
        "metadata": {"name": f"policy-{number:04}"},
        "spec": {
            "tier": "Baseline" if number % 10 == 0 else "Admin",
            "priority": number % 1000,
            "subject": {"pods": {"podSelector": {"matchLabels": {"app": app}}}},
            "ingress": [rule(each, "from") for each in range(RULES // 2)],
            "egress": [rule(each, "to") for each in range(RULES // 2)],
        },
    }


def cluster_policy(number: int) -> ClusterPolicy:
    (found,) = parse(json.dumps(manifest(number)).encode(), "bench.json").objects
    assert isinstance(found, ClusterPolicy)
    return found


class Bed:
    """A world with so many ClusterNetworkPolicies, compiled."""

    def __init__(self, size: Size, count: int) -> None:
        self.pods: dict[str, Pod] = {}
        self.namespaces: dict[str, Namespace] = {}
        self.policies: dict[str, Policy | ClusterPolicy] = {}
        for name, objects in manifests(size):
            for each in parse(
                json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}).encode(), name
            ).objects:
                table: Any = {Pod: self.pods, Namespace: self.namespaces}.get(type(each), self.policies)
                table[each.key] = each
        for number in range(count):
            policy = cluster_policy(number)
            self.policies[policy.key] = policy
        self.installed = Installed()
        self.index = Index(World(self.pods, self.namespaces, self.policies))
        local = [key for key, pod in self.pods.items() if pod.node == size.node]
        self.endpoints = {
            key: Endpoint(key, self.pods[key].addresses, (Interface(f"cali{number:011x}"),))
            for number, key in enumerate(local)
        }
        self.compiler = Compiler(self.index, CompileSettings())
        began = time.perf_counter()
        self._compile(Changes())
        self.scratch_ms = (time.perf_counter() - began) * 1000
        self.far = next(pod for pod in self.pods.values() if pod.node != size.node)
        isolating = (each for key in local for each in self.index.isolation(self.pods[key], Direction.INGRESS).policies)
        self.own_key = next(policy.key for policy in isolating if policy.ingress)

    def _compile(self, changes: Changes) -> None:
        compiled = self.compiler.update(changes, self.endpoints)
        self.installed = plan(self.installed, compiled.ruleset, compiled.changed).result

    def rules(self) -> int:
        return sum(len(rules) for family in FAMILIES for rules in self.installed.ruleset.chains[family].values())

    def pod_ms(self, number: int) -> float:
        """A pod elsewhere gets another tier."""
        before = self.pods[self.far.key]
        now = replace(before, labels={**before.labels, "tier": ("web", "db")[number % 2]})
        self.pods[now.key] = now
        return self._timed(Changes(pods={now.key: (before, now)}))

    def policy_ms(self, number: int) -> float:
        """A NetworkPolicy of a local pod gets a rule, and loses it again."""
        before = self.policies[self.own_key]
        assert isinstance(before, Policy) and before.ingress
        now = replace(before, ingress=(*before.ingress, before.ingress[0]) if number % 2 == 0 else before.ingress[:-1])
        key = now.key
        self.policies[key] = now
        return self._timed(Changes(policies={key: (before, now)}))

    def tier_ms(self, number: int) -> float:
        """A ClusterNetworkPolicy gets another priority."""
        found = next((policy for policy in self.policies.values() if isinstance(policy, ClusterPolicy)), None)
        if found is None:
            return 0.0
        now = replace(found, priority=number % 1000)
        self.policies[now.key] = now
        return self._timed(Changes(policies={now.key: (found, now)}))

    def _timed(self, changes: Changes) -> float:
        began = time.perf_counter()
        self._compile(changes)
        return (time.perf_counter() - began) * 1000


def main() -> int:
    """Print a table."""
    parser = argparse.ArgumentParser(prog="tiers", description="Measures what ClusterNetworkPolicies cost.")
    parser.add_argument("--pods", type=int, default=10_000)
    parser.add_argument("--policies", type=int, default=1_000)
    parser.add_argument("--local", type=int, default=110)
    parser.add_argument("--counts", default="0,10,100,500")
    parser.add_argument("--repeat", type=int, default=15)
    arguments = parser.parse_args()
    size = Size(arguments.pods, arguments.policies, arguments.local)
    beds = {int(count): Bed(size, int(count)) for count in arguments.counts.split(",")}
    taken: dict[tuple[int, str], list[float]] = {}
    for number in range(arguments.repeat):
        for count, bed in beds.items():
            for name, measure in (("pod", bed.pod_ms), ("policy", bed.policy_ms), ("tier", bed.tier_ms)):
                taken.setdefault((count, name), []).append(measure(number))
    print(f"{'policies of tiers':>18} {'rules':>8} {'scratch':>9} {'pod':>8} {'policy':>8} {'of a tier':>10}   (ms)")
    for count, bed in beds.items():
        pod, policy, tier = (statistics.median(taken[count, name]) for name in ("pod", "policy", "tier"))
        print(f"{count:>18} {bed.rules():>8,} {bed.scratch_ms:>9.1f} {pod:>8.2f} {policy:>8.2f} {tier:>10.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

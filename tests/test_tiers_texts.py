"""What netpoldctl says to people of policies in tiers."""

from __future__ import annotations

import json
from typing import Any

import pytest

from netpold.ctl.complete import candidates
from netpold.ctl.explain import text
from netpold.policy.index import Index
from netpold.policy.model import Action, Direction, PolicyPort, TierRule
from netpold.policy.words import rule_text
from netpold.rules.answers import explain_json
from netpold.rules.offline import offline_ruleset
from tests.lab import Lab, Probe
from tests.objects import to_world
from tests.test_daemon import policy
from tests.test_tiers_daemon import Scene, tiered


def pod(namespace: str, name: str, number: int) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"namespace": namespace, "name": name, "labels": {"app": name}},
        "spec": {"containers": [{}]},
        "status": {"phase": "Running", "podIPs": [{"ip": f"10.72.0.{number}"}]},
    }


def cluster(name: str, tier: str, *rules: dict[str, Any], audit: bool = False) -> dict[str, Any]:
    metadata: dict[str, Any] = {"name": name}
    if audit:
        metadata["annotations"] = {"netpold.io/mode": "audit"}
    spec = {"tier": tier, "priority": 10, "subject": {"namespaces": {}}, "ingress": list(rules)}
    return {
        "apiVersion": "policy.networking.k8s.io/v1alpha2",
        "kind": "ClusterNetworkPolicy",
        "metadata": metadata,
        "spec": spec,
    }


def rule(action: str, name: str = "") -> dict[str, Any]:
    return {"action": action, "from": [{"namespaces": {}}], **({"name": name} if name else {})}


ISOLATES = {
    "apiVersion": "networking.k8s.io/v1",
    "kind": "NetworkPolicy",
    "metadata": {"namespace": "shop", "name": "closed"},
    "spec": {"podSelector": {}},
}


@pytest.mark.parametrize(
    ("objects", "expected"),
    [
        (
            [cluster("guard", "Admin", rule("Deny", "no")), ISOLATES],
            [
                "  because      Admin guard ingress[0] denies it",
                "  denied by    Admin guard ingress[0] 'no'",
                "  isolated by  shop/closed; not asked, for Admin rules come before",
            ],
        ),
        (
            [cluster("guard", "Admin", rule("Accept")), ISOLATES],
            [
                "  because      Admin guard ingress[0] allows it",
                "  allowed by   Admin guard ingress[0]",
                "  isolated by  shop/closed; not asked, for Admin rules come before",
            ],
        ),
        (
            [cluster("guard", "Admin", rule("Pass")), cluster("floor", "Baseline", rule("Deny"))],
            [
                "  because     Admin guard ingress[0] passes it on; Baseline floor ingress[0] denies it",
                "  on the way  Admin guard ingress[0] passes it on",
                "  denied by   Baseline floor ingress[0]",
            ],
        ),
        (
            [cluster("guard", "Admin", rule("Deny"), audit=True), cluster("floor", "Baseline", rule("Accept"))],
            [
                "  because     audited: Admin guard ingress[0] would deny it; Baseline floor ingress[0] allows it",
                "  audited     Admin guard ingress[0] would deny it",
                "  allowed by  Baseline floor ingress[0]",
            ],
        ),
        (
            [cluster("guard", "Admin", rule("Deny"), audit=True)],
            [
                "  because  audited: Admin guard ingress[0] would deny it; nothing that is enforced denies it",
                "  audited  Admin guard ingress[0] would deny it",
            ],
        ),
    ],
)
def test_the_way_through_the_tiers(objects: list[dict[str, Any]], expected: list[str]) -> None:
    index = Index(to_world([pod("shop", "web", 1), pod("blog", "web", 2), *objects]))
    answer = explain_json(index, offline_ruleset(index), "blog/web", "shop/web", "TCP", 80)
    lines = text(answer)
    ingress = next(number for number, line in enumerate(lines) if line.startswith("ingress"))
    assert lines[ingress + 1 : ingress + 1 + len(expected)] == expected


def test_a_ports_name_is_told_once() -> None:
    ports = tuple(PolicyPort(protocol, "http") for protocol in ("TCP", "UDP", "SCTP"))
    said = rule_text(TierRule(Action.DENY, None, (*ports, PolicyPort("TCP", 80))), Direction.INGRESS, "")
    assert said == "Deny from anybody, on http, 80/TCP"


def test_policies_of_the_cluster_complete_and_are_no_namespaces() -> None:
    known = {"pods": ["x/a"], "policies": ["AdminNetworkPolicy/old", "guard", "y/p"], "namespaces": ["x"]}
    assert candidates("policies", "g", known) == ["guard"]
    assert candidates("namespaces", "", known) == ["x", "y"]
    many = {**known, "policies": ["guard", "BaselineAdminNetworkPolicy/default", *(f"y/p{n}" for n in range(300))]}
    assert candidates("policies", "", many) == ["BaselineAdminNetworkPolicy/default", "guard", "y/"]


@pytest.mark.kernel
def test_of_a_pod_and_of_a_policy(lab: Lab) -> None:
    scene = Scene(lab, "nft")
    guard = tiered("guard", "Admin", "*", "ingress Deny c 80", "ingress Pass *", "egress Accept *")
    floor = tiered("floor", "Baseline", "*", "ingress Deny a")
    allow = policy("b", "  podSelector: {matchLabels: {app: b}}\n  ingress: [{from: [{podSelector: {}}]}]\n")
    with scene.daemon:
        scene.enforce(guard=guard, floor=floor, allow=allow)
        lab.probe([Probe(scene.c, scene.b, "TCP", 80, 4), Probe(scene.a, scene.b, "TCP", 80, 4)])

        def said(*words: str) -> str:
            out = scene.daemon.ctl(*words).stdout
            return out.replace(f"{scene.daemon.manifests}/", "")

        b, a, of_guard = said("pod", "x/b"), said("pod", "x/a"), said("policy", "guard")
        assert "ingress: isolated, by 1 policy; judged by 2 policies of the cluster" in b
        assert b.index("guard ingress[0]") < b.index("guard ingress[1]") < b.index("x/b ingress[0]")
        assert "Deny from pods app=c of all namespaces, on 80/TCP, 80/UDP; now 1 pod: x/c; matched" in b
        assert "Baseline: not asked (floor)" in b
        assert "ingress: no NetworkPolicy isolates it; judged by 2 policies of the cluster" in a
        assert "egress: no NetworkPolicy isolates it; judged by 1 policy of the cluster" in a
        assert "Baseline, the first of these that matches counts\n   floor, priority 10\n    floor ingress[0]" in a
        assert "  tier          Admin, priority 10\n  subject       all pods of namespaces team=x\n" in of_guard
        found = json.loads(scene.daemon.ctl("policy", "guard", "-o", "json").stdout)
        assert found["ingress"]["dropped"] == found["ingress"]["rules"][0]["passed"]
        assert found["ingress"]["dropped"]["packets"] > 0 == found["egress"]["dropped"]["packets"]
        status = said("status")
        assert "policies    3 accepted, 0 rejected; 2 of the whole cluster" in status
        top = said("top", "--once")
        assert "guard ingress[0] Deny" in top and "guard ingress[1] Pass" in top and "x/b ingress[0]  " in top

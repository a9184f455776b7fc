"""What `check` finds in right policies of the cluster: each case in YAML, with what is to be found; and nothing where
all is right."""
# ruff: noqa: E501  (a case in one line)

from __future__ import annotations

import time

import pytest

from netpold.policy.index import Index
from netpold.policy.lint import lint
from netpold.policy.model import (
    EVERYTHING,
    Action,
    ClusterPolicy,
    Finding,
    Operator,
    PodPeer,
    PolicyPort,
    Requirement,
    Selector,
    Tier,
    TierRule,
    World,
)
from tests.test_lint import INVENTORY, index_of, policy

NODES = "---\n{apiVersion: v1, kind: Node, metadata: {name: one, labels: {role: api}}, status: {addresses: [{type: InternalIP, address: 192.0.2.1}]}}\n"


def tiered(spec: str, subject: str = "{namespaces: {}}", tier: str = "Admin") -> str:
    head = "apiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\nmetadata: {name: p}"
    return f"---\n{head}\nspec:\n  tier: {tier}\n  priority: 1\n  subject: {subject}\n  {spec}\n"


def found(*policies: str, inventory: str = INVENTORY + NODES) -> list[Finding]:
    return sorted(lint(index_of(inventory + "".join(policies))), key=lambda each: each.position)


# By case: a policy's subject and rules, and what is to be found: code, field, a part of the fault, a part of the cure.
CASES = {
    "subject-namespace": ("{namespaces: {matchLabels: {team: wbe}}}", "egress: []", ("selects-no-pod", "spec.subject", "no namespace has team=wbe", "write `team: web`")),
    "subject-pods": ("{pods: {podSelector: {matchLabels: {app: dbb}}}}", "egress: []", ("selects-no-pod", "spec.subject", "has app=dbb, so the policy selects none", "write `app: db`")),
    "peer-is-nobody": ("{namespaces: {}}", "ingress: [{action: Deny, from: [{pods: {podSelector: {matchLabels: {app: uii}}}}]}]", ("peer-selects-no-pod", "spec.ingress[0].from[0]", "nothing is denied by this peer", "`app: ui`")),
    "peer-namespace": ("{namespaces: {}}", "egress: [{action: Accept, to: [{namespaces: {matchLabels: {team: ops}}}]}]", ("selects-no-namespace", "spec.egress[0].to[0]", "nothing is accepted by this peer", "no Namespace object for monitoring")),
    "node": ("{namespaces: {}}", "egress: [{action: Deny, to: [{nodes: {matchLabels: {role: apii}}}]}]", ("selects-no-node", "spec.egress[0].to[0].nodes", "no node has role=apii", "write `role: api`")),
    "port": ("{namespaces: {}}", "ingress: [{action: Pass, from: [{namespaces: {}}], protocols: [{destinationNamedPort: postgre}]}]", ("no-such-port", "spec.ingress[0].protocols[0].destinationNamedPort", "the port `postgre`, so nothing is passed", "`port: postgres`")),
    "port-of-peers": ("{namespaces: {}}", "egress: [{action: Pass, to: [{pods: {podSelector: {matchLabels: {app: ui}}}}], protocols: [{destinationNamedPort: postgres}]}]", ("no-such-port", "spec.egress[0].protocols[0].destinationNamedPort", "of the peers' pods", "http")),
    "hidden": ("{namespaces: {}}", "egress: [{action: Accept, to: [{namespaces: {}}, {networks: [10.0.0.0/8]}]}, {action: Deny, to: [{networks: [10.1.0.0/16]}]}]", ("rule-hidden", "spec.egress[1]", "the rule egress[0] (m.yaml:", "before that one")),
    "hidden-nodes": ("{namespaces: {}}", "egress: [{action: Accept, to: [{nodes: {}}]}, {action: Deny, to: [{nodes: {matchLabels: {role: api}}}], protocols: [{tcp: {destinationPort: {number: 1}}}]}]", ("rule-hidden", "spec.egress[1]", "egress[0]", "take it out")),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_case(name: str) -> None:
    subject, spec, (code, path, fault, cure) = CASES[name]
    (finding,) = found(tiered(spec, subject))
    assert (finding.code, finding.path, finding.severity) == (code, path, "warning")
    assert fault in finding.fault
    assert cure in finding.cure
    assert finding.subject == "ClusterNetworkPolicy p"
    assert finding.position.line > INVENTORY.count("\n")


@pytest.mark.parametrize(
    "spec",
    [
        "egress: [{action: Deny, to: [{nodes: {}}, {namespaces: {}}, {networks: [0.0.0.0/0]}]}]",
        "egress: [{action: Pass, to: [{namespaces: {}}]}, {action: Deny, to: [{networks: [10.0.0.0/8]}]}]",
        "egress: [{action: Accept, to: [{nodes: {matchLabels: {role: api}}}]}, {action: Deny, to: [{nodes: {}}]}]",
        "egress: [{action: Accept, to: [{nodes: {}}], protocols: [{tcp: {destinationPort: {number: 1}}}]}, {action: Deny, to: [{nodes: {}}]}]",
        "ingress: [{action: Deny, from: [{namespaces: {}}], protocols: [{destinationNamedPort: http}]}]",
    ],
)
def test_nothing_is_found_in_what_is_right(spec: str) -> None:
    assert found(tiered(spec)) == []


def test_without_nodes() -> None:
    spec = "egress: [{action: Deny, to: [{nodes: {}}]}]"
    (finding,) = found(tiered(spec), inventory=INVENTORY)
    assert finding.code == "selects-no-node" and "kubectl get nodes" in finding.cure
    assert found(tiered(spec), inventory="") == []  # nothing is known of what there is


def test_dns_that_the_admin_tier_lets_through() -> None:
    isolating = policy("q", "podSelector: {matchLabels: {app: ui}}\negress:\n- ports: [{port: 5432}]")
    dns = "egress: [{action: Accept, to: [{namespaces: {}}], protocols: [{udp: {destinationPort: {number: 53}}}]}]"
    assert found(isolating, tiered(dns)) == []
    for spec, tier in ((dns.replace("Accept", "Deny"), "Admin"), (dns.replace("53", "54"), "Admin"), (dns, "Baseline")):
        assert [each.code for each in found(isolating, tiered(spec, tier=tier))] == ["dns-forgotten"]


@pytest.mark.slow
def test_a_thousand_policies_take_seconds() -> None:
    def rule(number: int) -> TierRule:
        labels = Selector((Requirement("app", Operator.IN, (f"a{number}",)),))
        return TierRule(Action.DENY, (PodPeer(labels, EVERYTHING),), (PolicyPort("TCP", number + 1),))

    rules = tuple(map(rule, range(25)))
    everybody = PodPeer(EVERYTHING, EVERYTHING)
    policies = [ClusterPolicy(f"p{each}", Tier.ADMIN, 1, everybody, rules, rules) for each in range(1000)]
    index = Index(World({}, {}, {each.key: each for each in policies}))
    begin = time.monotonic()
    assert list(lint(index)) == []
    print(f"{time.monotonic() - begin:.1f} s")

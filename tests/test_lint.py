"""What `check` finds beyond errors: each case in YAML, with what is to be found; and nothing where all is right."""

from __future__ import annotations

import ast
from dataclasses import replace
from itertools import combinations, product
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netpold.policy.assemble import Assembly
from netpold.policy.codes import CODES, LINT
from netpold.policy.covered import covered
from netpold.policy.covers import implies
from netpold.policy.index import Index
from netpold.policy.lint import lint
from netpold.policy.manifest import parse
from netpold.policy.model import Direction, Finding, Operator, PodPeer, Policy, Requirement, Selector, World
from netpold.policy.selector import matches
from tests.reference import allowed, pod_is_peer, policy_selects
from tests.strategies import KEYS, PLAIN, VALUES, sample_packets, worlds

ROOT = Path(__file__).parent.parent

INVENTORY = """\
{apiVersion: v1, kind: Namespace, metadata: {name: shop, labels: {team: web}}}
---
apiVersion: v1
kind: Pod
metadata: {name: ui, namespace: shop, labels: {app: ui}}
spec: {containers: [{name: c, ports: [{name: http, containerPort: 80}]}]}
status: {podIP: 10.0.0.1}
---
apiVersion: v1
kind: Pod
metadata: {name: db, namespace: shop, labels: {app: db}}
spec: {containers: [{name: c, ports: [{name: postgres, containerPort: 5432}]}]}
status: {podIP: 10.0.0.2}
---
apiVersion: v1
kind: Pod
metadata: {name: prometheus, namespace: monitoring, labels: {app: prometheus}}
status: {podIP: 10.0.0.3}
"""
DNS = "{ports: [{port: 53, protocol: UDP}]}"


def policy(name: str, spec: str, namespace: str = "shop") -> str:
    """One policy, its rules each on a line of its own."""
    head = f"apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: {name}, namespace: {namespace}}}"
    return f"---\n{head}\nspec:\n" + "".join(f"  {line}\n" for line in spec.splitlines())


def index_of(text: str) -> Index:
    says = parse(text.encode(), "m.yaml")
    assert not [each for each in says.findings if each.severity == "error"], says.findings
    assembly = Assembly()
    assembly.update({"m.yaml": says})
    return Index(assembly.world)


def found(*policies: str, inventory: str = INVENTORY) -> list[Finding]:
    return sorted(lint(index_of(inventory + "".join(policies))), key=lambda each: each.position)


# By case: a policy's spec, and what is to be found: code, field, a part of the fault, a part of the cure.
CASES = {
    "typo-in-selector": (
        "podSelector: {matchLabels: {app: dbb}}",
        ("selects-no-pod", "spec.podSelector", "has app=dbb", "write `app: db`"),
    ),
    "typo-in-label": (
        "podSelector: {matchLabels: {ap: db}}",
        ("selects-no-pod", "spec.podSelector", "has ap=db", "write the label `app`"),
    ),
    "unlike-any-value": (
        "podSelector: {matchLabels: {app: something}}",
        ("selects-no-pod", "spec.podSelector", "has app=something", "pods there have app db and ui"),
    ),
    "peer-is-nobody": (
        "podSelector: {matchLabels: {app: db}}\ningress:\n- from: [{podSelector: {matchLabels: {app: uii}}}]",
        ("peer-selects-no-pod", "spec.ingress[0].from[0].podSelector", "no pod of `shop` has app=uii", "`app: ui`"),
    ),
    "namespace-without-object": (
        "podSelector: {}\ningress:\n- from: [{namespaceSelector: {matchLabels: {team: ops}}}]",
        (
            "selects-no-namespace",
            "spec.ingress[0].from[0].namespaceSelector",
            "no namespace has team=ops",
            "namespaces have team web; there is no Namespace object for monitoring",
        ),
    ),
    "empty-block": (
        "podSelector: {}\ningress:\n- from: [{ipBlock: {cidr: 192.0.2.0/24, except: [192.0.2.0/25, 192.0.2.128/25]}}]",
        ("empty-block", "spec.ingress[0].from[0].ipBlock", "all of 192.0.2.0/24", "correct `except`"),
    ),
    "port-of-nobody": (
        "podSelector: {matchLabels: {app: db}}\ningress:\n- ports: [{port: postgre}]",
        ("no-such-port", "spec.ingress[0].ports[0].port", "`postgre/TCP`", "write `port: postgres`"),
    ),
    "port-of-another-protocol": (
        "podSelector: {matchLabels: {app: db}}\ningress:\n- ports: [{port: postgres, protocol: UDP}]",
        ("no-such-port", "spec.ingress[0].ports[0].port", "`postgres/UDP`", "write `protocol: TCP`"),
    ),
    "port-that-the-peer-lacks": (
        f"podSelector: {{}}\negress:\n- to: [{{podSelector: {{matchLabels: {{app: ui}}}}}}]\n"
        f"  ports: [{{port: postgres}}]\n- {DNS}",
        ("no-such-port", "spec.egress[0].ports[0].port", "of the peers' pods", "they have: http"),
    ),
    "port-name-of-addresses": (
        f"podSelector: {{}}\negress:\n- to: [{{ipBlock: {{cidr: 192.0.2.0/24}}}}]\n  ports: [{{port: http}}]\n- {DNS}",
        ("port-name-of-block", "spec.egress[0].ports[0].port", "addresses have none", "write the port's number"),
    ),
    "covered-by-its-neighbour": (
        "podSelector: {}\ningress:\n- ports: [{port: 1, endPort: 99}]\n"
        "- from: [{podSelector: {matchLabels: {app: ui}}}]\n  ports: [{port: 80}]",
        ("rule-covered", "spec.ingress[1]", "shop/p ingress[0] (m.yaml:", "take the rule out"),
    ),
    "covered-by-a-wider-block": (
        "podSelector: {}\ningress:\n- from: [{ipBlock: {cidr: 10.1.2.0/24}}]\n- from: [{ipBlock: {cidr: 10.0.0.0/8}}]",
        ("rule-covered", "spec.ingress[0]", "shop/p ingress[1]", "take the rule out"),
    ),
    "own-namespace-by-its-label": (
        "podSelector: {}\ningress:\n- from: [{podSelector: {}}]\n"
        "- from: [{namespaceSelector: {matchLabels: {team: web}}}]",
        ("rule-covered", "spec.ingress[0]", "shop/p ingress[1]", "take the rule out"),
    ),
    "no-dns": (
        "podSelector: {matchLabels: {app: ui}}\negress:\n- ports: [{port: 5432}]",
        ("dns-forgotten", "spec.egress", "asked by ui", "port: 53"),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_case(name: str) -> None:
    spec, (code, path, fault, cure) = CASES[name]
    (finding,) = found(policy("p", spec))
    assert (finding.code, finding.path, finding.severity) == (code, path, "warning")
    assert fault in finding.fault
    assert cure in finding.cure
    assert finding.subject == "NetworkPolicy shop/p"
    assert finding.position.line > INVENTORY.count("\n")


def test_cases_have_every_code() -> None:
    # of the others there are cases in test_cluster_lint.py
    assert {expected[0] for _, expected in CASES.values()} == LINT.keys() - {"rule-hidden", "selects-no-node"}


RIGHT = {
    "closed": "podSelector: {}\npolicyTypes: [Ingress, Egress]",
    "dns-by-another-policy": "podSelector: {matchLabels: {app: ui}}\negress:\n- ports: [{port: 80}]",
    "any-port": "podSelector: {matchLabels: {app: ui}}\negress:\n- to: [{podSelector: {}}]",
    "half-a-block": "podSelector: {}\ningress:\n- from: [{ipBlock: {cidr: 192.0.2.0/24, except: [192.0.2.0/25]}}]",
    "a-namespace-by-name": (
        "podSelector: {}\ningress:\n"
        "- from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: monitoring}}}]"
    ),
    "a-port-that-one-of-them-has": "podSelector: {}\ningress:\n- ports: [{port: postgres}]",
    "neither-holds-the-other": (
        "podSelector: {}\ningress:\n- from: [{podSelector: {}}]\n  ports: [{port: 80}]\n- ports: [{port: 81}]"
    ),
}


@pytest.mark.parametrize("name", RIGHT)
def test_nothing_is_found_in_what_is_right(name: str) -> None:
    dns = policy("dns", f"podSelector: {{}}\negress:\n- {DNS}") if name == "dns-by-another-policy" else ""
    assert found(policy("p", RIGHT[name]), dns) == []


def test_without_pods_nothing_is_said_about_pods() -> None:
    text = "".join(policy(name.replace("_", "-"), spec) for name, (spec, _) in CASES.items())
    assert {each.code for each in found(text, inventory="")} == {"empty-block", "rule-covered"}


def test_a_namespace_without_pods_is_told_by_its_name() -> None:
    (finding,) = found(policy("p", "podSelector: {}", "shopp"))
    assert (finding.code, finding.path, finding.cure) == (
        "selects-no-pod",
        "metadata.namespace",
        "write `namespace: shop`",
    )


def test_of_rules_that_say_the_same_one_stays() -> None:
    same = "podSelector: {}\ningress:\n- from: [{podSelector: {}}]"
    findings = found(policy("a", same), policy("b", same), policy("c", same))
    assert [(each.subject, "shop/a ingress[0]" in each.fault) for each in findings] == [
        ("NetworkPolicy shop/b", True),
        ("NetworkPolicy shop/c", True),
    ]


def test_a_policy_for_fewer_pods_does_not_cover_one_for_more() -> None:
    rule = "\ningress:\n- from: [{podSelector: {}}]"
    few, all_of_them = (
        policy("a", "podSelector: {matchLabels: {app: db}}" + rule),
        policy("b", "podSelector: {}" + rule),
    )
    (finding,) = found(few, all_of_them)
    assert finding.subject == "NetworkPolicy shop/a"


@settings(max_examples=40, deadline=None)
@given(world=worlds(PLAIN), data=st.data())
def test_what_is_covered_can_be_taken_out(world: World, data: st.DataObject) -> None:
    """All of it at once: no packet is judged otherwise."""
    out = {(narrow.policy.key, narrow.direction, narrow.number) for narrow, _ in covered(world)}

    def without(each: Policy) -> Policy:
        kept = {
            direction: rules
            and tuple(rule for number, rule in enumerate(rules) if (each.key, direction, number) not in out)
            for direction, rules in (("ingress", each.ingress), ("egress", each.egress))
        }
        return replace(each, ingress=kept["ingress"], egress=kept["egress"])

    fewer = replace(world, policies={key: without(each) for key, each in world.policies.items()})
    for packet in sample_packets(world, 40):
        assert allowed(fewer, packet) == allowed(world, packet), str(packet)


@settings(max_examples=50, deadline=None)
@given(world=worlds(PLAIN))
def test_who_selects_nobody_is_told_of_just_those(world: World) -> None:
    """By the naive evaluator, for every policy, peer and port name."""
    pods = [pod for pod in world.pods.values() if pod.takes_part]
    expected: set[tuple[str, str, str]] = set()
    for key, policy in world.policies.items() if pods else ():
        selected = [pod for pod in pods if policy_selects(policy, pod)]
        if not selected:
            expected.add((f"NetworkPolicy {key}", "", "selects-no-pod"))
            continue
        for direction in Direction:
            for number, rule in enumerate(policy.rules(direction) or ()):
                path = f"spec.{direction}[{number}]"
                peers = [peer for peer in rule.peers or () if isinstance(peer, PodPeer)]
                far = [
                    pod
                    for pod in pods
                    if rule.peers is None or any(pod_is_peer(world, policy, each, pod) for each in peers)
                ]
                if any(not any(pod_is_peer(world, policy, peer, pod) for pod in pods) for peer in peers):
                    expected.add((f"NetworkPolicy {key}", path, "nobody"))
                owners = selected if direction is Direction.INGRESS else far
                names = {(each.name, each.protocol) for pod in owners for each in pod.ports}
                asked = [port for port in rule.ports or () if isinstance(port.port, str)]
                if owners and any((port.port, port.protocol) not in names for port in asked):
                    expected.add((f"NetworkPolicy {key}", path, "no-such-port"))
    codes = {"peer-selects-no-pod": "nobody", "selects-no-namespace": "nobody"}
    told = {
        (
            each.subject,
            ".".join(each.path.split(".")[:2]) if "gress" in each.path else "",
            codes.get(each.code, each.code),
        )
        for each in lint(Index(world))
        if each.code in (*codes, "selects-no-pod", "no-such-port")
    }
    assert told == expected


_LABELS = [
    {key: value for key, value in zip(KEYS, values, strict=True) if value is not None}
    for values in product((*VALUES, None), repeat=len(KEYS))
]


_VALUES = [(one,) for one in VALUES] + list(combinations(sorted(VALUES), 2))
_REQUIREMENTS = [
    Requirement(key, operator, values)
    for key in KEYS
    for operator in Operator
    for values in (_VALUES if operator in (Operator.IN, Operator.NOT_IN) else [()])
]


def test_what_implies_what() -> None:
    """Each single requirement with each other one, and with two: told exactly, with values that nobody names."""
    others = [{key: "else" if value == "" else value for key, value in labels.items()} for labels in _LABELS]
    everybody = [*_LABELS, *others]
    for one, other in product(_REQUIREMENTS, repeat=2):
        narrow, wide = Selector((one,)), Selector((other,))
        within = all(matches(wide, labels) for labels in everybody if matches(narrow, labels))
        assert implies(narrow, wide) == within, (one, other)
        both = Selector((one, other))
        assert implies(both, wide) and implies(both, narrow)
        assert implies(wide, both) == implies(wide, narrow)


# The table of codes ---------------------------------------------------------------------------------------------------


def _codes_in_the_source() -> set[str]:
    """What stands where a code does, in the calls that make findings."""
    at = {"error": 1, "warn": 1, "_refuse": 1, "Finding": 1, "Fault": 1, "problem": 1, "_warning": 1, "_other_kind": 1}
    at |= {"unreadable_problem": 1}
    found: set[str] = set()
    for path in (ROOT / "netpold").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and len(node.args) > 2:
                name = getattr(node.func, "attr", getattr(node.func, "id", ""))
                for place in (at[name], 0) if name in at else ():
                    value = node.args[place] if len(node.args) > place else None
                    if isinstance(value, ast.Constant) and isinstance(value.value, str) and " " not in value.value:
                        found.add(value.value)
    return {each for each in found if each and each.replace("-", "").isalnum() and each.islower()}


def test_every_code_is_in_the_table() -> None:
    assert _codes_in_the_source() - CODES.keys() == set()


def test_the_table_is_on_its_page() -> None:
    text = (ROOT / "docs/checks.md").read_text()
    for code, about in CODES.items():
        assert f"| `{code}` | {about.meaning} | {about.cure} |" in text

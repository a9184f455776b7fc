"""Policies of the cluster and nodes from their manifests: what is accepted as the API server accepts it, what is refused
and how that is told, and what is left of what is refused."""
# ruff: noqa: E501  (a case in one line)

from __future__ import annotations

import marshal
import textwrap
from ipaddress import ip_network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netpold.policy.assemble import Assembly
from netpold.policy.canonical import read_back, written
from netpold.policy.classes import Isolations
from netpold.policy.codec import Decoder, Encoder
from netpold.policy.index import Index
from netpold.policy.manifest import Parsed, parse
from netpold.policy.model import (
    EVERYTHING,
    Action,
    ClusterPolicy,
    Direction,
    Finding,
    IPBlock,
    Node,
    NodePeer,
    Operator,
    Pod,
    PodPeer,
    PolicyPort,
    Position,
    Requirement,
    Selector,
    Tier,
    TierRule,
    World,
    policy_key,
    policy_kind,
    policy_title,
)
from netpold.policy.refusals import closed
from tests.strategies import Shape, worlds

EVERY_POD = PodPeer(EVERYTHING, EVERYTHING)
TIERED = Shape(tiers=5, policies=4, quarantine=True)
DENY_ALL = TierRule(Action.DENY, None, None)
GROUP = "policy.networking.k8s.io"


def labelled(**labels: str) -> Selector:
    return Selector(tuple(sorted(Requirement(key, Operator.IN, (value,)) for key, value in labels.items())))


def read(text: str) -> Parsed:
    return parse(textwrap.dedent(text).encode(), "f.yaml")


def policy_of(spec: str, metadata: str = "{name: p}", version: str = "v1alpha2") -> Parsed:
    head = f"apiVersion: {GROUP}/{version}\nkind: ClusterNetworkPolicy\nmetadata: {metadata}\n"
    return parse(f"{head}spec:\n{textwrap.indent(textwrap.dedent(spec), '  ')}\n".encode(), "f.yaml")


def rules_of(ingress: str = "", egress: str = "") -> Parsed:
    """A policy that is right but for these, which stand below its directions."""
    both = "".join(f"{key}: {value}\n" for key, value in (("ingress", ingress), ("egress", egress)) if value)
    return policy_of("tier: Admin\npriority: 5\nsubject: {namespaces: {}}\n" + both)


def egress_of(rule: str) -> Parsed:
    return rules_of(egress=f"[{{{rule}}}]")


def old_of(spec: str, kind: str = "AdminNetworkPolicy", name: str = "default") -> Parsed:
    priority = "" if kind.startswith("Baseline") else "priority: 5, "
    text = f"apiVersion: {GROUP}/v1alpha1\nkind: {kind}\nmetadata: {{name: {name}}}\nspec: {{{priority}subject: {{namespaces: {{}}}}, {spec}}}\n"
    return parse(text.encode(), "f.yaml")


def one(parsed: Parsed) -> ClusterPolicy:
    (found,) = parsed.objects
    assert isinstance(found, ClusterPolicy)
    return found


def good(parsed: Parsed) -> ClusterPolicy:
    assert parsed.findings == () and not parsed.truncated
    found = one(parsed)
    assert not found.quarantined
    return found


def refused(parsed: Parsed, code: str) -> Finding:
    """The one error; the policy is closed, and grants nothing."""
    (finding,) = (each for each in parsed.findings if each.severity == "error")
    assert finding.code == code, finding
    found = one(parsed)
    assert found.quarantined and found.mode is None
    assert {rule.action for rule in (*found.ingress, *found.egress)} <= {Action.DENY}
    return finding


# What is accepted


def test_all_that_a_policy_can_say() -> None:
    found = good(
        policy_of(
            """\
            tier: Baseline
            priority: 1000
            subject:
              pods: {namespaceSelector: {matchLabels: {team: a}}, podSelector: {matchLabels: {app: db}}}
            ingress:
            - name: from the shop
              action: Accept
              from:
              - namespaces: {matchLabels: {team: b}}
              - pods: {podSelector: {matchLabels: {app: web}}}
              protocols:
              - tcp: {destinationPort: {number: 5432}}
              - udp: {destinationPort: {range: {start: 1, end: 65535}}}
              - sctp: {destinationPort: {number: 1}}
              - destinationNamedPort: db
            - {action: Pass, from: [{namespaces: {}}]}
            egress:
            - action: Deny
              to:
              - networks: [10.0.0.0/8, "fd00::/8"]
              - nodes: {matchLabels: {role: api}}
              - pods: {namespaceSelector: {}, podSelector: {}}
            """,
            "{name: a.b, labels: {a: b}, annotations: {netpold.io/mode: audit}}",
        )
    )
    assert found == ClusterPolicy(
        "a.b",
        Tier.BASELINE,
        1000,
        PodPeer(labelled(app="db"), labelled(team="a")),
        (
            TierRule(
                Action.ACCEPT,
                (PodPeer(EVERYTHING, labelled(team="b")), PodPeer(labelled(app="web"), EVERYTHING)),
                (
                    PolicyPort("TCP", 5432),
                    PolicyPort("UDP", 1, 65535),
                    PolicyPort("SCTP", 1),
                    PolicyPort("TCP", "db"),
                    PolicyPort("UDP", "db"),
                    PolicyPort("SCTP", "db"),
                ),
                "from the shop",
            ),
            TierRule(Action.PASS, (EVERY_POD,), None),
        ),
        (
            TierRule(
                Action.DENY,
                (
                    IPBlock(ip_network("10.0.0.0/8")),
                    IPBlock(ip_network("fd00::/8")),
                    NodePeer(labelled(role="api")),
                    EVERY_POD,
                ),
                None,
            ),
        ),
        mode="audit",
    )
    assert found.key == "a.b" and found.position == Position("f.yaml", 1, 1)
    assert [rule.position for rule in found.ingress] == [Position("f.yaml", 10, 5), Position("f.yaml", 20, 5)]


@pytest.mark.parametrize("version", ["v1alpha2", "v1beta1"])
@pytest.mark.parametrize("rules", ["", "ingress: []", "ingress: []\negress: []"])
def test_a_policy_without_rules_says_nothing(version: str, rules: str) -> None:
    found = good(policy_of(f"tier: Admin\npriority: 0\nsubject: {{namespaces: {{}}}}\n{rules}", version=version))
    assert found == ClusterPolicy("p", Tier.ADMIN, 0, EVERY_POD, (), ())


def test_the_status_is_passed_over() -> None:
    parsed = read(f"""\
        apiVersion: {GROUP}/v1alpha2
        kind: ClusterNetworkPolicy
        metadata: {{name: p, uid: x, resourceVersion: "1", generation: 2, managedFields: [], creationTimestamp: null}}
        spec: {{tier: Admin, priority: 1, subject: {{namespaces: {{}}}}}}
        status: {{conditions: [{{type: Accepted, status: "True", anything: goes}}]}}
        """)
    good(parsed)


def test_as_many_entries_as_the_api_takes() -> None:
    networks = ", ".join(f"10.{number}.0.0/16" for number in range(25))
    peers = ", ".join(f"{{networks: [{networks}]}}" for _ in range(25))
    ports = ", ".join(f"{{tcp: {{destinationPort: {{number: {number}}}}}}}" for number in range(1, 26))
    rule = f"{{name: {'x' * 100}, action: Deny, to: [{peers}], protocols: [{ports}]}}"
    found = good(rules_of(egress=f"[{', '.join([rule] * 25)}]"))
    assert len(found.egress) == 25
    assert {len(rule.peers or ()) for rule in found.egress} == {25}  # each once
    assert read_back(written(found).encode(), Position("", 1), False) == found


def test_lists_of_them() -> None:
    spec = "{tier: Admin, priority: 1, subject: {namespaces: {}}}"
    for head in (f"apiVersion: {GROUP}/v1alpha2\nkind: ClusterNetworkPolicyList", "apiVersion: v1\nkind: List"):
        own = "" if "Policy" in head else f"  apiVersion: {GROUP}/v1beta1\n  kind: ClusterNetworkPolicy\n"
        entries = "".join(f"- metadata: {{name: {name}}}\n{own}  spec: {spec}\n" for name in "ab")
        parsed = read(f"{head}\nmetadata: {{resourceVersion: ''}}\nitems:\n{entries}")
        assert parsed.findings == () and [each.key for each in parsed.objects] == ["a", "b"]
    parsed = read("apiVersion: v1\nkind: NodeList\nitems:\n- metadata: {name: node}\n")
    assert parsed.findings == () and parsed.objects == (Node("node", {}),)


# What is refused


@pytest.mark.parametrize(
    ("rule", "code", "path", "cure"),
    [
        ("to: [{namespaces: {}}]", "missing-field", "action", "Accept, Deny, Pass"),
        ("action: , to: [{namespaces: {}}]", "missing-field", "action", "Accept, Deny, Pass"),
        ("action: Allow, to: [{namespaces: {}}]", "action", "action", "write `Accept`"),
        ("action: accept, to: [{namespaces: {}}]", "action", "action", "write `Accept`"),
        ("action: Drop, to: [{namespaces: {}}]", "action", "action", "write `Deny`"),
        ("action: Log, to: [{namespaces: {}}]", "action", "action", "Accept, Deny, Pass"),
        ("action: [Deny], to: [{namespaces: {}}]", "wrong-type", "action", "one value"),
        ("action: Deny", "missing-field", "to", "namespaces"),
        ("action: Deny, to: ", "missing-field", "to", "namespaces"),
        ("action: Deny, to: []", "empty-list", "to", "namespaces"),
        ("action: Deny, to: {namespaces: {}}", "map-for-list", "to", "`[{namespaces: ...}]`"),
        ("action: Deny, from: [{namespaces: {}}], to: [{namespaces: {}}]", "unknown-field", "from", "egress rules have `to`"),
        ("action: Deny, to: [{namespaces: {}}], ports: []", "unknown-field", "ports", "`protocols:`"),
        ("action: Deny, match: {}, to: [{namespaces: {}}]", "unknown-field", "match", "one level up"),
        ("action: Deny, priority: 1, to: [{namespaces: {}}]", "unknown-field", "priority", "below `spec:`"),
        (f"name: {'x' * 101}, action: Deny, to: [{{namespaces: {{}}}}]", "rule-name", "name", "shorter"),
        ("name: 1, action: Deny, to: [{namespaces: {}}]", "not-text", "name", "quote"),
        # peers
        ("action: Deny, to: [{}]", "one-field", "to[0]", "namespaces"),
        ("action: Deny, to: [null]", "nothing-written", "to[0]", "namespaces"),
        ("action: Deny, to: [web]", "wrong-type", "to[0]", "namespaces"),
        ("action: Deny, to: [{namespaces: {}, nodes: {}}]", "one-field", "to[0]", "two entries"),
        ("action: Deny, to: [{namespaces: }]", "nothing-written", "to[0].namespaces", "{}"),
        ("action: Deny, to: [{namespaces: , matchLabels: {a: b}}]", "unknown-field", "to[0].matchLabels", "braces"),
        ("action: Deny, to: [{namespaces: {matchLabels: {a: [b]}}}]", "wrong-type", "to[0].namespaces.matchLabels.a", "one value"),
        ("action: Deny, to: [{podSelector: {}}]", "unknown-field", "to[0].podSelector", "`pods:`"),
        ("action: Deny, to: [{namespaceSelector: {}}]", "unknown-field", "to[0].namespaceSelector", "`namespaces:`"),
        ("action: Deny, to: [{ipBlock: {cidr: 10.0.0.0/8}}]", "unknown-field", "to[0].ipBlock", "`networks: ["),
        ("action: Deny, to: [{cidr: 10.0.0.0/8}]", "unknown-field", "to[0].cidr", "`networks: ["),
        ("action: Deny, to: [{pods: {}}]", "missing-field", "to[0].pods.podSelector", "`podSelector: {}`"),
        ("action: Deny, to: [{pods: {podSelector: {}, matchLabels: {}}}]", "unknown-field", "to[0].pods.matchLabels", "podSelector"),
        ("action: Deny, to: [{pods: {podSelector: , namespaceSelector: {}}}]", "nothing-written", "to[0].pods.podSelector", "{}"),
        ("action: Deny, to: [{nodes: {a: b}}]", "unknown-field", "to[0].nodes.a", "matchLabels"),
        ("action: Deny, to: [{networks: []}]", "empty-list", "to[0].networks", "10.0.0.0/8"),
        ("action: Deny, to: [{networks: }]", "missing-field", "to[0].networks", "10.0.0.0/8"),
        ("action: Deny, to: [{networks: 10.0.0.0/8}]", "wrong-type", "to[0].networks", "`networks: [10.0.0.0/8]`"),
        ("action: Deny, to: [{networks: [10.0.0.1]}]", "cidr", "to[0].networks[0]", "10.0.0.1/32"),
        ("action: Deny, to: [{networks: ['::ffff:10.0.0.0/104']}]", "cidr", "to[0].networks[0]", "10.0.0.0/8"),
        ("action: Deny, to: [{networks: [10.0.0.0/8, 10.0.0.0/8]}]", "duplicate-entry", "to[0].networks[1]", "take one"),
        ("action: Deny, to: [{networks: ['0000:0000:0000:0000:0000:0000:100.100.100.100/128', '::/8']}]", "cidr", "to[0].networks[0]", "::6464:6464/128"),
        ("action: Accept, to: [{domainNames: ['*.example.com', example.org]}]", "domain-names", "to[0].domainNames", "`networks`"),
        ("action: Deny, to: [{domainNames: [example.com]}]", "domain-names", "to[0].domainNames", "`networks`"),
        # ports
        ("action: Deny, to: [{nodes: {}}], protocols: []", "empty-list", "protocols", "tcp"),
        ("action: Deny, to: [{nodes: {}}], protocols: ", "missing-field", "protocols", "tcp"),
        ("action: Deny, to: [{nodes: {}}], protocols: [tcp]", "wrong-type", "protocols[0]", "tcp"),
        ("action: Deny, to: [{nodes: {}}], protocols: [{}]", "one-field", "protocols[0]", "tcp"),
        ("action: Deny, to: [{nodes: {}}], protocols: [{tcp: {destinationPort: {number: 1}}, udp: {destinationPort: {number: 1}}}]", "one-field", "protocols[0]", "two entries"),
        ("action: Deny, to: [{nodes: {}}], protocols: [{TCP: {destinationPort: {number: 1}}}]", "unknown-field", "protocols[0].TCP", "`tcp`"),
        ("action: Deny, to: [{nodes: {}}], protocols: [{portNumber: {port: 80}}]", "unknown-field", "protocols[0].portNumber", "destinationPort"),
        ("action: Deny, to: [{nodes: {}}], protocols: [{icmp: {}}]", "unknown-field", "protocols[0].icmp", "without `protocols`"),
        ("action: Deny, to: [{nodes: {}}], protocols: [{tcp: {}}]", "missing-field", "protocols[0].tcp.destinationPort", "number"),
        ("action: Deny, to: [{nodes: {}}], protocols: [{tcp: }]", "nothing-written", "protocols[0].tcp", "destinationPort"),
        ("action: Deny, to: [{nodes: {}}], protocols: [{tcp: {number: 80}}]", "unknown-field", "protocols[0].tcp.number", "below `destinationPort:`"),
        ("action: Deny, to: [{nodes: {}}], protocols: [{tcp: {destinationPort: 80}}]", "wrong-type", "protocols[0].tcp.destinationPort", "{number: 80}"),
        ("action: Deny, to: [{nodes: {}}], protocols: [{tcp: {destinationPort: {}}}]", "one-field", "protocols[0].tcp.destinationPort", "number, range"),
        ("action: Deny, to: [{nodes: {}}], protocols: [{tcp: {destinationPort: {number: 1, range: {start: 1, end: 2}}}}]", "one-field", "protocols[0].tcp.destinationPort", "take one out"),
        ("action: Deny, to: [{nodes: {}}], protocols: [{tcp: {destinationPort: {number: 0}}}]", "port-number", "protocols[0].tcp.destinationPort.number", "65535"),
        ("action: Deny, to: [{nodes: {}}], protocols: [{tcp: {destinationPort: {number: 65536}}}]", "port-number", "protocols[0].tcp.destinationPort.number", "65535"),
        ("action: Deny, to: [{nodes: {}}], protocols: [{tcp: {destinationPort: {number: '80'}}}]", "wrong-type", "protocols[0].tcp.destinationPort.number", "without quotes"),
        ("action: Deny, to: [{nodes: {}}], protocols: [{tcp: {destinationPort: {number: http}}}]", "wrong-type", "protocols[0].tcp.destinationPort.number", "destinationNamedPort"),
        ("action: Deny, to: [{nodes: {}}], protocols: [{tcp: {destinationPort: {range: {start: 1}}}}]", "missing-field", "protocols[0].tcp.destinationPort.range.end", "end"),
        ("action: Deny, to: [{nodes: {}}], protocols: [{tcp: {destinationPort: {range: {start: 5, end: 5}}}}]", "port-range", "protocols[0].tcp.destinationPort.range.end", "number: 5"),
        ("action: Deny, to: [{nodes: {}}], protocols: [{tcp: {destinationPort: {range: {start: 6, end: 5}}}}]", "port-range", "protocols[0].tcp.destinationPort.range.end", "other way"),
        ("action: Deny, to: [{nodes: {}}], protocols: [{destinationNamedPort: http}]", "named-port-peer", "protocols", "two rules"),
        ("action: Deny, to: [{namespaces: {}}, {networks: [10.0.0.0/8]}], protocols: [{destinationNamedPort: http}]", "named-port-peer", "protocols", "two rules"),
        ("action: Deny, to: [{namespaces: {}}], protocols: [{destinationNamedPort: Http}]", "port-name", "protocols[0].destinationNamedPort", "lower-case"),
        ("action: Deny, to: [{namespaces: {}}], protocols: [{destinationNamedPort: ''}]", "port-name", "protocols[0].destinationNamedPort", "lower-case"),
        ("action: Deny, to: [{namespaces: {}}], protocols: [{destinationNamedPort: '80'}]", "port-name", "protocols[0].destinationNamedPort", "number:"),
        ("action: Deny, to: [{namespaces: {}}], protocols: [{destinationNamedPort: 80}]", "not-text", "protocols[0].destinationNamedPort", "quote"),
    ],
)  # fmt: skip
def test_egress_rules_that_are_refused(rule: str, code: str, path: str, cure: str) -> None:
    finding = refused(egress_of(rule), code)
    assert finding.path == f"spec.egress[0].{path}"
    assert cure in finding.cure, finding.cure
    assert finding.subject == "ClusterNetworkPolicy p" and finding.position.line == 8
    found = one(egress_of(rule))
    accepts = any(f"action: {word}" in rule for word in ("Accept", "Allow", "accept"))
    assert found.egress == (() if accepts else (TierRule(Action.DENY, None, None, found.egress[0].name),))
    assert read_back(written(found).encode(), Position("", 1), True) == found


@pytest.mark.parametrize(
    ("rule", "path", "cure"),
    [
        ("to: [{namespaces: {}}]", "to", "ingress rules have `from`"),
        ("from: [{networks: [10.0.0.0/8]}]", "from[0].networks", "pods and namespaces"),
        ("from: [{nodes: {}}]", "from[0].nodes", "pods and namespaces"),
        ("from: [{domainNames: [a.b]}]", "from[0].domainNames", "pods and namespaces"),
        ("from: [{ipBlock: {cidr: 10.0.0.0/8}}]", "from[0].ipBlock", "pods and namespaces"),
    ],
)
def test_ingress_rules_have_pods_as_their_peers(rule: str, path: str, cure: str) -> None:
    also = "" if rule.startswith("from") else "from: [{namespaces: {}}], "
    finding = refused(rules_of(f"[{{action: Pass, {also}{rule}}}]"), "unknown-field")
    assert finding.path == f"spec.ingress[0].{path}" and cure in finding.cure


@pytest.mark.parametrize(
    ("spec", "code", "path", "cure"),
    [
        ("priority: 1\nsubject: {namespaces: {}}", "missing-field", "tier", "tier: Admin"),
        ("tier: admin\npriority: 1\nsubject: {namespaces: {}}", "tier", "tier", "write `Admin`"),
        ("tier: Security\npriority: 1\nsubject: {namespaces: {}}", "tier", "tier", "`Admin` or `Baseline`"),
        ("tier: Admin\nsubject: {namespaces: {}}", "missing-field", "priority", "0 (first) to 1000"),
        ("tier: Admin\npriority: 1001\nsubject: {namespaces: {}}", "priority", "priority", "1000"),
        ("tier: Admin\npriority: -1\nsubject: {namespaces: {}}", "priority", "priority", "1000"),
        ("tier: Admin\npriority: high\nsubject: {namespaces: {}}", "wrong-type", "priority", "whole number"),
        ("tier: Admin\npriority: '1'\nsubject: {namespaces: {}}", "wrong-type", "priority", "without quotes"),
        ("tier: Admin\npriority: 1", "missing-field", "subject", "namespaces: {}"),
        ("tier: Admin\npriority: 1\nsubject: {}", "one-field", "subject", "namespaces, pods"),
        ("tier: Admin\npriority: 1\nsubject: ", "nothing-written", "subject", "namespaces: {}"),
        ("tier: Admin\npriority: 1\nsubject: {namespaces: {}, pods: {podSelector: {}}}", "one-field", "subject", "take one out"),
        ("tier: Admin\npriority: 1\nsubject: {podSelector: {}}", "unknown-field", "subject.podSelector", "`pods:`"),
        ("tier: Admin\npriority: 1\nsubject: {namespaces: }", "nothing-written", "subject.namespaces", "{}"),
        ("tier: Admin\npriority: 1\nsubject: {pods: {namespaceSelector: {}}}", "missing-field", "subject.pods.podSelector", "{}"),
        ("tier: Admin\npriority: 1\nsubject: {namespaces: {}}\npolicyTypes: [Ingress]", "unknown-field", "policyTypes", "take it out"),
        ("tier: Admin\npriority: 1\nsubject: {namespaces: {}}\naction: Deny", "unknown-field", "action", "each rule"),
        ("tier: Admin\npriority: 1\nsubject: {namespaces: {}}\ningress: ", "nothing-written", "ingress", "take `ingress` out"),
        ("tier: Admin\npriority: 1\nsubject: {namespaces: {}}\ningress: x", "wrong-type", "ingress", "ingress: [x]"),
        ("tier: Admin\npriority: 1\nsubject: {namespaces: {}}\ningres: []", "unknown-field", "ingres", "`ingress`"),
    ],
)  # fmt: skip
def test_specs_that_are_refused(spec: str, code: str, path: str, cure: str) -> None:
    finding = refused(policy_of(spec), code)
    assert finding.path == f"spec.{path}"
    assert cure in finding.cure, finding.cure


@pytest.mark.parametrize(
    ("metadata", "code", "path"),
    [
        ("{name: p, namespace: shop}", "cluster-scoped", "metadata.namespace"),
        ("{name: P}", "name", "metadata.name"),
        ("{name: p, annotations: {netpold.io/mode: Audit}}", "mode", "metadata.annotations[netpold.io/mode]"),
        ("{name: p, labels: {a: 1}}", "not-text", "metadata.labels.a"),
        ("{name: p, labelz: {}}", "unknown-field", "metadata.labelz"),
        ("{generateName: p}", "missing-field", "metadata.name"),
    ],
)
def test_metadata_that_is_refused(metadata: str, code: str, path: str) -> None:
    spec = "tier: Admin\npriority: 7\nsubject: {namespaces: {}}\negress: [{action: Deny, to: [{nodes: {}}]}]"
    parsed = policy_of(spec, metadata)
    assert refused(parsed, code).path == path
    assert one(parsed).egress == (TierRule(Action.DENY, (NodePeer(EVERYTHING),), None),)  # that could be read
    assert one(parsed).priority == 7
    assert parsed.truncated == (code in ("name", "missing-field"))


def test_no_spec() -> None:
    parsed = read(f"apiVersion: {GROUP}/v1alpha2\nkind: ClusterNetworkPolicy\nmetadata: {{name: p}}\n")
    assert refused(parsed, "missing-field").path == "spec"
    assert one(parsed) == ClusterPolicy("p", Tier.ADMIN, 0, EVERY_POD, (), (), quarantined=True)


@pytest.mark.parametrize(
    ("rules", "path"),
    [
        (f"[{', '.join(['{action: Pass, to: [{nodes: {}}]}'] * 26)}]", ""),
        (f"[{{action: Pass, to: [{', '.join(['{nodes: {}}'] * 26)}]}}]", "[0].to"),
        (f"[{{action: Pass, to: [{{networks: [{', '.join(f'10.0.{each}.0/24' for each in range(26))}]}}]}}]", "[0].to[0].networks"),
        (f"[{{action: Pass, to: [{{nodes: {{}}}}], protocols: [{', '.join(['{tcp: {destinationPort: {number: 1}}}'] * 26)}]}}]", "[0].protocols"),
    ],
)  # fmt: skip
def test_more_entries_than_the_api_takes(rules: str, path: str) -> None:
    finding = refused(rules_of(egress=rules), "too-many-entries")
    assert finding.path == f"spec.egress{path}" and "26" in finding.fault and "25" in finding.fault


def test_of_very_many_rules_the_first_are_looked_at() -> None:
    """Whoever writes a manifest must not make the daemon work for hours."""
    rule = "{action: Deny, to: [{nodes: {}}]}"
    found = one(rules_of(egress=f"[{', '.join([rule] * 5000)}]"))
    assert found.egress == (*[TierRule(Action.DENY, (NodePeer(EVERYTHING),), None)] * 250, DENY_ALL)
    assert read_back(written(found).encode(), Position("", 1), True) == found


@pytest.mark.parametrize("name", ["a", "*", "*.", "a..b", "-a.b", "*a.b", "a.*.b", "exa mple.com", ""])
def test_domain_names_that_are_none(name: str) -> None:
    parsed = egress_of(f"action: Accept, to: [{{domainNames: ['{name}']}}]")
    assert [each.code for each in parsed.findings] == ["domain-names", "domain-name"]


# What is left of what is refused


@pytest.mark.parametrize(
    ("spec", "tier", "priority", "subject"),
    [
        ("tier: Baseline\npriority: 9\nsubject: {namespaces: {matchLabels: {a: b}}}\nx: 1", Tier.BASELINE, 9, PodPeer(EVERYTHING, labelled(a="b"))),
        ("tier: Base\npriority: 9\nsubject: {pods: {podSelector: {matchLabels: {a: b}}}}", Tier.ADMIN, 9, PodPeer(labelled(a="b"), EVERYTHING)),
        ("tier: Baseline\npriority: 9999\nsubject: {pods: {podSelector: {matchLabels: {a: B c}}, namespaceSelector: {matchLabels: {a: b}}}}", Tier.BASELINE, 0, PodPeer(EVERYTHING, labelled(a="b"))),
        ("tier: Baseline\npriority: 1\nsubject: {namespaces: {matchLabels: {a: b, a: c}}}", Tier.BASELINE, 1, EVERY_POD),
        ("tier: Baseline\npriority: 1\nsubject: {namespaces: {}, x: {}}", Tier.BASELINE, 1, EVERY_POD),
        ("tier: Baseline\npriority: 1\nsubject:\n  namespaces:\n    matchLabels:\n      a: b\n     c: d\n", Tier.BASELINE, 1, EVERY_POD),
    ],
)  # fmt: skip
def test_whom_a_closed_policy_is_about(spec: str, tier: Tier, priority: int, subject: PodPeer) -> None:
    found = one(policy_of(spec))
    assert found.quarantined
    assert (found.tier, found.priority, found.subject) == (tier, priority, subject)


DENY_NODES = TierRule(Action.DENY, (NodePeer(EVERYTHING),), None, "x")


@pytest.mark.parametrize(
    ("egress", "left"),
    [
        # what denies and is right stays; what accepts or passes goes
        ("[{name: x, action: Deny, to: [{nodes: {}}]}, {action: Accept, to: [{nodes: {}}]}, {action: Pass, to: [{nodes: {}}]}]", (DENY_NODES,)),
        # what denies, passes or does not say, and is wrong, denies all
        ("[{action: Pass, to: [{nods: {}}]}, {name: x, action: Deny, to: [{nodes: {}}]}]", (DENY_ALL,)),
        ("[{name: x, action: Deny, to: [{nodes: {}}]}, {action: Deny, to: [{nodes: {}}], port: 80}]", (DENY_NODES, DENY_ALL)),
        ("[{to: [{nodes: {}}]}]", (DENY_ALL,)),
        ("[{action: Accept, to: [{nods: {}}]}]", ()),
        ("[web]", (DENY_ALL,)),
        ("{x: y}", (DENY_ALL,)),
        ("web", (DENY_ALL,)),
        ("[{action: Deny, action: Accept, to: [{nodes: {}}]}]", (DENY_ALL,)),
        ("[{action: Accept, <<: {}, to: [{nodes: {}}]}]", ()),
        ("&a [{name: x, action: Deny, to: [{nodes: {}}]}]", (DENY_NODES,)),
        ("[{name: x, action: Deny, to: [{nodes: {}}]}", (DENY_NODES, DENY_ALL)),
        ("[{action: Accept, to: [{nodes: {}}", (DENY_ALL,)),
    ],
)  # fmt: skip
def test_the_rules_of_a_closed_policy(egress: str, left: tuple[TierRule, ...]) -> None:
    found = one(policy_of(f"tier: Admin\npriority: 1\nsubject: {{namespaces: {{}}}}\nbad: 1\negress: {egress}"))
    assert found.quarantined and found.egress == left


@pytest.mark.parametrize(
    ("more", "ingress", "egress"),
    [
        ("bad: 1", (), ()),
        ("ingress: []\negres: [{action: Deny}]", (), (DENY_ALL,)),
        ("rules: [{action: Deny}]", (DENY_ALL,), (DENY_ALL,)),
        ("rules: [{action: Deny}]\negress: []", (DENY_ALL,), ()),
        ("policyTypes: [Egress]", (), ()),
        ("ingress: [{action: Accept, from: [\n", (DENY_ALL,), (DENY_ALL,)),
        ("ingress: []\nx: '", (), (DENY_ALL,)),
    ],
)
def test_directions_that_a_closed_policy_may_have(
    more: str, ingress: tuple[TierRule, ...], egress: tuple[TierRule, ...]
) -> None:
    found = one(policy_of(f"tier: Admin\npriority: 1\nsubject: {{namespaces: {{}}}}\n{more}"))
    assert found.quarantined and (found.ingress, found.egress) == (ingress, egress)


WHOLE = f"""\
apiVersion: {GROUP}/v1alpha2
kind: ClusterNetworkPolicy
metadata:
  name: p
spec:
  tier: Admin
  priority: 10
  subject:
    pods:
      namespaceSelector: {{}}
      podSelector:
        matchLabels:
          a: b
  egress:
  - action: Accept
    to:
    - nodes: {{matchLabels: {{role: api}}}}
  - action: Pass
    to:
    - pods: {{podSelector: {{}}}}
    protocols:
    - destinationNamedPort: http
  - action: Deny
    to:
    - networks: [10.0.0.0/8]
    protocols:
    - tcp: {{destinationPort: {{number: 80}}}}
    - udp:
        destinationPort:
          range: {{start: 1, end: 9}}
"""


@given(st.integers(0, len(WHOLE)))
@settings(max_examples=300, deadline=None)
def test_a_torn_policy_denies_what_it_denied(cut: int) -> None:
    """A write that was cut off anywhere: either nobody can tell which object it is, or all that it denied is denied."""
    (whole,) = parse(WHOLE.encode(), "").objects
    parsed = parse(f"{WHOLE[:cut]}\n  '".encode(), "")
    assert parsed.truncated or parsed.objects
    for found in parsed.objects:
        assert isinstance(found, ClusterPolicy) and isinstance(whole, ClusterPolicy)
        assert found.quarantined
        if found.key == whole.key:
            assert whole.egress[-1] in found.egress or DENY_ALL in found.egress
            assert found.subject in (whole.subject, EVERY_POD)
            assert {rule.action for rule in found.egress} == {Action.DENY}


@given(
    st.integers(0, len(WHOLE)), st.sampled_from(["", "{", "x", "é", '"', " ", "\n", "- ", ": ", "#"]), st.integers(0, 3)
)
@settings(max_examples=500, deadline=None)
def test_what_is_damaged_is_kept_as_it_is(cut: int, letter: str, drop: int) -> None:
    for each in parse((WHOLE[:cut] + letter + WHOLE[cut + drop :]).encode(), "").objects:
        assert read_back(written(each).encode(), Position("", 1), each.quarantined) == each


def test_what_the_kernel_refuses_is_closed() -> None:
    policy = one(parse(WHOLE.encode(), ""))
    found = closed(policy)
    assert isinstance(found, ClusterPolicy)
    assert (found.ingress, found.egress, found.quarantined) == ((), (DENY_ALL,), True)
    assert read_back(written(found).encode(), Position("", 1), True) == found


def test_a_closed_manifest_is_not_taken_for_a_good_one() -> None:
    found = closed(one(parse(WHOLE.encode(), "")))
    assert read_back(written(found).encode(), Position("", 1), False) is None
    assert read_back(WHOLE.replace("to:", "too:").encode(), Position("", 1), True) is None


# Kinds


@pytest.mark.parametrize(
    ("kind", "version", "code"),
    [
        ("ClusterNetworkPolicy", f"{GROUP}/v1", "api-version"),
        ("ClusterNetworkPolicy", f"{GROUP}/v1alpha1", "api-version"),
        ("ClusterNetworkPolicy", "networking.k8s.io/v1", "api-version"),
        ("ClusterNetworkPolicy", "policy.k8s.io/v1alpha2", "api-version"),
        ("ClusterNetworkPolicy", "", "missing-field"),
        ("ClusterNetworkPolcy", f"{GROUP}/v1alpha2", "kind"),
        ("clusternetworkpolicies", f"{GROUP}/v1alpha2", "kind"),
        ("Policy", f"{GROUP}/v1alpha2", "kind"),
    ],
)
def test_a_policy_of_a_wrong_kind_or_version_is_closed(kind: str, version: str, code: str) -> None:
    rules = "egress: [{action: Accept, to: [{nodes: {}}]}]"
    text = f"apiVersion: {version}\nkind: {kind}\nmetadata: {{name: p}}\nspec: {{tier: Admin, priority: 1, subject: {{namespaces: {{}}}}, {rules}}}"
    finding = refused(read(text), code)
    assert "ClusterNetworkPolicy" in finding.cure or f"{GROUP}/v1alpha2" in finding.cure


def test_a_policy_without_a_kind_is_told_by_its_subject() -> None:
    parsed = read("apiVersion: x\nmetadata: {name: p}\nspec: {tier: Admin, priority: 1, subject: {namespaces: {}}}")
    assert one(parsed).quarantined and "kind" in {each.path for each in parsed.findings}


@pytest.mark.parametrize("version", ["crd.antrea.io/v1beta1", "security.antrea.tanzu.vmware.com/v1alpha1"])
def test_the_policies_of_others_are_passed_over(version: str) -> None:
    parsed = read(f"apiVersion: {version}\nkind: ClusterNetworkPolicy\nmetadata: {{name: p}}\nspec: {{appliedTo: []}}")
    assert [(each.code, each.severity) for each in parsed.findings] == [("foreign-kind", "warning")]
    assert parsed.objects == () and not parsed.truncated


def test_other_kinds_of_the_group_do_not_exist() -> None:
    parsed = read(f"apiVersion: {GROUP}/v1alpha2\nkind: Tiers\nmetadata: {{name: p}}\n")
    assert [each.code for each in parsed.findings] == ["kind"] and parsed.truncated


def test_keys_tell_kinds_apart() -> None:
    for kind, key in (
        ("ClusterNetworkPolicy", "p"),
        ("AdminNetworkPolicy", "AdminNetworkPolicy/p"),
        ("BaselineAdminNetworkPolicy", "BaselineAdminNetworkPolicy/default"),
        ("NetworkPolicy", "a/b"),
    ):
        assert policy_kind(key) == kind
        assert policy_key(kind, policy_title(key).removeprefix(f"{kind} ")) == key


# v1alpha1


def test_an_admin_network_policy_is_translated() -> None:
    parsed = old_of(
        "ingress: [{name: a, action: Allow, from: [{namespaces: {}}], ports: [{portNumber: {protocol: UDP, port: 53}}, {namedPort: web}]}],"
        " egress: [{action: Pass, to: [{pods: {namespaceSelector: {}, podSelector: {}}}]},"
        " {action: Deny, to: [{networks: [10.0.0.1/8]}, {nodes: {}}], ports: [{portRange: {start: 1, end: 9}}, {portNumber: {port: 80}}]}]",
        name="p",
    )
    assert {(each.code, each.severity) for each in parsed.findings} == {
        ("deprecated-kind", "warning"),
        ("cidr-host-bits", "warning"),
    }
    found = one(parsed)
    named = tuple(PolicyPort(protocol, "web") for protocol in ("TCP", "UDP", "SCTP"))
    assert found == ClusterPolicy(
        "p",
        Tier.ADMIN,
        5,
        EVERY_POD,
        (TierRule(Action.ACCEPT, (EVERY_POD,), (PolicyPort("UDP", 53), *named), "a"),),
        (
            TierRule(Action.PASS, (EVERY_POD,), None),
            TierRule(
                Action.DENY,
                (IPBlock(ip_network("10.0.0.0/8")), NodePeer(EVERYTHING)),
                (PolicyPort("TCP", 1, 9), PolicyPort("TCP", 80)),
            ),
        ),
        kind="AdminNetworkPolicy",
    )
    assert found.key == "AdminNetworkPolicy/p"


def test_the_baseline_admin_network_policy_is_translated() -> None:
    parsed = old_of("egress: [{action: Deny, to: [{namespaces: {}}]}]", "BaselineAdminNetworkPolicy")
    assert [each.code for each in parsed.findings] == ["deprecated-kind"]
    rule = TierRule(Action.DENY, (EVERY_POD,), None)
    assert one(parsed) == ClusterPolicy(
        "default", Tier.BASELINE, 1000, EVERY_POD, (), (rule,), kind="BaselineAdminNetworkPolicy"
    )


@pytest.mark.parametrize(
    ("kind", "spec", "code", "cure"),
    [
        ("AdminNetworkPolicy", "egress: [{action: Accept, to: [{namespaces: {}}]}]", "action", "write `Allow`"),
        ("AdminNetworkPolicy", "egress: [{action: Deny, to: [{pods: {podSelector: {}}}]}]", "missing-field", "namespaceSelector: {}"),
        ("AdminNetworkPolicy", "egress: [{action: Deny, to: [{namespaces: {}}], protocols: []}]", "unknown-field", "`ports:`"),
        ("AdminNetworkPolicy", "egress: [{action: Deny, to: [{namespaces: {}}], ports: [{port: 80}]}]", "unknown-field", "portNumber"),
        ("AdminNetworkPolicy", "egress: [{action: Deny, to: [{namespaces: {}}], ports: [{portNumber: {protocol: tcp, port: 80}}]}]", "protocol", "`TCP`"),
        ("AdminNetworkPolicy", "egress: [{action: Deny, to: [{namespaces: {}}], ports: [{portNumber: {protocol: TCP}}]}]", "missing-field", "port"),
        ("AdminNetworkPolicy", "egress: [{action: Deny, to: [{nodes: {}}], ports: [{namedPort: a}]}]", "named-port-peer", "two rules"),
        ("AdminNetworkPolicy", "egress: [{action: Allow, to: [{domainNames: [a.b]}]}]", "domain-names", "networks"),
        ("AdminNetworkPolicy", "tier: Admin", "unknown-field", "always Admin"),
        ("BaselineAdminNetworkPolicy", "priority: 1", "unknown-field", "only one"),
        ("BaselineAdminNetworkPolicy", "egress: [{action: Pass, to: [{namespaces: {}}]}]", "action", "Allow, Deny"),
        ("BaselineAdminNetworkPolicy", "egress: [{action: Allow, to: [{domainNames: [a.b]}]}]", "unknown-field", "fields here"),
    ],
)  # fmt: skip
def test_old_forms_that_are_refused(kind: str, spec: str, code: str, cure: str) -> None:
    finding = refused(old_of(spec, kind), code)
    assert cure in finding.cure, finding.cure


def test_there_is_one_baseline_admin_network_policy() -> None:
    finding = refused(old_of("ingress: []", "BaselineAdminNetworkPolicy", "other"), "name")
    assert finding.path == "metadata.name" and "default" in finding.cure


def test_old_lists_are_longer() -> None:
    rule = "{action: Pass, to: [{namespaces: {}}]}"
    assert len(one(old_of(f"egress: [{', '.join([rule] * 100)}]")).egress) == 100
    refused(old_of(f"egress: [{', '.join([rule] * 101)}]"), "too-many-entries")


# Nodes


DUMP = """\
apiVersion: v1
kind: Node
metadata:
  name: node-1
  uid: 3a5d1d8c-0d4c-4b5e-9d24-1f2f3a4b5c6d
  resourceVersion: "184"
  creationTimestamp: "2026-01-05T10:00:00Z"
  labels:
    kubernetes.io/hostname: node-1
    node-role.kubernetes.io/control-plane: ""
  annotations:
    node.alpha.kubernetes.io/ttl: "0"
    volumes.kubernetes.io/controller-managed-attach-detach: "true"
spec:
  podCIDR: 10.244.0.0/24
  podCIDRs: [10.244.0.0/24]
  providerID: kind://docker/kind/node-1
  taints: [{effect: NoSchedule, key: node-role.kubernetes.io/control-plane}]
status:
  addresses:
  - {address: 172.18.0.2, type: InternalIP}
  - {address: "fc00:f853:ccd:e793::2", type: InternalIP}
  - {address: 203.0.113.7, type: ExternalIP}
  - {address: node-1, type: Hostname}
  - {address: node-1.internal, type: InternalDNS}
  - {address: 172.18.0.2, type: Hostname}
  allocatable: {cpu: "8", memory: 32Gi}
  capacity: {cpu: "8", memory: 32Gi}
  conditions: [{type: Ready, status: "True", lastHeartbeatTime: "2026-01-05T10:00:00Z"}]
  daemonEndpoints: {kubeletEndpoint: {Port: 10250}}
  images: [{names: ["registry.k8s.io/pause:3.10"], sizeBytes: 320368}]
  nodeInfo: {kernelVersion: 6.1.0, osImage: Debian}
  runtimeHandlers: [{name: runc, features: {recursiveReadOnlyMounts: true}}]
"""


def test_a_node_as_kubectl_writes_it() -> None:
    parsed = parse(DUMP.encode(), "f.yaml")
    assert parsed.findings == () and not parsed.truncated
    labels = {"kubernetes.io/hostname": "node-1", "node-role.kubernetes.io/control-plane": ""}
    node = Node("node-1", labels, ("172.18.0.2", "fc00:f853:ccd:e793::2", "203.0.113.7"))
    assert parsed.objects == (node,)
    assert read_back(written(node).encode(), Position("", 1), False) == node


@pytest.mark.parametrize(
    ("rest", "code", "addresses"),
    [
        ("status: {addresses: [{type: InternalIP, address: node}]}", "node-address", ()),
        ("status: {addresses: [{type: InternalIP, address: 127.0.0.1}, {type: InternalIP, address: 10.0.0.1}]}", "node-address", ("10.0.0.1",)),
        ("status: {addresses: [{type: InternalIP}]}", "missing-field", ()),
        ("status: {addresses: [10.0.0.1]}", "wrong-type", ()),
        ("status: {addreses: []}", "unknown-field", ()),
        ("metadata: {name: node, namespace: x}", "cluster-scoped", ()),
        ("metadata: {name: node, labels: {a: 1}}\nstatus: {addresses: [{type: ExternalIP, address: 10.0.0.1}]}", "not-text", ("10.0.0.1",)),
    ],
)  # fmt: skip
def test_nodes_that_are_refused(rest: str, code: str, addresses: tuple[str, ...]) -> None:
    metadata = "" if "metadata" in rest else "metadata: {name: node, labels: {a: b}}\n"
    parsed = read(f"apiVersion: v1\nkind: Node\n{metadata}{rest}\n")
    assert [(each.code, each.subject) for each in parsed.findings] == [(code, "Node node")]
    assert parsed.objects == (Node("node", {}, addresses, quarantined=True),)


# Between files


def assembled(*texts: str) -> Assembly:
    assembly = Assembly()
    assembly.update({f"{number}.yaml": parse(text.encode(), f"{number}.yaml") for number, text in enumerate(texts)})
    return assembly


def said(
    name: str = "p", tier: str = "Admin", priority: int = 5, subject: str = "{namespaces: {}}", egress: str = "[]"
) -> str:
    return f"apiVersion: {GROUP}/v1alpha2\nkind: ClusterNetworkPolicy\nmetadata: {{name: {name}}}\nspec: {{tier: {tier}, priority: {priority}, subject: {subject}, egress: {egress}}}\n"


def test_two_versions_of_a_policy_deny_what_any_of_them_does() -> None:
    assembly = assembled(
        said(
            priority=7,
            tier="Baseline",
            egress="[{action: Deny, to: [{nodes: {}}]}, {action: Accept, to: [{namespaces: {}}]}]",
        ),
        said(
            priority=9,
            subject="{namespaces: {matchLabels: {a: b}}}",
            egress="[{action: Deny, to: [{networks: [10.0.0.0/8]}]}, {action: Deny, to: [{nodes: {}}]}]",
        ),
    )
    nodes = TierRule(Action.DENY, (NodePeer(EVERYTHING),), None)
    block = TierRule(Action.DENY, (IPBlock(ip_network("10.0.0.0/8")),), None)
    assert assembly.world.policies == {
        "p": ClusterPolicy("p", Tier.ADMIN, 7, EVERY_POD, (), (nodes, block), quarantined=True)
    }
    assert [(each.code, each.subject) for each in assembly.findings()] == [
        ("conflicting-objects", "ClusterNetworkPolicy p")
    ]
    assert assembly.rejected == {"ClusterNetworkPolicy p"} and assembly.quarantined_policies == 1


def test_the_last_good_version_stays() -> None:
    assembly = assembled(WHOLE)
    before = assembly.world.policies["p"]
    broken = WHOLE.replace("tier: Admin", "tier: Admn")
    changes = assembly.update({"0.yaml": parse(broken.encode(), "0.yaml")})
    assert assembly.world.policies["p"] is before and not changes
    assert assembly.rejected == assembly.last_good == {"ClusterNetworkPolicy p"}


def test_a_node_that_moved_is_not_kept_where_it_was() -> None:
    assembly = assembled(DUMP)
    bad = DUMP.replace('"0"', "0")
    assembly.update({"0.yaml": parse(bad.encode(), "0.yaml")})
    assert not assembly.world.nodes["node-1"].quarantined  # the last good one says the same addresses
    assembly.update({"0.yaml": parse(bad.replace("172.18.0.2", "172.18.0.3").encode(), "0.yaml")})
    assert assembly.world.nodes["node-1"].quarantined
    assert "172.18.0.3" in assembly.world.nodes["node-1"].addresses
    assert assembly.rejected == {"Node node-1"}


def test_two_versions_of_a_node() -> None:
    assembly = assembled(DUMP, DUMP.replace("172.18.0.2", "172.18.0.3"))
    found = assembly.world.nodes["node-1"]
    assert found.quarantined and found.labels == {}
    assert {"172.18.0.2", "172.18.0.3"} <= {*found.addresses}


def test_equal_priorities() -> None:
    assembly = assembled(said("a"), said("b"), said("c", priority=6), said("d", tier="Baseline"), said("e", egress="x"))
    notes = [each for each in assembly.findings() if each.code == "equal-priority"]
    assert [(each.subject, each.severity) for each in notes] == [("ClusterNetworkPolicy b", "warning")]
    assert "ClusterNetworkPolicy a (0.yaml:1)" in notes[0].fault and "tier Admin" in notes[0].fault
    assembly.update({"1.yaml": parse(said("b", priority=4).encode(), "1.yaml")})
    assert not [each for each in assembly.findings() if each.code == "equal-priority"]
    assembly.update({"0.yaml": parse(said("a", priority=6).encode(), "0.yaml")})
    assert [each.subject for each in assembly.findings() if each.code == "equal-priority"] == ["ClusterNetworkPolicy c"]
    assembly.update({"0.yaml": None})
    assert not [each for each in assembly.findings() if each.code == "equal-priority"]


def test_one_name_in_several_kinds() -> None:
    admin = f"apiVersion: {GROUP}/v1alpha1\nkind: AdminNetworkPolicy\nmetadata: {{name: p}}\nspec: {{priority: 6, subject: {{namespaces: {{}}}}}}\n"
    assembly = assembled(said("p"), admin)
    assert sorted(assembly.world.policies) == ["AdminNetworkPolicy/p", "p"] and not assembly.rejected
    for policy in assembly.world.policies.values():
        assert [policy.rules(direction) for direction in Direction] == [(), ()]


def test_labels_that_only_policies_of_the_cluster_ask_for_tell_pods_apart() -> None:
    policy = good(
        policy_of(
            """\
            tier: Admin
            priority: 1
            subject: {pods: {podSelector: {matchLabels: {a: b}}}}
            egress: [{action: Deny, to: [{nodes: {}}]}]
            """
        )
    )
    pods = {each.key: each for each in (Pod("shop", "with", {"a": "b"}), Pod("shop", "without", {}))}
    isolations = Isolations(Index(World(pods, {}, {policy.key: policy})))
    assert [isolations.of(pods[key], Direction.EGRESS).admin for key in sorted(pods)] == [(policy,), ()]


@given(worlds(TIERED))
@settings(max_examples=30, deadline=None)
def test_all_that_there_can_be_is_kept_and_cached(world: World) -> None:
    encoder, decoder = Encoder(), Decoder()
    for each in (*world.policies.values(), *world.nodes.values()):
        assert decoder.decode(marshal.loads(marshal.dumps(encoder.encode(each))), "f.yaml") == each
        found = read_back(written(each).encode(), Position("", 1), each.quarantined)
        assert found == each and type(found) is type(each)
        assert written(found) == written(each)


def test_bits_beyond_the_prefix_are_cut_in_v1alpha2_and_refused_in_v1beta1() -> None:
    spec = (
        "tier: Admin\npriority: 1\nsubject: {namespaces: {}}\negress: [{action: Deny, to: [{networks: [10.0.0.1/8]}]}]"
    )
    for version, severity in (("v1alpha2", "warning"), ("v1beta1", "error")):
        (found,) = policy_of(spec, version=version).findings
        assert (found.code, found.severity) == ("cidr-host-bits", severity)
        assert "`10.0.0.0/8`" in found.cure

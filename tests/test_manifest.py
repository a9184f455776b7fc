"""Manifests to objects: what is accepted as the API server accepts it, what is refused and how that is told."""
# ruff: noqa: E501  (a case in one line)

from __future__ import annotations

import textwrap
from ipaddress import ip_network

import pytest

from netpold.policy.manifest import Parsed, parse
from netpold.policy.model import (
    EVERYTHING,
    NAME_LABEL,
    ContainerPort,
    Finding,
    IPBlock,
    Namespace,
    Operator,
    Pod,
    PodPeer,
    Policy,
    PolicyPort,
    PolicyRule,
    Position,
    Requirement,
    Selector,
)


def read(text: str) -> Parsed:
    return parse(textwrap.dedent(text).encode(), "f.yaml")


def labelled(**labels: str) -> Selector:
    return Selector(tuple(sorted(Requirement(key, Operator.IN, (value,)) for key, value in labels.items())))


def policy_of(spec: str, metadata: str = "{name: p, namespace: shop}") -> Parsed:
    head = f"apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {metadata}\n"
    return parse((head + textwrap.dedent(spec)).encode(), "f.yaml")


def good(parsed: Parsed) -> Policy:
    assert parsed.findings == () and not parsed.truncated
    (found,) = parsed.objects
    assert isinstance(found, Policy) and not found.quarantined
    return found


def warned(parsed: Parsed, code: str) -> Policy:
    assert [(finding.code, finding.severity) for finding in parsed.findings] == [(code, "warning")]
    (found,) = parsed.objects
    assert isinstance(found, Policy) and not found.quarantined
    return found


def refused(parsed: Parsed, code: str) -> Finding:
    """The one error; and the policy grants nothing and isolates."""
    (finding,) = (finding for finding in parsed.findings if finding.severity == "error")
    assert finding.code == code, finding
    (found,) = parsed.objects
    assert isinstance(found, Policy) and found.quarantined
    assert found.ingress in ((), None) and found.egress in ((), None) and (found.ingress, found.egress) != (None, None)
    return finding


def rule_of(text: str) -> Parsed:
    """A policy with one ingress rule, written as the text below its `- `."""
    return policy_of(
        "spec:\n  podSelector: {}\n  ingress:\n  - " + textwrap.indent(textwrap.dedent(text), "    ").strip() + "\n"
    )


# What is accepted


def test_a_policy_with_everything():
    found = good(
        policy_of("""\
            spec:
              podSelector:
                matchLabels: {app: web}
                matchExpressions:
                - {key: tier, operator: NotIn, values: [b, a, b]}
                - {key: canary, operator: DoesNotExist}
                - {key: app, operator: Exists, values: []}
              policyTypes: [Ingress, Egress]
              ingress:
              - from:
                - podSelector: {matchLabels: {app: client}}
                - namespaceSelector: {matchLabels: {team: a}}
                  podSelector: {}
                - namespaceSelector: {}
                - ipBlock: {cidr: 10.0.0.0/8, except: [10.2.0.0/16, 10.1.0.0/16, 10.2.0.0/16]}
                ports:
                - port: 80
                - {port: 1000, endPort: 2000, protocol: UDP}
                - port: http
                - protocol: SCTP
              - {}
              egress: []
            """)
    )
    assert (found.namespace, found.name, found.key) == ("shop", "p", "shop/p")
    assert found.selector.requirements == (
        Requirement("app", Operator.EXISTS),
        Requirement("app", Operator.IN, ("web",)),
        Requirement("canary", Operator.DOES_NOT_EXIST),
        Requirement("tier", Operator.NOT_IN, ("a", "b")),
    )
    rule, everything = found.ingress
    assert rule.peers == (
        PodPeer(labelled(app="client")),
        PodPeer(EVERYTHING, labelled(team="a")),
        PodPeer(EVERYTHING, EVERYTHING),
        IPBlock(ip_network("10.0.0.0/8"), (ip_network("10.1.0.0/16"), ip_network("10.2.0.0/16"))),
    )
    assert rule.ports == (
        PolicyPort("TCP", 80),
        PolicyPort("UDP", 1000, 2000),
        PolicyPort("TCP", "http"),
        PolicyPort("SCTP"),
    )
    assert everything == PolicyRule(None, None)
    assert found.egress == ()
    assert found.position == Position("f.yaml", 1, 1) and rule.position == Position("f.yaml", 13, 5)


@pytest.mark.parametrize(
    ("spec", "ingress", "egress"),
    [
        ("{podSelector: {}}", (), None),
        ("{podSelector: {}, ingress: []}", (), None),
        ("{podSelector: {}, ingress: [{}]}", (PolicyRule(None, None),), None),
        ("{podSelector: {}, ingress: [{from: [], ports: []}]}", (PolicyRule(None, None),), None),
        ("{podSelector: {}, egress: [{}]}", (), (PolicyRule(None, None),)),
        ("{podSelector: {}, policyTypes: []}", (), None),
        ("{podSelector: {}, policyTypes: [], egress: [{}]}", (), (PolicyRule(None, None),)),
        ("{podSelector: {}, policyTypes: [Egress]}", None, ()),
        ("{podSelector: {}, policyTypes: [Egress], egress: [{to: []}]}", None, (PolicyRule(None, None),)),
        ("{podSelector: {}, policyTypes: [Egress, Ingress]}", (), ()),
        ("{podSelector: {}, policyTypes: [Ingress, Ingress]}", (), None),
        ("{podSelector: {}, ingress: [{}], egress: [], policyTypes: [Ingress, Egress]}", (PolicyRule(None, None),), ()),
        ("{podSelector: {}, ingress: null, policyTypes: null}", (), None),
    ],
)
def test_absent_empty_and_one_empty_are_three_things(spec: str, ingress: object, egress: object):
    found = good(policy_of(f"spec: {spec}"))
    assert (found.ingress, found.egress) == (ingress, egress)


def test_rules_of_a_direction_that_policy_types_does_not_have():
    only_out = warned(policy_of("spec: {podSelector: {}, policyTypes: [Egress], ingress: [{}]}"), "rules-unused")
    assert (only_out.ingress, only_out.egress) == (None, ())
    only_in = warned(policy_of("spec: {podSelector: {}, policyTypes: [Ingress], egress: [{}]}"), "rules-unused")
    assert (only_in.ingress, only_in.egress) == ((), None)
    by_default = warned(policy_of("spec: {podSelector: {}, egress: []}"), "rules-unused")
    assert (by_default.ingress, by_default.egress) == ((), None)


@pytest.mark.parametrize("spec", ["", "spec:", "spec: null"])
def test_without_a_spec_all_pods_are_isolated_as_the_api_has_it(spec: str):
    found = warned(policy_of(spec), "no-spec")
    assert (found.selector, found.ingress, found.egress) == (EVERYTHING, (), None)


def test_without_a_pod_selector_all_pods_are_selected_as_the_api_has_it():
    found = warned(policy_of("spec: {ingress: [{}]}"), "no-pod-selector")
    assert warned(policy_of("spec:\n  ingress: [{}]\n  podSelector:\n"), "no-pod-selector") == found
    assert found.selector == EVERYTHING and found.ingress == (PolicyRule(None, None),)


@pytest.mark.parametrize(
    ("written", "taken", "code"),
    [
        ("10.1.2.3/8", "10.0.0.0/8", "cidr-host-bits"),
        ("2001:db8::1/32", "2001:db8::/32", "cidr-host-bits"),
        ("FD00::/8", "fd00::/8", "cidr-not-canonical"),
        ("fd00:0:0::/48", "fd00::/48", "cidr-not-canonical"),
        ("FD00::1/8", "fd00::/8", "cidr-host-bits"),
    ],
)
def test_cidrs_in_other_forms_are_taken_in_their_one_form_and_told(written: str, taken: str, code: str):
    found = warned(rule_of(f"from: [{{ipBlock: {{cidr: '{written}'}}}}]"), code)
    assert found.ingress == (PolicyRule((IPBlock(ip_network(taken)),), None),)


@pytest.mark.parametrize(
    "cidr", ["0.0.0.0/0", "::/0", "10.0.0.1/32", "::1/128", "fd00::/8", "::fffe:0:0/95", "64:ff9b::/96"]
)
def test_cidrs(cidr: str):
    found = good(rule_of(f"from: [{{ipBlock: {{cidr: '{cidr}'}}}}]"))
    assert found.ingress == (PolicyRule((IPBlock(ip_network(cidr)),), None),)


@pytest.mark.parametrize("written", ["podselector: {}", "selector: {}", "podSelectors: {}"])
def test_a_misspelt_pod_selector_is_one_fault(written: str):
    (finding,) = policy_of(f"spec: {{{written}}}").findings
    assert finding.code == "unknown-field" and "podSelector" in finding.cure


def test_a_pod_selector_with_its_labels_beside_it_is_one_fault():
    parsed = policy_of("spec:\n  podSelector:\n  matchLabels: {app: db}\n  ingress: [{}]\n")
    (finding,) = parsed.findings
    assert (finding.path, finding.cure) == (
        "spec.matchLabels",
        "indent `matchLabels:` two more, so that it stands below `podSelector:`",
    )
    (found,) = parsed.objects
    assert isinstance(found, Policy)
    assert (found.quarantined, found.selector, found.ingress) == (True, EVERYTHING, ())


@pytest.mark.parametrize(
    "spec",
    [
        "{podSelector: {<<: {matchLabels: {a: b}}}}",
        "{podSelector: {matchLabels: {<<: {a: b}}}}",
        "{<<: {podSelector: {}}}",
        "{podSelector: {}, ingress: [{from: [{<<: {podSelector: {}}}]}]}",
    ],
)
def test_a_merge_key_is_one_fault(spec: str):
    parsed = policy_of(f"spec: {spec}")
    assert [each.code for each in parsed.findings] == ["merge-key"]
    (found,) = parsed.objects
    assert found.quarantined


@pytest.mark.parametrize(
    "line",
    [
        "name: {{ .Values.name }}",
        "name: {{ .Values.name }}-db",
        "{{- if .Values.on }}",
        "{{ .Values.labels }}: x",
        "name: '{{ .Values.name }}'",
    ],
)
def test_templates_are_called_by_their_name(line: str):
    parsed = policy_of("spec: {podSelector: {}}", f"\n  namespace: shop\n  {line}")
    assert "render it first" in parsed.findings[0].cure, parsed.findings
    assert parsed.objects == () or parsed.objects[0].quarantined


def test_cidrs_need_no_quotes():
    found = good(
        rule_of("from:\n- ipBlock: {cidr: 10.0.0.0/8}\n- ipBlock:\n    cidr: ::/0\n    except:\n    - fd00::/8\n")
    )
    assert found.ingress[0].peers == (
        IPBlock(ip_network("10.0.0.0/8")),
        IPBlock(ip_network("::/0"), (ip_network("fd00::/8"),)),
    )


@pytest.mark.parametrize(("written", "number"), [("010", 8), ("0x50", 80), ("+80", 80), ("8_0", 80)])
def test_numbers_that_are_not_what_they_seem_are_told(written: str, number: int):
    found = warned(rule_of(f"ports: [{{port: {written}}}]"), "number-notation")
    assert found.ingress[0].ports == (PolicyPort("TCP", number),)


def test_the_letters_y_and_n_are_text_to_most_readers_of_yaml():
    parsed = policy_of(
        "spec: {podSelector: {matchLabels: {n: y}}}", "{name: y, namespace: n, labels: {Y: N}, annotations: {n: y}}"
    )
    assert {(finding.code, finding.severity) for finding in parsed.findings} == {("unquoted-letter", "warning")}
    assert len(parsed.findings) == 8
    assert parsed.objects == (Policy("n", "y", labelled(n="y"), (), None),)


@pytest.mark.parametrize("null", ["", "null", "~"])
@pytest.mark.parametrize(
    "kind", ["{apiVersion: v1, kind: Pod", "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy"]
)
def test_a_namespace_left_empty_is_unknown_and_not_default(kind: str, null: str):
    parsed = read(f"{kind}, metadata: {{name: p, namespace: {null}}}, spec: {{}}}}\n")
    assert parsed.objects == () and parsed.truncated
    (finding,) = [each for each in parsed.findings if each.severity == "error"]
    assert (finding.code, finding.path) == ("nothing-written", "metadata.namespace")


def test_the_namespace_is_default_if_none_is_written():
    assert good(policy_of("spec: {podSelector: {}}", "{name: p}")).namespace == "default"
    assert good(policy_of("spec: {podSelector: {}}", '{name: p, namespace: ""}')).namespace == "default"


def test_status_and_all_metadata_that_kubectl_prints_are_fine():
    metadata = """
          name: p.1-x
          namespace: shop
          annotations: {"kubectl.kubernetes.io/last-applied-configuration": "{}", Date: 2024-01-01, At: 22:22}
          creationTimestamp: "2024-01-01T00:00:00Z"
          deletionTimestamp: 2024-01-01T00:00:00Z
          finalizers: [a/b]
          generation: 1
          labels: {"a.b/c": "", d: e_F.g, "n": "no", o: "22"}
          managedFields: [{fieldsV1: {"f:spec": {"f:x": {".": {}}}}, manager: x}]
          ownerReferences: [{apiVersion: v1, kind: X, name: y, uid: z}]
          resourceVersion: "123"
          selfLink: /x
          uid: 00000000-0000-0000-0000-000000000000
        """
    good(policy_of("spec: {podSelector: {}}\nstatus: {}\n", metadata))


# What is refused: the code, the place, the field path, and that nothing is granted


@pytest.mark.parametrize(
    ("rule", "code", "path", "cure"),
    [
        ("from:\n  podSelector: {}", "map-for-list", "from", "`- podSelector: ...`"),
        ("from:\n  ipBlock: {cidr: 10.0.0.0/8}", "map-for-list", "from", "- ipBlock"),
        ("from: {}", "map-for-list", "from", "take it out"),
        ("ports:\n  port: 80", "map-for-list", "ports", "- port"),
        ("ports: 80", "wrong-type", "ports", "[80]"),
        ("from: all", "wrong-type", "from", "[all]"),
        ("from: [{ipBlock: {cidr: 10.0.0.0/8, except: 10.72.10.0/24}}]", "wrong-type", "from[0].ipBlock.except", "except: [10.72.10.0/24]"),
        ("from: [{ipBlock: {cidr: 10.0.0.0/8, except: {a: b}}}]", "map-for-list", "from[0].ipBlock.except", "[{a: ...}]"),
        ("from:", "nothing-written", "from", "everybody"),
        ("ports:", "nothing-written", "ports", "all ports"),
        ("from: [null]", "nothing-written", "from[0]", "podSelector"),
        ("ports: [~]", "nothing-written", "ports[0]", "port"),
        ("ports: [{port: null}]", "nothing-written", "ports[0].port", "all ports"),
        ("ports: [{protocol: null}]", "nothing-written", "ports[0].protocol", "TCP"),
        ("ports: [{port: 80, endPort: null}]", "nothing-written", "ports[0].endPort", "take"),
        ("from: [{podSelector: null}]", "nothing-written", "from[0].podSelector", "matchLabels"),
        ("from:\n- podSelector:\n  matchLabels: {a: b}", "unknown-field", "from[0].matchLabels", "indent `matchLabels:` two more, so that it stands below `podSelector:`"),
        ("from:\n- podSelector: {}\n  namespaceSelector:\n  matchExpressions: []", "unknown-field", "from[0].matchExpressions", "below `namespaceSelector:`"),
        ("from: [{podSelector: null, matchLabels: {a: b}}]", "unknown-field", "from[0].matchLabels", "braces"),
        ("from: {podSelector: {}}", "map-for-list", "from", "`[{podSelector: ...}]`"),
        ('"from": {"podSelector": {}}', "map-for-list", "from", '`[{"podSelector": ...}]`'),
        ("ports: [{port: 8000-9000}]", "port-name", "ports[0].port", "write `port: 8000` and `endPort: 9000`"),
        ("ports: [{port: 80/tcp}]", "port-name", "ports[0].port", "write `port: 80` and `protocol: TCP`"),
        ("ports: [{port: 1-9/UDP}]", "port-name", "ports[0].port", "write `port: 1` and `endPort: 9` and `protocol: UDP`"),
        ("ports: [80/TCP]", "wrong-type", "ports[0]", "write `port: 80` and `protocol: TCP`"),
        ("ports: [80]", "wrong-type", "ports[0]", "write `port: 80`"),
        ("ports: [{port: '{{ .Values.port }}'}]", "port-name", "ports[0].port", "render it first"),
        ("ports: [{port: {{ .Values.port }}}]", "key-not-text", "ports[0].port", "render it first"),
        ("from: [{namespaceSelector: , podSelector: {}}]", "nothing-written", "from[0].namespaceSelector", "{}"),
        ("from: [{ipBlock: }]", "nothing-written", "from[0].ipBlock", "10.0.0.0/8"),
        ("from: [{ipBlock: {cidr: }}]", "nothing-written", "from[0].ipBlock.cidr", "10.0.0.0/8"),
        ("from: [{ipBlock: {cidr: 10.0.0.0/8, except: }}]", "nothing-written", "from[0].ipBlock.except", "take it out"),
        ("from: [{}]", "empty-peer", "from[0]", "podSelector"),
        ("from: [{podSelector: {}, ipBlock: {cidr: 10.0.0.0/8}}]", "mixed-peer", "from[0]", "two entries"),
        ("from: [{podSelector: []}]", "wrong-type", "from[0].podSelector", "matchLabels"),
        ("from: [{podSelector: web}]", "wrong-type", "from[0].podSelector", "matchLabels"),
        ("from: [web]", "wrong-type", "from[0]", "podSelector"),
        ("from: [[{podSelector: {}}]]", "wrong-type", "from[0]", "podSelector"),
        ("from: [{podselector: {}}]", "unknown-field", "from[0].podselector", "`podSelector`"),
        ("from: [{pod-selector: {}}]", "unknown-field", "from[0][pod-selector]", "`podSelector`"),
        ("from: [{podSelectr: {}}]", "unknown-field", "from[0].podSelectr", "`podSelector`"),
        ("from: [{cidr: 10.0.0.0/8}]", "unknown-field", "from[0].cidr", "ipBlock"),
        ("from: [{podSelector: {app: web}}]", "unknown-field", "from[0].podSelector.app", "matchLabels"),
        ("from: [{podSelector: {matchlabels: {}}}]", "unknown-field", "from[0].podSelector.matchlabels", "`matchLabels`"),
        ("form: [{podSelector: {}}]", "unknown-field", "form", "`from`"),
        ("to: [{podSelector: {}}]", "unknown-field", "to", "from"),
        ("port: 80", "unknown-field", "port", "ports"),
        ("ports: [{Port: 80}]", "unknown-field", "ports[0].Port", "`port`"),
        ("ports: [{port: '80'}]", "port-name", "ports[0].port", "port: 80"),
        ("ports: [{port: Http}]", "port-name", "ports[0].port", "lower-case"),
        ("ports: [{port: a-very-long-name}]", "port-name", "ports[0].port", "15"),
        ("ports: [{port: a--b}]", "port-name", "ports[0].port", "single"),
        ("ports: [{port: 22:22}]", "port-name", "ports[0].port", "letter"),
        ("ports: [{port: ''}]", "port-name", "ports[0].port", "letter"),
        ("ports: [{port: 0}]", "port-number", "ports[0].port", "65535"),
        ("ports: [{port: 65536}]", "port-number", "ports[0].port", "65535"),
        ("ports: [{port: -1}]", "port-number", "ports[0].port", "65535"),
        ("ports: [{port: 99999999999999999999999999999999999999}]", "port-number", "ports[0].port", "65535"),
        ("ports: [{port: 80.5}]", "wrong-type", "ports[0].port", "number"),
        ("ports: [{port: 80.0}]", "wrong-type", "ports[0].port", "number"),
        ("ports: [{port: on}]", "wrong-type", "ports[0].port", "name"),
        ("ports: [{port: [80]}]", "wrong-type", "ports[0].port", "number"),
        ("ports: [{port: 80-90}]", "port-name", "ports[0].port", "endPort: 90"),
        ("ports: [{endPort: 80}]", "end-port", "ports[0].endPort", "port"),
        ("ports: [{port: http, endPort: 80}]", "end-port", "ports[0].endPort", "port"),
        ("ports: [{port: 80, endPort: 79}]", "end-port", "ports[0].endPort", "other way"),
        ("ports: [{port: 80, endPort: 65536}]", "port-number", "ports[0].endPort", "65535"),
        ("ports: [{port: 80, endPort: '90'}]", "wrong-type", "ports[0].endPort", "quotes"),
        ("ports: [{protocol: tcp}]", "protocol", "ports[0].protocol", "`TCP`"),
        ("ports: [{protocol: ICMP}]", "protocol", "ports[0].protocol", "SCTP"),
        ("ports: [{protocol: ''}]", "protocol", "ports[0].protocol", "TCP"),
        ("ports: [{protocol: 6}]", "not-text", "ports[0].protocol", "quote"),
        ("from: [{ipBlock: {cidr: 10.0.0.0}}]", "cidr", "from[0].ipBlock.cidr", "10.0.0.0/32"),
        ("from: [{ipBlock: {cidr: 'fd00::1'}}]", "cidr", "from[0].ipBlock.cidr", "fd00::1/128"),
        ("from: [{ipBlock: {cidr: 10.0.0.0/33}}]", "cidr", "from[0].ipBlock.cidr", "10.0.0.0/8"),
        ("from: [{ipBlock: {cidr: 10.0.0.0/255.0.0.0}}]", "cidr", "from[0].ipBlock.cidr", "prefix"),
        ("from: [{ipBlock: {cidr: 10.0.0/8}}]", "cidr", "from[0].ipBlock.cidr", "prefix"),
        ("from: [{ipBlock: {cidr: 10.0.0.0/08}}]", "cidr", "from[0].ipBlock.cidr", "prefix"),
        ("from: [{ipBlock: {cidr: 010.0.0.0/8}}]", "cidr", "from[0].ipBlock.cidr", "zero"),
        ("from: [{ipBlock: {cidr: 'fe80::1%eth0/64'}}]", "cidr", "from[0].ipBlock.cidr", "prefix"),
        ("from: [{ipBlock: {cidr: ' 10.0.0.0/8'}}]", "cidr", "from[0].ipBlock.cidr", "prefix"),
        ("from: [{ipBlock: {cidr: ''}}]", "cidr", "from[0].ipBlock.cidr", "prefix"),
        ("from: [{ipBlock: {cidr: any}}]", "cidr", "from[0].ipBlock.cidr", "prefix"),
        ("from: [{ipBlock: {cidr: '::ffff:10.0.0.0/104'}}]", "cidr", "from[0].ipBlock.cidr", "10.0.0.0/8"),
        ("from: [{ipBlock: {cidr: 10}}]", "not-text", "from[0].ipBlock.cidr", "quote"),
        ("from: [{ipBlock: {}}]", "missing-field", "from[0].ipBlock.cidr", "cidr"),
        ("from: [{ipBlock: {CIDR: 10.0.0.0/8, cidr: 10.0.0.0/8}}]", "unknown-field", "from[0].ipBlock.CIDR", "`cidr`"),
        ("from: [{ipBlock: {cidr: 10.0.0.0/8, except: [11.0.0.0/16]}}]", "except-outside", "from[0].ipBlock.except[0]", "inside"),
        ("from: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.0.0.0/8]}}]", "except-outside", "from[0].ipBlock.except[0]", "smaller"),
        ("from: [{ipBlock: {cidr: 10.0.0.0/8, except: [0.0.0.0/0]}}]", "except-outside", "from[0].ipBlock.except[0]", "inside"),
        ("from: [{ipBlock: {cidr: 0.0.0.0/0, except: ['fd00::/8']}}]", "except-outside", "from[0].ipBlock.except[0]", "inside"),
        ("from: [{ipBlock: {cidr: 10.0.0.0/8, except: [null]}}]", "nothing-written", "from[0].ipBlock.except[0]", "prefix"),
    ],
)  # fmt: skip
def test_rules_that_are_refused(rule: str, code: str, path: str, cure: str):
    finding = refused(rule_of(rule), code)
    assert finding.path == (f"spec.ingress[0]{path}" if path[0] == "[" else f"spec.ingress[0].{path}")
    assert cure in finding.cure, finding.cure
    assert finding.subject == "NetworkPolicy shop/p" and finding.position.file == "f.yaml"
    assert finding.position.line >= 7


def test_the_masked_cidr_counts_for_what_except_may_be():
    parsed = rule_of("from: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.72.10.0/8]}}]")
    (finding,) = parsed.findings
    assert (finding.code, "`10.72.10.0/24`" in finding.cure) == ("except-outside", True)
    assert parsed.objects[0].quarantined


@pytest.mark.parametrize(
    ("cidr", "written", "meant"),
    [
        ("10.72.0.0/16", "10.72.10.0/8", "10.72.10.0/24"),
        ("10.72.0.0/16", "10.72.10.5/16", "10.72.10.5/32"),
        ("10.72.10.0/25", "10.72.10.64/24", "10.72.10.64/32"),
        ("0.0.0.0/0", "10.0.0.0/0", "10.0.0.0/8"),
        ("fd00::/8", "FD00:1::/8", "fd00:1::/32"),
        ("10.72.0.0/16", "10.72.0.0/8", None),
        ("10.72.0.0/16", "10.73.1.0/24", None),
        ("0.0.0.0/0", "0.0.0.0/0", None),
        ("10.0.0.0/8", "fd00:1::/8", None),
    ],
)
def test_an_except_that_is_too_wide_has_one_fault_and_its_cure_cures(cidr: str, written: str, meant: str | None):
    rule = "from: [{{ipBlock: {{cidr: '{}', except: [{}]}}}}]"
    (finding,) = rule_of(rule.format(cidr, f"'{written}'")).findings
    assert finding.code == "except-outside"
    assert finding.cure.startswith(f"write `{meant}`") if meant else "write" not in finding.cure
    if meant:
        good(rule_of(rule.format(cidr, f"'{meant}'")))


@pytest.mark.parametrize(
    ("spec", "code", "path", "cure"),
    [
        ("ingress: {}", "map-for-list", "ingress", "`ingress: [{}]`"),
        ("ingress: {from: []}", "map-for-list", "ingress", "[{from: ...}]"),
        ("egress: {}", "map-for-list", "egress", "`egress: []`"),
        ("ingress: true", "wrong-type", "ingress", "[true]"),
        ("ingress: [null]", "nothing-written", "ingress[0]", "{}"),
        ("ingress: [[]]", "wrong-type", "ingress[0]", "from"),
        ("egress: [{from: []}]", "unknown-field", "egress[0].from", "to"),
        ("policyTypes: Ingress", "wrong-type", "policyTypes", "[Ingress]"),
        ("policyTypes: {Ingress: true}", "wrong-type", "policyTypes", "[Ingress, Egress]"),
        ("policyTypes: [ingress]", "policy-type", "policyTypes[0]", "`Ingress`"),
        ("policyTypes: [Egres]", "policy-type", "policyTypes[0]", "`Egress`"),
        ("policyTypes: [Both]", "policy-type", "policyTypes[0]", "`Ingress` or `Egress`"),
        ("policyTypes: [null]", "nothing-written", "policyTypes[0]", "Ingress"),
        ("policyTypes: [Ingress, Egress, Ingress]", "policy-type", "policyTypes", "once"),
        ("policytypes: [Egress]", "unknown-field", "policytypes", "`policyTypes`"),
        ("selector: {}", "unknown-field", "selector", "podSelector"),
        ("rules: []", "unknown-field", "rules", "podSelector"),
    ],
)
def test_specs_that_are_refused(spec: str, code: str, path: str, cure: str):
    finding = refused(policy_of(f"spec:\n  podSelector: {{}}\n  {spec}\n"), code)
    assert finding.path == f"spec.{path}" and cure in finding.cure, finding


@pytest.mark.parametrize(
    ("selector", "code", "path"),
    [
        ("web", "wrong-type", ""),
        ("[]", "wrong-type", ""),
        ("{app: web}", "unknown-field", ".app"),
        ("{matchLabels: [app]}", "wrong-type", ".matchLabels"),
        ("{matchLabels: {app: 1}}", "not-text", ".matchLabels.app"),
        ("{matchLabels: {app: no}}", "not-text", ".matchLabels.app"),
        ("{matchLabels: {app: 010}}", "not-text", ".matchLabels.app"),
        ("{matchLabels: {app: 1.10}}", "not-text", ".matchLabels.app"),
        ("{matchLabels: {app: ~}}", "not-text", ".matchLabels.app"),
        ("{matchLabels: {app: }}", "not-text", ".matchLabels.app"),
        ("{matchLabels: {app: 2024-01-01}}", "not-text", ".matchLabels.app"),
        ("{matchLabels: {on: x}}", "not-text", ".matchLabels.on"),
        ("{matchLabels: {1: x}}", "not-text", ".matchLabels[1]"),
        ("{matchLabels: {app: [a]}}", "wrong-type", ".matchLabels.app"),
        ("{matchLabels: {app: -x}}", "label-value", ".matchLabels.app"),
        ("{matchLabels: {app: 22:22}}", "label-value", ".matchLabels.app"),
        ("{matchLabels: {app: 'a b'}}", "label-value", ".matchLabels.app"),
        ('{matchLabels: {app: "a\\n"}}', "label-value", ".matchLabels.app"),
        ("{matchLabels: {a/b/c: x}}", "label-key", ".matchLabels[a/b/c]"),
        ("{matchLabels: {-a: x}}", "label-key", ".matchLabels[-a]"),
        ("{matchLabels: {A.b/c: x}}", "label-key", ".matchLabels[A.b/c]"),
        ("{matchLabels: {'': x}}", "label-key", ".matchLabels[]"),
        ("{matchExpressions: {key: a, operator: Exists}}", "wrong-type", ".matchExpressions"),
        ("{matchExpressions: [a]}", "wrong-type", ".matchExpressions[0]"),
        ("{matchExpressions: [null]}", "nothing-written", ".matchExpressions[0]"),
        ("{matchExpressions: [{operator: Exists}]}", "missing-field", ".matchExpressions[0].key"),
        ("{matchExpressions: [{key: a}]}", "missing-field", ".matchExpressions[0].operator"),
        ("{matchExpressions: [{key: a, operator: }]}", "missing-field", ".matchExpressions[0].operator"),
        ("{matchExpressions: [{key: a, operator: in, values: [b]}]}", "selector-operator", ".matchExpressions[0].operator"),
        ("{matchExpressions: [{key: a, operator: Gt, values: ['1']}]}", "selector-operator", ".matchExpressions[0].operator"),
        ("{matchExpressions: [{key: a, operator: In}]}", "missing-field", ".matchExpressions[0].values"),
        ("{matchExpressions: [{key: a, operator: NotIn, values: []}]}", "selector-values", ".matchExpressions[0].values"),
        ("{matchExpressions: [{key: a, operator: NotIn, values: }]}", "missing-field", ".matchExpressions[0].values"),
        ("{matchExpressions: [{key: a, operator: Exists, values: [b]}]}", "selector-values", ".matchExpressions[0].values"),
        ("{matchExpressions: [{key: a, operator: In, values: b}]}", "wrong-type", ".matchExpressions[0].values"),
        ("{matchExpressions: [{key: a, operator: In, values: [no]}]}", "not-text", ".matchExpressions[0].values[0]"),
        ("{matchExpressions: [{key: a, operator: In, values: [b], x: 1}]}", "unknown-field", ".matchExpressions[0].x"),
        ("{matchExpressions: [{key: a b, operator: Exists}]}", "label-key", ".matchExpressions[0].key"),
    ],
)  # fmt: skip
def test_a_pod_selector_that_is_refused_selects_everything(selector: str, code: str, path: str):
    parsed = policy_of(f"spec:\n  ingress: [{{}}]\n  podSelector: {selector}\n")
    finding = refused(parsed, code)
    assert finding.path == f"spec.podSelector{path}"
    assert parsed.objects[0].selector == EVERYTHING


def test_texts_are_to_be_quoted():
    finding = refused(policy_of("spec: {podSelector: {matchLabels: {v: 1.10}}}"), "not-text")
    assert finding.cure == 'quote it: "1.10"' and "decimal" in finding.fault


@pytest.mark.parametrize(
    ("metadata", "code", "path"),
    [
        ("{name: P, namespace: shop}", "name", "metadata.name"),
        ("{name: 1, namespace: shop}", "not-text", "metadata.name"),
        ("{name: '', namespace: shop}", "missing-field", "metadata.name"),
        ("{namespace: shop}", "missing-field", "metadata.name"),
        ("{generateName: p-, namespace: shop}", "missing-field", "metadata.name"),
        ("{name: a/b, namespace: shop}", "name", "metadata.name"),
        ('{name: "a\\"; rm", namespace: shop}', "name", "metadata.name"),
        ("{name: [p], namespace: shop}", "wrong-type", "metadata.name"),
    ],
)
def test_a_policy_without_a_name_isolates_all_the_same(metadata: str, code: str, path: str):
    parsed = policy_of("spec: {podSelector: {matchLabels: {app: web}}, egress: [{}]}", metadata)
    assert refused(parsed, code).path == path
    (found,) = parsed.objects
    assert found.namespace == "shop" and found.name.startswith("unnamed-") and len(found.name) < 30
    assert (found.selector, found.ingress, found.egress) == (labelled(app="web"), (), ())
    assert parsed.truncated, "an earlier version of it may have been good"
    assert policy_of("spec: {podSelector: {matchLabels: {app: web}}, egress: [{}]}", metadata).objects == parsed.objects


@pytest.mark.parametrize("namespace", ["Shop", "a.b", "1", "[a]", "'a b'", "x" * 64])
def test_a_policy_whose_namespace_is_unknown_is_none(namespace: str):
    parsed = policy_of("spec: {podSelector: {}}", f"{{name: p, namespace: {namespace}}}")
    assert parsed.objects == () and parsed.truncated
    assert [finding.path for finding in parsed.findings] == ["metadata.namespace"]


@pytest.mark.parametrize(
    ("metadata", "code"),
    [
        ("{name: p, label: {}}", "unknown-field"),
        ("{name: p, labels: {a: 1}}", "not-text"),
        ("{name: p, labels: {a b: c}}", "label-key"),
        ("{name: p, labels: []}", "wrong-type"),
        ("{name: p, annotations: {a: 1}}", "not-text"),
        ("{name: p, annotations: {a: }}", "not-text"),
        ("{name: p, annotations: {yes: a}}", "not-text"),
        ("{name: p, annotations: {a b: c}}", "annotation-key"),
        ("{name: p, annotations: {a: %s}}" % ("x" * 300_000), "annotations-too-large"),
        ("{name: p, annotations: {a: %s}}" % ("é" * 200_000), "annotations-too-large"),
        ("{name: p, labels: {a: b, a: b}}", "duplicate-key"),
    ],
)
def test_metadata_that_is_refused(metadata: str, code: str):
    refused(policy_of("spec: {podSelector: {}}", metadata), code)


def test_all_faults_are_told_in_order_and_each_once():
    parsed = policy_of("""\
        spec:
          podSelector: {matchLabels: {app: 1}}
          ingress:
          - from: [{}]
            ports: [{port: 0}]
          egres: []
        status: x
        extra: 1
        """)
    assert [(finding.position.line, finding.position.column, finding.code) for finding in parsed.findings] == [
        (5, 36, "not-text"),
        (7, 12, "empty-peer"),
        (8, 20, "port-number"),
        (9, 3, "unknown-field"),
        (11, 1, "unknown-field"),
    ]


def test_a_great_many_faults_are_cut_short():
    parsed = policy_of("spec: {podSelector: {}, ingress: [" + "{from: [{}]}, " * 500 + "]}")
    assert len(parsed.findings) == 51 and "450 more" in parsed.findings[-1].fault


def test_a_great_many_warnings_hide_no_error():
    peers = "{ipBlock: {cidr: 10.0.0.1/8}}, " * 70
    parsed = rule_of(f"from: [{peers}]")
    assert len(parsed.findings) == 51 and {finding.severity for finding in parsed.findings} == {"warning"}
    assert not parsed.objects[0].quarantined and "20 more" in parsed.findings[-1].fault
    parsed = rule_of(f"from: [{peers} {{}}]")
    assert [finding.code for finding in parsed.findings if finding.severity == "error"] == ["empty-peer"]


# Quarantine


@pytest.mark.parametrize(
    ("spec", "selector", "ingress", "egress"),
    [
        ("{podSelector: {matchLabels: {a: b}}, x: 1, policyTypes: [Egress], ingress: [{}]}", labelled(a="b"), None, ()),
        ("{podSelector: {matchLabels: {a: b}}, x: 1}", labelled(a="b"), (), ()),
        ("{podSelector: {matchLabels: {a: b}}, ingress: {}}", labelled(a="b"), (), None),
        ("{podSelector: {matchLabels: {a: b}}, ingress: {}, egress: []}", labelled(a="b"), (), ()),
        ("{podSelector: {matchLabels: {a: b}}, ingress: {}, policyTypes: []}", labelled(a="b"), (), None),
        ("{podSelector: {matchLabels: {a: b}}, policyTypes: [Ingress, x]}", labelled(a="b"), (), ()),
        ("{podSelector: {matchLabels: {a: b}}, policyTypes: Ingress}", labelled(a="b"), (), ()),
        ("{podSelector: {matchLabels: {a: b, a: c}}, policyTypes: [Ingress]}", EVERYTHING, (), None),
        ("{podSelector: {matchLabels: {a: b}}, podSelector: {}, policyTypes: [Ingress]}", EVERYTHING, (), None),
        ("{podSelector: &x {matchLabels: {a: b}}, policyTypes: [Ingress]}", labelled(a="b"), (), None),
        ("{podSelector: !x {matchLabels: {a: b}}, policyTypes: [Ingress]}", EVERYTHING, (), None),
        ("{podSelector: {matchLabels: {a: b}}, policyTypes: !x [Ingress]}", labelled(a="b"), (), ()),
        ("{podSelector: {<<: {matchLabels: {a: b}}}, policyTypes: [Ingress]}", EVERYTHING, (), None),
        ("{podSelector: {matchLabels: {a: b}}, <<: {}}", labelled(a="b"), (), ()),
        ("[]", EVERYTHING, (), ()),
        ("x", EVERYTHING, (), ()),
    ],
)
def test_the_closed_version_of_a_policy(spec: str, selector: Selector, ingress: object, egress: object):
    (found,) = policy_of(f"spec: {spec}").objects
    assert found == Policy("shop", "p", selector, ingress, egress, quarantined=True)


@pytest.mark.parametrize(
    ("after", "selector", "ingress", "egress"),
    [
        ("podSelector: {matchLabels: {a: b}}\n  ingress: [{from: [\n", labelled(a="b"), (), ()),
        ("podSelector: {matchLabels: {a: b}}\n  policyTypes: [Ingress]\n  ingress: 'x\n", labelled(a="b"), (), None),
        ("podSelector: {matchLabels: {a: b}}\n  policyTypes: [Ingress\n", labelled(a="b"), (), ()),
        ("podSelector: {matchLabels: {a: b\n", EVERYTHING, (), ()),
        ("podSelector: {matchLabels: {a: b}\n", EVERYTHING, (), ()),
        ("podSelector:\n    matchLabels:\n      a: b\n     c: d\n", EVERYTHING, (), ()),
        ("podSelector:\n    matchLabels:\n      a: b\n   ingress: []\n", labelled(a="b"), (), ()),
        ("egress: '\n", EVERYTHING, (), ()),
    ],
)
def test_the_closed_version_of_a_policy_that_breaks_off(
    after: str, selector: Selector, ingress: object, egress: object
):
    parsed = policy_of(f"spec:\n  {after}")
    assert [finding.code for finding in parsed.findings] == ["syntax"] and parsed.truncated
    assert parsed.objects == (Policy("shop", "p", selector, ingress, egress, quarantined=True),)
    assert parsed.findings[0].path.startswith("spec") and parsed.findings[0].subject == "NetworkPolicy shop/p"


@pytest.mark.parametrize(
    "metadata",
    ["{name: p, namespace: shop", "{name: p", "\n  name: p\n  'namespace", "\n  name: p\n spec: {}"],
)
def test_where_metadata_breaks_off_the_namespace_may_be_unknown(metadata: str):
    parsed = policy_of("", metadata)
    assert parsed.truncated and [finding.code for finding in parsed.findings] == ["syntax"]
    known = "namespace: shop" in metadata  # else it may stand in what was not read
    assert [found.key for found in parsed.objects] == (["shop/p"] if known else [])


# Kinds


@pytest.mark.parametrize(
    ("kind", "version"),
    [
        ("NetworkPolicy", "extensions/v1beta1"),
        ("NetworkPolicy", "networking.k8s.io/v1beta1"),
        ("NetworkPolicy", "v1"),
        ("NetworkPolicy", "networking.k8s/v1"),
        ("NetworkPolicy", "netwroking.k8s.io/v1"),
        ("NetworkPolicy", "apps/v1"),
        ("NetworkPolicy", ""),
        ("Networkpolicy", "networking.k8s.io/v1"),
        ("NetworkPolcy", "networking.k8s.io/v1"),
        ("networkpolicies", "networking.k8s.io/v1"),
    ],
)
def test_a_policy_of_a_wrong_kind_or_version_is_closed(kind: str, version: str):
    text = f"apiVersion: {version}\nkind: {kind}\nmetadata: {{name: p}}\nspec: {{podSelector: {{}}, ingress: [{{}}]}}"
    parsed = read(text)
    finding = refused(parsed, "missing-field" if not version else "api-version" if kind == "NetworkPolicy" else "kind")
    assert "networking.k8s.io/v1" in finding.cure or "NetworkPolicy" in finding.cure
    assert parsed.objects == (Policy("default", "p", EVERYTHING, (), None, quarantined=True),)


def test_a_policy_without_a_kind_is_told_by_its_fields():
    parsed = read("apiVersion: networking.k8s.io/v1\nmetadata: {name: p}\nspec: {podSelector: {}, ingress: [{}]}")
    refused(parsed, "missing-field")
    assert parsed.truncated


@pytest.mark.parametrize("version", ["projectcalico.org/v3", "crd.projectcalico.org/v1", "crd.antrea.io/v1beta1"])
def test_policies_of_other_projects_are_passed_over_with_a_warning(version: str):
    parsed = read(f"apiVersion: {version}\nkind: NetworkPolicy\nmetadata: {{name: p}}\nspec: {{selector: all()}}\n")
    assert parsed.objects == () and not parsed.truncated
    assert [(finding.code, finding.severity) for finding in parsed.findings] == [("foreign-kind", "warning")]
    assert parsed.passed_over == {f"NetworkPolicy ({version})": 1}


def test_where_the_reader_refused_some_of_a_foreign_policy_the_file_is_not_taken_for_read():
    parsed = read("apiVersion: networkin8s.io/v1\nkind: NetworkPolicy\nmetadata:\nmetadata: {name: p}\nspec: {}\n")
    assert {each.code for each in parsed.findings} == {"foreign-kind", "duplicate-key"}
    assert parsed.truncated and parsed.objects == ()


def test_other_kinds_are_passed_over_and_counted():
    parsed = read("""\
        apiVersion: apps/v1
        kind: Deployment
        spec: {replicas: 1, anything: [goes]}
        ---
        apiVersion: v1
        kind: Service
        ---
        apiVersion: v1
        kind: Secret
        ---
        apiVersion: v1
        kind: Service
        """)
    assert parsed == Parsed((), (), {"Deployment": 1, "Service": 2, "Secret": 1}, False)


def test_what_is_refused_in_other_kinds_is_nobodys_business():
    parsed = read("apiVersion: apps/v1\nkind: Deployment\na: &x 1\nb: *x\nc: {d: 1, d: 2}\n---\nkind: Chart\nx: {")
    assert [finding.code for finding in parsed.findings] == ["syntax"] and parsed.truncated
    assert parsed.passed_over == {"Deployment": 1, "Chart": 1}


@pytest.mark.parametrize("text", ["a: 1", "- kind: Pod", "hello", "42", "[]"])
def test_what_is_no_object_is_told(text: str):
    parsed = read(text)
    assert parsed.objects == () and len(parsed.findings) == 1 and parsed.truncated


@pytest.mark.parametrize("text", ["", "---\n", "# only a comment\n", "---\n# a\n---\n", "%YAML 1.1\n---\n", "\ufeff"])
def test_nothing_is_fine(text: str):
    assert parse(text.encode(), "f.yaml") == Parsed((), (), {}, False)


def test_one_bad_document_never_stops_the_others():
    parsed = read("""\
        apiVersion: v1
        kind: Namespace
        metadata: {name: a}
        ---
        kind: {
        ---
        apiVersion: v1
        kind: Namespace
        metadata: {name: "B"}
        ---
        apiVersion: v1
        kind: Namespace
        metadata: {name: c}
        """)
    assert [found.name for found in parsed.objects] == ["a", "c"]
    assert [(finding.code, finding.position.line) for finding in parsed.findings] == [("syntax", 6), ("name", 9)]
    assert parsed.truncated


# Lists


def test_what_kubectl_get_prints():
    parsed = read("""\
        apiVersion: v1
        items:
        - apiVersion: v1
          kind: Namespace
          metadata:
            creationTimestamp: "2024-01-01T00:00:00Z"
            labels: {kubernetes.io/metadata.name: shop, team: a}
            name: shop
          spec:
            finalizers:
            - kubernetes
          status:
            phase: Active
        - apiVersion: v1
          kind: Pod
          metadata:
            creationTimestamp: null
            name: web-1
            namespace: shop
            labels: {app: web}
          spec:
            containers:
            - image: nginx
              name: c
              ports:
              - containerPort: 80
                name: http
                protocol: TCP
            futureField: {a: 1}
            nodeName: node-1
          status:
            phase: Running
            podIP: 10.0.0.1
            podIPs:
            - ip: 10.0.0.1
            - ip: fd00::1
        - apiVersion: networking.k8s.io/v1
          kind: NetworkPolicy
          metadata: {name: p, namespace: shop}
          spec: {podSelector: {}}
        - apiVersion: v1
          kind: Service
        kind: List
        metadata:
          resourceVersion: ""
        """)
    assert [(finding.code, finding.severity) for finding in parsed.findings] == [("unknown-field", "warning")]
    assert parsed.findings[0].path == "items[1].spec.futureField" and parsed.findings[0].subject == "Pod shop/web-1"
    assert parsed.objects == (
        Namespace("shop", {NAME_LABEL: "shop", "team": "a"}),
        Pod(
            "shop",
            "web-1",
            {"app": "web"},
            ("10.0.0.1", "fd00::1"),
            "node-1",
            ports=(ContainerPort("http", "TCP", 80),),
        ),
        Policy("shop", "p", EVERYTHING, (), None),
    )
    assert [found.position.line for found in parsed.objects] == [3, 14, 37]
    assert parsed.passed_over == {"Service": 1} and not parsed.truncated


def test_typed_lists_whose_entries_have_no_kind():
    text = '{"kind": "NamespaceList", "apiVersion": "v1", "metadata": {}, "items": [{"metadata": {"name": "a"}}]}'
    assert read(text) == Parsed((Namespace("a", {NAME_LABEL: "a"}),), (), {}, False)
    text = text.replace("Namespace", "Service")
    assert read(text) == Parsed((), (), {"ServiceList": 1}, False)


def test_an_empty_list():
    assert read("apiVersion: v1\nkind: List\nitems: []\n") == Parsed((), (), {}, False)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("null\n", "nothing-written"),
        ("--- ~\n", "nothing-written"),
        ("apiVersion: v1\nkind: List\nitems:\n", "nothing-written"),
        ("apiVersion: v1\nkind: List\nitems: null\n", "nothing-written"),
        ("apiVersion: networking.k8s.io/v1\nkind: Network\n", "kind"),
        ("apiVersion: v1\nkind: Lst\nitems: [{apiVersion: v1, kind: Namespace, metadata: {name: a}}]\n", "kind"),
        ("apiVersion: v1\nkind: ENC[AES256_GCM,data:x]\nmetadata: ENC[y]\n", "kind"),
        ("apiVersion: v1\nkind: Status\nstatus: Failure\n", "kind"),
        (
            "apiVersion: netwroking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: a}\nspec: {podSelector: {}}\n",
            "api-version",
        ),
    ],
)
def test_what_a_torn_file_or_a_broken_tool_leaves_is_not_taken_for_nothing(text: str, code: str):
    parsed = parse(text.encode(), "f.yaml")
    assert parsed.truncated or any(each.quarantined for each in parsed.objects)
    assert code in [each.code for each in parsed.findings]


@pytest.mark.parametrize("kind", ["Ingress", "IngressClass", "IngressList", "ServiceCIDR"])
def test_other_kinds_of_the_same_group(kind: str):
    assert read(f"apiVersion: networking.k8s.io/v1\nkind: {kind}\n") == Parsed((), (), {kind: 1}, False)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("kind: List\napiVersion: v1", "missing-field"),
        ("kind: List\napiVersion: v1\nitems: {}", "wrong-type"),
        ("kind: List\napiVersion: v1\nitems: &x [{}]", "anchor"),
        ("kind: List\napiVersion: v1\nitems: [{kind: List, apiVersion: v1, items: []}]", "nested-list"),
        ("kind: List\napiVersion: v1\nitems: [a]", "not-an-object"),
        ("kind: List\napiVersion: v1\nitems: [{metadata: {name: a}}]", "missing-field"),
    ],
)
def test_lists_that_may_hide_objects(text: str, code: str):
    parsed = read(text)
    assert parsed.truncated and [finding.code for finding in parsed.findings] == [code]


def test_an_entry_with_an_error_does_not_touch_the_others():
    parsed = read("""\
        apiVersion: v1
        kind: List
        items:
        - {apiVersion: v1, kind: Namespace, metadata: {name: a}}
        - {apiVersion: v1, kind: Namespace, metadata: {name: b, labels: {x: y, x: z}}}
        - {apiVersion: v1, kind: Namespace, metadata: {name: c}}
        """)
    assert [(found.name, found.quarantined) for found in parsed.objects] == [("a", False), ("b", True), ("c", False)]
    assert [finding.path for finding in parsed.findings] == ["items[1].metadata.labels.x"]
    assert not parsed.truncated


def test_a_list_that_breaks_off_keeps_what_was_read():
    parsed = read("""\
        apiVersion: v1
        items:
        - {apiVersion: v1, kind: Namespace, metadata: {name: a}}
        - {apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: p}, spec: {podSelector: {
        """)
    assert parsed.objects == (
        Namespace("a", {NAME_LABEL: "a"}),
        Policy("default", "p", EVERYTHING, (), (), quarantined=True),
    )
    assert parsed.truncated


# Namespaces


def test_namespaces():
    (found,) = read("apiVersion: v1\nkind: Namespace\nmetadata: {name: a, labels: {team: x}}").objects
    assert found == Namespace("a", {"team": "x", NAME_LABEL: "a"})


def test_the_name_label_is_the_name_whatever_is_written():
    parsed = read(f"apiVersion: v1\nkind: Namespace\nmetadata: {{name: a, labels: {{{NAME_LABEL}: b}}}}")
    assert parsed.objects == (Namespace("a", {NAME_LABEL: "a"}),)
    assert [(finding.code, finding.severity) for finding in parsed.findings] == [("name-label", "warning")]


def test_a_namespace_with_an_error_keeps_its_name_alone():
    parsed = read("apiVersion: v1\nkind: Namespace\nmetadata: {name: a, labels: {team: x, n: 1}}")
    assert parsed.objects == (Namespace("a", {NAME_LABEL: "a"}, quarantined=True),)
    for text in ("spec: {x: 1}", "status: {x: 1}", "x: 1", "metadata: {}"):
        (found,) = read(f"apiVersion: v1\nkind: Namespace\nmetadata: {{name: a}}\n{text}").objects or (None,)
        assert found is None or found.quarantined, text


# Pods


def pod_of(rest: str, metadata: str = "{name: p, namespace: shop}") -> Parsed:
    return parse(f"apiVersion: v1\nkind: Pod\nmetadata: {metadata}\n{textwrap.dedent(rest)}".encode(), "f.yaml")


def one_pod(parsed: Parsed, *codes: str) -> Pod:
    assert [finding.code for finding in parsed.findings] == list(codes)
    (found,) = parsed.objects
    assert isinstance(found, Pod)
    assert found.quarantined == any(finding.severity == "error" for finding in parsed.findings)
    return found


def test_a_pod_needs_little():
    assert one_pod(pod_of("")) == Pod("shop", "p", {})
    assert one_pod(pod_of("spec: {}\nstatus: {}\n")) == Pod("shop", "p", {})
    assert one_pod(pod_of("spec:\nstatus:\n")) == Pod("shop", "p", {})


def test_addresses_are_canonical_and_there_once():
    found = one_pod(
        pod_of("status: {podIP: 10.0.0.1, podIPs: [{ip: 'FD00:0::1'}, {ip: 10.0.0.1}, {ip: ''}]}"),
        "address-not-canonical",
    )
    assert found.addresses == ("fd00::1", "10.0.0.1")
    assert one_pod(pod_of("status: {podIP: 10.0.0.2, podIPs: [{ip: 10.0.0.1}]}")).addresses == ("10.0.0.1", "10.0.0.2")
    assert one_pod(pod_of("status: {podIP: '', podIPs: []}")).addresses == ()
    mapped = one_pod(pod_of("status: {podIP: '::ffff:10.0.0.1'}"), "address-not-canonical")
    assert mapped.addresses == ("10.0.0.1",)


@pytest.mark.parametrize(
    "address",
    [
        "10.0.0",
        "10.0.0.01",
        "10.0.0.256",
        "0.0.0.0",
        "127.0.0.1",
        "224.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "ff02::1",
        "fe80::1%eth0",
        "10.0.0.1/32",
        "web",
        " 10.0.0.1",
        "10.0.0.1,10.0.0.2",
        "::ffff:127.0.0.1",
    ],
)
def test_addresses_that_no_pod_can_have(address: str):
    found = one_pod(pod_of(f"status: {{podIP: '{address}', podIPs: [{{ip: 10.0.0.9}}]}}"), "address")
    assert found.addresses == ("10.0.0.9",)


def test_ports_of_containers():
    found = one_pod(
        pod_of("""\
            spec:
              containers:
              - name: a
                ports:
                - {name: http, containerPort: 80}
                - {name: dns, containerPort: 53, protocol: UDP}
                - {containerPort: 9}
                - {name: "", containerPort: 10, hostPort: 10, hostIP: 1.2.3.4}
              - {name: b, ports: [{name: http, containerPort: 8080}, {name: dns, containerPort: 53, protocol: TCP}]}
              - {name: c}
              initContainers:
              - {name: i, ports: [{name: init, containerPort: 1}]}
              - {name: j, restartPolicy: Always, ports: [{name: sidecar, containerPort: 2, protocol: SCTP}]}
            """)
    )
    assert found.ports == (
        ContainerPort("http", "TCP", 80),
        ContainerPort("dns", "UDP", 53),
        ContainerPort("http", "TCP", 8080),
        ContainerPort("dns", "TCP", 53),
        ContainerPort("sidecar", "SCTP", 2),
    )


@pytest.mark.parametrize(
    ("ports", "code"),
    [
        ("[{name: a, containerPort: 1}, {name: a, containerPort: 2}]", "duplicate-port-name"),
        ("[{name: A, containerPort: 1}]", "port-name"),
        ("[{name: '80', containerPort: 1}]", "port-name"),
        ("[{name: a}]", "missing-field"),
        ("[{name: a, containerPort: 0}]", "port-number"),
        ("[{name: a, containerPort: 65536}]", "port-number"),
        ("[{name: a, containerPort: '80'}]", "wrong-type"),
        ("[{name: a, containerPort: 80, protocol: tcp}]", "protocol"),
        ("[{name: a, port: 80, containerPort: 80}]", "unknown-field"),
        ("{name: a, containerPort: 80}", "wrong-type"),
        ("[80]", "wrong-type"),
    ],
)
def test_ports_of_containers_that_are_refused(ports: str, code: str):
    parsed = pod_of(f"spec: {{nodeName: n1, containers: [{{name: c, ports: {ports}}}]}}\nstatus: {{podIP: 10.0.0.1}}\n")
    found = one_pod(parsed, code)
    assert (found.node, found.addresses) == ("n1", ("10.0.0.1",))


@pytest.mark.parametrize("field", ["hostnetwork: true", "hostNetwrk: true", "nodename: n", "container: []"])
def test_a_misspelled_field_that_is_read_is_an_error(field: str):
    assert one_pod(pod_of(f"spec: {{{field}}}"), "unknown-field").quarantined


def test_other_unknown_fields_of_a_pod_are_warnings():
    found = one_pod(
        pod_of("spec: {newThing: 1, containers: [{name: c, newerThing: 2}]}\nstatus: {newest: 3}\n"),
        "unknown-field",
        "unknown-field",
        "unknown-field",
    )
    assert not found.quarantined
    assert one_pod(pod_of("extra: 1"), "unknown-field").quarantined
    assert one_pod(pod_of("", "{name: p, namespace: shop, node: n}"), "unknown-field").quarantined


@pytest.mark.parametrize(
    ("phase", "finished"),
    [("Pending", False), ("Running", False), ("Unknown", False), ("Succeeded", True), ("Failed", True)],
)
def test_phases(phase: str, finished: bool):
    assert one_pod(pod_of(f"status: {{phase: {phase}}}")).finished is finished


def test_an_unknown_phase_is_not_the_end():
    assert not one_pod(pod_of("status: {phase: succeeded}"), "phase").finished


@pytest.mark.parametrize(("text", "host", "codes"), [("true", True, ()), ("false", False, ()), ("'true'", True, ("wrong-type",)), ("1", False, ("wrong-type",)), ("yes", True, ())])  # fmt: skip
def test_host_network(text: str, host: bool, codes: tuple[str, ...]):
    assert one_pod(pod_of(f"spec: {{hostNetwork: {text}}}"), *codes).host_network is host


def test_a_pod_that_is_being_deleted_is_a_pod():
    one_pod(pod_of("", "{name: p, namespace: shop, deletionTimestamp: 2024-01-01T00:00:00Z}"))


def with_interfaces(text: str) -> Parsed:
    return pod_of("", f"{{name: p, namespace: shop, annotations: {{netpold.io/interface: {text}}}}}")


@pytest.mark.parametrize(
    ("text", "interfaces"),
    [
        ("veth0", ("veth0",)),
        ("'veth0, veth1,veth0'", ("veth0", "veth1")),
        ("eth0.100@x", ("eth0.100@x",)),
        ("abcdefghijklmno", ("abcdefghijklmno",)),
        ("''", ()),
        ("'\"x\"'", ('"x"',)),
    ],
)
def test_interfaces(text: str, interfaces: tuple[str, ...]):
    assert one_pod(with_interfaces(text)).interfaces == interfaces


@pytest.mark.parametrize(
    "name", ["a b", "a/b", "a:b", "abcdefghijklmnop", "äääääääää", ".", "..", "eth+", "", "a\\tb", "a\\xa0b"]
)
def test_names_that_no_interface_can_have(name: str):
    found = one_pod(with_interfaces(f'"veth0,{name},veth1"'), "interface")
    assert found.interfaces == ("veth0", "veth1")


def test_a_pod_with_an_error_keeps_where_it_is():
    parsed = pod_of(
        "spec: {nodeName: n1, hostNetwork: true}\nstatus: {podIP: 10.0.0.1, phase: Failed}\n",
        "{name: p, namespace: shop, labels: {a: b, c: 1}, annotations: {netpold.io/interface: veth0}}",
    )
    found = one_pod(parsed, "not-text")
    assert found == Pod("shop", "p", {"a": "b"}, ("10.0.0.1",), "n1", True, True, (), ("veth0",), quarantined=True)


def test_a_pod_that_breaks_off_keeps_what_was_read():
    found = one_pod(pod_of("spec: {nodeName: n1}\nstatus: {podIP: 10.0.0.1, podIPs: ["), "syntax")
    assert (found.node, found.addresses) == ("n1", ("10.0.0.1",))


def test_a_pod_without_a_name_may_be_any():
    assert pod_of("", "{namespace: shop}").truncated and pod_of("", "{namespace: shop}").objects == ()


# How it is told


def test_findings_show_nothing_that_could_forge_a_line():
    parsed = rule_of('from: [{"x\\ny\\u001b[31m\\u202e": 1}]\nports: [{port: "a\\nb%s"}]' % ("z" * 500))
    for finding in parsed.findings:
        assert str(finding).isprintable() and len(str(finding)) < 500


def test_json():
    text = '{"apiVersion":"networking.k8s.io/v1","kind":"NetworkPolicy","metadata":{"name":"p"},\n"spec":{"podSelector":{},"podSelector":{}}}'
    parsed = parse(text.encode(), "f.json")
    assert [(finding.code, finding.path, str(finding.position)) for finding in parsed.findings] == [
        ("duplicate-key", "spec.podSelector", "f.json:2")
    ]


def test_what_stands_where_a_list_should_is_looked_through_all_the_same() -> None:
    parsed = rule_of("from: {ipBlock: {cidr: 10.72.0.0/16, except: 10.72.10.0/8}}")
    assert {(each.code, each.path.partition("ingress")[2]) for each in parsed.findings} == {
        ("map-for-list", "[0].from"),
        ("wrong-type", "[0].from.ipBlock.except"),
        ("except-outside", "[0].from.ipBlock.except"),
    }
    assert any("`except: [10.72.10.0/24]`" in each.cure for each in parsed.findings)
    (found,) = parsed.objects
    assert isinstance(found, Policy)
    assert found.quarantined


def test_one_port_name_with_two_protocols_is_clear_enough_to_be_in_force() -> None:
    head = (
        "apiVersion: v1\nkind: Pod\nmetadata: {name: p, namespace: x}\nspec:\n  containers:\n  - name: c\n    ports:\n"
    )
    ports = "    - {name: dns, containerPort: 53, protocol: UDP}\n    - {name: dns, containerPort: 5353}\n"
    parsed = parse(f"{head}{ports}".encode(), "pod.yaml")
    (found,) = parsed.objects
    assert isinstance(found, Pod)
    assert not found.quarantined
    assert found.ports == (ContainerPort("dns", "UDP", 53), ContainerPort("dns", "TCP", 5353))
    assert [(each.code, each.severity) for each in parsed.findings] == [("duplicate-port-name", "warning")]


@pytest.mark.parametrize("part", ["matchLabels", "matchExpressions"])
def test_an_empty_part_of_a_selector_is_as_if_it_were_not_there_with_a_warning(part: str) -> None:
    found = warned(rule_of(f"from: [{{podSelector: {{{part}: }}}}]"), "nothing-written")
    assert found.ingress == (PolicyRule((PodPeer(EVERYTHING),), None),)

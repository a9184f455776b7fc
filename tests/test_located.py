"""Findings about objects in a world: at the field that their path names, as PyYAML's own parser has its place, and in
Lists as in documents."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable

import pytest
import yaml

from netpold.policy.assemble import Assembly
from netpold.policy.index import Index
from netpold.policy.lint import lint
from netpold.policy.located import located
from netpold.policy.manifest import parse
from netpold.policy.model import Finding, Position
from tests import test_cluster_lint, test_lint
from tests.test_cluster_lint import NODES, tiered
from tests.test_lint import INVENTORY, policy

FILE = "m.yaml"
EVERYBODY = "{namespaces: {}}"
OLD = """\
---
apiVersion: policy.networking.k8s.io/v1alpha1
kind: AdminNetworkPolicy
metadata: {name: p}
spec:
  priority: 2
  subject: {namespaces: {}}
  ingress:
  - {action: Deny, from: [{namespaces: {}}], ports: [{portNumber: {protocol: TCP, port: 1}}, {namedPort: nope}]}
"""
TEXTS = {
    **{f"lint-{name}": policy("p", spec) for name, (spec, _) in test_lint.CASES.items()},
    **{f"tiers-{name}": tiered(spec, subject) for name, (subject, spec, _) in test_cluster_lint.CASES.items()},
    "no-such-namespace": policy("p", "podSelector: {}", "nowhere"),
    "block-style": policy(
        "p",
        "podSelector:\n  matchLabels:\n    app: db\ningress:\n- from:\n  - podSelector:\n      matchLabels:\n"
        "        app: ui\n  -\n    podSelector: {matchLabels: {app: uii}}\n  ports:\n  - port: 1\n  - protocol: TCP\n"
        '    "port": nope',
    ),
    "namespace-without-pods": "---\n{apiVersion: v1, kind: Namespace, metadata: {name: bare, labels: {a: b}}}\n"
    + policy("p", "podSelector: {}\ningress:\n- from: [{namespaceSelector: {matchLabels: {a: b}}}]"),
    "old-ports": OLD,
    "priorities": OLD + tiered("ingress: []") + tiered("egress: []").replace("name: p", "name: q"),
    "twice": policy("p", "podSelector: {}") * 2,
    "different": policy("p", "podSelector: {}") + policy("p", "podSelector: {}\negress: [{}]"),
    "an-address-twice": "---\n{apiVersion: v1, kind: Pod, metadata: {name: x}, status: {podIPs: [{ip: 10.0.0.1}]}}\n",
    "nothing": "",
}


def told(data: bytes, content: Callable[[str], bytes | None] | None = None) -> list[Finding]:
    says = parse(data, FILE)
    assembly = Assembly()
    assembly.update({FILE: says})
    index = Index(assembly.world)
    found = [*assembly.findings(), *index.claims.findings(assembly.world.pods), *lint(index)]
    return list(located(found, content or (lambda file: data)))


def composed(data: bytes, finding: Finding) -> Position:
    """Where PyYAML has what stands at the path of a finding, as far down as there is anything."""
    documents = list(yaml.compose_all(data, yaml.CSafeLoader))
    for root in documents:
        entries = {key.value: value for key, value in root.value}
        objects = [(f"items[{n}]", each) for n, each in enumerate(entries["items"].value)] if "items" in entries else []
        for prefix, each in objects or [("", root)]:
            if _title(each) == finding.subject and (not prefix or finding.path.startswith(prefix)):
                place = _walk(each, finding.path.removeprefix(prefix))
                if prefix or not objects:
                    found = Position(FILE, place.line + 1, place.column + 1)
                    if found.line == finding.position.line:  # of two with one name, either
                        return found
    raise AssertionError(finding)


def _walk(node: yaml.Node, path: str) -> yaml.Mark:
    mark = node.start_mark
    for name, number in re.findall(r"([A-Za-z]+)|\[(\d+)\]", path):
        if name:
            key, value = next(((key, value) for key, value in node.value if key.value == name), (None, None))
            if key is None:
                break
            mark, node = key.start_mark, value
        else:
            node = node.value[int(number)]
            mark = node.start_mark
    return mark


def _title(node: yaml.Node) -> str:
    fields = yaml.CSafeLoader("").construct_document(node)
    about = fields["metadata"]
    kind = fields["kind"]
    is_named = kind in ("Pod", "NetworkPolicy")
    return f"{kind} {about.get('namespace', 'default')}/{about['name']}" if is_named else f"{kind} {about['name']}"


def as_list(text: str, dump: Callable[[object], str]) -> bytes:
    items = [each for each in yaml.safe_load_all(text) if each]
    return dump({"apiVersion": "v1", "kind": "List", "items": items}).encode()


def without_places(findings: Iterable[Finding]) -> list[tuple[str, ...]]:
    """Other lines stand in the faults, too."""
    return sorted(
        (each.code, each.subject, re.sub(r"^items\[\d+\]\.?", "", each.path), re.sub(r"m\.yaml:\d+", "", each.fault))
        for each in findings
    )


@pytest.mark.parametrize("name", TEXTS)
def test_every_finding_is_at_its_field(name: str) -> None:
    text = INVENTORY + NODES + TEXTS[name]
    findings = told(text.encode())
    assert bool(findings) == (name != "nothing")
    for each in findings:
        assert each.position == composed(text.encode(), each)
    for dump in (yaml.safe_dump, json.dumps, lambda each: json.dumps(each, indent=4)):
        data = as_list(text, dump)
        in_list = told(data)
        assert without_places(in_list) == without_places(findings)
        for each in in_list:
            assert each.path.startswith("items[")
            assert each.position == composed(data, each)


def test_the_entry_of_a_policy_of_the_cluster() -> None:
    """One that says several peers, or one that was said before, does not shift those behind it."""
    nobody = "{pods: {podSelector: {matchLabels: {app: nobody}}}}"
    peers = f"{{networks: [10.0.0.0/8, 11.0.0.0/8]}}, {{namespaces: {{}}}}, {{namespaces: {{}}}}, {nobody}, {nobody}"
    text = INVENTORY + tiered(f"egress: [{{action: Deny, to: [{peers}]}}]")
    (finding,) = told(text.encode())
    assert finding.path == "spec.egress[0].to[3]"
    line = text.splitlines()[finding.position.line - 1]
    assert line[finding.position.column - 1 :].startswith(nobody)


@pytest.mark.parametrize("now", [None, b"", b"# other text\n", b"\xff\xfe", b"a: [", b"- a\n- b\n"])
def test_a_file_that_is_not_as_it_was(now: bytes | None) -> None:
    text = INVENTORY + policy("p", "podSelector: {matchLabels: {app: dbb}}")
    (finding,) = told(text.encode(), lambda file: now)
    assert finding.path == "spec.podSelector"
    assert finding.position == Position(FILE, INVENTORY.count("\n") + 2, 1)

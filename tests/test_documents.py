"""A file by its chunks: what is used again is the same as what would be parsed."""

from __future__ import annotations

from dataclasses import asdict, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netpold.policy import documents
from netpold.policy.chunks import LIMITS, Limits
from netpold.policy.documents import Content, Part, Unit, content, outline, parse_unit, reused, units
from netpold.policy.manifest import parse
from tests.test_manifest_fuzz import LIST, POD, POLICY, damaged

FILE = "a.yaml"
CLUSTER_POLICY = b"""\
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata:
  name: p
spec:
  tier: Admin
  priority: 10
  subject: {namespaces: {matchLabels: {team: a}}}
  ingress:
  - {name: a rule, action: Accept, from: [{pods: {podSelector: {}}}], protocols: [{destinationNamedPort: web}]}
  egress:
  - action: Deny
    to: [{networks: [10.0.0.0/8, "fd00::/8"]}, {nodes: {matchLabels: {role: api}}}, {namespaces: {}}]
"""
CHUNKS = (
    POLICY,
    POD,
    LIST,
    POLICY.replace(b"  name: web\n", b""),  # it gets a name that its line is part of
    POD.replace(b"  name: web-1", b"  name: web-1\n  name: web-2"),  # a fault that names a line
    POD.replace(b"fd00::3", b"FD00::3"),  # a warning
    b"apiVersion: v1\nkind: Namespace\nmetadata: {name: shop, labels: {kubernetes.io/metadata.name: other}}\n",
    CLUSTER_POLICY,
    CLUSTER_POLICY.replace(b"  name: p\n", b""),
    CLUSTER_POLICY.replace(b"Admin\n", b"admin\n"),  # it is closed
    CLUSTER_POLICY.replace(b"v1alpha2", b"v1alpha1").replace(b"Cluster", b"Admin"),
    b"apiVersion: v1\nkind: Node\nmetadata: {name: m}\nstatus: {addresses: [{type: InternalIP, address: 10.0.0.1}]}\n",
    b"apiVersion: apps/v1\nkind: Deployment\n",
    b"kind: [\n",
    b"# nothing\n",
    b"",
    b"%YAML 1.1\n",
    b"text\n...\nmore\n",
)
TEXTS = st.lists(st.sampled_from(CHUNKS) | st.sampled_from(CHUNKS).flatmap(damaged), max_size=6).flatmap(
    lambda chunks: st.sampled_from(
        [b"---\n".join(chunks), b"---\n" + b"---\n".join(chunks), b"\xef\xbb\xbf" + b"--- \n".join(chunks)]
    )
)
FEW = replace(LIMITS, documents=4)


def read(data: bytes, before: Content | None, limits: Limits, parsed: list[Unit] | None = None) -> Content:
    """What a file says, as a Source finds it out."""
    found = units(data, limits)
    new = outline(found)
    known: list[Part | None] = reused(new, before) if before else [None] * len(found)
    parts = []
    for unit, part in zip(found, known, strict=True):
        if part is None and parsed is not None:
            parsed.append(unit)
        parts.append(parse_unit(unit, FILE, limits) if part is None else part)
    return content(new, parts)


@given(st.lists(TEXTS, min_size=1, max_size=3), st.sampled_from([LIMITS, FEW]))
@settings(max_examples=300, deadline=None)
def test_one_version_after_the_other_says_what_it_says_alone(versions: list[bytes], limits: Limits) -> None:
    before = None
    for data in versions:
        before = read(data, before, limits)
        whole = parse(data, FILE, limits)
        assert asdict(before.parsed) == asdict(whole)  # positions too, which `==` leaves out
        assert repr(before.parsed) == repr(whole)


def pods(*names: str) -> bytes:
    return b"".join(b"---\n" + POD.replace(b"web-1", name.encode()) for name in names)


def test_only_what_changed_is_parsed() -> None:
    parsed: list[Unit] = []
    first = read(pods("a", "b", "c"), None, LIMITS, parsed)
    assert len(parsed) == 3
    second = read(pods("a", "new", "c"), first, LIMITS, parsed)
    assert [unit.data for unit in parsed[3:]] == [pods("new")]
    assert second.parsed.objects[2] is first.parsed.objects[2]
    third = read(b"# a line\n" + pods("a", "c"), second, LIMITS, parsed)
    assert [unit.data for unit in parsed[4:]] == [b"# a line\n"]
    assert [each.position and each.position.line for each in third.parsed.objects] == [3, 22]


def test_what_warns_is_shifted_and_what_has_errors_is_parsed_again() -> None:
    parsed: list[Unit] = []
    warns, fails = CHUNKS[5], CHUNKS[4]
    first = read(b"---\n" + warns + b"---\n" + fails, None, LIMITS, parsed)
    assert {each.severity for each in first.parsed.findings} == {"error", "warning"}
    read(b"#\n---\n" + warns + b"---\n" + fails, first, LIMITS, parsed)
    assert [unit.data for unit in parsed[2:]] == [b"#\n", b"---\n" + fails]


def test_a_plain_file_holds_nothing_twice() -> None:
    found = read(pods("a", "b"), None, LIMITS)
    assert found.parts is None
    assert len(found.outline) == 2 * 20


@pytest.mark.parametrize("data", [b"\xff\xfea\0:\0", pods(*"abcde"), b"a\0b"])
def test_what_is_refused_as_a_whole_is_one_unit(data: bytes) -> None:
    assert units(data, FEW) == [Unit(data, 0, True)] or data == b"a\0b"
    assert repr(read(data, None, FEW).parsed) == repr(parse(data, FILE, FEW))


def test_a_whole_file_is_not_taken_for_a_chunk() -> None:
    """Digests of the two are of two kinds."""
    data = b"--- {}\n"
    assert documents.outline([Unit(data, 0, True)]) != documents.outline([Unit(data, 0, False)])

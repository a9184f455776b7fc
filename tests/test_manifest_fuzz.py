"""Manifests from random bytes, random YAML and random damage: never a crash, never a grant that was not written."""

# ruff: noqa: E501, RUF005  (tables)

from __future__ import annotations

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from netpold.policy.assemble import Assembly
from netpold.policy.manifest import Parsed, parse
from netpold.policy.model import NAME_LABEL, Namespace, Pod, Policy
from tests.hang import hang_guard

POLICY = b"""\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: web
  namespace: shop
  labels: {team: "a"}
spec:
  podSelector:
    matchLabels:
      app: web
    matchExpressions:
    - {key: tier, operator: NotIn, values: [db, cache]}
    - key: canary
      operator: DoesNotExist
  policyTypes:
  - Ingress
  - Egress
  ingress:
  - from:
    - podSelector:
        matchLabels: {app: client}
      namespaceSelector: {}
    - ipBlock:
        cidr: 10.0.0.0/8
        except:
        - 10.1.0.0/16
    ports:
    - protocol: TCP
      port: 8080
    - {port: 9000, endPort: 9100, protocol: UDP}
  egress:
  - to: [{ipBlock: {cidr: "fd00::/8"}}]
    ports:
    - port: dns
      protocol: UDP
"""

POD = b"""\
apiVersion: v1
kind: Pod
metadata:
  name: web-1
  namespace: shop
  labels: {app: web, tier: front}
  annotations: {netpold.io/interface: "veth0,veth1"}
spec:
  nodeName: node-1
  hostNetwork: false
  containers:
  - name: c
    ports:
    - {name: http, containerPort: 8080}
status:
  phase: Running
  podIP: 10.1.2.3
  podIPs: [{ip: 10.1.2.3}, {ip: "fd00::3"}]
"""

LIST = b"apiVersion: v1\nitems:\n" + b"".join(
    b"- " + document.replace(b"\n", b"\n  ").rstrip(b" ") for document in (POLICY, POD)
) + b"kind: List\n"  # fmt: skip

TOKENS = st.sampled_from(
    [b"\n", b"  ", b" ", b"\t", b"-", b"- ", b":", b": ", b"{", b"}", b"[", b"]", b"{}", b"[]", b"'", b'"', b"#", b"&a ", b"*a"]
    + [b"!!str ", b"<<: ", b"---\n", b"...\n", b"|\n", b"null", b"~", b"no", b"on", b"010", b"1.10", b"\x00", b"\xff", b"\xef\xbb\xbf"]
    + [b"from", b"to", b"ports", b"spec", b"ingress", b"egress", b"policyTypes", b"podSelector", b"cidr", b"0.0.0.0/0", b"80"]
)  # fmt: skip


@st.composite
def damaged(draw: st.DrawFn, text: bytes) -> bytes:
    """A good manifest with a few letters or lines changed, dropped, repeated, moved or inserted."""
    for _ in range(draw(st.integers(1, 4))):
        lines = text.splitlines(keepends=True) or [b""]
        line = draw(st.integers(0, len(lines) - 1))
        at = draw(st.integers(0, len(text)))
        match draw(st.integers(0, 7)):
            case 0:
                text = text[:at] + draw(TOKENS) + text[at:]
            case 1:
                text = text[:at] + text[at + draw(st.integers(1, 4)) :]
            case 2:
                text = b"".join(lines[:line] + lines[line + 1 :])
            case 3:
                text = b"".join([*lines[: line + 1], *lines[line:]])
            case 4:
                other = draw(st.integers(0, len(lines) - 1))
                lines[line], lines[other] = lines[other], lines[line]
                text = b"".join(lines)
            case 5:
                lines[line] = draw(st.sampled_from([b" ", b"  ", b"- ", b"\t"])) + lines[line]
                text = b"".join(lines)
            case 6:
                lines[line] = lines[line].replace(draw(st.sampled_from([b"  ", b"- ", b": ", b"{", b"["])), b"", 1)
                text = b"".join(lines)
            case 7:
                text = text[:at]
    return text


def is_sound(parsed: Parsed) -> None:
    """What holds for every Parsed, whatever it was made of."""
    assert isinstance(parsed, Parsed)
    with_errors = {finding.subject for finding in parsed.findings if finding.severity == "error"}
    names = {subject.rpartition("/")[2] for subject in with_errors}
    for finding in parsed.findings:
        assert finding.position.file == "f.yaml" and finding.position.line >= 1 and finding.position.column >= 1
        assert finding.fault and finding.cure and finding.code and str(finding).isprintable()
    for found in parsed.objects:
        if isinstance(found, Policy):
            assert found.quarantined or found.name not in names or len(parsed.objects) > 1
            if found.quarantined:
                assert found.ingress in (None, ()) and found.egress in (None, ())
                assert with_errors
        elif isinstance(found, Namespace):
            assert found.labels[NAME_LABEL] == found.name
        else:
            assert isinstance(found, Pod)
    if with_errors:
        assert any(found.quarantined for found in parsed.objects) or parsed.truncated
    Assembly().update({"f.yaml": parsed})


GOOD = parse(POLICY, "f.yaml").objects[0]


def test_the_manifests_themselves_are_good():
    assert [parse(text, "f.yaml").findings for text in (POLICY, POD, LIST)] == [(), (), ()]
    assert parse(LIST, "f.yaml").objects == parse(POLICY, "f.yaml").objects + parse(POD, "f.yaml").objects


@settings(max_examples=600, deadline=None)
@given(damaged(POLICY))
def test_a_damaged_policy_with_errors_grants_nothing(text: bytes):
    parsed = parse(text, "f.yaml")
    is_sound(parsed)
    for found in parsed.objects:
        if not isinstance(found, Policy) or found.quarantined:
            continue
        assert not any(f.severity == "error" and f.subject == f"NetworkPolicy {found.key}" for f in parsed.findings)
        reference = yaml_view(text)
        if reference is not None:
            assert len(found.ingress or ()) <= len(reference.get("ingress") or [])
            assert len(found.egress or ()) <= len(reference.get("egress") or [])


def yaml_view(text: bytes) -> dict[str, object] | None:
    """The `spec` as PyYAML reads it, where that is one document that it can read."""
    try:
        document = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError):
        return None
    spec = document.get("spec") if isinstance(document, dict) else None
    return spec if isinstance(spec, dict) else None


@settings(max_examples=200, deadline=None)
@given(damaged(POD) | damaged(LIST))
def test_damaged_pods_and_lists(text: bytes):
    is_sound(parse(text, "f.yaml"))


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300))
def test_random_bytes(data: bytes):
    is_sound(parse(data, "f.yaml"))


SCALARS = (
    st.sampled_from(["", "web", "80", "10.0.0.0/8", "fd00::/8", "Ingress", "Egress", "TCP", "In", "Exists", "no", "a/b", "\n", "x" * 300])
    | st.integers(-5, 70000)
    | st.booleans()
    | st.none()
    | st.floats(allow_nan=True)
    | st.dates()
)  # fmt: skip
KEYS = st.sampled_from(
    ["spec", "podSelector", "namespaceSelector", "matchLabels", "matchExpressions", "key", "operator", "values", "ingress"]
    + ["egress", "from", "to", "ports", "port", "endPort", "protocol", "ipBlock", "cidr", "except", "policyTypes", "app"]
    + ["metadata", "name", "namespace", "labels", "annotations", "netpold.io/interface", "status", "podIP", "podIPs", "ip"]
    + ["containers", "initContainers", "containerPort", "nodeName", "hostNetwork", "phase", "items", "kind", "apiVersion", ""]
)  # fmt: skip
TREES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=20
)


@settings(max_examples=400, deadline=None)
@given(
    st.sampled_from(["NetworkPolicy", "Pod", "Namespace", "List"]),
    st.dictionaries(KEYS, TREES, max_size=4),
    TREES,
    TREES,
)
def test_random_objects(kind: str, top: dict[str, object], spec: object, status: object):
    version = "networking.k8s.io/v1" if kind == "NetworkPolicy" else "v1"
    root = {"apiVersion": version, "kind": kind, "metadata": {"name": "p"}, "spec": spec, "status": status, **top}
    is_sound(parse(yaml.safe_dump(root).encode(), "f.yaml"))


@pytest.mark.parametrize("text", [POLICY, POD, LIST], ids=["policy", "pod", "list"])
def test_cut_off_anywhere(text: bytes):
    """A file that is still being written: what is there so far is a whole object, or a closed one, or none."""
    for end in range(len(text)):
        is_sound(parse(text[:end], "f.yaml"))


@pytest.mark.parametrize(
    "data",
    [
        b"apiVersion: v1\nkind: Pod\nmetadata:\n  name: p\n  labels:\n" + b"".join(b"    -%d: 1\n" % i for i in range(20_000)),
        POLICY.split(b"  ingress:")[0] + b"  ingress:\n" + b"  - from: {}\n" * 25_000,
        POLICY.split(b"  ingress:")[0] + b"  ingress:\n" + b"  - from: [{}, {}, {}]\n" * 10_000,
        b"".join(b"---\nkind: NetworkPolicy\nx%d: 1\n" % i for i in range(7_000)),
        b"apiVersion: v1\nkind: List\nitems:\n" + b"- {kind: Pod}\n" * 20_000,
        b"apiVersion: v1\nkind: List\nitems:\n" + b"- {kind: NetworkPolicy, metadata: {name: p}, spec: {x: 1}}\n" * 5_000,
        b"".join(b"%s: 1\n" % (b"spec%d" % i) for i in range(30_000)),
        b"kind: " + b"x" * 900_000,
        b"apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: " + b"a." * 400_000 + b"}\n",
    ],
    ids=range(9),
)  # fmt: skip
def test_a_flood_of_faults_does_not_hang(data: bytes):
    with hang_guard():
        is_sound(parse(data, "f.yaml"))


SECRET = "hunter2"
CONTAINER = "apiVersion: v1\nkind: Pod\nmetadata:\n  name: p\n  namespace: x\nspec:\n  containers:\n  - name: c\n"
# Values in what netpold does not read, for others to keep secret.
UNREAD = (
    CONTAINER + "    env:\n    - name: PASSWORD\n      value: @@\n    - name: OTHER\n      value: x\n",
    CONTAINER + "    env: [{name: PASSWORD, value: @@}, {name: OTHER, value: x}]\n",
    CONTAINER + "    env:\n    - name: KEY\n      value: |\n      @@\n    - name: OTHER\n",
    CONTAINER + "    args:\n    - @@\n    - x\n    ports: [{containerPort: 80}]\n",
    CONTAINER + "    args: [@@, x]\n",
    "apiVersion: v1\nkind: Pod\nmetadata:\n  name: p\n  annotations:\n    token: @@\n    other: x\n",
    "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\nstringData:\n  password: @@\n  other: x\n",
)
# What means something to YAML, of which people think when they choose a password, and not when they write it down.
MARKS = st.lists(st.sampled_from([*"*&!{}[]|>'\"%@`#?:,-<~\\\a xy", "{{", "!!", ": ", ", ", " *", ": *", " !", "<<: "]), max_size=4).map("".join)  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(MARKS, MARKS, st.sampled_from(UNREAD))
def test_no_finding_quotes_what_netpold_does_not_read(before: str, after: str, text: str):
    """Findings go into logs and support bundles."""
    found = parse(text.replace("@@", f"{before}{SECRET}{after}").encode(), "f.yaml").findings
    assert not [each for each in found if SECRET in f"{each} {each.subject}"]


@pytest.mark.parametrize(
    ("value", "code", "cure"),
    [
        ("*hunter2", "alias", "quote it if it is text"),
        ("&hunter2", "anchor", "quote the value if it is text"),
        ("!hunter2 x", "tag", "quote the value if it is text"),
        ("{hunter2: *x}", "alias", "quote it if it is text"),
        ("{hunter2, hunter2}", "duplicate-key", "keep one of them"),
    ],
)
def test_a_finding_about_such_a_value_tells_its_place_and_cure(value: str, code: str, cure: str):
    (finding,) = parse(UNREAD[0].replace("@@", value).encode(), "f.yaml").findings
    assert (finding.code, finding.position.line, finding.path) == (code, 11, "spec.containers[0].env[0]")
    assert cure in finding.cure

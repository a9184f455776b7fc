"""Shapes of bytes that mean harm to whoever reads them as manifests, of any size: what each repeats without end."""

# ruff: noqa: E501  (a table)

from __future__ import annotations

from collections.abc import Callable

Shape = Callable[[int], bytes]  # so many bytes, or a few less


def filled(piece: bytes, head: bytes = b"", tail: bytes = b"") -> Shape:
    """The same over and over, between a head and a tail."""
    return lambda size: head + piece * max((size - len(head) - len(tail)) // len(piece), 1) + tail


def numbered(piece: Callable[[int], bytes], head: bytes = b"", tail: bytes = b"") -> Shape:
    """Pieces that all differ."""

    def made(size: int) -> bytes:
        pieces, length, number = [head], len(head) + len(tail), 0
        while length < size:
            pieces.append(piece(number))
            length += len(pieces[-1])
            number += 1
        return b"".join([*pieces, tail])

    return made


def encoded(encoding: str) -> Shape:
    """Text in another encoding than UTF-8."""
    return lambda size: ("a: b\n" * max(size // 5 // len("a".encode(encoding)), 1)).encode(encoding)


def stairs(size: int) -> bytes:
    """Each line deeper than the one before."""
    return b"".join(b" " * depth + b"a:\n" for depth in range(int((2 * size) ** 0.5)))


POD = b"apiVersion: v1\nkind: Pod\nmetadata:\n  name: p\n"
POLICY = b"apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata:\n  name: p\n"
LIST = b"apiVersion: v1\nkind: List\nitems:\n"
SPEC = POLICY + b"spec:\n  podSelector: {}\n"
PORT = POD + b"spec:\n  containers:\n  - ports: [{containerPort: "

SHAPES: dict[str, Shape] = {
    "[": filled(b"["),
    "- ": filled(b"- "),
    "{a: ": filled(b"{a: "),
    "---": filled(b"---\n"),
    "--- #": filled(b"--- #\n"),
    "--- a": filled(b"--- a\n"),
    "--- {}": filled(b"--- {}\n"),
    "---kind": filled(b"---\nkind: Pod\n"),
    "---bad": filled(b"--- [\n"),
    "scalar": filled(b"a"),
    "scalar-lines": filled(b"a b\n"),
    '"': filled(b'"'),
    "'": filled(b"'"),
    '"open': filled(b"a\n", b'a: "'),
    "'open": filled(b"a\n", b"a: '"),
    "dq escapes": filled(b"\\u0041", b'a: "', b'"'),
    "dq surr": filled(b"\\ud800", b'a: "', b'"'),
    "dq U": filled(b"\\U0010ffff", b'a: "', b'"'),
    "nul": filled(b"\0"),
    "a nul": filled(b"a: \0\n"),
    "bom": filled(b"\xef\xbb\xbf"),
    "bom lines": filled(b"\xef\xbb\xbfa: b\n"),
    "u16": encoded("utf-16"),
    "u32": encoded("utf-32"),
    "u16nobom": encoded("utf-16-le"),
    "u32be": encoded("utf-32-be"),
    "surr": filled(b"\xed\xa0\x80"),
    "c1": filled(b"\xc2\x80"),
    "c1 lines": filled(b"a: \xc2\x9b\n"),
    "nel": filled(b"a\xc2\x85"),
    "ls": filled(b"a: \xe2\x80\xa8"),
    "nel doc": filled(b"\xc2\x85---"),
    "crlf": filled(b"a: b\r\n"),
    "cr": filled(b"a\r"),
    "cr---": filled(b"a: b\r---\r"),
    "keys": numbered(lambda i: b"k%d: 1\n" % i),
    "dup": filled(b"a: 1\n"),
    "dup flow": filled(b"a: 1,", b"{", b"}"),
    "long keys": numbered(lambda i: b"%d" % i + b"x" * 1000 + b": 1\n"),
    "labels": numbered(lambda i: b"    k%d: v\n" % i, POD + b"  labels:\n"),
    "labels bad": numbered(lambda i: b"    -%d: v\n" % i, POD + b"  labels:\n"),
    "labels huge value": filled(b"x", POD + b"  labels: {a: ", b"}\n"),
    "labels slash": numbered(lambda i: b"    " + b"a/" * 60 + b"%d: v\n" % i, POD + b"  labels:\n"),
    "labels dots": numbered(lambda i: b"    " + b"a." * 120 + b"%d/x: v\n" % i, POD + b"  labels:\n"),
    "annotations": numbered(lambda i: b"    k%d: v\n" % i, POD + b"  annotations:\n"),
    "annotation iface": filled(b"veth0,", POD + b'  annotations: {netpold.io/interface: "', b'"}\n'),
    "meta unknown": numbered(lambda i: b"  n%dame: v\n" % i, POD),
    "meta near": numbered(lambda i: b"  nam%d: v\n" % i, POD),
    "spec unknown": numbered(lambda i: b"  ingres%d: v\n" % i, POLICY + b"spec:\n"),
    "spec longunknown": filled(b"x", POLICY + b"spec:\n  ", b": 1\n"),
    "kind long": filled(b"x", b"kind: "),
    "kind dash": filled(b"-", b"apiVersion: v1\nkind: NetworkPolicy"),
    "kinds": numbered(lambda i: b"---\napiVersion: v1\nkind: K%d\n" % i),
    "kinds long": numbered(lambda i: b"---\napiVersion: v1\nkind: K%d" % i + b"x" * 60 + b"\n"),
    "foreign": numbered(lambda i: b"---\napiVersion: x%d.io/v1\nkind: Pod\n" % i),
    "kind near": filled(b"--- {kind: Pdo}\n"),
    "apiVersion": filled(b"x", b"kind: Pod\napiVersion: "),
    "exp": filled(b"9", b"a: 1e"),
    "int": filled(b"9", PORT, b"}]\n"),
    "hex": filled(b"f", PORT + b"0x", b"}]\n"),
    "under": filled(b"_", PORT + b"1", b"1}]\n"),
    "oct": filled(b"7", PORT + b"0", b"}]\n"),
    "float": filled(b"9", SPEC + b"  ingress: [{ports: [{port: 1.", b"}]}]\n"),
    "dots": filled(b".", POD + b"  labels: {a: 1", b"}\n"),
    "date": filled(b" ", POD + b"  labels: {a: 2024-01-01", b"10:00:00}\n"),
    "date tabs": filled(b"\t", POD + b"  labels: {a: 2024-01-01", b"1}\n"),
    "date colons": filled(b":1", POD + b"  labels: {a: 2024-01-01T1", b"}\n"),
    "base60": filled(b":59", POD + b"  labels: {a: 1", b"}\n"),
    "base60bad": filled(b":59", POD + b"  labels: {a: 1", b":x}\n"),
    "floats many": filled(b"1e999999,", POD + b"  labels: {a: [", b"]}\n"),
    "list bad": filled(b"- {kind: Pod}\n", LIST),
    "list scalars": filled(b"- a\n", LIST),
    "list near": filled(b"- {kind: Pdo}\n", LIST),
    "list empty": filled(b"- {}\n", LIST),
    "list lists": filled(b"- []\n", LIST),
    "list nested": filled(b"- {kind: List, items: []}\n", LIST),
    "list no kind": filled(b"- {kind: Pod}\n", b"items:\n"),
    "list late head": filled(b"- {kind: NetworkPolicy, metadata: {name: p}}\n", b"items:\n", b"kind: List\n"),
    "list jsonbad": filled(b'{"kind":"Pod","metadata":{}},', b'{"kind":"List","apiVersion":"v1","items":[', b"{}]}"),
    "list policy": numbered(
        lambda i: (
            b"- {apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: p%d}, spec: {podSelector: {}}}\n"
            % i
        ),
        LIST,
    ),
    "list samepolicy": filled(
        b"- {apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: p}, spec: {podSelector: {}}}\n",
        LIST,
    ),
    "list samepod": filled(b"- {apiVersion: v1, kind: Pod, metadata: {name: p}, status: {podIP: 10.0.0.1}}\n", LIST),
    "same address": numbered(
        lambda i: b"- {apiVersion: v1, kind: Pod, metadata: {name: p%d}, status: {podIP: 10.0.0.1}}\n" % i, LIST
    ),
    "list two items": filled(b"items: [{}]\n", b"kind: List\napiVersion: v1\n"),
    "list keys": numbered(lambda i: b"x%d: 1\n" % i, b"kind: List\napiVersion: v1\nitems: []\n"),
    "docs pol": numbered(
        lambda i: (
            b"---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p%d}\nspec: {podSelector: {}}\n"
            % i
        )
    ),
    "docs badpol": numbered(
        lambda i: b"---\nkind: NetworkPolicy\nmetadata: {name: p%d}\nspec: {podSelector: {}, x: 1}\n" % i
    ),
    "docs samebad": filled(b"---\nkind: NetworkPolicy\nmetadata: {name: p}\nspec: {x: 1}\n"),
    "rules": filled(b"  - {}\n", SPEC + b"  ingress:\n"),
    "rules bad": filled(b"  - from: {}\n", SPEC + b"  ingress:\n"),
    "ports": numbered(lambda i: b"    - port: %d\n" % (i % 65535 + 1), SPEC + b"  ingress:\n  - ports:\n"),
    "ports bad": filled(b"    - port: x_\n", SPEC + b"  ingress:\n  - ports:\n"),
    "blocks": numbered(
        lambda i: b"    - ipBlock: {cidr: 10.%d.%d.0/24}\n" % (i >> 8 & 255, i & 255), SPEC + b"  ingress:\n  - from:\n"
    ),
    "excepts": numbered(
        lambda i: b"10.%d.%d.%d/32," % (i >> 16 & 255, i >> 8 & 255, i & 255),
        SPEC + b"  ingress:\n  - from:\n    - ipBlock: {cidr: 10.0.0.0/8, except: [",
        b"]}\n",
    ),
    "excepts bad": filled(
        b"11.0.0.0/8,", SPEC + b"  ingress:\n  - from:\n    - ipBlock: {cidr: 10.0.0.0/8, except: [", b"]}\n"
    ),
    "cidr long": filled(b"1.", SPEC + b"  ingress:\n  - from:\n    - ipBlock: {cidr: ", b"}\n"),
    "cidr colons": filled(b":", SPEC + b'  ingress:\n  - from:\n    - ipBlock: {cidr: "', b'"}\n'),
    "cidr slash": filled(b"/", SPEC + b'  ingress:\n  - from:\n    - ipBlock: {cidr: "1', b'"}\n'),
    "cidr digits": filled(b"9", SPEC + b'  ingress:\n  - from:\n    - ipBlock: {cidr: "10.0.0.0/', b'"}\n'),
    "exprs": numbered(
        lambda i: b"    - {key: k%d, operator: Exists}\n" % i,
        POLICY + b"spec:\n  podSelector:\n    matchExpressions:\n",
    ),
    "values": numbered(
        lambda i: b"v%d," % i,
        POLICY + b"spec:\n  podSelector:\n    matchExpressions:\n    - {key: k, operator: In, values: [",
        b"]}\n",
    ),
    "values dup": filled(
        b"v,", POLICY + b"spec:\n  podSelector:\n    matchExpressions:\n    - {key: k, operator: In, values: [", b"]}\n"
    ),
    "types": filled(b"Ingress,", SPEC + b"  policyTypes: [", b"]\n"),
    "types bad": filled(b"Ingres,", SPEC + b"  policyTypes: [", b"]\n"),
    "podIPs": numbered(
        lambda i: b"  - ip: 10.%d.%d.%d\n" % (i >> 16 & 255, i >> 8 & 255, i & 255), POD + b"status:\n  podIPs:\n"
    ),
    "podIPs dup": filled(b"  - ip: 10.0.0.1\n", POD + b"status:\n  podIPs:\n"),
    "podIPs bad": filled(b"  - ip: x\n", POD + b"status:\n  podIPs:\n"),
    "cports": numbered(
        lambda i: b"    - {name: p%d, containerPort: %d}\n" % (i, i % 65535 + 1),
        POD + b"spec:\n  containers:\n  - ports:\n",
    ),
    "cports dup": filled(b"    - {name: p, containerPort: 1}\n", POD + b"spec:\n  containers:\n  - ports:\n"),
    "containers": numbered(lambda i: b"  - {name: c%d}\n" % i, POD + b"spec:\n  containers:\n"),
    "containers dup": filled(b"  - {name: c}\n", POD + b"spec:\n  containers:\n"),
    "anchors": filled(b"&a "),
    "anchor seq": numbered(lambda i: b"- &a%d x\n" % i),
    "anchor long": filled(b"a", b"&"),
    "alias": filled(b"- *a\n", b"- &a x\n"),
    "tags": filled(b"- !!str x\n"),
    "tag long": filled(b"a", b"!"),
    "tag uri": filled(b"%41", b"!<tag:", b">"),
    "TAG": numbered(lambda i: b"%%TAG !a%d! b\n" % i, b"", b"--- a"),
    "merge": filled(b"<<: *a\n"),
    "tpl": filled(b"{{ .x }}\n"),
    "tpl2": filled(b"a: {{ .x }}\n"),
    "tpl3": filled(b"- {{a}}: b\n"),
    "?": filled(b"? "),
    "? nl": filled(b"? a\n"),
    ": ": filled(b": "),
    "[{": filled(b"[{"),
    "complex key": filled(b"? [a, b]\n: c\n"),
    "complex key fl": filled(b"[a]: b, ", b"{", b"}"),
    "indent": stairs,
    "document ends": filled(b"...\n"),
    "dots a": filled(b"a\n...\n"),
    "#": filled(b"#"),
    "# lines": filled(b"#\n"),
    "\\n": filled(b"\n"),
    "space": filled(b" "),
    "tab": filled(b"\t"),
    "|": filled(b"|\n"),
    "> fold": filled(b"\n a\n", b">\n"),
    "| block": filled(b"  a\n", b"a: |\n"),
    "block indent": filled(b"\n" + b" " * 500, b"a: |\n"),
    "ff": filled(b"\xff"),
    "ff lines": filled(b"- \xe4\n"),
    "ff list": filled(b"- \xe4\n", LIST),
    "ctl docs": filled(b"---\n\x01\n"),
    "ctl flow": filled(b"\x01,", b"[", b"]"),
    "commas": filled(b","),
    "flow nulls": filled(b",", b"[a", b"]"),
    "flow pairs": filled(b"a: b,", b"[", b"]"),
    "long line key": filled(b"a b ", b"", b": c\n"),
    "many colons": filled(b"a: "),
    "colon chain": filled(b":a"),
    "percent": filled(b"%\n"),
    "pct doc": filled(b"%YAML 1.1\n---\n"),
    "unicode": filled("é🙂".encode(), b"a: "),
    "unicode keys": numbered(lambda i: f"é{i}: 1\n".encode()),
    "deep32": filled(b"[" * 31 + b"]" * 31 + b",", b"[", b"]"),
    "deep docs": filled(b"--- " + b"[" * 40 + b"\n"),
    "json str": filled(b'"a":1,', b"{", b'"z":1}'),
    "json deep": filled(b'{"a":'),
    "simple keys": filled(b"a\n", b"{"),
    "possible keys": filled(b"[a ", b""),
    "flow no comma": filled(b"a\n ", b"["),
}

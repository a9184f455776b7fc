"""Unit tests of policies: a YAML file of expectations, read as strictly as manifests are.

    tests:
    - name: the user interface reaches the API, on its port alone
      allow: {from: shop/ui, to: shop/api, ports: [8080/TCP]}
    - deny:
        from: {any: anywhere, except: [monitoring/*]}
        to: {namespace: shop, labels: {app: db}}

An end is a pod (`namespace/pod`), all pods of a namespace (`namespace/*`), `every pod`, `anywhere`, an address or a
CIDR; or a map that selects pods; or a list of these, which means all of them.  docs/testing-policies.md shows them all.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import Literal

from netpold.policy.checks import LABEL_RULE, is_dns_label, is_dns_subdomain, labels
from netpold.policy.fields import Fields
from netpold.policy.model import EVERYTHING, Finding, Network, Operator, PodPeer, Position, Requirement, Selector
from netpold.policy.reader import read
from netpold.policy.selectors import selector
from netpold.policy.tree import Map, Node, Scalar, Seq, Type, is_null, shown, type_of
from netpold.policy.words import peer_text
from netpold.rules.port import PROTOCOLS
from netpold.rules.services import Span

_TEST = frozenset({"name", "allow", "deny"})
_TRAFFIC = frozenset({"from", "to", "ports"})
_SELECTED = frozenset({"namespace", "namespaceSelector", "podSelector", "labels"})
_GROUP = frozenset({"any", "except"})
_END_CURE = (
    "write `namespace/pod`, `namespace/*`, `every pod`, `anywhere`, an address, a CIDR, or a map with `namespace:` and "
    "`labels:`"
)
_ANYWHERE = (ip_network("0.0.0.0/0"), ip_network("::/0"))
_PORT_CURE = "write 80/TCP, 8000-8999/TCP, TCP for all of its ports, or ICMP"
_EVERY_PORT = (1, 65535)


@dataclass(frozen=True, slots=True)
class Selected:
    """Pods by namespace and labels.  `namespace`: its name, else `namespaces` selects; `name`: of one pod, or ''."""

    namespace: str
    namespaces: Selector
    pods: Selector
    name: str = ""


@dataclass(frozen=True, slots=True)
class Group:
    """All of `ends`, and of these none that is in `excepts`, too."""

    ends: tuple[Selected | Network, ...]
    excepts: tuple[Selected | Network, ...] = ()


@dataclass(frozen=True, slots=True)
class Expectation:
    """One test.  `name`: who is meant, where it has none of its own.  `services`: None for every port and protocol."""

    name: str
    verdict: Literal["allow", "deny"]
    source: Group
    destination: Group
    services: tuple[Span, ...] | None
    position: Position


def parse(data: bytes, file: str) -> tuple[list[Expectation], list[Finding]]:
    """The tests that a file says, and what is wrong with it.  Raises nothing."""
    tests: list[Expectation] = []
    findings: list[Finding] = []
    for document in read(data):
        fields = Fields(file, document.line, document.root)
        if document.faults:
            fields.refused(document.faults)
        if document.item is None and (document.root is not None or document.faults):
            tests += _document(fields, document.root)
        findings += fields.findings()
    return tests, findings


def _document(fields: Fields, root: Node | None) -> Iterable[Expectation]:
    if isinstance(root, Scalar) and is_null(root):
        return []
    top = fields.map(root, "write `tests:`, and `- ` before each test")
    if top is None:
        return []
    fields.known(top, frozenset({"tests"}))
    if "tests" not in top:
        fields.missing(top, "tests", "write `tests:`, and `- ` before each test")
    entries = fields.seq(top.get("tests"), "write `- ` before each test") or ()
    return [test for entry in entries if (test := _test(fields, entry))]


def _test(fields: Fields, node: Node) -> Expectation | None:
    cure = "write `allow:` or `deny:`, and `{from: ..., to: ...}` behind it"
    found = fields.map(node, cure) if fields.required(node, cure) else None
    if found is None:
        return None
    fields.known(found, _TEST)
    name = fields.text(found.get("name")) if "name" in found else None
    verdicts = [verdict for verdict in ("allow", "deny") if verdict in found]
    if len(verdicts) != 1:
        if found.keys() <= _TEST:
            fields.error(found, "test-verdict", "a test has either `allow` or `deny`", cure)
        return None
    verdict: Literal["allow", "deny"] = "allow" if verdicts == ["allow"] else "deny"
    traffic = fields.map(found[verdict], "write `{from: ..., to: ...}`")
    if traffic is None:
        fields.missing(found, verdict, "write `{from: ..., to: ...}` behind it")
        return None
    fields.known(traffic, _TRAFFIC, {"port": "write `ports: [...]`"})
    ends = [_group(fields, traffic, key) for key in ("from", "to")]
    services = _services(fields, traffic["ports"]) if "ports" in traffic else None
    source, destination = ends
    if source is None or destination is None:
        return None
    said = name or f"{verdict} {_short(traffic.get('from'))} -> {_short(traffic.get('to'))}"
    return Expectation(said, verdict, source, destination, services, fields.position(found))


def _short(node: Node | None) -> str:
    """An end for a test without a name."""
    if isinstance(node, Scalar):
        return shown(node.value)
    if isinstance(node, Seq):
        return ", ".join(map(_short, node))
    if isinstance(node, Map) and "any" in node:
        return f"{_short(node['any'])} except {_short(node['except'])}" if "except" in node else _short(node["any"])
    return _in_words(_selected(Fields("", 0, None), node)) if isinstance(node, Map) else "..."


def _in_words(end: Selected) -> str:
    """`pods app=web of shop`, `all pods of namespaces team=a`."""
    if end.pods == end.namespaces == EVERYTHING:
        return f"{end.namespace}/*" if end.namespace else "every pod"
    return peer_text(PodPeer(end.pods, None if end.namespace else end.namespaces), end.namespace)


# Ends -----------------------------------------------------------------------------------------------------------------


def _group(fields: Fields, traffic: Map, key: str) -> Group | None:
    node = traffic.get(key)
    if node is None or is_null(node):
        fields.missing(traffic, key, _END_CURE)
        return None
    if isinstance(node, Map) and node.keys() & _GROUP:
        fields.known(node, _GROUP)
        if "any" not in node:
            fields.missing(node, "any", f"write who is meant, without those in `except`: {_END_CURE}")
        ends = _ends(fields, node["any"]) if "any" in node else []
        return Group(tuple(ends), tuple(_ends(fields, node["except"]) if "except" in node else ()))
    return Group(tuple(_ends(fields, node)))


def _ends(fields: Fields, node: Node) -> list[Selected | Network]:
    if isinstance(node, Seq):
        if not node:
            fields.error(node, "test-end", "nobody is named here", _END_CURE)
        return [end for entry in node for end in _ends(fields, entry)]
    if isinstance(node, Map):
        found: Selected | Network | None = _selected(fields, node)
    else:
        text = fields.text(node) if fields.required(node, _END_CURE) else None
        if text == "anywhere":
            return [*_ANYWHERE]
        found = _named(fields, node, text) if text is not None else None
    return [] if found is None else [found]


def _named(fields: Fields, node: Node, text: str) -> Selected | Network | None:
    if text in ("every pod", "*"):
        return Selected("", EVERYTHING, EVERYTHING)
    namespace, slash, name = text.partition("/")
    if slash and is_dns_label(namespace) and (name == "*" or is_dns_subdomain(name)) and not _is_network(text):
        return Selected(namespace, EVERYTHING, EVERYTHING, "" if name == "*" else name)
    try:
        return ip_network(text) if slash else ip_network(ip_address(text))
    except ValueError as error:
        fault = f'"{shown(text)}" is no end of a connection'
        if "host bits set" in str(error):
            fault = f"`{shown(text)}` has bits set beyond the prefix"
            fields.error(node, "test-end", fault, f"write `{ip_network(text, strict=False)}`")
        else:
            fields.error(node, "test-end", fault, _END_CURE)
        return None


def _is_network(text: str) -> bool:
    try:
        ip_network(text, strict=False)
    except ValueError:
        return False
    return True


def _selected(fields: Fields, found: Map) -> Selected:
    fields.known(found, _SELECTED, {"pod": "write `namespace/pod`", "name": "write `namespace/pod`"})
    for one, other in (("namespace", "namespaceSelector"), ("labels", "podSelector")):
        if one in found and other in found:
            fields.error(found.scalars[other], "test-end", f"`{one}` and `{other}` say the same", "keep one of them")
    if not found:
        fields.error(found, "test-end", "nobody is named here", _END_CURE)
    namespace = fields.text(found.get("namespace")) or ""
    if namespace and not is_dns_label(namespace):
        fault = f'"{shown(namespace)}" is no valid namespace'
        fields.error(found["namespace"], "namespace", fault, f"a namespace's name is {LABEL_RULE}")
    pods = selector(fields, found["podSelector"]) if "podSelector" in found else None
    if "labels" in found:
        pairs = labels(fields, found["labels"])
        pods = Selector(tuple(sorted(Requirement(key, Operator.IN, (value,)) for key, value in pairs.items())))
    namespaces = selector(fields, found["namespaceSelector"]) if "namespaceSelector" in found else None
    return Selected(namespace, namespaces or EVERYTHING, pods or EVERYTHING)


# Ports ----------------------------------------------------------------------------------------------------------------


def _services(fields: Fields, node: Node) -> tuple[Span, ...] | None:
    if is_null(node):
        fields.required(node, f"{_PORT_CURE}; or take `ports` out for all")
        return None
    entries = node if isinstance(node, Seq) else [node]
    if not entries:
        fields.error(node, "test-port", "no port is named here", f"{_PORT_CURE}; or take `ports` out for all")
    return tuple(span for entry in entries if (span := _port(fields, entry)))


def _port(fields: Fields, node: Node) -> Span | None:
    if isinstance(node, Scalar) and type_of(node) is Type.INT:
        fault = f"`{shown(node.value)}` does not say its protocol"
        fields.error(node, "test-port", fault, f"write {shown(node.value)}/TCP or {shown(node.value)}/UDP")
        return None
    text = fields.text(node) if fields.required(node, _PORT_CURE) else None
    if text is None:
        return None
    ports, slash, protocol = text.rpartition("/")
    protocol = protocol.upper()
    if not slash and protocol == "ICMP":
        return Span("other", 0, 0)
    if protocol not in PROTOCOLS:
        fields.error(node, "test-port", f'"{shown(text)}" is no port', _PORT_CURE)
        return None
    if not slash:
        return Span(protocol, *_EVERY_PORT)
    low, dash, high = ports.partition("-")
    numbers = [int(each) for each in ((low, high) if dash else (low, low)) if each.isascii() and each.isdecimal()]
    if len(numbers) != 2 or not _EVERY_PORT[0] <= numbers[0] <= numbers[1] <= _EVERY_PORT[1]:
        fields.error(node, "test-port", f'"{shown(text)}" is no port', f"{_PORT_CURE}; ports are 1 to 65535")
        return None
    return Span(protocol, numbers[0], numbers[1])

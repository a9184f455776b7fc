"""The ports in rules of ClusterNetworkPolicies (`protocols`) and of AdminNetworkPolicies (`ports`), to PolicyPort.

Checked as the schemas of policy.networking.k8s.io have it.  A port's name stands for that of any protocol, so it comes
once for each.
"""

from __future__ import annotations

from netpold.policy.cluster_forms import Form
from netpold.policy.fields import Fields
from netpold.policy.model import PolicyPort, Protocol
from netpold.policy.port_fields import PROTOCOLS, port_name, port_number, protocol
from netpold.policy.tree import Map, Node, Scalar, is_null, is_text, shown
from netpold.policy.whole import only_field, whole_list, whole_map

NAMED = ("destinationNamedPort", "namedPort")  # in the new form, in the old one

_PROTOCOLS: dict[str, Protocol] = {"tcp": "TCP", "udp": "UDP", "sctp": "SCTP"}
_NEW = frozenset({*_PROTOCOLS, "destinationNamedPort"})
_OLD = frozenset({"portNumber", "portRange", "namedPort"})
_PORT = frozenset({"number", "range"})
_NEW_CURE = "write `- tcp: {destinationPort: {number: 80}}`, or take `protocols` out for all"
_OLD_CURE = "write `- portNumber: {protocol: TCP, port: 80}`, or take `ports` out for all"
_DESTINATION_CURE = "write `destinationPort:` and, below it, `number:` or `range:`"
_NEW_HINTS = {
    "port": "write `tcp: {destinationPort: {number: ...}}`",
    "protocol": "write `tcp:`, `udp:` or `sctp:`, and `destinationPort:` below it",
    "portNumber": "write `tcp: {destinationPort: {number: ...}}`",
    "portRange": "write `tcp: {destinationPort: {range: {start: ..., end: ...}}}`",
    "namedPort": "write `destinationNamedPort`",
    "destinationPort": "write `tcp:`, `udp:` or `sctp:` above it",
    "icmp": "there is none for ICMP: a rule without `protocols` is about all traffic",
    **{name: f"write `{name.lower()}`" for name in PROTOCOLS},
}
_OLD_HINTS = {
    "port": "write `portNumber: {protocol: TCP, port: ...}`",
    "protocol": "write `portNumber: {protocol: ..., port: ...}`",
    "destinationNamedPort": "write `namedPort`",
    **dict.fromkeys(_PROTOCOLS, "write `portNumber: {protocol: ..., port: ...}`"),
}


def ports(fields: Fields, rule: Map, form: Form) -> tuple[PolicyPort, ...] | None:
    """The ports of a rule; None where it is about all traffic."""
    if form.ports not in rule:
        return None
    cure = _OLD_CURE if form.is_old else _NEW_CURE
    found: list[PolicyPort] = []
    for entry in whole_list(fields, rule, form.ports, form.most, cure):
        found += _old(fields, entry) if form.is_old else _new(fields, entry)
    return tuple(found)


def named(found: tuple[PolicyPort, ...] | None) -> bool:
    """Whether any of the ports is a name."""
    return any(isinstance(each.port, str) for each in found or ())


def by_name(name: str) -> tuple[PolicyPort, ...]:
    """A container port's name, in any protocol."""
    return tuple([PolicyPort(each, name) for each in PROTOCOLS.values()])


def _new(fields: Fields, node: Node) -> tuple[PolicyPort, ...]:
    found = whole_map(fields, node, _NEW_CURE)
    if found is None:
        return ()
    known = fields.known(found, _NEW, _NEW_HINTS)
    which = only_field(fields, found, "an entry of `protocols`", _NEW, known)
    if which is None:
        return ()
    if which == "destinationNamedPort":
        return _named(fields, found, which)
    below = whole_map(fields, found[which], _DESTINATION_CURE)
    if below is None:
        return ()
    hints = {name: f"write it below `destinationPort:`, as `{name}:`" for name in _PORT}
    hints |= {"port": "write `destinationPort: {number: ...}`"}
    known = fields.known(below, frozenset({"destinationPort"}), hints)
    if known and "destinationPort" not in below:
        fields.missing(below, "destinationPort", _DESTINATION_CURE)
    if "destinationPort" not in below:
        return ()
    return _destination(fields, below["destinationPort"], _PROTOCOLS[which])


def _destination(fields: Fields, node: Node, name: Protocol) -> tuple[PolicyPort, ...]:
    cure = "write `number:` and the port, or `range:`"
    if isinstance(node, Scalar) and not is_null(node):
        cure = f"write `destinationPort: {{number: {shown(node.value)}}}`"
    found = whole_map(fields, node, cure)
    if found is None:
        return ()
    known = fields.known(found, _PORT, {"port": "write `number`", "start": "write `range:` above it"})
    match only_field(fields, found, "`destinationPort`", _PORT, known):
        case "number":
            number = _number(fields, found, "number")
            return () if number is None else (PolicyPort(name, number),)
        case "range":
            below = whole_map(fields, found["range"], "write `start:` and `end:` below it")
            if below is not None:
                fields.known(below, frozenset({"start", "end"}))
                return _range(fields, below, name)
    return ()


def _range(fields: Fields, found: Map, name: Protocol) -> tuple[PolicyPort, ...]:
    start, end = _number(fields, found, "start"), _number(fields, found, "end")
    if start is None or end is None:
        return ()
    if start >= end:
        cure = f"write `number: {start}` for one port" if start == end else "write the range the other way"
        fields.error(found["end"], "port-range", f"`end` {end} is not greater than `start` {start}", cure)
    return (PolicyPort(name, start, end),)


def _number(fields: Fields, found: Map, key: str) -> int | None:
    node = found.get(key)
    if node is None or (isinstance(node, Scalar) and is_null(node)):
        fields.missing(found, key, f"write `{key}:` and a number from 1 to 65535")
        return None
    if isinstance(node, Scalar) and key in ("number", "port") and is_text(node) and not node.value.isdecimal():
        cure = "names are written as `destinationNamedPort:`, or `namedPort:` in v1alpha1"
        fields.error(node, "wrong-type", f'a number is wanted, here is the text "{shown(node.value)}"', cure)
        return None
    return port_number(fields, node)


def _named(fields: Fields, found: Map, key: str) -> tuple[PolicyPort, ...]:
    node = found[key]
    if not fields.required(node, "write a container port's name"):
        return ()
    if not isinstance(node, Scalar) or not is_text(node):
        fields.text(node)
        return ()
    name = port_name(fields, node, "write a number as `number:`, and a container port's name here")
    return by_name(name)


def _old(fields: Fields, node: Node) -> tuple[PolicyPort, ...]:
    found = whole_map(fields, node, _OLD_CURE)
    if found is None:
        return ()
    known = fields.known(found, _OLD, _OLD_HINTS)
    which = only_field(fields, found, "an entry of `ports`", _OLD, known)
    if which is None:
        return ()
    if which == "namedPort":
        return _named(fields, found, which)
    numbers = ("port",) if which == "portNumber" else ("start", "end")
    below = whole_map(fields, found[which], f"write {' and '.join(f'`{each}:`' for each in numbers)} below it")
    if below is None:
        return ()
    fields.known(below, frozenset({"protocol", *numbers}))
    name = protocol(fields, below["protocol"]) if "protocol" in below else "TCP"
    if which == "portRange":
        return _range(fields, below, name)
    number = _number(fields, below, "port")
    return () if number is None else (PolicyPort(name, number),)

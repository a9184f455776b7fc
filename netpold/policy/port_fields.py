"""Protocols and ports as the fields of manifests have them."""

from __future__ import annotations

import re

from netpold.policy.checks import SERVICE_RULE, is_port_name
from netpold.policy.fields import Fields, nearest
from netpold.policy.model import Protocol
from netpold.policy.tree import Node, Scalar, Type, is_text, shown, type_of

PROTOCOLS: dict[str, Protocol] = {"TCP": "TCP", "UDP": "UDP", "SCTP": "SCTP"}

_PORT_IN_ONE = re.compile(r"(?P<first>[0-9]{1,5})(?:-(?P<last>[0-9]{1,5}))?(?:/(?P<protocol>TCP|UDP|SCTP))?")


def protocol(fields: Fields, node: Node) -> Protocol:
    """A protocol's name; TCP where it is wrong."""
    cure = "write TCP, UDP or SCTP, or take the field out for TCP"
    name = fields.text(node) if fields.required(node, cure) else None
    if name is not None and name not in PROTOCOLS:
        meant = nearest(name, PROTOCOLS)
        fields.error(node, "protocol", f'there is no protocol "{shown(name)}"', f"write `{meant}`" if meant else cure)
    return PROTOCOLS.get(name or "", "TCP")


def port_value(fields: Fields, node: Node) -> int | str | None:
    """A port's number, or the name of one; None where it is wrong."""
    cure = "write a number or a container port's name, or take the field out for all ports"
    if not fields.required(node, cure):
        return None
    if isinstance(node, Scalar) and is_text(node):
        return port_name(fields, node, f"write it without quotes: `port: {shown(node.value)}`")
    if isinstance(node, Scalar) and type_of(node) is not Type.INT:
        fields.error(node, "wrong-type", f"`{shown(node.value)}` is {type_of(node).value}, and no port", cure)
        return None
    return port_number(fields, node)


def port_name(fields: Fields, node: Scalar, for_number: str) -> str:
    """A container port's name, as it is written; `for_number`: the cure where it is a number in quotes."""
    if not is_port_name(node.value):
        cure = for_number
        if node.value.isdecimal() and not node.implicit[0]:
            fault = f'"{shown(node.value)}" in quotes is a port\'s name, and a name has a letter in it'
        else:
            fault = f'"{shown(node.value)}" is no port name'
            cure = port_cure(node.value) or f"a port's name is {SERVICE_RULE}"
        fields.error(node, "port-name", fault, cure)
    return node.value


def port_cure(text: str) -> str:
    """How to write what `8000-9000` and `80/TCP` mean; '' for what is not like that."""
    found = _PORT_IN_ONE.fullmatch(text.upper())
    if not found:
        return ""
    written = {"port": found["first"], "endPort": found["last"], "protocol": found["protocol"]}
    return f"write {' and '.join(f'`{name}: {value}`' for name, value in written.items() if value)}"


def port_number(fields: Fields, node: Node) -> int | None:
    """A port's number, as it is written."""
    number = fields.number(node)
    if number is not None and not 1 <= number <= 65535:
        fields.error(node, "port-number", f"there is no port {shown(str(number))}", "write a number from 1 to 65535")
    return number

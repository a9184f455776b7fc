"""What names, labels and addresses may be, as the API server has it.

Defined in Kubernetes' apimachinery/pkg/util/validation (`validation.go`, `ip.go`) and api/validation (`objectmeta.go`).
Labels are stricter in one point: an unquoted date or base 60 number is text to the API server, but not to every reader
of YAML that may stand between the author and netpold.
"""

from __future__ import annotations

import re
from functools import lru_cache
from ipaddress import IPv6Address, ip_address

from netpold.policy.fields import Fields
from netpold.policy.tree import Scalar, Type, is_merge_key, is_null, plain_type, shown

LABEL_RULE = "up to 63 lower-case letters, digits and `-`, a letter or digit at both ends"
SUBDOMAIN_RULE = "up to 253 lower-case letters, digits, `-` and `.`, a letter or digit at both ends of each part"
SERVICE_RULE = "up to 15 lower-case letters, digits and single `-`, at least one letter"
VALUE_RULE = "up to 63 letters, digits, `-`, `_` and `.`, a letter or digit at both ends; or nothing"
KEY_RULE = (
    "`name` or `dns.name/name`, a name has up to 63 letters, digits, `-`, `_` and `.`, a letter or digit at both ends"
)

_LABEL = re.compile(r"[a-z0-9](?:[-a-z0-9]*[a-z0-9])?")
_SUBDOMAIN = re.compile(r"[a-z0-9](?:[-a-z0-9]*[a-z0-9])?(?:\.[a-z0-9](?:[-a-z0-9]*[a-z0-9])?)*")
_QUALIFIED = re.compile(r"[A-Za-z0-9](?:[-A-Za-z0-9_.]*[A-Za-z0-9])?")
_SERVICE = re.compile(r"(?=.*[a-z])[a-z0-9]+(?:-[a-z0-9]+)*")
_OCTET = r"(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_NO_POD = re.compile(r"(?:0|127|22[4-9]|23[0-9]|24[0-9]|25[0-5])\.")  # this network, loopback, multicast, reserved
_IPV4 = re.compile(rf"{_OCTET}(?:\.{_OCTET}){{3}}")


@lru_cache(maxsize=1 << 12)
def is_dns_label(text: str) -> bool:
    """Whether text is a DNS-1123 label: a namespace's name."""
    return len(text) <= 63 and _LABEL.fullmatch(text) is not None


def is_dns_subdomain(text: str) -> bool:
    """Whether text is a DNS-1123 subdomain: the name of a pod, a policy, a node."""
    return len(text) <= 253 and _SUBDOMAIN.fullmatch(text) is not None


@lru_cache(maxsize=1 << 12)
def is_port_name(text: str) -> bool:
    """Whether text is an IANA service name: a port's name."""
    return len(text) <= 15 and _SERVICE.fullmatch(text) is not None


def is_label_key(text: str) -> bool:
    """Whether text is a qualified name: the key of a label or an annotation."""
    prefix, slash, name = text.rpartition("/")
    return len(name) <= 63 and _QUALIFIED.fullmatch(name) is not None and (not slash or is_dns_subdomain(prefix))


def is_label_value(text: str) -> bool:
    """Whether text is a label's value, which may be empty."""
    return not text or (len(text) <= 63 and _QUALIFIED.fullmatch(text) is not None)


@lru_cache(maxsize=1 << 12)
def canonical_address(text: str) -> str | None:
    """An IP address in its one form, IPv4 written as IPv6 (`::ffff:10.0.0.1`) as IPv4; None if it is no address that a
    pod can have (unspecified, loopback and multicast addresses)."""
    if _IPV4.fullmatch(text):
        return None if _NO_POD.match(text) else text
    if "%" in text:
        return None
    try:
        address = ip_address(text)
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped:
        return canonical_address(str(address.ipv4_mapped))
    return None if address.is_unspecified or address.is_loopback or address.is_multicast else str(address)


def labels(fields: Fields, node: object) -> dict[str, str]:
    """The labels that are right; the others are noted."""
    found = fields.map(node)
    if not found:
        return {}
    right = {}
    for key, value in found.items():
        scalar = found.scalars[key]
        if isinstance(value, Scalar) and _is_label(key, scalar.implicit[0], value.value, value.implicit[0]):
            right[key] = value.value
        elif not is_merge_key(scalar):
            taken_key, taken = label_key(fields, scalar), label_value(fields, value)
            if taken_key is not None and taken is not None:
                right[taken_key] = taken
    return right


@lru_cache(maxsize=1 << 14)
def _is_label(key: str, plain_key: bool, value: str, plain_value: bool) -> bool:
    return is_label_key(key) and is_label_value(value) and _is_sure(key, plain_key) and _is_sure(value, plain_value)


def _is_sure(text: str, plain: bool) -> bool:
    """Whether a scalar is text to every reader of YAML."""
    return not plain or plain_type(text) is Type.TEXT


def label_key(fields: Fields, node: Scalar) -> str | None:
    """A label's key; None where it is wrong."""
    if not is_label_key(node.value):
        fields.error(node, "label-key", f'"{shown(node.value)}" is no label key', f"a label key is {KEY_RULE}")
        return None
    if not _is_sure(node.value, node.implicit[0]):
        return fields.unquoted(node)
    return node.value


def label_value(fields: Fields, node: object) -> str | None:
    """A label's value; None where it is wrong.  Nothing written is wrong here: the empty value is `""`."""
    if not isinstance(node, Scalar):
        return fields.text(node)
    if is_null(node):
        fields.error(node, "not-text", "nothing is written here, and text is wanted", 'write "" for the empty value')
        return None
    if not is_label_value(node.value):
        fault = f'"{shown(node.value)}" is no label value'
        fields.error(node, "label-value", fault, f"a label value is {VALUE_RULE}")
        return None
    if not _is_sure(node.value, node.implicit[0]):
        return fields.unquoted(node)
    return node.value

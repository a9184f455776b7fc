"""Blocks of addresses as manifests have them (CIDRs), to networks in their one form.

Stricter than `ipaddress` and the older API servers: addresses with leading zeros and IPv4 written as IPv6 are refused,
as newer API servers refuse them.
"""

from __future__ import annotations

import re
from functools import lru_cache
from ipaddress import IPv6Network, ip_interface, ip_network

from netpold.policy.fields import Fields
from netpold.policy.model import Network
from netpold.policy.tree import Node, shown

CIDR_CURE = "write an address, `/` and the prefix length: `10.0.0.0/8` or `2001:db8::/32`"

_CIDR = re.compile(r"(?P<address>[0-9A-Fa-f:.]+)/(?:0|[1-9][0-9]{0,2})")
_LEADING_ZERO = re.compile(r"(?:^|\.)0[0-9]")
_LONGEST = 43  # characters, in policies of the cluster: IPv6 in full, and three digits


def cidr(fields: Fields, node: Node) -> Network | None:
    """A CIDR in its one form.  Bits beyond the prefix are cut, as those do who implement NetworkPolicy."""
    text, found, canonical = written_cidr(fields, node)
    if found is not None:
        tell_form(fields, node, text, found, canonical)
    return found


def short_cidr(fields: Fields, node: Node, *, is_masked: bool) -> Network | None:
    """A CIDR of a policy of the cluster in its one form.  `is_masked`: bits beyond the prefix are refused, not cut."""
    text, found, canonical = written_cidr(fields, node)
    if found is None:
        return None
    if is_masked and ip_interface(text).ip != found.network_address:
        fault = f"`{shown(text)}` has bits set beyond the prefix"
        fields.error(node, "cidr-host-bits", fault, _host_bits_cure(text, found, canonical))
        return None
    if len(text) > _LONGEST:
        fault = f"`{shown(text)}` has {len(text)} characters, the limit is {_LONGEST}"
        fields.error(node, "cidr", fault, f"write `{canonical}`")
        return None
    tell_form(fields, node, text, found, canonical)
    return found


def written_cidr(fields: Fields, node: Node) -> tuple[str, Network | None, str]:
    """A CIDR as it is written, as it is taken (None where it is wrong), and in its one form."""
    text = fields.text(node) if fields.required(node, CIDR_CURE) else None
    if text is None:
        return "", None, ""
    found, canonical = parse_cidr(text)
    if found is None:
        fields.error(node, "cidr", f'"{shown(text)}" is no CIDR', _cure(text))
    elif isinstance(found, IPv6Network) and found.network_address.ipv4_mapped and found.prefixlen >= 96:
        mapped = f"{found.network_address.ipv4_mapped}/{found.prefixlen - 96}"
        fields.error(node, "cidr", f"`{shown(text)}` is IPv4 written as IPv6", f"write `{mapped}`")
        return text, None, ""
    return text, found, canonical


def tell_form(fields: Fields, node: Node, text: str, found: Network, canonical: str) -> None:
    """Note that a CIDR is not written in its one form."""
    if text != canonical:
        fault = f"`{shown(text)}` is taken as {canonical}"
        if ip_interface(text).ip != found.network_address:
            fault += ": it has bits set beyond the prefix"
            fields.warn(node, "cidr-host-bits", fault, _host_bits_cure(text, found, canonical))
        else:
            fields.warn(node, "cidr-not-canonical", fault, f"write `{canonical}`")


@lru_cache(maxsize=1 << 12)
def parse_cidr(text: str) -> tuple[Network | None, str]:
    """A CIDR and its one form; stricter than `ipaddress`, which takes netmasks and scopes."""
    if not _CIDR.fullmatch(text):
        return None, ""
    try:
        found = ip_network(text, strict=False)
    except ValueError:
        return None, ""
    return found, str(found)


def _host_bits_cure(text: str, found: Network, canonical: str) -> str:
    alone = f"{text.partition('/')[0]}/{found.max_prefixlen}"
    return f"write `{canonical}`, or `{alone}` if that one address is meant"


def _cure(text: str) -> str:
    _, canonical = parse_cidr(f"{text}/32" if ":" not in text else f"{text}/128")
    if canonical:
        return f"write `{canonical}` for that one address"
    if _LEADING_ZERO.search(text):
        return "write the numbers without leading zeros (some programs read them as octal)"
    return CIDR_CURE

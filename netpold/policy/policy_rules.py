"""The rules of a NetworkPolicy: entries of `ingress` and `egress`, their peers and ports, to model.PolicyRule.

Checked as in Kubernetes' apis/networking/validation.  Stricter in two points: null is refused, because the API server
takes it as if nothing were written, and here nothing written allows all; and addresses with leading zeros or IPv4
written as IPv6 are, as newer API servers refuse them.  Shapes that people get wrong (a map for a list) are refused
with the mended YAML.
"""

from __future__ import annotations

import re
from functools import lru_cache
from ipaddress import IPv6Network, ip_interface, ip_network

from netpold.policy.checks import SERVICE_RULE, is_port_name
from netpold.policy.fields import Fields, nearest
from netpold.policy.model import EVERYTHING, IPBlock, Network, Peer, PodPeer, PolicyPort, PolicyRule, Protocol
from netpold.policy.selectors import beside, selector
from netpold.policy.tree import Map, Node, Scalar, Seq, Type, is_flow, is_null, is_text, new_seq, shown, type_of

PEERS = {"ingress": "from", "egress": "to"}

_PEER = frozenset({"podSelector", "namespaceSelector", "ipBlock"})
_SELECTORS = frozenset({"podSelector", "namespaceSelector"})
_IP_BLOCK = frozenset({"cidr", "except"})
_PORT = frozenset({"port", "protocol", "endPort"})
_PROTOCOLS: dict[str, Protocol] = {"TCP": "TCP", "UDP": "UDP", "SCTP": "SCTP"}
_RULE_HINTS = {
    "to": "ingress rules have `from`",
    "from": "egress rules have `to`",
    "port": "write `ports:`, and `- port:` below it",
    "protocol": "write `ports:`, and `- protocol:` below it",
}
_PEER_HINTS = {
    "cidr": "write `ipBlock:`, and `cidr:` below it",
    "except": "write it below `ipBlock:`, beside `cidr:`",
    "matchLabels": "write `podSelector:` or `namespaceSelector:` above it",
    "ports": "write it one level up, beside `from` or `to`",
}
_CIDR = re.compile(r"(?P<address>[0-9A-Fa-f:.]+)/(?:0|[1-9][0-9]{0,2})")
_NOBODY = IPBlock(ip_network("0.0.0.0/32"))  # stands for a wrong peer; a policy that has one has no rules in the end
_PORT_IN_ONE = re.compile(r"(?P<first>[0-9]{1,5})(?:-(?P<last>[0-9]{1,5}))?(?:/(?P<protocol>TCP|UDP|SCTP))?")
_LEADING_ZERO = re.compile(r"(?:^|\.)0[0-9]")
_CIDR_CURE = "write an address, `/` and the prefix length: `10.0.0.0/8` or `2001:db8::/32`"


def rules(fields: Fields, node: Node | None, direction: str) -> tuple[PolicyRule, ...]:
    """The rules below `ingress` or `egress` (`direction`).  Absent, null and empty: none."""
    empty = f"`{direction}: [{{}}]` to allow all, `{direction}: []` to allow nothing"
    entries = _list(fields, node, direction, empty)
    return tuple(_rule(fields, entry, direction) for entry in entries or ())


def _rule(fields: Fields, node: Node, direction: str) -> PolicyRule:
    peers_key = PEERS[direction]
    cure = f"write `{peers_key}:` and `ports:`, or `{{}}` to allow all"
    found = fields.map(node, cure) if fields.required(node, cure) else None
    if found is None:
        return PolicyRule((), ())
    fields.known(found, frozenset({peers_key, "ports"}), _RULE_HINTS)
    peers = _below(fields, found, peers_key, "take it out to allow everybody")
    ports = _below(fields, found, "ports", "take it out to allow all ports")
    return PolicyRule(
        tuple([_peer(fields, entry) for entry in peers]) if peers else None,
        tuple([_port(fields, entry) for entry in ports]) if ports else None,
        fields.position(found),
    )


def _below(fields: Fields, rule: Map, key: str, cure: str, cidr: Network | None = None) -> Seq | None:
    node = rule.get(key)
    if node is None or not fields.required(node, f"write the list, or {cure}"):
        return None
    return _list(fields, node, key, f"a list, or {cure}", cidr)


def _list(fields: Fields, node: Node | None, key: str, empty: str, cidr: Network | None = None) -> Seq | None:
    """A list, and where a map or one value stands there instead, how to make it one; of `except`, inside `cidr`."""
    if isinstance(node, Map):
        if node and is_flow(node):
            cure = f"put it into brackets: `[{{{_key_as_written(node)}: ...}}]`"
        elif node:
            first = next(iter(node))
            cure = f"write `- ` before `{shown(first)}:`, so that below `{key}:` stands `- {shown(first)}: ...`"
        else:
            cure = f"write {empty}"
        fields.error(node, "map-for-list", f"`{key}` is a list, here is a map", cure)
        return _only(node) if node and key != "except" else None
    if isinstance(node, Scalar) and not is_null(node):
        meant = (_meant_inside(node.value, cidr) if cidr else None) or shown(node.value)
        cure = f"write `{key}: [{meant}]`"
        fields.error(node, "wrong-type", f"`{key}` is a list, here is one value", cure)
        return _only(node) if key == "except" else None
    return fields.seq(node)


def _key_as_written(node: Map) -> str:
    """The first key of a map, in quotes where it is (in JSON)."""
    first = next(iter(node.scalars.values()))
    return shown(first.value) if first.implicit[0] else f'"{shown(first.value)}"'


def _only(node: Map | Scalar) -> Seq:
    """A list with one entry: what stands where a list should is looked through as if it were its entry."""
    entries = new_seq(node.start_mark)
    entries.append(node)
    return entries


def _peer(fields: Fields, node: Node) -> Peer:
    cure = "write `podSelector:`, `namespaceSelector:` or `ipBlock:` after the `- `"
    found = fields.map(node, cure) if fields.required(node, cure) else None
    if found is None:
        return _NOBODY
    misplaced = beside(found, _SELECTORS)
    fields.known(found, _PEER, {**_PEER_HINTS, **misplaced})
    if misplaced:
        return _NOBODY
    if not found and found.whole:
        fields.error(found, "empty-peer", "a peer has to say who it is", f"{cure}, or take `from` or `to` out for all")
    if "ipBlock" in found:
        if len(found) > 1:
            fault = "`ipBlock` stands beside a selector"
            cure = "make two entries of it, " + ("`{...}, {...}`" if is_flow(found) else "each with a `- ` of its own")
            fields.error(found, "mixed-peer", fault, cure)
        return _ip_block(fields, found["ipBlock"]) or _NOBODY
    pods = selector(fields, found["podSelector"]) if "podSelector" in found else None
    namespaces = selector(fields, found["namespaceSelector"]) if "namespaceSelector" in found else None
    return PodPeer(pods or EVERYTHING, namespaces)


def _ip_block(fields: Fields, node: Node) -> IPBlock | None:
    found = fields.map(node, f"write `cidr:` below it; {_CIDR_CURE}") if fields.required(node, _CIDR_CURE) else None
    if found is None:
        return None
    fields.known(found, _IP_BLOCK)
    if "cidr" not in found:
        fields.missing(found, "cidr", f"write `cidr:` below `ipBlock:`; {_CIDR_CURE}")
    cidr = _cidr(fields, found["cidr"]) if "cidr" in found else None
    entries = _below(fields, found, "except", "take it out", cidr)
    excepts = [_except(fields, entry, cidr) for entry in entries or ()]
    unique = {str(network): network for network in excepts if network is not None}
    return IPBlock(cidr, tuple(unique[text] for text in sorted(unique))) if cidr else None


def _except(fields: Fields, node: Node, cidr: Network | None) -> Network | None:
    text, network, canonical = _network(fields, node)
    if network is None:
        return None
    fault = _why_not_inside(network, cidr) if cidr else ""
    if fault:
        meant = _meant_inside(text, cidr) if cidr else None
        cure = "an entry of `except` lies inside `cidr` and is smaller"
        fields.error(node, "except-outside", fault, f"write `{meant}`, if that is meant: {cure}" if meant else cure)
    else:
        _tell_form(fields, node, text, network, canonical)
    return network


def _why_not_inside(network: Network, cidr: Network) -> str:
    if network.version != cidr.version:
        return f"{network} is IPv{network.version} and `cidr` is IPv{cidr.version}"
    if network.prefixlen <= cidr.prefixlen or not network.subnet_of(cidr):  # type: ignore[arg-type]
        return f"{network} is no part of `cidr`, {cidr}" if network != cidr else f"{network} is all of `cidr`"
    return ""


def _meant_inside(text: str, cidr: Network) -> str | None:
    """What was likely meant by an entry of `except` that is too wide: the address as written, up to its last part that
    is not zero.  None where that is not inside `cidr` either."""
    network, _ = _parse_cidr(text)
    if network is None or not _why_not_inside(network, cidr):
        return None
    address = ip_interface(text).ip
    part = 8 if address.version == 4 else 16
    zeros = (int(address) & -int(address)).bit_length() - 1
    meant = ip_network((address, address.max_prefixlen - zeros // part * part)) if int(address) else network
    return None if _why_not_inside(meant, cidr) else str(meant)


def _cidr(fields: Fields, node: Node) -> Network | None:
    """A CIDR in its one form.  Bits beyond the prefix are cut, as those do who implement the API."""
    text, network, canonical = _network(fields, node)
    if network is not None:
        _tell_form(fields, node, text, network, canonical)
    return network


def _network(fields: Fields, node: Node) -> tuple[str, Network | None, str]:
    """A CIDR as it is written, as it is taken (None where it is wrong), and in its one form."""
    text = fields.text(node) if fields.required(node, _CIDR_CURE) else None
    if text is None:
        return "", None, ""
    network, canonical = _parse_cidr(text)
    if network is None:
        fields.error(node, "cidr", f'"{shown(text)}" is no CIDR', _cidr_cure(text))
    elif isinstance(network, IPv6Network) and network.network_address.ipv4_mapped and network.prefixlen >= 96:
        mapped = f"{network.network_address.ipv4_mapped}/{network.prefixlen - 96}"
        fields.error(node, "cidr", f"`{shown(text)}` is IPv4 written as IPv6", f"write `{mapped}`")
        return text, None, ""
    return text, network, canonical


def _tell_form(fields: Fields, node: Node, text: str, network: Network, canonical: str) -> None:
    if text != canonical:
        fault = f"`{shown(text)}` is taken as {canonical}"
        if ip_interface(text).ip != network.network_address:
            alone = f"{text.partition('/')[0]}/{network.max_prefixlen}"
            cure = f"write `{canonical}`, or `{alone}` if that one address is meant"
            fields.warn(node, "cidr-host-bits", f"{fault}: it has bits set beyond the prefix", cure)
        else:
            fields.warn(node, "cidr-not-canonical", fault, f"write `{canonical}`")


@lru_cache(maxsize=1 << 12)
def _parse_cidr(text: str) -> tuple[Network | None, str]:
    """A CIDR and its one form; stricter than `ipaddress`, which takes netmasks and scopes."""
    if not _CIDR.fullmatch(text):
        return None, ""
    try:
        network = ip_network(text, strict=False)
    except ValueError:
        return None, ""
    return network, str(network)


def _cidr_cure(text: str) -> str:
    _, canonical = _parse_cidr(f"{text}/32" if ":" not in text else f"{text}/128")
    if canonical:
        return f"write `{canonical}` for that one address"
    if _LEADING_ZERO.search(text):
        return "write the numbers without leading zeros (some programs read them as octal)"
    return _CIDR_CURE


def _port(fields: Fields, node: Node) -> PolicyPort:
    cure = "write `port:` and, if it is not TCP, `protocol:` after the `- `"
    if isinstance(node, Scalar):
        cure = _port_cure(node.value) or cure
    found = fields.map(node, cure) if fields.required(node, cure) else None
    if found is None:
        return PolicyPort()
    fields.known(found, _PORT)
    port = _port_value(fields, found["port"]) if "port" in found else None
    end_port = _end_port(fields, found, port) if "endPort" in found else None
    protocol = _protocol(fields, found["protocol"]) if "protocol" in found else "TCP"
    return PolicyPort(protocol, port, end_port)


def _protocol(fields: Fields, node: Node) -> Protocol:
    cure = "write TCP, UDP or SCTP, or take the field out for TCP"
    name = fields.text(node) if fields.required(node, cure) else None
    if name is not None and name not in _PROTOCOLS:
        meant = nearest(name, _PROTOCOLS)
        fields.error(node, "protocol", f'there is no protocol "{shown(name)}"', f"write `{meant}`" if meant else cure)
    return _PROTOCOLS.get(name or "", "TCP")


def _port_value(fields: Fields, node: Node) -> int | str | None:
    cure = "write a number or a container port's name, or take the field out for all ports"
    if not fields.required(node, cure):
        return None
    if isinstance(node, Scalar) and is_text(node):
        if not is_port_name(node.value):
            if node.value.isdecimal() and not node.implicit[0]:
                cure = f"write it without quotes: `port: {shown(node.value)}`"
                fault = f'"{shown(node.value)}" in quotes is a port\'s name, and a name has a letter in it'
            else:
                fault = f'"{shown(node.value)}" is no port name'
                cure = _port_cure(node.value) or f"a port's name is {SERVICE_RULE}"
            fields.error(node, "port-name", fault, cure)
        return node.value
    if isinstance(node, Scalar) and type_of(node) is not Type.INT:
        fields.error(node, "wrong-type", f"`{shown(node.value)}` is {type_of(node).value}, and no port", cure)
        return None
    return _port_number(fields, node)


def _port_cure(text: str) -> str:
    """How to write what `8000-9000` and `80/TCP` mean; '' for what is not like that."""
    found = _PORT_IN_ONE.fullmatch(text.upper())
    if not found:
        return ""
    written = {"port": found["first"], "endPort": found["last"], "protocol": found["protocol"]}
    return f"write {' and '.join(f'`{name}: {value}`' for name, value in written.items() if value)}"


def _port_number(fields: Fields, node: Node) -> int | None:
    number = fields.number(node)
    if number is not None and not 1 <= number <= 65535:
        fields.error(node, "port-number", f"there is no port {shown(str(number))}", "write a number from 1 to 65535")
    return number


def _end_port(fields: Fields, found: Map, port: int | str | None) -> int | None:
    node = found["endPort"]
    end = _port_number(fields, node) if fields.required(node, "write a number, or take the field out") else None
    if "port" not in found or isinstance(port, str):
        fault = "`endPort` needs a `port` that is a number"
        fields.error(found.scalars["endPort"], "end-port", fault, "write the first port of the range as `port:`")
    elif end is not None and port is not None and end < port:
        fields.error(node, "end-port", f"`endPort` {end} is less than `port` {port}", "write the range the other way")
    return end

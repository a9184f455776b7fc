"""The rules of a NetworkPolicy: entries of `ingress` and `egress`, their peers and ports, to model.PolicyRule.

Checked as in Kubernetes' apis/networking/validation.  Stricter: null is refused, because the API server takes it as if
nothing were written, and here nothing written allows all.  Shapes that people get wrong (a map for a list) are refused
with the mended YAML.
"""

from __future__ import annotations

from ipaddress import ip_interface, ip_network

from netpold.policy.blocks import CIDR_CURE, cidr, parse_cidr, tell_form, written_cidr
from netpold.policy.fields import Fields
from netpold.policy.lists import entries
from netpold.policy.model import EVERYTHING, IPBlock, Network, Peer, PodPeer, PolicyPort, PolicyRule
from netpold.policy.port_fields import port_cure, port_number, port_value, protocol
from netpold.policy.selectors import beside, selector
from netpold.policy.tree import Map, Node, Scalar, Seq, is_flow

PEERS = {"ingress": "from", "egress": "to"}

_PEER = frozenset({"podSelector", "namespaceSelector", "ipBlock"})
_SELECTORS = frozenset({"podSelector", "namespaceSelector"})
_IP_BLOCK = frozenset({"cidr", "except"})
_PORT = frozenset({"port", "protocol", "endPort"})
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
_NOBODY = IPBlock(ip_network("0.0.0.0/32"))  # stands for a wrong peer; a policy that has one has no rules in the end


def rules(fields: Fields, node: Node | None, direction: str) -> tuple[PolicyRule, ...]:
    """The rules below `ingress` or `egress` (`direction`).  Absent, null and empty: none."""
    empty = f"`{direction}: [{{}}]` to allow all, `{direction}: []` to allow nothing"
    return tuple(_rule(fields, entry, direction) for entry in entries(fields, node, direction, empty) or ())


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


def _below(fields: Fields, rule: Map, key: str, cure: str) -> Seq | None:
    node = rule.get(key)
    if node is None or not fields.required(node, f"write the list, or {cure}"):
        return None
    return entries(fields, node, key, f"a list, or {cure}")


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
    found = fields.map(node, f"write `cidr:` below it; {CIDR_CURE}") if fields.required(node, CIDR_CURE) else None
    if found is None:
        return None
    fields.known(found, _IP_BLOCK)
    if "cidr" not in found:
        fields.missing(found, "cidr", f"write `cidr:` below `ipBlock:`; {CIDR_CURE}")
    block = cidr(fields, found["cidr"]) if "cidr" in found else None
    excepts = [_except(fields, entry, block) for entry in _excepts(fields, found, block)]
    unique = {str(network): network for network in excepts if network is not None}
    return IPBlock(block, tuple(unique[text] for text in sorted(unique))) if block else None


def _excepts(fields: Fields, found: Map, block: Network | None) -> Seq:
    node = found.get("except")
    if node is None or not fields.required(node, "write the list, or take it out"):
        return Seq()
    empty = "a list, or take it out"

    def meant(text: str) -> str | None:
        return _meant_inside(text, block) if block else None

    return entries(fields, node, "except", empty, of_text=True, meant=meant) or Seq()


def _except(fields: Fields, node: Node, block: Network | None) -> Network | None:
    text, network, canonical = written_cidr(fields, node)
    if network is None:
        return None
    fault = _why_not_inside(network, block) if block else ""
    if fault:
        meant = _meant_inside(text, block) if block else None
        cure = "an entry of `except` lies inside `cidr` and is smaller"
        fields.error(node, "except-outside", fault, f"write `{meant}`, if that is meant: {cure}" if meant else cure)
    else:
        tell_form(fields, node, text, network, canonical)
    return network


def _why_not_inside(network: Network, block: Network) -> str:
    if network.version != block.version:
        return f"{network} is IPv{network.version} and `cidr` is IPv{block.version}"
    if network.prefixlen <= block.prefixlen or not network.subnet_of(block):  # type: ignore[arg-type]
        return f"{network} is no part of `cidr`, {block}" if network != block else f"{network} is all of `cidr`"
    return ""


def _meant_inside(text: str, block: Network) -> str | None:
    """What was likely meant by an entry of `except` that is too wide: the address as written, up to its last part that
    is not zero.  None where that is not inside `cidr` either."""
    network, _ = parse_cidr(text)
    if network is None or not _why_not_inside(network, block):
        return None
    address = ip_interface(text).ip
    part = 8 if address.version == 4 else 16
    zeros = (int(address) & -int(address)).bit_length() - 1
    meant = ip_network((address, address.max_prefixlen - zeros // part * part)) if int(address) else network
    return None if _why_not_inside(meant, block) else str(meant)


def _port(fields: Fields, node: Node) -> PolicyPort:
    cure = "write `port:` and, if it is not TCP, `protocol:` after the `- `"
    if isinstance(node, Scalar):
        cure = port_cure(node.value) or cure
    found = fields.map(node, cure) if fields.required(node, cure) else None
    if found is None:
        return PolicyPort()
    fields.known(found, _PORT)
    port = port_value(fields, found["port"]) if "port" in found else None
    end_port = _end_port(fields, found, port) if "endPort" in found else None
    name = protocol(fields, found["protocol"]) if "protocol" in found else "TCP"
    return PolicyPort(name, port, end_port)


def _end_port(fields: Fields, found: Map, port: int | str | None) -> int | None:
    node = found["endPort"]
    end = port_number(fields, node) if fields.required(node, "write a number, or take the field out") else None
    if "port" not in found or isinstance(port, str):
        fault = "`endPort` needs a `port` that is a number"
        fields.error(found.scalars["endPort"], "end-port", fault, "write the first port of the range as `port:`")
    elif end is not None and port is not None and end < port:
        fields.error(node, "end-port", f"`endPort` {end} is less than `port` {port}", "write the range the other way")
    return end

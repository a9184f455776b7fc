"""Node (v1) from its tree to model.Node.

Of a Node only what netpold reads is checked; other fields of its spec and status may come from newer versions of
Kubernetes.  A Node with errors keeps what could be read of its addresses; its labels count as unknown.
"""

from __future__ import annotations

from netpold.policy.checks import SUBDOMAIN_RULE, canonical_address, is_dns_subdomain
from netpold.policy.fields import Fields, words
from netpold.policy.metadata import cluster_metadata
from netpold.policy.model import Node as ClusterNode
from netpold.policy.tree import Map, Node, Scalar, Seq, is_text, shown

_OBJECT = frozenset({"apiVersion", "kind", "metadata", "spec", "status"})
_SPEC = words("podCIDR podCIDRs providerID unschedulable taints configSource externalID")
_STATUS = words(
    "capacity allocatable phase conditions addresses daemonEndpoints nodeInfo images volumesInUse volumesAttached "
    "config runtimeHandlers features declaredFeatures"
)
_ADDRESS = frozenset({"type", "address"})
_IP_TYPES = frozenset({"InternalIP", "ExternalIP"})  # of other types are names, too
MOST_ADDRESSES = 64


def read_node(fields: Fields, root: Map) -> ClusterNode | None:
    """The node of a document; None where its name can't be read."""
    fields.known(root, _OBJECT)
    about = cluster_metadata(fields, root, is_dns_subdomain, SUBDOMAIN_RULE)
    fields.subject = f"Node {about.name or '?'}"
    spec = fields.map(root.get("spec"))
    if spec is not None:
        fields.mostly_known(spec, _SPEC, ())
    addresses = _addresses(fields, root.get("status"))
    if about.name is None:
        return None
    labels = {} if fields.failed else about.labels
    return ClusterNode(about.name, labels, addresses, fields.position(root), fields.failed)


def _addresses(fields: Fields, node: Node | None) -> tuple[str, ...]:
    status = fields.map(node)
    if status is None:
        return ()
    fields.mostly_known(status, _STATUS, ("addresses",))
    cure = "write a list: `- {type: InternalIP, address: 10.0.0.1}`"
    entries = fields.seq(status.get("addresses"), cure) or Seq()
    if len(entries) > MOST_ADDRESSES:
        fault = f"{len(entries)} addresses; a node has {MOST_ADDRESSES} at most, and the others are not taken"
        fields.error(entries, "too-many-addresses", fault, "write those that the node has")
    found = (_address(fields, entry, cure) for entry in entries[:MOST_ADDRESSES])
    return tuple(dict.fromkeys(address for address in found if address))


def _address(fields: Fields, node: Node, cure: str) -> str | None:
    found = fields.map(node, cure)
    if found is None:
        return None
    fields.known(found, _ADDRESS)
    kind = fields.text(found["type"]) if "type" in found else None
    value = found.get("address")
    if kind not in _IP_TYPES:
        text = value.value if isinstance(value, Scalar) and is_text(value) else None
        return canonical_address(text) if text else None
    text = fields.text(value)
    if not text or value is None:
        fields.missing(found, "address", "write `address:` and the address")
        return None
    address = canonical_address(text)
    if address is None:
        fault = f'"{shown(text)}" is no address that a node can have'
        fields.error(value, "node-address", fault, "write an address: `10.0.0.1` or `2001:db8::1`")
    return address

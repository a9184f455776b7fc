"""Which open flows the ruleset no longer allows.

Packets of a flow's original direction are judged one by one, so they stop by themselves.  What the answering side
sends passes as long as the flow is known; so a flow that is no longer allowed has to be forgotten by conntrack.

A TCP flow is only forgotten when the answering side may not begin one of its own in the other direction: conntrack
picks connections up in the middle (nf_conntrack_tcp_loose), and would take the next answer for the beginning of an
allowed flow, with the side that is refused as the one that answers.  Left as it is, it stalls for want of
acknowledgements, which are packets of the original direction.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache

from netpold.rules.endpoint import Endpoint
from netpold.rules.ruleset import Ruleset
from netpold.rules.walk import Packet, walk


@dataclass(frozen=True, slots=True)
class Flow:
    """A conntrack entry.  `source`, `destination`, ports: of the original direction as the sender wrote them;
    `peer`, `peer_port`: who answers, which is another than the destination where that was translated (DNAT).
    Ports are None where the protocol has none; `protocol` is iptables' name, or a number as text.
    `entry`: it as the kernel wrote it down, to delete it by."""

    protocol: str
    source: str
    destination: str
    source_port: int | None
    destination_port: int | None
    peer: str
    peer_port: int | None
    entry: bytes = b""


def revoked(flows: Iterable[Flow], ruleset: Ruleset, endpoints: Mapping[str, Endpoint]) -> Iterator[Flow]:
    """The flows of local pods that the ruleset refuses."""
    at = {address: endpoint for endpoint in endpoints.values() for address in endpoint.addresses}

    @cache  # many flows differ by their source port only
    def refused(protocol: str, source: str, destination: str, port: int | None) -> bool:
        return _refused(ruleset, at, protocol, source, destination, port)

    for flow in flows:
        if flow.source not in at and flow.peer not in at:
            continue
        if not refused(flow.protocol, flow.source, flow.peer, flow.peer_port):
            continue
        if flow.protocol != "tcp" or refused("tcp", flow.peer, flow.source, flow.source_port):
            yield flow


def _refused(
    ruleset: Ruleset, at: Mapping[str, Endpoint], protocol: str, source: str, destination: str, port: int | None
) -> bool:
    incoming, in_port = _interface(at.get(source))
    outgoing, out_port = _interface(at.get(destination))
    packet = Packet(
        source, destination, protocol, port, incoming, outgoing, in_port=in_port, out_port=out_port if in_port else ""
    )
    return walk(ruleset, ruleset.hooks.get("FORWARD", ""), packet).verdict == "DROP"


def _interface(endpoint: Endpoint | None) -> tuple[str, str]:
    """The interface that packets of an endpoint pass, and the bridge port; '' for none."""
    if endpoint is None or not endpoint.interfaces:
        return "", ""
    first = endpoint.interfaces[0]
    return ("", first.name) if first.bridged else (first.name, "")

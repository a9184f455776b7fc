"""Which open flows the ruleset no longer allows, and how each of them is made to stop.

Packets of a flow's original direction are judged one by one, so they stop by themselves.  What the answering side
sends passes as long as conntrack knows the flow.  So conntrack is made to forget a flow that is no longer allowed:
what the answering side sends next is then the beginning of a flow of its own, and judged as one.

That is wrong for TCP where the answering side may begin a connection to the other: conntrack picks connections up in
the middle (nf_conntrack_tcp_loose), so the answers to what is refused would pass as an allowed new flow.  Such a
connection stays in conntrack, and what answers it is dropped: a rule just before the one that lets replies pass looks
server, port and client up in the set of revoked connections.  Should another program have conntrack forget it, what
the server sends from that port without a SYN is still dropped, so it is not picked up.  The ruleset holds that set with
no members; they follow the flows that are open and not the policies, so the daemon's `Cutter` fills it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property

from netpold.policy.model import Family
from netpold.rules.endpoint import Endpoint
from netpold.rules.ruleset import InSet, IPSet, NoSyn, Proto, Reply, Rule, Ruleset, Unknown
from netpold.rules.walk import Packet, walk

REVOKED: Mapping[Family, str] = {4: "NP4-REVOKED", 6: "NP6-REVOKED"}


def revoked_set(family: Family) -> IPSet:
    """The set of revoked connections, as a ruleset holds it; its members: see `Connection`."""
    return IPSet(REVOKED[family], family, "hash:ip,port,ip", "revoked connections", frozenset(), "forbids")


def revoked_rule(family: Family) -> Rule:
    """Drops what answers a revoked connection; its place is just before the rule that lets replies pass."""
    return Rule((Proto("tcp"), Reply(), InSet(REVOKED[family], "src,src,dst")), "DROP", "revoked connection")


def forgotten_rule(family: Family) -> Rule:
    """Drops the same where conntrack does not know the connection any more; its place is behind that rule."""
    matches = (Proto("tcp"), NoSyn(), Unknown(), InSet(REVOKED[family], "src,src,dst"))
    return Rule(matches, "DROP", "revoked connection, forgotten by conntrack")


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


@dataclass(frozen=True, slots=True)
class Connection:
    """All TCP flows of a client to a port of a server: what is judged alike, and what a member of the set of revoked
    connections stands for.  The server is who answers (`Flow.peer`)."""

    client: str
    server: str
    port: int

    @property
    def family(self) -> Family:
        return 6 if ":" in self.client else 4

    @property
    def member(self) -> str:
        """As ipset prints it."""
        return f"{self.server},tcp:{self.port},{self.client}"

    @staticmethod
    def of(member: str) -> Connection | None:
        """What a member stands for; None where it is none of netpold's."""
        server, middle, client = member.split(",")
        protocol, _, port = middle.partition(":")
        return Connection(client, server, int(port)) if protocol == "tcp" else None


def connection(flow: Flow) -> Connection | None:
    """The connection that a flow belongs to; None where it is not TCP."""
    if flow.protocol != "tcp" or flow.peer_port is None:
        return None
    return Connection(flow.source, flow.peer, flow.peer_port)


@dataclass(frozen=True, slots=True)
class Enforced:
    """What flows are judged by: the ruleset, the local pods by key, and the node's own addresses, whose flows pass
    INPUT and OUTPUT instead of FORWARD."""

    ruleset: Ruleset
    endpoints: Mapping[str, Endpoint]
    own: frozenset[str] = frozenset()


class Judge:
    """Judges flows, and remembers what it found: for as long as the ruleset's sets do not change."""

    def __init__(self, enforced: Enforced) -> None:
        self._enforced = enforced
        self._refuses = cache(self._walk)  # many flows differ by their source port only

    @cached_property
    def _at(self) -> Mapping[str, Endpoint]:
        return {address: each for each in self._enforced.endpoints.values() for address in each.addresses}

    def refuses(self, flow: Flow) -> bool:
        """Whether the flow is one of a local pod that the ruleset does not allow."""
        return self._refuses(flow.protocol, flow.source, flow.peer, flow.peer_port)

    def refuses_connection(self, connection: Connection) -> bool:
        return self._refuses("tcp", connection.client, connection.server, connection.port)

    def would_revive(self, flow: Flow) -> bool:
        """Whether conntrack, had it forgotten this flow, would take the next answer for an allowed flow, though it is
        none: TCP, and the answering side may begin a connection to the port that the flow came from."""
        return flow.protocol == "tcp" and not self._refuses("tcp", flow.peer, flow.source, flow.source_port)

    def _walk(self, protocol: str, source: str, destination: str, port: int | None) -> bool:
        sender, receiver = self._at.get(source), self._at.get(destination)
        if sender is None and receiver is None:
            return False
        incoming, in_port = _interface(sender)
        outgoing, out_port = _interface(receiver)
        out_port = out_port if in_port else ""  # physdev-out says nothing of routed packets
        packet = Packet(source, destination, protocol, port, incoming, outgoing, in_port=in_port, out_port=out_port)
        chain = self._enforced.ruleset.hooks.get(self._hook(source, destination))
        return chain is not None and walk(self._enforced.ruleset, chain, packet).verdict == "DROP"

    def _hook(self, source: str, destination: str) -> str:
        if source in self._enforced.own:
            return "OUTPUT"
        return "INPUT" if destination in self._enforced.own else "FORWARD"


def _interface(endpoint: Endpoint | None) -> tuple[str, str]:
    """The interface that packets of an endpoint pass, and the bridge port; '' for none."""
    if endpoint is None or not endpoint.interfaces:
        return "", ""
    first = endpoint.interfaces[0]
    return ("", first.name) if first.bridged else (first.name, "")

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

Whose an IPv6 link-local address is nothing here tells.  So a flow of one is refused as soon as the tiers of any pod of
this node deny it, or deny that it comes to any: what they deny to pods or nodes, they deny to all of these addresses.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property

from netpold.policy.model import Direction, Family
from netpold.rules import at_home, places
from netpold.rules.endpoint import Endpoint
from netpold.rules.ruleset import Goto, InSet, IPSet, Jump, NoSyn, Proto, Reply, Rule, Ruleset, Unknown
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
    INPUT and OUTPUT instead of FORWARD; `links`: its IPv6 link-local ones."""

    ruleset: Ruleset
    endpoints: Mapping[str, Endpoint]
    own: frozenset[str] = frozenset()
    links: frozenset[str] = frozenset()


class Judge:
    """Judges flows, and remembers what it found: for as long as the ruleset's sets do not change."""

    def __init__(self, enforced: Enforced) -> None:
        self._enforced = enforced
        self._refuses = cache(self._is_refused)  # many flows differ by their source port only
        self._allows = cache(self._may_be_allowed)

    @cached_property
    def _at(self) -> Mapping[str, Endpoint]:
        return {address: each for each in self._enforced.endpoints.values() for address in each.judged_at}

    def refuses(self, flow: Flow) -> bool:
        """Whether the flow is one of a local pod that the ruleset does not allow."""
        return self._refuses(flow.protocol, flow.source, flow.peer, flow.peer_port)

    def refuses_connection(self, connection: Connection) -> bool:
        return self._refuses("tcp", connection.client, connection.server, connection.port)

    def would_revive(self, flow: Flow) -> bool:
        """Whether conntrack, had it forgotten this flow, would take the next answer for an allowed flow, though it is
        none: TCP, and the answering side may begin a connection to the port that the flow came from."""
        return flow.protocol == "tcp" and self._allows("tcp", flow.peer, flow.source, flow.source_port)

    @property
    def knows_links(self) -> bool:
        """Whether flows of IPv6 link-local addresses may be refused."""
        return any(self._tiers.values())

    def _is_refused(self, protocol: str, source: str, destination: str, port: int | None) -> bool:
        return self._walk(protocol, source, destination, port) or self._denied_on_link(
            protocol, source, destination, port
        )

    def _may_be_allowed(self, protocol: str, source: str, destination: str, port: int | None) -> bool:
        return not self._walk(protocol, source, destination, port)

    @cached_property
    def _tiers(self) -> Mapping[str, frozenset[str]]:
        """The chains that say what tiers do to IPv6 packets, by the beginning of the names of those that lead there."""
        chains = self._enforced.ruleset.chains[6]
        found: dict[str, frozenset[str]] = {}
        for prefix in (_HOST, *_AWAY.values()):
            behind = {
                rule.target.chain
                for name, rules in chains.items()
                if name.startswith(prefix)
                for rule in rules
                if isinstance(rule.target, Goto | Jump)
            }
            found[prefix] = frozenset(each for each in behind if self._is_of_tiers(each))
        return found

    def _is_of_tiers(self, chain: str) -> bool:
        """Whether any of its rules, or of those that it jumps to, is made from a ClusterNetworkPolicy's."""
        rules = self._enforced.ruleset.chains[6].get(chain, ())
        return any(
            (rule.origin is not None and rule.origin.tier is not None)
            or (isinstance(rule.target, Jump) and self._is_of_tiers(rule.target.chain))
            for rule in rules
        )

    def _denied_on_link(self, protocol: str, source: str, destination: str, port: int | None) -> bool:
        """Whether the tiers of any pod deny a flow from or to a link-local address, which may be that pod's."""
        if not (_is_link_local(source) or _is_link_local(destination)) or source in self._here:
            return False
        if destination in self._here:
            judges = self._tiers[_HOST]
        else:
            ends = {Direction.EGRESS: source, Direction.INGRESS: destination}
            judges = frozenset[str]().union(
                *(self._tiers[_AWAY[direction]] for direction, end in ends.items() if _is_link_local(end))
            )
        packet = Packet(source, destination, protocol, port)
        return any(walk(self._enforced.ruleset, chain, packet).verdict == "DROP" for chain in sorted(judges))

    @cached_property
    def _here(self) -> frozenset[str]:
        return self._enforced.own | self._enforced.links

    def _walk(self, protocol: str, source: str, destination: str, port: int | None) -> bool:
        sender, receiver = self._at.get(source), self._at.get(destination)
        if sender is None and receiver is None:
            return False
        incoming, in_port = _interface(sender)
        outgoing, out_port = _interface(receiver)
        if _is_link_local(destination) and in_port:
            out_port = out_port or _SOME_PORT  # of the same bridge: these are not routed
        if _is_link_local(source) and out_port:
            in_port = in_port or _SOME_PORT
        out_port = out_port if in_port else ""  # physdev-out says nothing of routed packets
        packet = Packet(source, destination, protocol, port, incoming, outgoing, in_port=in_port, out_port=out_port)
        chain = self._enforced.ruleset.hooks.get(self._hook(source, destination))
        return chain is not None and walk(self._enforced.ruleset, chain, packet).verdict == "DROP"

    def _hook(self, source: str, destination: str) -> str:
        if source in self._here:
            return "OUTPUT"
        return "INPUT" if destination in self._here else "FORWARD"


_AWAY = {direction: places.interface_chain("", direction) for direction in Direction}
_HOST = at_home.interface_chain("")
_SOME_PORT = "/"  # no interface has this name


def _is_link_local(address: str) -> bool:
    """As the kernel writes it; all of fe80::/10."""
    return address[:3] in ("fe8", "fe9", "fea", "feb") and address[4:5] == ":"


def _interface(endpoint: Endpoint | None) -> tuple[str, str]:
    """The interface that packets of an endpoint pass, and the bridge port; '' for none."""
    if endpoint is None or not endpoint.interfaces:
        return "", ""
    first = endpoint.interfaces[0]
    return ("", first.name) if first.bridged else (first.name, "")

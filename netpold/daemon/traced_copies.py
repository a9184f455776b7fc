"""Which copy of a traced packet is told of, and which ports of a bridge it passed.

Lines of legacy tables tell the port that a copy goes on to; else whose chains it met has to tell.  Of what a bridge
floods for want of a MAC it is the copy for the pod that it is sent to, of what is sent to a group the first one.  Where
that leaves several ports, or, since no rules are told, several copies, it may be any of them: kernel and model part
where they do for all.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from ipaddress import ip_address

from netpold.daemon.questions import Facts
from netpold.host.tracing import Caught
from netpold.rules.traced import Compared, Way, compare
from netpold.rules.walk import Packet

_Ports = Mapping[str, Collection[str]]  # of bridges, that are pods', with the addresses behind each

_STATIONS = {"FORWARD": "after-fwd", "INPUT": "after-in", "OUTPUT": "after-out"}


def asked_for(facts: Facts, names: Mapping[str, str], copies: Sequence[Caught]) -> tuple[Caught, Way, Compared]:
    """The copy that is told of, its way, and what of that is netpold's doing; `names`: see rules.traced.compare."""
    ports = {
        interface.name: endpoint.addresses
        for endpoint in facts.endpoints.values()
        for interface in endpoint.interfaces
        if interface.bridged
    }
    best = None
    for caught, packet in _candidates(copies, ports):
        way = _way(caught, packet)
        found = compare(facts.ruleset, names, way)
        agree = found.verdict in (None, found.model)
        if agree and found.parting is None:
            return caught, way, found
        if best is None or (agree and best[2].verdict != best[2].model):
            best = caught, way, found
    assert best is not None  # one is caught at least
    return best


def _candidates(copies: Sequence[Caught], ports: _Ports) -> Iterator[tuple[Caught, Packet]]:
    """What it may be, the likeliest first."""
    caught = _by_chains(copies, ports)
    packet = _with_ports(caught, ports)
    yield caught, packet
    if not caught.bridged or caught.port:
        return
    if not packet.out_port:
        if len(copies) > 1 or ip_address(packet.destination).is_multicast:
            yield from ((caught, replace(packet, out_port=name)) for name in ports)
    elif not caught.by_rules:
        yield from ((copy, _with_ports(copy, ports)) for copy in copies if copy.bridged)


def _by_chains(copies: Sequence[Caught], ports: _Ports) -> Caught:
    own = next((name for name, addresses in ports.items() if copies[0].packet.destination in addresses), "")
    if len(copies) > 1 and own:
        others = {f"NP-IN-{name}" for name in ports}
        met = [{step.chain for step in each.steps} for each in copies]
        for copy, chains in zip(copies, met, strict=True):
            if copy.port == own or f"NP-IN-{own}" in chains:
                return copy
        for copy, chains in zip(copies, met, strict=True):
            if copy.bridged and chains.isdisjoint(others):
                return copy
    return copies[0]


def _with_ports(caught: Caught, ports: _Ports) -> Packet:
    """As far as lines tell, or the chains that it met; where it met none, the ports are those of its addresses."""
    packet, chains = caught.packet, {step.chain for step in caught.steps if step.is_own}

    def port(prefix: str, address: str) -> str:
        met = (name for name in ports if f"{prefix}{name}" in chains)
        return next(met, next((name for name, own in ports.items() if address in own), ""))

    return replace(
        packet,
        in_port=port("NP-OUT-", packet.source) if caught.from_bridge else "",
        out_port=(caught.port or port("NP-IN-", packet.destination)) if caught.bridged else "",
    )


def _way(caught: Caught, packet: Packet) -> Way:
    return Way(
        packet,
        caught.hook,
        caught.steps,
        met=bool(caught.hook),
        filtered=_STATIONS.get(caught.hook, "") in caught.stations,
        ended=caught.is_at_its_end,
        by_rules=caught.by_rules,
    )

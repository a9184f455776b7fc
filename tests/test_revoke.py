"""Which open flows a ruleset no longer allows: over a ruleset written by hand, of a pod whose traffic is restricted."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from netpold.rules import revoke
from netpold.rules.endpoint import Endpoint, Interface
from netpold.rules.revoke import Flow, revoked
from netpold.rules.ruleset import Address, Match, Ports, Proto, Rule, Ruleset
from netpold.rules.ruleset import Interface as From
from netpold.rules.walk import Walk, walk

POD, OTHER, OUTSIDE = "10.0.0.1", "10.0.0.2", "192.0.2.1"
ENDPOINTS: Mapping[str, Endpoint] = {
    "x/pod": Endpoint("x/pod", (POD,), (Interface("veth1"),)),
    "x/other": Endpoint("x/other", (OTHER,), (Interface("veth2"),)),
}


def ruleset(*rules: tuple[tuple[Match, ...], str]) -> Ruleset:
    own = tuple(Rule(matches, target) for matches, target in rules)  # type: ignore[arg-type]
    return Ruleset({4: {"OWN": own}, 6: {}}, {}, {"FORWARD": "OWN"})


TO_POD: Match = Address("dst", f"{POD}/32")
FROM_POD: Match = Address("src", f"{POD}/32")
NO_INGRESS = ruleset(((TO_POD, Proto("tcp"), Ports(((80, 80),))), "RETURN"), ((TO_POD,), "DROP"))
ISOLATED = ruleset(((TO_POD,), "DROP"), ((FROM_POD,), "DROP"))


def flow(protocol: str, source: str, peer: str, port: int | None = None, own: int | None = None) -> Flow:
    return Flow(protocol, source, peer, own, port, peer, port)


def refused(rules: Ruleset, *flows: Flow) -> list[Flow]:
    return list(revoked(flows, rules, ENDPOINTS))


@pytest.mark.parametrize("protocol", ["udp", "sctp", "icmp", "47", "253"])
def test_a_flow_to_the_pod_is_refused_and_one_from_it_is_not(protocol: str) -> None:
    port = 53 if protocol in ("udp", "sctp") else None
    incoming = flow(protocol, OUTSIDE, POD, port)
    assert refused(NO_INGRESS, incoming, flow(protocol, POD, OUTSIDE, port)) == [incoming]
    assert refused(NO_INGRESS, flow(protocol, OUTSIDE, OTHER, port)) == []


def test_a_tcp_flow_is_only_forgotten_when_the_answering_side_may_not_begin_one() -> None:
    incoming = flow("tcp", OUTSIDE, POD, 81, 40000)
    assert refused(NO_INGRESS, incoming) == []  # the next answer would be taken for a flow of the pod's own
    assert refused(ISOLATED, incoming) == [incoming]
    only_40000 = ruleset(
        ((TO_POD,), "DROP"), ((FROM_POD, Proto("tcp"), Ports(((40000, 40000),))), "RETURN"), ((), "DROP")
    )
    again = flow("tcp", OUTSIDE, POD, 81, 40001)
    assert refused(only_40000, incoming, again) == [again]


def test_who_answers_counts_and_not_the_address_that_was_asked_for() -> None:
    translated = Flow("udp", OUTSIDE, OTHER, 5, 80, POD, 53)
    assert refused(NO_INGRESS, translated) == [translated]
    assert refused(NO_INGRESS, Flow("udp", OUTSIDE, POD, 5, 80, OTHER, 53)) == []


def test_packets_come_by_the_interface_of_the_pod() -> None:
    by_veth1 = ruleset(((From("src", "veth1"),), "DROP"))
    assert refused(by_veth1, flow("udp", POD, OUTSIDE, 1), flow("udp", OTHER, OUTSIDE, 1)) == [
        flow("udp", POD, OUTSIDE, 1)
    ]


def test_flows_that_no_pod_of_this_node_takes_part_in_are_left() -> None:
    assert refused(ruleset(((), "DROP")), flow("udp", OUTSIDE, "192.0.2.2", 1)) == []


def test_flows_that_differ_by_source_port_only_are_judged_together(monkeypatch: pytest.MonkeyPatch) -> None:
    walks = 0

    def counted(*arguments: object) -> Walk:
        nonlocal walks
        walks += 1
        return walk(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(revoke, "walk", counted)
    many = [flow(protocol, OUTSIDE, POD, 80, own) for protocol in ("tcp", "udp") for own in range(1000, 2000)]
    assert refused(NO_INGRESS, *many) == many[1000:]
    assert walks == 2

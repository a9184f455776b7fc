"""Which open flows a ruleset no longer allows: over a ruleset written by hand, of a pod whose traffic is restricted."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from netpold.policy.index import Index
from netpold.policy.model import EVERYTHING as ANY
from netpold.policy.model import (
    Action,
    AnyPolicy,
    ClusterPolicy,
    Operator,
    Pod,
    PodPeer,
    Policy,
    Requirement,
    Selector,
    Tier,
    TierRule,
    World,
)
from netpold.rules import revoke
from netpold.rules.compile import CompileSettings, compile_ruleset
from netpold.rules.endpoint import Endpoint, Interface
from netpold.rules.revoke import (
    REVOKED,
    Connection,
    Enforced,
    Flow,
    Judge,
    connection,
    forgotten_rule,
    revoked_rule,
    revoked_set,
)
from netpold.rules.ruleset import FAMILIES, Address, IPSet, Match, Ports, Proto, Rule, Ruleset
from netpold.rules.ruleset import Interface as From
from netpold.rules.walk import Packet, Walk, walk

POD, OTHER, OUTSIDE, NODE = "10.0.0.1", "10.0.0.2", "192.0.2.1", "10.99.0.1"
ENDPOINTS: Mapping[str, Endpoint] = {
    "x/pod": Endpoint("x/pod", (POD,), (Interface("veth1"),)),
    "x/other": Endpoint("x/other", (OTHER,), (Interface("veth2"),)),
}


def ruleset(*rules: tuple[tuple[Match, ...], str], hook: str = "FORWARD") -> Ruleset:
    own = tuple(Rule(matches, target) for matches, target in rules)  # type: ignore[arg-type]
    return Ruleset({4: {"OWN": own}, 6: {}}, {}, {hook: "OWN"})


TO_POD: Match = Address("dst", f"{POD}/32")
FROM_POD: Match = Address("src", f"{POD}/32")
NO_INGRESS = ruleset(((TO_POD, Proto("tcp"), Ports(((80, 80),))), "RETURN"), ((TO_POD,), "DROP"))
ISOLATED = ruleset(((TO_POD,), "DROP"), ((FROM_POD,), "DROP"))
EVERYTHING = (((), "DROP"),)


def flow(protocol: str, source: str, peer: str, port: int | None = None, own: int | None = None) -> Flow:
    return Flow(protocol, source, peer, own, port, peer, port)


def judge(rules: Ruleset) -> Judge:
    return Judge(Enforced(rules, ENDPOINTS, frozenset({NODE})))


def refused(rules: Ruleset, *flows: Flow) -> list[Flow]:
    return list(filter(judge(rules).refuses, flows))


@pytest.mark.parametrize("protocol", ["tcp", "udp", "sctp", "icmp", "47", "253"])
def test_a_flow_to_the_pod_is_refused_and_one_from_it_is_not(protocol: str) -> None:
    port = 53 if protocol in ("tcp", "udp", "sctp") else None
    incoming = flow(protocol, OUTSIDE, POD, port)
    assert refused(NO_INGRESS, incoming, flow(protocol, POD, OUTSIDE, port)) == [incoming]
    assert refused(NO_INGRESS, flow(protocol, OUTSIDE, OTHER, port)) == []


def test_a_tcp_flow_would_revive_where_the_answering_side_may_begin_one() -> None:
    incoming = flow("tcp", OUTSIDE, POD, 81, 40000)
    assert judge(NO_INGRESS).would_revive(incoming)
    assert not judge(ISOLATED).would_revive(incoming)
    only_40000 = ruleset(
        ((TO_POD,), "DROP"), ((FROM_POD, Proto("tcp"), Ports(((40000, 40000),))), "RETURN"), ((), "DROP")
    )
    assert judge(only_40000).would_revive(incoming)
    assert not judge(only_40000).would_revive(flow("tcp", OUTSIDE, POD, 81, 40001))


@pytest.mark.parametrize("protocol", ["udp", "sctp", "icmp", "47"])
def test_what_is_not_tcp_never_revives(protocol: str) -> None:
    assert not judge(NO_INGRESS).would_revive(flow(protocol, OUTSIDE, POD))


def test_who_answers_counts_and_not_the_address_that_was_asked_for() -> None:
    translated = Flow("udp", OUTSIDE, OTHER, 5, 80, POD, 53)
    assert refused(NO_INGRESS, translated) == [translated]
    assert refused(NO_INGRESS, Flow("udp", OUTSIDE, POD, 5, 80, OTHER, 53)) == []
    assert connection(Flow("tcp", OUTSIDE, OTHER, 5, 80, POD, 8080)) == Connection(OUTSIDE, POD, 8080)
    assert connection(translated) is None


def test_packets_come_by_the_interface_of_the_pod() -> None:
    by_veth1 = ruleset(((From("src", "veth1"),), "DROP"))
    assert refused(by_veth1, flow("udp", POD, OUTSIDE, 1), flow("udp", OTHER, OUTSIDE, 1)) == [
        flow("udp", POD, OUTSIDE, 1)
    ]


def test_flows_that_no_pod_of_this_node_takes_part_in_are_left() -> None:
    assert refused(ruleset(*EVERYTHING), flow("udp", OUTSIDE, "192.0.2.2", 1)) == []


def test_flows_of_the_node_itself_are_judged_where_they_pass() -> None:
    out, inside = flow("udp", NODE, POD, 53), flow("udp", POD, NODE, 53)
    through = flow("udp", POD, OTHER, 53)
    for hook, expected in (("FORWARD", [through]), ("OUTPUT", [out]), ("INPUT", [inside])):
        assert refused(ruleset(*EVERYTHING, hook=hook), out, inside, through) == expected


def test_flows_that_differ_by_source_port_only_are_judged_together(monkeypatch: pytest.MonkeyPatch) -> None:
    walks = 0

    def counted(*arguments: object) -> Walk:
        nonlocal walks
        walks += 1
        return walk(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(revoke, "walk", counted)
    many = [flow(protocol, OUTSIDE, POD, 81, own) for protocol in ("tcp", "udp") for own in range(1000, 2000)]
    assert refused(NO_INGRESS, *many) == many
    assert walks == 2


def test_what_answers_a_revoked_connection_is_dropped_and_nothing_else() -> None:
    for family, client, server in ((4, OUTSIDE, POD), (6, "2001:db8::1", "fd00::1")):
        member = Connection(client, server, 80).member
        full = IPSet(REVOKED[family], family, "hash:ip,port,ip", "", frozenset({member}))  # type: ignore[index]
        chains = {each: {"OWN": (revoked_rule(each), forgotten_rule(each))} for each in FAMILIES}
        rules = Ruleset(chains, {full.name: full}, {"FORWARD": "OWN"})

        def dropped(
            source: str,
            destination: str,
            port: int,
            protocol: str = "tcp",
            reply: bool = True,
            middle: bool = False,
            rules: Ruleset = rules,
        ) -> bool:
            packet = Packet(source, destination, protocol, 40000, source_port=port, reply=reply, middle=middle)
            return walk(rules, "OWN", packet).verdict == "DROP"

        assert dropped(server, client, 80)
        assert not dropped(server, client, 80, reply=False)
        assert dropped(server, client, 80, reply=False, middle=True)
        assert not dropped(server, client, 81, reply=False, middle=True)
        assert not dropped(client, server, 80, reply=False, middle=True)
        assert not dropped(server, client, 80, protocol="udp")
        assert not dropped(server, client, 81)
        assert not dropped(client, server, 80)


def test_a_member_is_read_as_the_connection_that_it_stands_for() -> None:
    for each in (Connection(OUTSIDE, POD, 80), Connection("2001:db8::1", "fd00::1", 65535)):
        assert Connection.of(each.member) == each
    assert Connection.of(f"{POD},udp:80,{OUTSIDE}") is None


def test_the_ruleset_has_the_set_without_members() -> None:
    for family in FAMILIES:
        made = revoked_set(family)
        assert (made.name, made.family, made.members) == (REVOKED[family], family, frozenset())


OUT = TierRule(Action.DENY, (PodPeer(ANY, ANY),), None)
LINK, NODES_LINK = "fe80::1:2", "fe80::1"


def of_a_bridge(*policies: AnyPolicy) -> Judge:
    """Two pods on a bridge, of which policies are about the app a."""
    pods = [Pod("x", name, {"app": name}, (f"fd00::{name}",)) for name in "ab"]
    places = {each.key: Endpoint(each.key, each.addresses, (Interface(f"veth{each.name}", True),)) for each in pods}
    world = World({each.key: each for each in pods}, {}, {each.key: each for each in policies})
    made = compile_ruleset(Index(world), places, CompileSettings())
    return Judge(Enforced(made, places, frozenset({"fd00::1"}), frozenset({NODES_LINK})))


def test_flows_of_link_local_addresses_are_refused_where_tiers_deny_them_to_any_pod() -> None:
    """Whose these are is not known; answers to a TCP flow could be taken for an allowed one."""
    subject = PodPeer(Selector((Requirement("app", Operator.IN, ("a",)),)), ANY)
    ways = {
        "out": (LINK, "fe80::3"), "to b": (LINK, "fd00::b"), "in": ("fd00::b", LINK), "home": (LINK, NODES_LINK),
        "from home": (NODES_LINK, LINK), "known": ("fd00::b", "fe80::3"),
    }  # fmt: skip

    def found(judged: Judge) -> set[str]:
        both = {protocol: {way for way, ends in ways.items() if judged.refuses(flow(protocol, *ends, 80, 4000))}
                for protocol in ("tcp", "udp")}  # fmt: skip
        assert both["tcp"] == both["udp"]
        return both["udp"]

    out = of_a_bridge(ClusterPolicy("out", Tier.ADMIN, 1, subject, (), (OUT,)))
    assert out.knows_links and found(out) == {"out", "to b", "home"}
    assert out.would_revive(flow("tcp", LINK, "fe80::3", 80, 4000))
    inwards = of_a_bridge(ClusterPolicy("in", Tier.BASELINE, 1, subject, (OUT,), ()))
    assert inwards.knows_links and found(inwards) == {"out", "in", "known"}
    others = of_a_bridge(Policy("x", "none", subject.pods, (), None))
    assert not others.knows_links and not found(others)

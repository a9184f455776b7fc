"""Policies in three tiers: two oracles that agree, what the reader, the compiler and the verbs say, and mixtures."""

from __future__ import annotations

import json
from functools import cache
from ipaddress import ip_network

import pytest
from hypothesis import given, settings

from netpold.policy.assemble import Assembly
from netpold.policy.index import Index
from netpold.policy.manifest import parse
from netpold.policy.model import (
    EVERYTHING,
    Action,
    ClusterPolicy,
    Direction,
    Finding,
    IPBlock,
    NodePeer,
    Pod,
    PodPeer,
    PolicyPort,
    Tier,
    TierRule,
    World,
    policy_title,
)
from netpold.rules.compile import CompileSettings, compile_ruleset
from netpold.rules.endpoint import Endpoint, Interface
from netpold.rules.explain import Judgement, explain
from netpold.rules.matrix import matrix
from netpold.rules.offline import offline_ruleset
from netpold.rules.walk import Packet as Sent
from netpold.rules.walk import walk
from tests.cases import Case, all_cases
from tests.objects import to_manifests, to_world
from tests.reference import Packet, may_be_anybodys, pod_allows, verdicts
from tests.strategies import Shape, sample_packets, worlds
from tests.tiers.mixtures import PORTS, Object, Place, mixture
from tests.tiers.oracle import Cluster, Question, Side

WHOLE = Shape(tiers=5, policies=4, contested=False)
CASES = [case for case in all_cases() if case.name.startswith("tiers-")]
MIXTURES = [pytest.param(n, marks=[pytest.mark.slow] if n >= 15 else []) for n in range(400)]
OUTSIDE = ("203.0.113.9", "2001:db8:9::9", "192.0.2.1", "2001:db8::1")


def question(packet: Packet) -> Question:
    return Question(packet.source, packet.destination, packet.protocol, packet.port)


@settings(max_examples=25, deadline=None)
@given(world=worlds(WHOLE))
def test_the_two_oracles_agree(world: World) -> None:
    cluster = Cluster.of(to_manifests(world))
    for packet in sample_packets(world, 60):
        if may_be_anybodys(packet.destination, Direction.EGRESS):
            continue  # netpold's choice is not in the API's text
        asked = question(packet)
        sides = cluster.side(asked, "egress").allowed, cluster.side(asked, "ingress").allowed
        assert sides == tuple(verdicts(world, packet)), str(packet)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_second_oracle_gives_the_verdicts_of_a_case(case: Case) -> None:
    for step in case.steps:
        cluster = Cluster.of(step.objects)
        wrong = [probe for probe in step.probes if cluster.allows(question(probe.packet)) != probe.allowed]
        assert not wrong, "\n".join([f"step {step.name}: wrong verdicts, expected", *map(str, wrong[:10])])


# Mixtures -------------------------------------------------------------------------------------------------------------


@cache
def objects(number: int) -> list[Object]:
    """A mixture of eight pods on two nodes."""
    nodes = {"near": ("10.99.0.1", "fd99::1"), "far": ("10.99.0.2", "fd99::2"), "away": OUTSIDE[2:]}
    places = [
        Place(("near", "far")[n % 2], (f"10.72.{n % 2 + 1}.{n + 2}", f"fd72::{n % 2 + 1}:{n + 2}")) for n in range(8)
    ]
    pod, node = ("10.72.2.3/32", "fd72::2:3/128"), ("10.99.0.2/32", "fd99::2/128")
    wide = ("0.0.0.0/0", "::/0", "10.72.0.0/16", "fd72::/16", "10.72.2.0/24", "fd72::2:0/112", "203.0.113.0/24")
    return mixture(number, places, nodes, (*wide, *pod, *node))


def read(number: int) -> tuple[World, list[Finding]]:
    """As netpold reads it."""
    assembly = Assembly()
    text = "\n---\n".join(map(json.dumps, objects(number)))
    assembly.update({"all.yaml": parse(text.encode(), "all.yaml")})
    return assembly.world, list(assembly.findings())


@pytest.mark.parametrize("number", MIXTURES)
def test_a_mixture_is_read_as_it_is_written(number: int) -> None:
    world, findings = read(number)
    assert [str(finding) for finding in findings if finding.severity == "error"] == []
    assert world == to_world(objects(number))


def shown(judgement: Judgement) -> Side:
    """What an explanation says, as the oracle says it."""
    met = [(policy_title(each.policy), each.index) for each in judgement.tiers]
    decides = judgement.denied_by or judgement.allowed_by
    by: tuple[str, int] | str | None = None
    if decides is not None and decides.tier:
        by = met.pop()
        assert by == (policy_title(decides.policy), decides.index)
    elif decides is not None or (judgement.verdict == "deny" and judgement.isolating):
        by = "NetworkPolicy"
    return Side(judgement.verdict == "allow", by, tuple(met))


@pytest.mark.parametrize("number", MIXTURES)
def test_matrix_and_explain_of_a_mixture_say_what_the_oracle_says(number: int) -> None:
    cluster, index = Cluster.of(objects(number)), Index(read(number)[0])
    ruleset = offline_ruleset(index)
    pods = [key for key, pod in index.world.pods.items() if pod.takes_part]
    rows = list(matrix(index, ruleset, pods, OUTSIDE, [(protocol, port or None) for protocol, port in PORTS]).rows())
    addresses = {key: index.world.pods[key].addresses for key in pods} | {own: (own,) for own in OUTSIDE}
    for place, row in enumerate(rows):
        for family, verdict in row.families:
            ends = [
                next(own for own in addresses[end] if (":" in own) == (family == 6))
                for end in (row.source, row.destination)
            ]
            asked = Question(*ends, row.protocol, row.port)
            said = cluster.side(asked, "egress"), cluster.side(asked, "ingress")
            assert (verdict == "allow") == (said[0].allowed and said[1].allowed), f"{asked}: {said}"
            if place % 3 == number % 3:
                told = explain(index, ruleset, *ends, row.protocol, row.port)
                assert [shown(each) for each in (told.egress, told.ingress)] == list(said), str(asked)
    assert len(rows) > 400


# Addresses that many have ---------------------------------------------------------------------------------------------

GROUPS = ("224.0.0.1", "239.255.255.250", "255.255.255.255", "ff02::1", "ff05::2")
ANY = PodPeer(EVERYTHING, EVERYTHING)
RULES = {
    "pods": (TierRule(Action.DENY, (ANY,), None), True),
    "nodes": (TierRule(Action.DENY, (NodePeer(EVERYTHING),), None), True),
    "this port": (TierRule(Action.DENY, (ANY,), (PolicyPort("UDP", 80),)), True),
    "another port": (TierRule(Action.DENY, (ANY,), (PolicyPort("UDP", 81),)), False),
    "networks": (TierRule(Action.DENY, (IPBlock(ip_network("10.0.0.0/8")),), None), False),
    "accept": (TierRule(Action.ACCEPT, (ANY,), None), False),
}


@pytest.mark.parametrize("name", RULES)
def test_what_is_for_groups_or_for_all_is_denied_where_what_is_for_pods_or_nodes_is(name: str) -> None:
    rule, denied = RULES[name]
    pod = Pod("x", "a", {}, ("10.72.0.1", "fd72::1"))
    guard = ClusterPolicy("guard", Tier.BASELINE, 1, ANY, (), (rule,))
    last = ClusterPolicy("last", Tier.BASELINE, 2, ANY, (), (RULES["pods"][0],))
    world = World({pod.key: pod}, {}, {each.key: each for each in ((guard, last) if name == "accept" else (guard,))})
    places = {pod.key: Endpoint(pod.key, pod.addresses, (Interface("veth0"),))}
    made = compile_ruleset(Index(world), places, CompileSettings())
    for hook in ("FORWARD", "INPUT"):
        for group in GROUPS:
            own = pod.addresses[":" in group]
            packet = Sent(own, group, "udp", 80, "veth0")
            assert (walk(made, made.hooks[hook], packet).verdict == "DROP") == (denied or name == "accept"), group
            meant = pod_allows(world, pod, Direction.EGRESS, Packet(own, group, "UDP", 80))
            assert meant != (denied or name == "accept"), group

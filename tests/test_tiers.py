"""Policies in three tiers: what both oracles say, what the compiler makes of it, and what netpoldctl's verbs say."""

from __future__ import annotations

from hypothesis import given, settings

from netpold.policy.model import World
from tests.objects import to_manifests
from tests.reference import verdicts
from tests.strategies import Shape, sample_packets, worlds
from tests.tiers.oracle import Cluster, Question

WHOLE = Shape(tiers=5, policies=4, contested=False)


def question(packet: object) -> Question:
    return Question(packet.source, packet.destination, packet.protocol, packet.port)


@settings(max_examples=60, deadline=None)
@given(world=worlds(WHOLE))
def test_the_two_oracles_agree(world: World) -> None:
    cluster = Cluster.of(to_manifests(world))
    for packet in sample_packets(world, 60):
        asked = question(packet)
        sides = cluster.side(asked, "egress").allowed, cluster.side(asked, "ingress").allowed
        assert sides == tuple(verdicts(world, packet)), str(packet)

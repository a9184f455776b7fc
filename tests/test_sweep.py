"""A whole matrix says what a walk says of each pair."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netpold.policy.index import Index
from netpold.policy.model import World
from netpold.rules.ends import UnknownEndpoint, end, first_packet
from netpold.rules.explain import explain, verdict
from netpold.rules.matrix import matrix
from netpold.rules.offline import offline_ruleset
from netpold.rules.ruleset import EMPTY
from netpold.rules.settings import CompileSettings
from tests.strategies import EVERYTHING_GOES, NODES, OUTSIDE, PORT_NUMBERS, worlds

PORTS = [("TCP", 80), ("TCP", 8080), ("UDP", 80), ("SCTP", 65535), ("ICMP", None)]
some_settings = st.builds(
    CompileSettings,
    accept=st.booleans(),
    host_access=st.sampled_from(("allow", "policy")),
    host_to_pods=st.sampled_from(("allow", "policy")),
    nflog_group=st.sampled_from((0, 92)),
    mode=st.sampled_from(("enforce", "audit")),
)


def on_one_node(world: World) -> World:
    return replace(world, pods={key: replace(pod, node="n") for key, pod in world.pods.items()})


@settings(max_examples=60, deadline=None)
@given(
    world=worlds(EVERYTHING_GOES).flatmap(lambda world: st.sampled_from((world, on_one_node(world)))),
    compile_settings=some_settings,
    port=st.sampled_from(PORT_NUMBERS),
)
def test_it_is_the_walk_s_verdict(world: World, compile_settings: CompileSettings, port: int) -> None:
    index = Index(world)
    ruleset = offline_ruleset(index, settings=compile_settings)
    pods = [key for key, pod in world.pods.items() if pod.addresses and not pod.finished]
    names = [*pods, *OUTSIDE[:2], OUTSIDE[4], NODES[0]]
    ports = [*PORTS, ("TCP", port)]
    found = matrix(index, ruleset, pods, names[len(pods) :], ports)
    ends = [end(index, name) for name in names]
    for source, here in enumerate(ends):
        for destination, there in enumerate(ends):
            for family in found.families(source, destination):
                for number, each in enumerate(ports):
                    expected = verdict(ruleset, first_packet(here, there, family, *each), here, there)
                    assert found.decision(family, number, source, destination) == expected, (here, there, each)
    for row in list(found.rows())[:: max(1, len(names) // 2)]:
        asked = explain(index, ruleset, row.source, row.destination, row.protocol, row.port)
        assert (asked.verdict, asked.packet.family) == (row.verdict, row.families[0][0])
        assert (row.verdict == "deny") == ("deny" in (asked.egress.verdict, asked.ingress.verdict))
        assert row.audit == (row.verdict == "allow" and (asked.egress.audit or asked.ingress.audit))


def test_without_rules_everything_passes() -> None:
    index = Index(World())
    found = matrix(index, EMPTY, [], ["192.0.2.1", "192.0.2.2"], [("TCP", 1)])
    assert found.allowed[4, 0] == (3, 3)
    assert not list(found.rows())  # neither is a pod's


def test_unknown_ends() -> None:
    with pytest.raises(UnknownEndpoint):
        matrix(Index(World()), EMPTY, ["x/y"], [], [("TCP", 1)])

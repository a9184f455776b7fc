"""The oracle says what the golden cases say, and what has to hold of any world."""

from __future__ import annotations

from dataclasses import replace

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from netpold.policy.model import Direction, Policy, PolicyRule, World
from tests.cases import Case, all_cases
from tests.cases.choices import ANYTHING, Choice, choices, policy
from tests.objects import to_manifests, to_world, to_yaml
from tests.reference import Packet, allowed, claimants, verdicts
from tests.strategies import EVERYTHING_GOES, PLAIN, Shape, changed, histories, packets, sample_packets, worlds

CASES = all_cases()
NAMESPACED = Shape(quarantine=True)  # with NetworkPolicies alone, which add up


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_reference_gives_the_verdicts_of_a_case(case: Case) -> None:
    for step in case.steps:
        world = step.world
        wrong = [probe for probe in step.probes if allowed(world, probe.packet) != probe.allowed]
        assert not wrong, "\n".join([f"step {step.name}: wrong verdicts, expected", *map(str, wrong[:10])])


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_case_can_be_built_in_a_kernel(case: Case) -> None:
    for step in case.steps:
        world = step.world
        assert step.probes, f"step {step.name} asks nothing"
        assert len(world.pods) <= 12
        for pod in world.pods.values():
            assert pod.node is None
            assert pod.host_network or all(address.startswith(("10.72.", "fd72:")) for address in pod.addresses)


def test_cases_ask_both_ways() -> None:
    """Of the probes of all cases many are allowed and many are denied, in both families and each protocol."""
    asked = {
        (probe.allowed, ":" in probe.packet.source, probe.packet.protocol)
        for case in CASES
        for step in case.steps
        for probe in step.probes
    }
    assert asked == {
        (verdict, family, protocol)
        for verdict in (True, False)
        for family in (True, False)
        for protocol in ("TCP", "UDP", "SCTP", "ICMP")
    }


@pytest.mark.parametrize("choice", choices(), ids=lambda choice: choice.name)
def test_reference_makes_netpolds_choices(choice: Choice) -> None:
    for packet, verdict in choice.packets():
        assert verdicts(choice.world, packet) == verdict, str(packet)


def test_a_packet_has_one_family() -> None:
    with pytest.raises(ValueError, match="one address family"):
        allowed(World(), Packet("10.72.0.2", "fd72::2", "TCP", 80))


# What holds of any world ----------------------------------------------------------------------------------------------


@settings(max_examples=80, deadline=None)
@given(world=worlds(EVERYTHING_GOES))
def test_without_policies_everything_passes(world: World) -> None:
    free = replace(world, policies={})
    assert all(allowed(free, packet) for packet in sample_packets(world, 20))


@settings(max_examples=80, deadline=None)
@given(world=worlds(NAMESPACED), data=st.data())
def test_allowing_everything_in_every_namespace_allows_everything(world: World, data: st.DataObject) -> None:
    """Policies add up: whatever the others say. Only quarantined pods are granted nothing."""
    allow = {f"{name}/allow": policy(f"{name}/allow", ingress=(ANYTHING,), egress=(ANYTHING,)) for name in "xyz"}
    everything = replace(world, policies={**world.policies, **allow})
    packet = data.draw(packets(world))
    ends = [*claimants(world, packet.source), *claimants(world, packet.destination)]
    if not any(end.quarantined for end in ends):
        assert allowed(everything, packet)


@settings(max_examples=40, deadline=None)
@given(world=worlds(NAMESPACED), data=st.data())
def test_a_rule_less_never_allows_more(world: World, data: st.DataObject) -> None:
    with_rules = sorted(key for key, item in world.policies.items() if item.ingress or item.egress)
    if not with_rules:
        return
    chosen = world.policies[data.draw(st.sampled_from(with_rules))]
    fewer = replace(chosen, ingress=chosen.ingress and chosen.ingress[1:], egress=chosen.egress and chosen.egress[:-1])
    tighter = replace(world, policies={**world.policies, chosen.key: fewer})
    for packet in sample_packets(world, 30):
        assert allowed(tighter, packet) <= allowed(world, packet), str(packet)


@settings(max_examples=40, deadline=None)
@given(world=worlds(PLAIN))
def test_one_policy_says_what_its_rules_say_apart(world: World) -> None:
    """A policy of several rules, peers and ports is the union of policies of one rule, one peer and one port each."""
    split: dict[str, Policy] = {}
    for key, item in world.policies.items():
        for direction in Direction:
            rules = item.rules(direction)
            if rules is None:
                continue
            for number, rule in enumerate([*_pieces(rules), None]):
                piece = replace(item, name=f"{item.name}-{direction}-{number}", ingress=None, egress=None)
                split[f"{key}-{direction}-{number}"] = replace(piece, **{str(direction): (rule,) if rule else ()})  # type: ignore[arg-type]
    for packet in sample_packets(world, 30):
        owners = [*claimants(world, packet.source), *claimants(world, packet.destination)]
        if len(owners) <= 2:  # peers apart are stricter than together for an address that several pods claim
            assert verdicts(replace(world, policies=split), packet) == verdicts(world, packet), str(packet)


def _pieces(rules: tuple[PolicyRule, ...]) -> list[PolicyRule]:
    return [
        PolicyRule(peer and (peer,), port and (port,))
        for rule in rules
        for peer in rule.peers or (None,)
        for port in rule.ports or (None,)
    ]


@settings(max_examples=40, deadline=None)
@given(world=worlds(EVERYTHING_GOES))
def test_the_order_of_objects_does_not_matter(world: World) -> None:
    tables = (world.pods, world.namespaces, world.policies, world.nodes)
    reverse = World(*(dict(reversed(items.items())) for items in tables))
    for packet in sample_packets(world, 30):
        assert verdicts(reverse, packet) == verdicts(world, packet), str(packet)


# The strategies -------------------------------------------------------------------------------------------------------


@settings(max_examples=80, deadline=None)
@given(world=worlds(PLAIN))
def test_a_world_survives_its_manifests(world: World) -> None:
    assert to_world(yaml.safe_load_all(to_yaml(to_manifests(world)))) == world


@settings(max_examples=40, deadline=None)
@given(history=histories(EVERYTHING_GOES))
def test_histories_keep_worlds_well_formed(history: list[World]) -> None:
    for world in history:
        for items in (world.pods, world.namespaces, world.policies):
            assert all(key == item.key for key, item in items.items())
        assert all(item.ingress is not None or item.egress is not None for item in world.policies.values())


@settings(max_examples=40, deadline=None)
@given(data=st.data(), world=worlds(PLAIN))
def test_changes_without_contest_keep_addresses_apart(data: st.DataObject, world: World) -> None:
    shape = replace(PLAIN, contested=False)
    apart = data.draw(changed(data.draw(worlds(shape)), shape))
    live = [address for item in apart.pods.values() if item.takes_part for address in item.addresses]
    assert len(live) == len(set(live))

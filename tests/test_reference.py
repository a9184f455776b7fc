"""The oracle says what the golden cases say, and what has to hold of any world."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_network

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from netpold.policy.model import (
    EVERYTHING,
    NAME_LABEL,
    ContainerPort,
    Direction,
    IPBlock,
    Namespace,
    Pod,
    PodPeer,
    Policy,
    PolicyPort,
    PolicyRule,
    World,
)
from tests.cases import Case, all_cases
from tests.objects import to_manifests, to_selector, to_world, to_yaml
from tests.reference import Packet, Verdicts, allowed, claimants, verdicts
from tests.strategies import EVERYTHING_GOES, PLAIN, changed, histories, packets, sample_packets, worlds

CASES = all_cases()
ALLOW_ALL = PolicyRule(peers=None, ports=None)


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


# netpold's own choices: what the API text leaves open -----------------------------------------------------------------


def pod(key: str, address: str, labels: str = "", **more: object) -> Pod:
    namespace, name = key.split("/")
    pairs = dict(pair.split("=") for pair in labels.split(",") if pair)
    return replace(Pod(namespace, name, pairs, (address,)), **more)  # type: ignore[arg-type]


def policy(key: str, **more: object) -> Policy:
    namespace, name = key.split("/")
    return replace(Policy(namespace, name, EVERYTHING, None, None), **more)  # type: ignore[arg-type]


def world_of(*items: Pod | Namespace | Policy) -> World:
    return World(
        {item.key: item for item in items if isinstance(item, Pod)},
        {item.key: item for item in items if isinstance(item, Namespace)},
        {item.key: item for item in items if isinstance(item, Policy)},
    )


A, B, C = "10.72.0.2", "10.72.0.3", "10.72.0.4"


def test_a_quarantined_pod_is_isolated_by_any_policy_of_its_namespace() -> None:
    elsewhere = policy("x/p", selector=to_selector({"matchLabels": {"app": "other"}}), ingress=(ALLOW_ALL,))
    world = world_of(pod("x/a", A, quarantined=True), pod("x/b", B), elsewhere)
    assert verdicts(world, Packet(B, A, "TCP", 80)) == Verdicts(egress=True, ingress=False)
    assert verdicts(world, Packet(A, B, "TCP", 80)) == Verdicts(egress=True, ingress=True)
    assert allowed(world, Packet(A, A, "TCP", 80))


def test_a_quarantined_pod_is_nobodys_peer_by_selector() -> None:
    by_selector = policy("x/p", ingress=(PolicyRule((PodPeer(EVERYTHING),), None),))
    world = world_of(pod("x/a", A), pod("x/b", B, quarantined=True), pod("x/c", C), by_selector)
    assert not verdicts(world, Packet(B, A, "TCP", 80)).ingress
    assert verdicts(world, Packet(C, A, "TCP", 80)).ingress
    by_block = policy("x/p", ingress=(PolicyRule((IPBlock(ip_network("10.72.0.0/16")),), None),))
    assert verdicts(world_of(*world.pods.values(), by_block), Packet(B, A, "TCP", 80)).ingress


def test_a_quarantined_policy_isolates_and_grants_nothing() -> None:
    world = world_of(pod("x/a", A), policy("x/p", ingress=(ALLOW_ALL,), quarantined=True))
    assert verdicts(world, Packet(B, A, "TCP", 80)) == Verdicts(egress=True, ingress=False)
    assert verdicts(world, Packet(A, B, "TCP", 80)) == Verdicts(egress=True, ingress=True)


def test_no_selector_matches_a_quarantined_namespace() -> None:
    from_anywhere = policy("x/anywhere", ingress=(PolicyRule((PodPeer(EVERYTHING, EVERYTHING),), None),))
    from_here = policy("y/here", ingress=(PolicyRule((PodPeer(EVERYTHING),), None),))
    broken = Namespace("y", {NAME_LABEL: "y"}, quarantined=True)
    world = world_of(pod("x/a", A), pod("y/b", B), pod("y/c", C), broken, from_anywhere, from_here)
    assert not allowed(world, Packet(B, A, "TCP", 80))
    assert allowed(world, Packet(B, C, "TCP", 80))
    assert not allowed(world, Packet(A, C, "TCP", 80))


def test_of_two_pods_with_one_address_both_have_to_allow() -> None:
    only_labelled = policy("x/p", selector=to_selector({"matchLabels": {"app": "a"}}), ingress=(), egress=())
    world = world_of(pod("x/a", A, "app=a"), pod("y/b", A), pod("x/c", C), only_labelled)
    assert not allowed(world, Packet(C, A, "TCP", 80))
    assert not allowed(world, Packet(A, C, "TCP", 80))
    assert allowed(world, Packet(A, A, "TCP", 80))


def test_an_address_of_two_pods_is_a_peer_only_if_both_are() -> None:
    rule = PolicyRule((PodPeer(to_selector({"matchLabels": {"app": "a"}})),), (PolicyPort("TCP", "http"),))
    http = (ContainerPort("http", "TCP", 80),)
    target = policy("x/p", selector=to_selector({"matchLabels": {"app": "target"}}), egress=(rule,))
    first = pod("x/a", A, "app=a", ports=http)
    for second, verdict in (
        (pod("x/b", A, "app=a", ports=http), True),
        (pod("x/b", A, "app=b", ports=http), False),
        (pod("y/b", A, "app=a", ports=http), False),
        (pod("x/b", A, "app=a", ports=(ContainerPort("http", "TCP", 81),)), False),
        (pod("x/b", A, "app=b", finished=True), True),
        (pod("x/b", A, "app=b", host_network=True), True),
    ):
        world = world_of(pod("x/t", C, "app=target"), first, second, target)
        assert allowed(world, Packet(C, A, "TCP", 80)) == verdict, second


def test_a_packet_has_one_family() -> None:
    with pytest.raises(ValueError, match="one address family"):
        allowed(World(), Packet(A, "fd72::2", "TCP", 80))


# What holds of any world ----------------------------------------------------------------------------------------------


@settings(max_examples=80, deadline=None)
@given(world=worlds(EVERYTHING_GOES))
def test_without_policies_everything_passes(world: World) -> None:
    free = replace(world, policies={})
    assert all(allowed(free, packet) for packet in sample_packets(world, 20))


@settings(max_examples=80, deadline=None)
@given(world=worlds(EVERYTHING_GOES), data=st.data())
def test_allowing_everything_in_every_namespace_allows_everything(world: World, data: st.DataObject) -> None:
    """Policies add up: whatever the others say. Only quarantined pods are granted nothing."""
    allow = {f"{name}/allow": policy(f"{name}/allow", ingress=(ALLOW_ALL,), egress=(ALLOW_ALL,)) for name in "xyz"}
    everything = replace(world, policies={**world.policies, **allow})
    packet = data.draw(packets(world))
    ends = [*claimants(world, packet.source), *claimants(world, packet.destination)]
    if not any(end.quarantined for end in ends):
        assert allowed(everything, packet)


@settings(max_examples=60, deadline=None)
@given(world=worlds(EVERYTHING_GOES), data=st.data())
def test_a_rule_less_never_allows_more(world: World, data: st.DataObject) -> None:
    with_rules = sorted(key for key, item in world.policies.items() if item.ingress or item.egress)
    if not with_rules:
        return
    chosen = world.policies[data.draw(st.sampled_from(with_rules))]
    fewer = replace(chosen, ingress=chosen.ingress and chosen.ingress[1:], egress=chosen.egress and chosen.egress[:-1])
    tighter = replace(world, policies={**world.policies, chosen.key: fewer})
    for packet in sample_packets(world, 30):
        assert allowed(tighter, packet) <= allowed(world, packet), str(packet)


@settings(max_examples=60, deadline=None)
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


@settings(max_examples=60, deadline=None)
@given(world=worlds(EVERYTHING_GOES))
def test_the_order_of_objects_does_not_matter(world: World) -> None:
    reverse = World(*(dict(reversed(items.items())) for items in (world.pods, world.namespaces, world.policies)))
    for packet in sample_packets(world, 30):
        assert verdicts(reverse, packet) == verdicts(world, packet), str(packet)


# The strategies -------------------------------------------------------------------------------------------------------


@settings(max_examples=80, deadline=None)
@given(world=worlds(PLAIN))
def test_a_world_survives_its_manifests(world: World) -> None:
    assert to_world(yaml.safe_load_all(to_yaml(to_manifests(world)))) == world


@settings(max_examples=60, deadline=None)
@given(history=histories(EVERYTHING_GOES))
def test_histories_keep_worlds_well_formed(history: list[World]) -> None:
    for world in history:
        for items in (world.pods, world.namespaces, world.policies):
            assert all(key == item.key for key, item in items.items())
        assert all(item.ingress is not None or item.egress is not None for item in world.policies.values())


@settings(max_examples=60, deadline=None)
@given(data=st.data(), world=worlds(PLAIN))
def test_changes_without_contest_keep_addresses_apart(data: st.DataObject, world: World) -> None:
    shape = replace(PLAIN, contested=False)
    apart = data.draw(changed(data.draw(worlds(shape)), shape))
    live = [address for item in apart.pods.values() if item.takes_part for address in item.addresses]
    assert len(live) == len(set(live))

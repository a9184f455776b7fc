"""Policies from flows: they pass the checks, and allow what was seen and nothing else."""

from __future__ import annotations

from dataclasses import replace

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from netpold.policy.manifest import parse
from netpold.policy.model import EVERYTHING, Direction, Pod, Policy, World
from netpold.policy.suggest import Member, Suggestion, Use, lasting, suggest
from tests.reference import Packet, claimants, pod_allows, policy_selects
from tests.strategies import NO_CONTEST, worlds

PORTS = (80, 443, 8080)
LABELS = st.dictionaries(
    st.sampled_from(("app", "tier", "zone", "pod-template-hash")), st.sampled_from(("a", "b", "")), max_size=3
)


def read(suggestions: list[Suggestion]) -> dict[str, Policy]:
    """Through the checks, as a file."""
    says = parse("---\n".join(each.text() for each in suggestions).encode(), "s.yaml")
    assert not says.findings
    found = {each.key: each for each in says.objects if isinstance(each, Policy)}
    assert len(found) == len(suggestions)
    return found


@given(worlds(NO_CONTEST), st.data())
@settings(max_examples=25, deadline=None)
def test_exactly_what_was_seen(world: World, data: st.DataObject) -> None:
    people = {key: replace(pod, labels=data.draw(LABELS), finished=False) for key, pod in world.pods.items()}
    people = {key: pod for key, pod in people.items() if not pod.host_network and pod.addresses}
    world = replace(world, pods=people, policies={}, namespaces={})
    if not people:
        return
    some = st.sampled_from(sorted(people))
    anybody, protocols = st.one_of(some, st.just("192.0.2.1")), st.sampled_from(("TCP", "UDP"))
    drawn = data.draw(st.lists(st.tuples(some, anybody, st.sampled_from(PORTS), protocols), max_size=6))
    flows = {each for each in drawn if each[0] != each[1]}
    uses = []
    for source, destination, port, protocol in flows:
        sender = Member.of(people[source])
        receiver = people.get(destination)
        there = Member.of(receiver) if receiver else destination
        uses.append(Use(sender, Direction.EGRESS, there, protocol, port))
        if receiver:
            uses.append(Use(Member.of(receiver), Direction.INGRESS, sender, protocol, port))
    policies = read(suggest(world, uses, tuple(Direction)))
    world = replace(world, policies=policies)
    seen: set[object] = set()
    for use in uses:
        peer = use.peer if isinstance(use.peer, str) else alike(use.peer)
        seen.add((use.direction, alike(use.pod), peer, use.protocol, use.port))
    ends = [*people.values(), "192.0.2.1", "192.0.2.2"]
    for source in ends:
        for destination in ends:
            for protocol in ("TCP", "UDP"):
                for port in (*PORTS, 81):
                    check(world, seen, source, destination, protocol, port)


def alike(each: Member | Pod) -> object:
    return each.namespace, tuple(lasting(each.labels).items())


def check(world: World, seen: set[object], source: Pod | str, destination: Pod | str, protocol: str, port: int) -> None:
    first, second = (each if isinstance(each, str) else each.addresses[0] for each in (source, destination))
    if source is destination or (":" in first) != (":" in second):
        return
    packet = Packet(first, second, protocol, port)
    for pod, direction, other in ((source, Direction.EGRESS, destination), (destination, Direction.INGRESS, source)):
        if isinstance(pod, str) or not any(policy_selects(policy, pod) for policy in world.policies.values()):
            continue
        assert len(claimants(world, pod.addresses[0])) == 1
        peer = other if isinstance(other, str) else alike(other)
        allowed = pod_allows(world, pod, direction, packet)
        assert allowed == ((direction, alike(pod), peer, protocol, port) in seen)


def pod(name: str, address: str, **labels: str) -> Pod:
    return Pod(
        "shop", name, {key.replace("__", "/").replace("_", "-"): value for key, value in labels.items()}, (address,)
    )


def use(one: Pod, other: Pod | str, port: int | None = 80, protocol: str = "TCP") -> Use:
    there = other if isinstance(other, str) else Member.of(other)
    return Use(Member.of(one), Direction.INGRESS, there, protocol, port)


def world_of(*pods: Pod) -> World:
    return World({each.key: each for each in pods})


def test_what_no_network_policy_could_allow_is_said() -> None:
    web, api = pod("web", "10.0.0.1", app="web"), pod("api", "10.0.0.2", app="api")
    denied = replace(use(api, web, 81), why_not="Admin guard ingress[1] denies it", seen="(1 dropped packet)")
    (found,) = suggest(world_of(web, api), [use(api, web), denied], [Direction.INGRESS])
    assert found.manifest["spec"]["ingress"] == [
        {"from": [{"podSelector": {"matchLabels": {"app": "web"}}}], "ports": [{"protocol": "TCP", "port": 80}]}
    ]
    assert found.notes[-1] == (
        "ingress from shop/web 81/TCP (1 dropped packet) is NOT allowed: Admin guard ingress[1] denies it"
    )


def test_labels_that_a_controller_makes_up_are_left_out() -> None:
    api = pod("api-7d9f-x", "10.0.0.1", app="api", pod_template_hash="7d9f", version="1.2")
    web = pod("web-1", "10.0.0.2", app="web", pod_template_hash="55")
    (found,) = suggest(world_of(api, web), [use(api, web), use(api, "192.0.2.7", 443)])
    assert found.manifest["spec"] == {
        "podSelector": {"matchLabels": {"app": "api"}},
        "policyTypes": ["Ingress"],
        "ingress": [
            {"from": [{"podSelector": {"matchLabels": {"app": "web"}}}], "ports": [{"protocol": "TCP", "port": 80}]},
            {"from": [{"ipBlock": {"cidr": "192.0.2.7/32"}}], "ports": [{"protocol": "TCP", "port": 443}]},
        ],
    }
    assert found.manifest["metadata"] == {"name": "suggested-api", "namespace": "shop"}
    assert yaml.safe_load(found.text()) == found.manifest


def test_what_the_labels_of_a_name_select_beyond_is_shut_out() -> None:
    one, canary = pod("a", "10.0.0.1", app="api"), pod("b", "10.0.0.2", app="api", track="canary")
    (found,) = suggest(world_of(one, canary), [use(one, "192.0.2.1")])
    assert found.manifest["spec"]["podSelector"] == {
        "matchLabels": {"app": "api"},
        "matchExpressions": [{"key": "track", "operator": "DoesNotExist"}],
    }
    (found,) = suggest(world_of(one, canary), [use(canary, "192.0.2.1")])
    assert found.manifest["spec"]["podSelector"] == {"matchLabels": {"app": "api", "track": "canary"}}


def test_protocols_without_ports_are_said_and_not_allowed() -> None:
    api, web = pod("api", "10.0.0.1", app="api"), pod("web", "10.0.0.2", app="web")
    (found,) = suggest(world_of(api, web), [use(api, web, None, "ICMP")])
    assert found.manifest["spec"]["ingress"] == []
    assert any("NOT allowed" in note and "ICMP" in note for note in found.notes)


def test_names_are_not_taken_twice() -> None:
    api, canary = pod("a", "10.0.0.1", app="api"), pod("b", "10.0.0.2", app="api", track="canary")
    world = world_of(api, canary)
    world = replace(world, policies={"shop/suggested-api": Policy("shop", "suggested-api", EVERYTHING, (), None)})
    found = suggest(world, [use(api, "192.0.2.1"), use(canary, "192.0.2.1")])
    assert {each.manifest["metadata"]["name"] for each in found} == {"suggested-api-2", "suggested-api-3"}

"""The nearest miss: what is said to be missing is what is missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from ipaddress import ip_network
from itertools import product
from typing import Any

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from netpold.policy.index import Index
from netpold.policy.model import (
    EVERYTHING,
    NAME_LABEL,
    Direction,
    IPBlock,
    Pod,
    PodPeer,
    Policy,
    PolicyPort,
    World,
)
from netpold.policy.selector import matches
from netpold.policy.unmet import satisfying, unmet
from netpold.rules.ends import end, families
from netpold.rules.explain import Judgement, explain
from netpold.rules.near import Far, Miss, misses
from netpold.rules.offline import offline_ruleset
from netpold.rules.reasons import REACHES_ITSELF
from tests.objects import to_world
from tests.strategies import OUTSIDE, Shape, labels, pod_selectors, worlds

SMALL = Shape(pods=5, policies=4, quarantine=True)


def judged(world: World, words: tuple[str, str, str, int | None], direction: Direction) -> Judgement:
    index = Index(world)
    answer = explain(index, offline_ruleset(index), *words)
    return answer.egress if direction is Direction.EGRESS else answer.ingress


def test_a_pod_to_itself_is_said_in_a_sentence() -> None:
    pod = Pod("x", "a", {}, ("10.0.0.1",))
    closed = Policy("x", "closed", EVERYTHING, (), ())
    world = World({pod.key: pod}, {}, {closed.key: closed})
    assert judged(world, ("x/a", "x/a", "TCP", 80), Direction.EGRESS).reason == REACHES_ITSELF
    assert judged(world, ("x/a", "x/a", "TCP", 80), Direction.INGRESS).reason == REACHES_ITSELF


# Whatever is named, mended: it allows ---------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(world=worlds(SMALL), port=st.sampled_from((("TCP", 80), ("UDP", 80), ("TCP", 8080), ("ICMP", None))))
def test_with_that_one_thing_mended_it_allows(world: World, port: tuple[str, int | None]) -> None:
    index = Index(world)
    ruleset = offline_ruleset(index)
    ends = [key for key, pod in world.pods.items() if pod.addresses and not pod.finished]
    for source, destination in product([*ends, OUTSIDE[0]], repeat=2):
        if "/" not in source + destination or not families(end(index, source), end(index, destination)):
            continue
        words = source, destination, *port
        answer = explain(index, ruleset, *words)
        for direction, judgement in ((Direction.EGRESS, answer.egress), (Direction.INGRESS, answer.ingress)):
            if judgement.nearest_miss is None:
                continue
            assert judgement.verdict == "deny" or judgement.audit
            own, far = answer.packet.source, answer.packet.destination
            if direction is Direction.INGRESS:
                own, far = far, own
            (near,), there = index.claimants(own), index.claimants(far)
            policies = index.isolation(near, direction).policies
            found = misses(world, policies, near, direction, Far(far, far, tuple(there)), *port)
            assert found[0].origin == judgement.nearest_miss.origin
            for miss in found:
                event(miss.but_for)
                changed = mended(world, miss, far, there[0] if there else None, *port)
                after = judged(changed, words, direction)
                assert (after.verdict, after.audit) == ("allow", False), (miss.text, words)


@settings(max_examples=100, deadline=None)
@given(world=worlds(SMALL), twin_labels=labels)
def test_without_those_that_are_no_peers_an_address_is_one(world: World, twin_labels: Mapping[str, str]) -> None:
    """Another pod claims the address of each in turn."""
    for pod in [each for each in world.pods.values() if each.addresses and each.takes_part]:
        twin = replace(pod, name="twin", labels=twin_labels, quarantined=False)
        contested = replace(world, pods={**world.pods, twin.key: twin})
        index = Index(contested)
        for near, direction in product(contested.pods.values(), Direction):
            policies = index.isolation(near, direction).policies
            if not near.takes_part or not near.addresses or set(near.addresses) & set(pod.addresses):
                continue
            for own, far in zip(near.addresses, pod.addresses, strict=False):
                if (":" in own) != (":" in far):
                    continue
                words = (own, far) if direction is Direction.EGRESS else (far, own)
                miss = judged(contested, (*words, "TCP", 80), direction).nearest_miss
                if miss is None or "several pods claim" not in miss.text:
                    continue
                event("found")
                keys = with_peers_alone(contested, miss, far, policies)
                after = judged(replace(world, pods=keys), (*words, "TCP", 80), direction)
                assert (after.verdict, after.audit) == ("allow", False), (miss.text, words)


def mended(world: World, miss: Miss, far: str, pod: Pod | None, protocol: str, port: int | None) -> World:
    """The world with what the miss names mended and nothing else."""
    policy = world.policies[miss.origin.policy]
    rule = (policy.rules(miss.origin.direction) or ())[miss.origin.index]
    peers = [each for each in rule.peers or () if isinstance(each, PodPeer)]
    if miss.but_for in ("port", "protocol"):
        more = () if port is None else (*(rule.ports or ()), PolicyPort(protocol, port))  # type: ignore[arg-type]
        return with_rule(world, policy, miss, ports=more or None)
    if miss.but_for == "address":
        block = IPBlock(ip_network(far))
        return with_rule(world, policy, miss, peers=(*(rule.peers or ()), block))
    assert pod is not None
    if miss.but_for == "pod-labels":
        for peer in peers:
            found = satisfying(peer.pods, pod.labels)
            changed = replace(world, pods={**world.pods, pod.key: replace(pod, labels=found or {})})
            if found is not None and reaches(changed, policy, peer, pod):
                return changed
    if miss.but_for == "namespace-labels":
        space = world.namespace(pod.namespace)
        for peer in peers:
            found = satisfying(peer.namespaces, space.labels, {NAME_LABEL}) if peer.namespaces else None
            if found is not None and matches(peer.pods, pod.labels):
                return replace(world, namespaces={**world.namespaces, space.key: replace(space, labels=found)})
    if miss.but_for == "manifest":
        space = world.namespace(pod.namespace)
        wanted = [each.namespaces for each in peers if each.namespaces and matches(each.pods, pod.labels)]
        if space.quarantined and not pod.quarantined:
            good = [satisfying(each, space.labels, {NAME_LABEL}) for each in wanted]
            space = replace(space, quarantined=False, labels=next(each for each in good if each is not None))
        pods = {**world.pods, pod.key: replace(pod, quarantined=False)}
        return replace(world, pods=pods, namespaces={**world.namespaces, space.key: space})
    if miss.but_for == "namespace":
        more_peers = tuple(replace(each, namespaces=EVERYTHING) for each in peers)
        return with_rule(world, policy, miss, peers=more_peers)
    raise AssertionError(f"nothing to mend: {miss}")


def reaches(world: World, policy: Policy, peer: PodPeer, pod: Pod) -> bool:
    """Whether the peer means the pod, if its labels are right."""
    space = world.namespace(pod.namespace)
    if peer.namespaces is None:
        return policy.namespace == pod.namespace and not pod.quarantined
    return matches(peer.namespaces, space.labels) and not space.quarantined | pod.quarantined


def with_peers_alone(world: World, miss: Miss, address: str, policies: Sequence[Policy]) -> dict[str, Pod]:
    """Without the pods that claim the address and are no peers of the rule."""
    (policy,) = (each for each in policies if each.key == miss.origin.policy)
    rule = (policy.rules(miss.origin.direction) or ())[miss.origin.index]
    anybody = (PodPeer(EVERYTHING, EVERYTHING),)  # as names of ports mean it
    peers = [each for each in (anybody if rule.peers is None else rule.peers) if isinstance(each, PodPeer)]
    claimants = Index(world).claimants(address)
    others = [
        pod.key
        for pod in claimants
        if not any(matches(peer.pods, pod.labels) and reaches(world, policy, peer, pod) for peer in peers)
    ]
    assert 0 < len(others) < len(claimants)
    return {key: pod for key, pod in world.pods.items() if key not in others}


def with_rule(world: World, policy: Policy, miss: Miss, **fields: Any) -> World:
    rules = list(policy.rules(miss.origin.direction) or ())
    rules[miss.origin.index] = replace(rules[miss.origin.index], **fields)
    changed = replace(policy, **{str(miss.origin.direction): tuple(rules)})
    return replace(world, policies={**world.policies, policy.key: changed})


@settings(max_examples=150, deadline=None)
@given(selector=pod_selectors, have=labels)
def test_satisfying_changes_what_it_must(selector: Any, have: Mapping[str, str]) -> None:
    found = satisfying(selector, have)
    if found is None:
        for app in (None, "a", "b", "", "1"):
            for tier in (None, "a", "b", "", "1"):
                tried = {key: value for key, value in (("app", app), ("tier", tier)) if value is not None}
                assert not matches(selector, tried)
        return
    assert matches(selector, found)
    failing = {each.key for each in unmet(selector, have)}
    assert {key: value for key, value in found.items() if key not in failing} == {
        key: value for key, value in have.items() if key not in failing
    }


# In words ---------------------------------------------------------------------------------------------------------

SPACES = [
    {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "ops", "labels": {"team": "ops"}}},
    {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "monitoring"}},
]


def a_pod(namespace: str, name: str, number: int, **pod_labels: str) -> dict[str, Any]:
    port = {"name": "http", "containerPort": 8080}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"namespace": namespace, "name": name, "labels": pod_labels},
        "spec": {"containers": [{"ports": [port] if name == "b" else []}]},
        "status": {"phase": "Running", "podIPs": [{"ip": f"10.0.0.{number}"}]},
    }


PODS = [
    a_pod("shop", "b", 1, app="b"),
    a_pod("shop", "a", 2, app="api"),
    a_pod("monitoring", "prom", 3, app="prom"),
    a_pod("ops", "admin", 4),
]
FROM_OPS = {"namespaceSelector": {"matchLabels": {"team": "ops"}}}


def near_b(source: str, port: tuple[str, int | None], *rules: dict[str, Any]) -> Judgement:
    """What the ingress of shop/b says with these rules."""
    spec = {"podSelector": {"matchLabels": {"app": "b"}}, "ingress": list(rules)}
    metadata = {"namespace": "shop", "name": "b"}
    policy = {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": metadata, "spec": spec}
    return judged(to_world([*SPACES, *PODS, policy]), (source, "shop/b", *port), Direction.INGRESS)


def pods_with(**match: str) -> dict[str, Any]:
    return {"podSelector": {"matchLabels": match}}


@pytest.mark.parametrize(
    ("source", "port", "rule", "but_for", "text"),
    [
        ("shop/a", ("TCP", 80), {"ports": [{"port": 8080}]}, "port", "the port: it has 8080/TCP"),
        ("shop/a", ("UDP", 80), {"ports": [{"port": 80}]}, "protocol", "the protocol: it has 80/TCP"),
        ("shop/a", ("TCP", 81), {"ports": [{"port": 90, "endPort": 99}]}, "port", "the port: it has 90-99/TCP"),
        (
            "shop/a",
            ("TCP", 80),
            {"ports": [{"port": "http"}]},
            "port",
            "the port: it has http/TCP, which is 8080 on shop/b",
        ),
        (
            "shop/a",
            ("TCP", 80),
            {"ports": [{"port": "web"}]},
            "port",
            "the port: it has web/TCP, which no container of shop/b has",
        ),
        (
            "shop/a",
            ("ICMP", None),
            {"ports": [{"port": 80}]},
            "port",
            "its ports: it has 80/TCP, and ICMP passes rules without ports",
        ),
        (
            "monitoring/prom",
            ("TCP", 80),
            {"from": [FROM_OPS]},
            "namespace-labels",
            "the namespace: monitoring lacks the label team=ops",
        ),
        (
            "monitoring/prom",
            ("TCP", 80),
            {"from": [pods_with(app="prom")]},
            "namespace",
            "the namespace: it has no namespaceSelector, so it means pods of shop alone",
        ),
        (
            "monitoring/prom",
            ("TCP", 80),
            {"from": [{"namespaceSelector": {"matchLabels": {NAME_LABEL: "ops"}}}]},
            "namespace",
            f"the namespace: it means those with {NAME_LABEL}=ops, and monitoring/prom is in monitoring",
        ),
        (
            "shop/a",
            ("TCP", 80),
            {"from": [pods_with(app="web")]},
            "pod-labels",
            "the pod's labels: shop/a has app=api, not app=web",
        ),
        (
            "ops/admin",
            ("TCP", 80),
            {"from": [FROM_OPS | pods_with(role="admin", app="x")]},
            "pod-labels",
            "the pod's labels: ops/admin lacks the label app=x and lacks the label role=admin",
        ),
        (
            "10.9.1.1",
            ("TCP", 80),
            {"from": [{"ipBlock": {"cidr": "10.9.0.0/16", "except": ["10.9.1.0/24"]}}]},
            "address",
            "the address: 10.9.1.1 is in 10.9.1.0/24, which is excepted from 10.9.0.0/16",
        ),
        (
            "192.0.2.1",
            ("TCP", 80),
            {"from": [{"ipBlock": {"cidr": "10.9.0.0/16"}}]},
            "address",
            "the address: 192.0.2.1 is not in 10.9.0.0/16",
        ),
        (
            "shop/a",
            ("TCP", 80),
            {"from": [{"ipBlock": {"cidr": "10.9.0.0/16"}}]},
            "address",
            "the address: that of shop/a is not in 10.9.0.0/16",
        ),
        (
            "shop/a",
            ("TCP", 80),
            {"from": [{"ipBlock": {"cidr": "::/0"}}]},
            "address",
            "the address: that of shop/a is IPv4, and it has ::/0",
        ),
        (
            "shop/a",
            ("TCP", 80),
            {"ports": [{"port": "http"}, {"port": 8080}, {"port": 8080, "protocol": "TCP"}]},
            "port",
            "the port: it has http/TCP, which is 8080 on shop/b, 8080/TCP",
        ),
        (
            "192.0.2.1",
            ("TCP", 80),
            {"from": [pods_with(app="web")]},
            "address",
            "the address: it means pods by their labels, and 192.0.2.1 is no pod's address",
        ),
    ],
)
def test_it_is_said_in_words(
    source: str, port: tuple[str, int | None], rule: dict[str, Any], but_for: str, text: str
) -> None:
    miss = near_b(source, port, rule).nearest_miss
    assert miss is not None
    assert (miss.but_for, miss.text) == (but_for, f"shop/b ingress[0] would allow it but for {text}")


def test_an_address_of_several_pods_of_which_some_are_peers() -> None:
    spec = {"podSelector": {"matchLabels": {"app": "b"}}, "ingress": [{"from": [pods_with(app="twin")]}]}
    metadata = {"namespace": "shop", "name": "b"}
    policy = {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": metadata, "spec": spec}
    twins = [a_pod("shop", "twin-a", 7, app="twin"), a_pod("shop", "twin-b", 7, app="other")]
    for source in ("shop/twin-a", "shop/twin-b", "10.0.0.7"):
        miss = judged(
            to_world([*SPACES, *PODS, *twins, policy]), (source, "shop/b", "TCP", 80), Direction.INGRESS
        ).nearest_miss
        assert miss is not None and miss.but_for == "address"
        assert miss.text.endswith("but for the address: several pods claim 10.0.0.7, and not all of them are peers")
    strangers = [a_pod("shop", "twin-a", 7, app="x"), a_pod("shop", "twin-b", 7, app="other")]
    world = to_world([*SPACES, *PODS, *strangers, policy])
    assert judged(world, ("10.0.0.7", "shop/b", "TCP", 80), Direction.INGRESS).nearest_miss is None


def test_two_things_are_no_near_miss() -> None:
    for rule in (
        {"from": [pods_with(app="web")], "ports": [{"port": 1}]},
        {"from": [FROM_OPS | pods_with(app="web")]},
    ):
        assert near_b("monitoring/prom", ("TCP", 80), rule).nearest_miss is None


def test_a_namespace_whose_manifest_is_faulty_lacks_that_too() -> None:
    """No namespaceSelector selects it."""
    spec = {"podSelector": {"matchLabels": {"app": "b"}}, "ingress": [{"from": [{"podSelector": {}}]}]}
    metadata = {"namespace": "shop", "name": "b"}
    policy = {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": metadata, "spec": spec}
    world = to_world([*SPACES, *PODS, policy])
    words = ("ops/admin", "shop/b", "TCP", 80)
    miss = judged(world, words, Direction.INGRESS).nearest_miss
    assert miss is not None and miss.but_for == "namespace"
    faulty = {**world.namespaces, "ops": replace(world.namespace("ops"), quarantined=True)}
    assert judged(replace(world, namespaces=faulty), words, Direction.INGRESS).nearest_miss is None


def test_the_nearest_is_the_one_that_was_meant() -> None:
    """A rule for this peer comes before one for anybody, fewer labels before more, and labels before blocks."""
    dns, labels_of = {"ports": [{"port": 53}]}, {"from": [pods_with(app="web")]}
    more = {"from": [pods_with(app="web", tier="x")]}
    block = {"from": [{"ipBlock": {"cidr": "192.0.2.0/24"}}]}
    peer = {"from": [pods_with(app="api")], "ports": [{"port": 443}]}
    for rules, which in (
        ((dns, more, block, labels_of, peer), 4),
        ((dns, more, block, labels_of), 3),
        ((block, dns), 1),
    ):
        miss = near_b("shop/a", ("TCP", 80), *rules).nearest_miss
        assert miss is not None
        assert miss.origin.index == which


def test_what_the_sets_of_the_rule_hold() -> None:
    allowed = near_b("shop/a", ("TCP", 80), {"from": [pods_with(app="api")]})
    assert [(each.meaning, each.members, each.has_peer) for each in allowed.sets] == [
        ("pods app=api in namespace shop", 1, True)
    ]
    missed = near_b("shop/a", ("TCP", 80), {"from": [FROM_OPS]}, {"from": [pods_with(app="prom")]})
    assert missed.nearest_miss is not None
    assert (missed.nearest_miss.origin.index, [each.has_peer for each in missed.sets]) == (0, [False])
    assert near_b("shop/a", ("TCP", 80)).sets == ()

"""What changes between pods and their own node, which NetworkPolicies leave free and tiers judge."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_network

from netpold.policy.index import Index
from netpold.policy.model import (
    EVERYTHING,
    Action,
    ClusterPolicy,
    Direction,
    IPBlock,
    Node,
    NodePeer,
    Pod,
    PodPeer,
    Policy,
    PolicyPort,
    Tier,
    TierRule,
    World,
)
from netpold.rules.cause import Cause
from netpold.rules.difference import Change, difference
from netpold.rules.services import Span

NODES = {
    "n1": Node("n1", {}, ("10.255.0.1", "fd00:255::1")),
    "n2": Node("n2", {}, ("10.255.0.2", "fd00:255::2")),
}
PODS = {
    "a/isolated": Pod("a", "isolated", {}, ("10.0.0.1", "fd00::1"), "n1"),
    "b/free": Pod("b", "free", {}, ("10.0.0.2", "fd00::2"), "n1"),
}
ISOLATES = Policy("a", "closed", EVERYTHING, None, ())
SSH = (PolicyPort("TCP", 22),)


def tier(*rules: TierRule, of: Tier = Tier.ADMIN) -> ClusterPolicy:
    return ClusterPolicy("no-node", of, 1, PodPeer(EVERYTHING, EVERYTHING), (), rules)


def world(*policies: Policy | ClusterPolicy) -> World:
    return World(PODS, {}, {each.key: each for each in policies}, NODES)


def told(old: World, new: World, **settings: str) -> list[Change]:
    """Those that are about a node's own pods, each family by itself put in order."""
    return [each for each in difference(Index(old), Index(new), **settings) if each.node]  # type: ignore[arg-type]


DENY = tier(TierRule(Action.DENY, (NodePeer(EVERYTHING),), SSH))
TCP_22 = (Span("TCP", 22, 22),)
OWN = tuple(IPBlock(ip_network(each)) for each in ("10.255.0.1/32", "fd00:255::1/128"))


def test_what_a_tier_denies_to_the_own_node_opens_without_it_though_the_pod_is_isolated() -> None:
    (change,) = told(world(ISOLATES, DENY), world(ISOLATES))
    assert (change.source.pods, change.destination.outside, change.node) == ({"a/isolated"}, OWN, "n1")
    assert (change.opens, change.closes, change.families) == (TCP_22, (), (4, 6))
    assert change.causes == (Cause("no-node", Direction.EGRESS, 0, "denied"),)


def test_and_closes_with_it() -> None:
    (change,) = told(world(ISOLATES), world(ISOLATES, DENY))
    assert (change.opens, change.closes) == ((), TCP_22)
    assert change.causes == (Cause("no-node", Direction.EGRESS, 0, "denies"),)


def test_a_pod_that_is_not_isolated_is_told_once() -> None:
    everything = difference(Index(world(DENY)), Index(world()))
    pods = [pod for each in everything for pod in each.source.pods]
    assert sorted(pods) == ["a/isolated", "b/free"]
    assert not any(each.node for each in everything)


def test_where_policies_judge_the_own_node_too_isolated_stays_isolated() -> None:
    assert difference(Index(world(ISOLATES, DENY)), Index(world(ISOLATES)), host_access="policy") == [
        each for each in difference(Index(world(ISOLATES, DENY)), Index(world(ISOLATES))) if not each.node
    ]


def test_a_policy_that_isolates_takes_a_baseline_from_the_own_node() -> None:
    baseline = replace(DENY, tier=Tier.BASELINE)
    (change,) = told(world(baseline), world(ISOLATES, baseline))
    assert (change.source.pods, change.opens, change.closes) == ({"a/isolated"}, TCP_22, ())


def test_policies_in_another_order_are_both_the_cause() -> None:
    passes = ClusterPolicy("passes", Tier.ADMIN, 2, DENY.subject, (), (replace(DENY.egress[0], action=Action.PASS),))
    (change,) = told(world(ISOLATES, DENY, passes), world(ISOLATES, DENY, replace(passes, priority=0)))
    assert (change.opens, change.closes) == (TCP_22, ())
    assert {(each.policy, each.does) for each in change.causes} == {("passes", "passes"), ("no-node", "denied")}


def test_a_node_that_is_not_the_same_in_both_is_nobodys_own() -> None:
    moved = replace(world(ISOLATES), pods={key: replace(pod, node="n2") for key, pod in PODS.items()})
    assert told(world(ISOLATES, DENY), moved) == []

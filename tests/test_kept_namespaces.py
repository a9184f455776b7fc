"""Namespace objects that go before their pods: rules that deny go on to deny to the same, and to no others."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import event, given, settings
from hypothesis import strategies as st

from netpold.policy.groups import PodGroup
from netpold.policy.index import Index
from netpold.policy.model import (
    EVERYTHING,
    NAME_LABEL,
    Namespace,
    Operator,
    Pod,
    PodPeer,
    Requirement,
    Selector,
    World,
)
from tests.live import Live
from tests.strategies import Shape, cluster_pods, worlds

A = Pod("a", "p", {}, ("10.0.0.1",))
LATER = Pod("a", "later", {}, ("10.0.0.2",))
B = Pod("b", "p", {}, ("10.0.0.3",))
TEAM_A = Namespace("a", {NAME_LABEL: "a", "team": "a"})
NOT_A = Selector((Requirement("team", Operator.NOT_IN, ("a",)),))
NONE = Selector((Requirement("team", Operator.DOES_NOT_EXIST, ()),))
TEAM = Selector((Requirement("team", Operator.EXISTS, ()),))


@given(worlds(Shape(quarantine=True)), st.lists(cluster_pods, min_size=1, max_size=8), st.data())
@settings(max_examples=50, deadline=None)
def test_denied_are_the_same_and_allowed_is_what_is_written(
    world: World, peers: list[PodPeer], data: st.DataObject
) -> None:
    """Whichever objects go, whatever rules say of peers, and whatever is not known of any pod or namespace."""
    gone = data.draw(st.sets(st.sampled_from(sorted(world.namespaces)))) if world.namespaces else set()
    left = {name: each for name, each in world.namespaces.items() if name not in gone}
    before, bare, kept = Index(world), *(Index(replace(world, namespaces=left)) for _ in range(2))
    kept.linger({}, {name: world.namespaces[name] for name in gone})
    for peer in peers:
        assert peer.namespaces is not None
        denied, allowed = (PodGroup("", peer.namespaces, peer.pods, possible) for possible in (True, False))
        assert kept.addresses([denied]) == before.addresses([denied])
        assert kept.members(allowed) == bare.members(allowed)
        if before.addresses([denied]) != bare.addresses([denied]):
            event("labels that are gone say who is denied")
        for address in {each for pod in world.pods.values() for each in pod.addresses}:
            for group in (denied, allowed):
                assert kept.holds([group], address) == (address in kept.addresses([group]))


def test_pods_that_come_later_and_the_way_back() -> None:
    """Who comes later is denied as the others of the namespace are; what allows knows it by its name alone."""
    denied = [PodGroup("", each, EVERYTHING, possible=True) for each in (NOT_A, NONE, TEAM)]
    allowed = [replace(each, possible=False) for each in denied]
    live = Live(World())
    index = Index(live.world)
    for group in (*denied, *allowed):
        index.watch(group)
    at = {group: frozenset[str]() for group in (*denied, *allowed)}
    a, later, b = (each.addresses[0] for each in (A, LATER, B))
    for pods, has_object, by_denied, by_allowed in (
        ((A, B), True, ({b}, {b}, {a}), ({b}, {b}, {a})),
        ((A, B), False, ({b}, {b}, {a}), ({a, b}, {a, b}, set())),
        ((A, LATER, B), False, ({b}, {b}, {a, later}), ({a, later, b}, {a, later, b}, set())),
        ((LATER, B), True, ({b}, {b}, {later}), ({b}, {b}, {later})),
        ((B,), False, ({b}, {b}, set()), ({b}, {b}, set())),
        ((A, B), None, ({a, b}, {a, b}, set()), ({a, b}, {a, b}, set())),
    ):
        world = World({each.key: each for each in pods}, {"a": TEAM_A} if has_object else {})
        told = [index.update(live.become(world)), index.linger({}, {"a": TEAM_A} if has_object is False else {})]
        for group, expected in zip((*denied, *allowed), (*by_denied, *by_allowed), strict=True):
            now = index.addresses([group])
            assert now == expected == {each for each in (a, later, b) if index.holds([group], each)}
            assert now ^ at[group] <= {each for some in told for each in some.get(group, ())}
            at[group] = now

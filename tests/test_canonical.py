"""An object, its manifest for keeping, and the object again: the same, whatever it is."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netpold.policy.canonical import kind_of, read_back, title, written
from netpold.policy.manifest import Object, parse
from netpold.policy.model import (
    CLUSTER_KINDS,
    EVERYTHING,
    ClusterPolicy,
    ContainerPort,
    Namespace,
    Node,
    Pod,
    PodPeer,
    Policy,
    Position,
    Tier,
    World,
)
from tests.objects import to_manifests, to_yaml
from tests.strategies import EVERYTHING_GOES, worlds
from tests.test_assemble import DOCUMENTS

HERE = Position("a.yaml", 7, 3)


def again(each: Object) -> Object | None:
    return read_back(written(each).encode(), HERE, each.quarantined)


def objects(world: World) -> list[Object]:
    return [*world.pods.values(), *world.namespaces.values(), *world.nodes.values(), *world.policies.values()]


@given(worlds(EVERYTHING_GOES))
@settings(max_examples=60, deadline=None)
def test_any_object(world: World) -> None:
    for each in objects(world):
        found = again(each)
        assert found == each and type(found) is type(each)
        assert found is not None and found.position == HERE
        assert written(found) == written(each)


@given(worlds())
@settings(max_examples=50, deadline=None)
def test_as_the_reader_gives_them(world: World) -> None:
    for each in parse(to_yaml(to_manifests(world)).encode(), "").objects:
        assert again(each) == each


@given(st.lists(DOCUMENTS, max_size=3).map("---\n".join), st.data())
@settings(max_examples=100, deadline=None)
def test_what_is_quarantined_too(text: str, data: st.DataObject) -> None:
    """Closed versions are kept as well: whatever of a broken manifest could be read, the reader takes again."""
    cut = data.draw(st.integers(0, len(text)))
    letter = data.draw(st.sampled_from(["", "{", "x", "é", '"', " "]))
    for each in parse((text[:cut] + letter + text[cut:]).encode(), "").objects:
        assert again(each) == each


def test_ports_of_one_name() -> None:
    ports = (ContainerPort("dns", "TCP", 53), ContainerPort("dns", "UDP", 53), ContainerPort("dns", "TCP", 54))
    pod = Pod("x", "p", {}, ("10.0.0.1", "2001:db8::1", "10.0.0.2"), ports=ports, finished=True, host_network=True)
    assert again(pod) == pod


def test_the_rules_are_where_the_policy_was() -> None:
    text = b"apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p}\nspec: {ingress: [{}]}\n"
    (policy,) = parse(text, "").objects
    found = again(policy)
    assert isinstance(found, Policy) and found.ingress
    assert found.ingress[0].position == found.position == HERE


@pytest.mark.parametrize(
    "text", [b"", b"{", b"kind: Service", b"[]", b'{"kind":"Pod","apiVersion":"v1"}', b"---\n---\n"]
)
def test_what_is_not_one_good_object_is_nothing(text: bytes) -> None:
    assert read_back(text, HERE, False) is None


def test_every_kind_has_a_name() -> None:
    name, everybody = "x", PodPeer(EVERYTHING, EVERYTHING)
    policies = [ClusterPolicy(name, Tier.ADMIN, 1, everybody, (), (), kind) for kind in CLUSTER_KINDS]
    others = [Pod("a", name, {}), Namespace(name, {}), Node(name, {}), Policy("a", name, EVERYTHING, None, None)]
    assert [(kind_of(each), title(each)) for each in (*policies, *others)] == [
        ("ClusterNetworkPolicy", "ClusterNetworkPolicy x"),
        ("AdminNetworkPolicy", "AdminNetworkPolicy x"),
        ("BaselineAdminNetworkPolicy", "BaselineAdminNetworkPolicy x"),
        ("Pod", "Pod a/x"),
        ("Namespace", "Namespace x"),
        ("Node", "Node x"),
        ("NetworkPolicy", "NetworkPolicy a/x"),
    ]

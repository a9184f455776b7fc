"""Which node has an address: by Node objects, by pods on nodes' networks, and by the word of the node itself."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from netpold.policy.changes import difference
from netpold.policy.index import Index
from netpold.policy.model import Node, Pod, World
from netpold.rules.ends import Home, end, node_at

ADDRESSES = ("10.0.0.1", "10.0.0.2", "fd00::1")
_addresses = st.lists(st.sampled_from(ADDRESSES), max_size=2, unique=True).map(tuple)
_nodes = st.dictionaries(st.sampled_from(("n1", "n2")), _addresses, max_size=2).map(
    lambda found: {name: Node(name, {}, addresses) for name, addresses in found.items()}
)
_pods = st.dictionaries(
    st.sampled_from(("x/a", "x/b", "x/c")),
    st.tuples(_addresses, st.sampled_from(("n1", "n2", None)), st.booleans(), st.booleans()),
    max_size=3,
).map(lambda found: {key: Pod("x", key[2:], {}, a, node, host, done) for key, (a, node, host, done) in found.items()})
_worlds = st.builds(lambda nodes, pods: World(pods, nodes=nodes), _nodes, _pods)


@given(st.lists(_worlds, min_size=1, max_size=4))
def test_it_is_what_the_world_says_however_it_came_to_be(history: list[World]) -> None:
    index = Index(World())
    for world in history:
        changes, index.world = difference(index.world, world), world
        index.update(changes)
        for address in ADDRESSES:
            objects = {node.name for node in world.nodes.values() if address in node.addresses}
            hosts = {
                pod.node or ""
                for pod in world.pods.values()
                if pod.host_network and not pod.finished and address in pod.addresses
            }
            assert index.node_at(address) == min(objects or hosts - {""}, default="")


def test_a_pod_on_its_nodes_network_tells_the_nodes_address() -> None:
    index = Index(World({"x/agent": Pod("x", "agent", {}, ("10.0.0.1",), "n1", host_network=True)}))
    found = end(index, "10.0.0.1")
    assert (found.node, found.is_host) == ("n1", True)


def test_of_the_node_that_is_asked_its_own_word_counts() -> None:
    """An ExternalIP that is translated elsewhere does not come to INPUT; a gateway is in no manifest."""
    index = Index(World(nodes={"n1": Node("n1", {}, ("203.0.113.1",)), "n2": Node("n2", {}, ("10.0.0.2",))}))
    home = Home("n1", frozenset({"10.0.0.1"}))
    assert [node_at(index, address, home) for address in ("10.0.0.1", "203.0.113.1", "10.0.0.2")] == ["n1", "", "n2"]
    assert node_at(index, "203.0.113.1") == "n1"

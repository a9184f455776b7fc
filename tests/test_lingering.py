"""What lingers: what holds after any history, and that the compiler keeps up with it."""

from __future__ import annotations

from collections.abc import Mapping

from hypothesis import event, given, settings
from hypothesis import strategies as st

from netpold.daemon.lingering import Lingering
from netpold.host.remains import NO_REMAINS, Remains, read_remains, remains_line
from netpold.host.view import HostView, Link
from netpold.policy.changes import Changes
from netpold.policy.index import Index
from netpold.policy.model import EVERYTHING, NAME_LABEL, Namespace, Pod, Policy, World
from netpold.rules.compile import Compiler, compile_ruleset
from netpold.rules.endpoint import Endpoint, Interface
from netpold.rules.unclaimed import Unclaimed
from tests.live import Live
from tests.strategies import histories
from tests.test_incremental import MANY, MODES, same

Places = Mapping[str, Endpoint]


@st.composite
def networks(draw: st.DrawFn, world: World) -> tuple[Places, HostView]:
    """Where pods are, and the links of the host, some of which were made anew under the same name."""
    names = [f"v{number}" for number in range(8)]
    kept = draw(st.lists(st.sampled_from(names), unique=True, min_size=4))
    links = {name: Link(name, draw(st.sampled_from((number, number + 100)), label=name), "veth") for number, name in
             enumerate(names) if name in kept}  # fmt: skip
    places = {}
    for key, pod in sorted(world.pods.items()):
        place = draw(st.sampled_from(("remote", "address", *sorted(links))))
        if pod.takes_part and place != "remote":
            at = () if place == "address" else (Interface(place),)
            places[key] = Endpoint(key, pod.addresses, at)
    return places, HostView(links)


UNCLAIMED = st.builds(
    Unclaimed,
    names=st.sampled_from(((), ("v*",), ("v1", "br0", "e*"))),
    bridges=st.sampled_from((frozenset[str](), frozenset({"br0"}))),
    shared=st.sampled_from((frozenset[Interface](), frozenset({Interface("eth0"), Interface("eth1", True)}))),
)


@given(st.data(), histories(MANY, steps=6), MODES, UNCLAIMED)
@settings(max_examples=100, deadline=None)
def test_whatever_happens(data: st.DataObject, history: list[World], mode: object, unclaimed: Unclaimed) -> None:
    live = Live(World())
    index = Index(live.world)
    compiler = Compiler(index, mode)  # type: ignore[arg-type]
    lingering = Lingering(NO_REMAINS)
    places: Places = {}
    view = HostView()
    for world in history:
        before, saw = places, view
        places, view = data.draw(networks(world))
        changes = live.become(world)
        lingering.update(changes, live.world, index.claims, (before, places), (saw, view))
        past = lingering.past
        closed = Unclaimed(unclaimed.names, unclaimed.bridges, unclaimed.shared, lingering.closed)
        got = compiler.update(changes, places, past, closed)
        same(got.ruleset, compile_ruleset(Index(live.world), places, mode, past, closed))  # type: ignore[arg-type]
        claimed = {interface.name for each in places.values() for interface in each.interfaces}
        own = {address for pod in world.pods.values() if pod.takes_part for address in pod.addresses}
        for gone in past.pods.values():
            event("somebody lingers")
            assert own.isdisjoint(gone.endpoint.addresses)
            assert all(each.name in view.links and each.name not in claimed for each in gone.endpoint.interfaces)
        assert not any(each.name in claimed or each.name not in view.links for each in lingering.closed)
        assert past.policies.keys().isdisjoint(world.policies)
        if past.policies:
            event("a policy is kept")
        remains = lingering.remains(live.world, places, world.policies, view)
        assert known(read_remains(remains_line(remains))) == known(remains)


def known(remains: Remains) -> object:
    pods = [(each.pod, each.addresses, dict(each.links), each.closed) for each in remains.pods]
    return pods, remains.policies, remains.ending


A = Pod("x", "a", {"app": "a"}, ("10.0.0.1",))
DENY = Policy("x", "deny", EVERYTHING, (), ())
NOWHERE: Places = {}
AT_V1: Places = {"x/a": Endpoint("x/a", A.addresses, (Interface("v1"),))}
VIEW = HostView({"v1": Link("v1", 7, "veth")})


def test_the_same_pod_under_another_place_or_label_leaves_nothing() -> None:
    lingering = Lingering(NO_REMAINS)
    more = Pod("x", "a", {"app": "b"}, ("10.0.0.1", "fd00::1"))
    at_v2 = {"x/a": Endpoint("x/a", more.addresses, (Interface("v2"),))}
    lingering.update(
        Changes({"x/a": (A, more)}), World({"x/a": more}), Index(World()).claims, (AT_V1, at_v2), (VIEW, VIEW)
    )
    assert not lingering.past.pods
    assert not lingering.closed


def test_an_heir_that_is_not_found_yet_is_not_shut_out() -> None:
    """A pod of the same name with another address, behind a bridge say: the interface may be its own."""
    heir = Pod("x", "a", {"app": "a"}, ("10.0.0.2",))
    world = World({"x/a": heir})
    lingering = Lingering(NO_REMAINS)
    claims = Index(World()).claims
    waiting: Places = {"x/a": Endpoint("x/a", heir.addresses)}
    lingering.update(Changes({"x/a": (A, heir)}), world, claims, (AT_V1, waiting), (VIEW, VIEW))
    assert not lingering.past.pods
    found: Places = {"x/a": Endpoint("x/a", heir.addresses, (Interface("v2"),))}
    lingering.update(Changes(), world, claims, (waiting, found), (VIEW, VIEW))
    assert [gone.endpoint.interfaces for gone in lingering.past.pods.values()] == [(Interface("v1"),)]


def test_policies_that_go_with_their_namespace_stay_for_its_pods() -> None:
    space = Namespace("x", {NAME_LABEL: "x"})
    lingering = Lingering(NO_REMAINS)
    claims = Index(World()).claims
    gone = Changes({}, {"x": (space, None)}, {"x/deny": (DENY, None)})
    lingering.update(gone, World({"x/a": A}), claims, (AT_V1, AT_V1), (VIEW, VIEW))
    assert (lingering.past.policies, lingering.past.ending) == ({"x/deny": DENY}, {"x"})
    again = Changes({}, {"x": (None, space)})
    lingering.update(again, World({"x/a": A}, {"x": space}), claims, (AT_V1, AT_V1), (VIEW, VIEW))
    assert not lingering.past.policies


def test_what_another_boot_left_is_nothing() -> None:
    line = remains_line(Remains((), (DENY,)))
    assert read_remains(line).policies == (DENY,)
    assert read_remains(line.replace('"boot": "', '"boot": "0')) == NO_REMAINS
    assert read_remains(line[:-2]) == NO_REMAINS

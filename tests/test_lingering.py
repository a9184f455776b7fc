"""What lingers: what holds after any history, and that the compiler keeps up with it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import TypeVar

from hypothesis import event, given, settings
from hypothesis import strategies as st

from netpold.daemon.kept_namespaces import KeptNamespaces
from netpold.daemon.lingering import Lingering
from netpold.host.remains import NO_REMAINS, Left, Remains, read_remains, remains_line
from netpold.host.view import HostView, Link
from netpold.policy.changes import Changes
from netpold.policy.index import Index
from netpold.policy.model import (
    EVERYTHING,
    NAME_LABEL,
    Action,
    ClusterPolicy,
    Namespace,
    Operator,
    Pod,
    PodPeer,
    Policy,
    PolicyRule,
    Requirement,
    Selector,
    Tier,
    TierRule,
    World,
)
from netpold.rules.compile import Compiler, CompileSettings, compile_ruleset
from netpold.rules.endpoint import Endpoint, Interface
from netpold.rules.unclaimed import Unclaimed
from tests.live import Live
from tests.strategies import namespaces, worlds
from tests.test_incremental import MANY, MODES, same

Places = Mapping[str, Endpoint]
Object = TypeVar("Object")


NAMES = [f"v{number}" for number in range(8)]


@st.composite
def lives(draw: st.DrawFn) -> list[tuple[World, Places, HostView]]:
    """One world after another, each with a part of the same objects, a namespace with other labels, and pods with fewer
    addresses; where the pods are, for as long as their interfaces are there; and the links of the host, of which some
    are made anew under the same name."""
    whole = draw(worlds(MANY))
    homes = {key: draw(st.sampled_from(("remote", "address", *NAMES, *NAMES))) for key in sorted(whole.pods)}
    found = []
    for _ in range(draw(st.integers(2, 6))):
        spaces = _part(draw, whole.namespaces)
        for name in draw(st.sets(st.sampled_from(sorted(spaces)), max_size=1)) if spaces else ():
            spaces[name] = draw(namespaces(name, quarantine=True))
        pods = _part(draw, whole.pods)
        for key in draw(st.sets(st.sampled_from(sorted(pods)), max_size=3)) if pods else ():
            addresses = pods[key].addresses
            pods[key] = replace(pods[key], addresses=addresses[1:] if draw(st.booleans()) else addresses[:1])
        world = World(pods, spaces, _part(draw, whole.policies), _part(draw, whole.nodes))
        absent = draw(st.sets(st.sampled_from(NAMES), max_size=2))
        anew = draw(st.sets(st.sampled_from(NAMES), max_size=1))
        links = {
            name: Link(name, number + 100 * (name in anew), "veth")
            for number, name in enumerate(NAMES, 1)
            if name not in absent
        }
        places = {}
        for key, pod in world.pods.items():
            if pod.takes_part and homes[key] != "remote":
                at = (Interface(homes[key]),) if homes[key] in links else ()
                places[key] = Endpoint(key, pod.addresses, at)
        found.append((world, places, HostView(links)))
    return found


def _part(draw: st.DrawFn, objects: Mapping[str, Object]) -> dict[str, Object]:
    gone = draw(st.sets(st.sampled_from(sorted(objects)), max_size=3)) if objects else set()
    return {key: each for key, each in objects.items() if key not in gone}


UNCLAIMED = st.builds(
    Unclaimed,
    names=st.sampled_from(((), ("v*",), ("v1", "br0", "e*"))),
    bridges=st.sampled_from((frozenset[str](), frozenset({"br0"}))),
    shared=st.sampled_from((frozenset[Interface](), frozenset({Interface("eth0"), Interface("eth1", True)}))),
)


@given(lives(), MODES, UNCLAIMED)
@settings(max_examples=100, deadline=None)
def test_whatever_happens(
    history: list[tuple[World, Places, HostView]], mode: CompileSettings, unclaimed: Unclaimed
) -> None:
    live = Live(World())
    index = Index(live.world)
    compiler = Compiler(index, mode)
    lingering, spaces = Lingering(NO_REMAINS), KeptNamespaces()
    places: Places = {}
    view = HostView()
    had: dict[tuple[str, str], set[int]] = {}  # by pod and address, the interfaces that it was seen with
    may_have: dict[tuple[str, str], set[int]] = {}  # with interfaces that were closed, for this pod or another
    for world, after, sees in history:
        before, saw, places, view = places, view, after, sees
        changes = live.become(world)
        spaces.update(changes, live.world)
        lingering.update(changes, live.world, index.claims, (before, places), (saw, view), {}, spaces.found)
        past = lingering.past
        assert past.namespaces == spaces.found
        assert spaces.found.keys() <= {pod.namespace for pod in world.pods.values() if pod.takes_part}
        assert spaces.found.keys().isdisjoint(world.namespaces)
        if spaces.found and index.has_tiers:
            event("a namespace is kept")
        closed = Unclaimed(unclaimed.names, unclaimed.bridges, unclaimed.shared, lingering.closed)
        placed = lingering.placed(places)
        got = compiler.update(changes, placed, past, closed)
        same(got.ruleset, compile_ruleset(Index(live.world), placed, mode, past, closed))
        claimed = {interface.name for each in places.values() for interface in each.interfaces}
        own = {address for pod in world.pods.values() if pod.takes_part for address in pod.addresses}
        for gone in past.pods.values():
            event("somebody lingers")
            assert own.isdisjoint(gone.endpoint.addresses)
            assert all(each.name in view.links and each.name not in claimed for each in gone.endpoint.interfaces)
        assert not any(each.name in claimed or each.name not in view.links for each in lingering.closed)
        had = still_had(had, world, places, view, lingering.closed)
        may_have = still_had(may_have, world, places, view, frozenset())
        judged = {(key, address) for key, each in placed.items() for address in each.judged_at}
        judged |= {(gone.pod.key, address) for gone in past.pods.values() for address in gone.endpoint.addresses}
        assert had.keys() <= judged
        for key, addresses in lingering.lost.found.items():
            event("a pod has lost an address")
            assert {(key, address) for address in addresses} <= may_have.keys() and own.isdisjoint(addresses)
        assert past.policies.keys().isdisjoint(world.policies)
        if past.policies:
            event("a policy is kept")
        remains = lingering.remains(live.world, places, world.policies, view)
        remains = replace(remains, namespaces=spaces.remains(world.namespaces))
        assert known(read_remains(remains_line(remains))) == known(remains)


def still_had(
    had: Mapping[tuple[str, str], set[int]],
    world: World,
    places: Places,
    view: HostView,
    closed: frozenset[Interface],
) -> dict[tuple[str, str], set[int]]:
    """Who has which address, or had it behind an interface that is there and no other pod's, and nobody has it."""
    found: dict[tuple[str, str], set[int]] = {}
    own = {address for pod in world.pods.values() if pod.takes_part for address in pod.addresses}
    for (key, address), links in had.items():
        mine = {each.name for each in places[key].interfaces} if key in places else set()
        others = {each.name for each in (*closed, *(at for each in places.values() for at in each.interfaces))} - mine
        there = {view.links[name].index for name in view.links.keys() - others} & links
        if there and address not in own:
            found[key, address] = there
    for key, each in places.items():
        for address in each.addresses if each.interfaces else ():
            found[key, address] = {view.links[at.name].index for at in each.interfaces}
    return found


def known(remains: Remains) -> object:
    pods = [(each.pod, each.namespace, each.addresses, dict(each.links), each.closed) for each in remains.pods]
    return pods, remains.policies, remains.ending, remains.namespaces


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


def test_an_heir_that_is_not_found_yet_may_be_where_the_old_one_was() -> None:
    """A pod of the same name with another address: what the old one sends is judged as before, too."""
    heir = Pod("x", "a", {"app": "a"}, ("10.0.0.2",))
    world = World({"x/a": heir})
    lingering = Lingering(NO_REMAINS)
    claims = Index(World()).claims
    waiting: Places = {"x/a": Endpoint("x/a", heir.addresses)}
    lingering.update(Changes({"x/a": (A, heir)}), world, claims, (AT_V1, waiting), (VIEW, VIEW))
    assert [gone.endpoint for gone in lingering.past.pods.values()] == [
        Endpoint("x/a@v1", A.addresses, (Interface("v1"),))
    ]
    assert lingering.heirs == {"x/a": (Interface("v1"),)}
    found: Places = {"x/a": Endpoint("x/a", heir.addresses, (Interface("v2"),))}
    lingering.update(Changes(), world, claims, (waiting, found), (VIEW, VIEW))
    assert [gone.endpoint.interfaces for gone in lingering.past.pods.values()] == [(Interface("v1"),)]
    assert not lingering.heirs


def test_who_lingers_is_told_by_the_interface_whatever_its_name() -> None:
    lingering = Lingering(NO_REMAINS)
    claims = Index(World()).claims
    lingering.update(Changes({"x/a": (A, None)}), World(), claims, (AT_V1, NOWHERE), (VIEW, VIEW))
    renamed = HostView({"other": Link("other", 7, "veth"), "v1": Link("v1", 9, "veth")})
    lingering.update(Changes(), World(), claims, (NOWHERE, NOWHERE), (VIEW, renamed))
    assert [each.endpoint.interfaces for each in lingering.past.pods.values()] == [(Interface("other"),)]


def test_an_interface_that_a_pod_has_left_for_another_one_is_closed() -> None:
    """Also once the pod is gone, and after a restart; until a pod has it, or it is gone."""
    view = HostView({**VIEW.links, "v2": Link("v2", 8, "veth")})
    at_v2: Places = {"x/a": Endpoint("x/a", A.addresses, (Interface("v2"),))}
    world = World({"x/a": A})
    claims = Index(World()).claims
    lingering = Lingering(NO_REMAINS)
    lingering.update(Changes(), world, claims, (AT_V1, at_v2), (VIEW, view), {"v1": "x/a"})
    assert lingering.closed == {Interface("v1")}
    assert "v1 is closed" in lingering.warnings()[0]
    again = Lingering(lingering.remains(world, at_v2, (), view))
    gone = Changes({"x/a": (A, None)})
    lingering.update(gone, World(), claims, (at_v2, NOWHERE), (view, view), {"v1": "x/a", "v2": "x/a"})
    assert lingering.closed == {Interface("v1")}
    assert [each.endpoint.interfaces for each in lingering.past.pods.values()] == [(Interface("v2"),)]
    again.update(Changes(), world, claims, (NOWHERE, at_v2), (view, view), {"v1": "x/a"})
    assert again.closed == {Interface("v1")}
    again.update(Changes(), world, claims, (at_v2, AT_V1), (view, view))
    assert not again.closed


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


def test_a_policy_that_goes_with_its_audited_namespace_stays_audited() -> None:
    space = Namespace("x", {NAME_LABEL: "x"}, mode="audit")
    lingering = Lingering(NO_REMAINS)
    world = World({"x/a": A}, {"x": space}, {"x/deny": DENY})
    assert [each.mode for each in lingering_remains(world).policies] == ["audit"]
    gone = Changes({}, {"x": (space, None)}, {"x/deny": (DENY, None)})
    lingering.update(gone, World({"x/a": A}), Index(World()).claims, (AT_V1, AT_V1), (VIEW, VIEW))
    assert lingering.past.policies["x/deny"].mode == "audit"


def lingering_remains(world: World) -> Remains:
    """What is to be known after a restart of a daemon that has nothing to know of before."""
    lingering = Lingering(NO_REMAINS)
    lingering.update(Changes(), world, Index(world).claims, (AT_V1, AT_V1), (VIEW, VIEW))
    return lingering.remains(world, AT_V1, ["x/deny"], VIEW)


def test_a_kept_policy_that_the_kernel_refuses_is_closed_until_it_goes() -> None:
    allow = Policy("x", "allow", EVERYTHING, (PolicyRule(None, None),), None)
    lingering = Lingering(NO_REMAINS)
    changes = Changes({"x/a": (A, None)}, {}, {"x/allow": (allow, None)})
    lingering.update(changes, World(), Index(World()).claims, (AT_V1, NOWHERE), (VIEW, VIEW))
    assert lingering.past.policies == {"x/allow": allow}
    assert not lingering.refuse(["x/other", ""])
    before = lingering.past
    assert lingering.refuse(["x/allow"]) and lingering.past is not before
    assert not lingering.refuse(["x/allow"])
    lingering.update(Changes(), World(), Index(World()).claims, (NOWHERE, NOWHERE), (VIEW, VIEW))
    assert lingering.past.policies["x/allow"].ingress == () and lingering.past.pods
    assert "x/allow" in lingering.warnings()[0]
    lingering.update(Changes(), World(), Index(World()).claims, (NOWHERE, NOWHERE), (VIEW, HostView({})))
    assert not lingering.past.policies and not lingering.warnings()


FAR = Pod("far", "f", {}, ("10.0.9.1",))
TEAM = Namespace("far", {NAME_LABEL: "far", "team": "far"})
GUARD = ClusterPolicy("guard", Tier.ADMIN, 1, PodPeer(EVERYTHING, EVERYTHING), (), ())


def test_a_namespace_is_kept_until_its_object_is_back_or_its_last_pod_is_gone() -> None:
    other = replace(FAR, name="g", addresses=("10.0.9.2",))
    live = Live(World({each.key: each for each in (FAR, other)}, {"far": TEAM}, {GUARD.key: GUARD}))
    kept = KeptNamespaces()
    for there, has_object, expected in (
        ((FAR, other), True, {}),
        ((FAR, other), False, {"far": TEAM}),
        ((other,), False, {"far": TEAM}),
        ((other,), True, {}),
        ((other,), False, {"far": TEAM}),
        ((replace(other, finished=True),), False, {}),
        ((other,), False, {}),
    ):
        world = World({each.key: each for each in there}, {"far": TEAM} if has_object else {}, {GUARD.key: GUARD})
        kept.update(live.become(world), live.world)
        assert kept.found == expected
        assert len(kept.warnings()) == len(expected)


def test_rules_that_deny_follow_what_is_kept_of_namespaces() -> None:
    """Of a pod of another node; the compiler keeps up with it."""
    team = Selector((Requirement("team", Operator.IN, ("far",)),))
    deny = TierRule(Action.DENY, (PodPeer(EVERYTHING, team),), None)
    policies = {GUARD.key: replace(GUARD, ingress=(deny,))}
    near = replace(TEAM, labels={NAME_LABEL: "far", "team": "near"})
    live = Live(World())
    compiler, kept, lingering = Compiler(Index(live.world), CompileSettings()), KeptNamespaces(), Lingering(NO_REMAINS)
    for space, denied in ((TEAM, 1), (None, 1), (near, 0), (None, 0), (TEAM, 1), (None, 1), (near, 0)):
        world = World({each.key: each for each in (A, FAR)}, {"far": space} if space else {}, policies)
        changes = live.become(world)
        kept.update(changes, live.world)
        claims = compiler.index.claims
        lingering.update(changes, live.world, claims, (AT_V1, AT_V1), (VIEW, VIEW), {}, kept.found)
        got = compiler.update(changes, AT_V1, lingering.past).ruleset
        same(got, compile_ruleset(Index(world), AT_V1, CompileSettings(), lingering.past))
        assert sum(FAR.addresses[0] in each.members for each in got.sets.values()) == denied


def test_what_is_tried_ends_nothing_that_is_kept_and_is_not_kept_itself() -> None:
    tried = replace(TEAM, labels={NAME_LABEL: "far", "team": "near"})
    kept = KeptNamespaces()
    bare = World({FAR.key: FAR})
    kept.update(Changes({}, {"far": (TEAM, None)}), bare, {})
    kept.update(Changes(), replace(bare, namespaces={"far": tried}), {})
    assert not kept.found and kept.remains({}) == (TEAM,)
    kept.update(Changes(), bare, {})
    assert kept.found == {"far": TEAM}


def test_a_namespace_that_says_nothing_or_has_no_pods_is_not_kept() -> None:
    kept = KeptNamespaces([TEAM, Namespace("x", {NAME_LABEL: "x"})])
    kept.update(Changes(), World({"x/a": A}))
    assert not kept.found


def test_what_namespaces_were_is_known_after_a_restart_and_after_a_reboot() -> None:
    bare = World({FAR.key: FAR})
    before = KeptNamespaces()
    before.update(Changes({}, {"far": (TEAM, None)}), bare)
    for remains in (before.remains({}), KeptNamespaces().remains({"far": TEAM})):
        line = remains_line(Remains(namespaces=remains))
        for each in (line, line.replace('"boot": "', '"boot": "0')):
            after = KeptNamespaces(read_remains(each).namespaces)
            after.update(Changes({FAR.key: (None, FAR)}), bare)
            assert after.found == {"far": TEAM}


def test_many_namespaces_make_one_warning() -> None:
    names = [f"n{number}" for number in range(100)]
    kept = KeptNamespaces(Namespace(name, {NAME_LABEL: name, "team": "a"}) for name in names)
    kept.update(Changes(), World({f"{name}/p": Pod(name, "p", {}, ()) for name in names}, {}, {GUARD.key: GUARD}))
    assert len(kept.found) == 100
    (warning,) = kept.warnings()
    assert warning.startswith("the Namespace objects n0, n1, n10 and 97 more are gone")


def test_a_pod_that_goes_after_its_namespaces_object_lingers_with_the_labels_that_this_had() -> None:
    lingering = Lingering(NO_REMAINS)
    claims = Index(World()).claims
    team = Namespace("x", {NAME_LABEL: "x", "team": "a"})
    here = World({"x/a": A})
    lingering.update(Changes({}, {"x": (team, None)}), here, claims, (AT_V1, AT_V1), (VIEW, VIEW), {}, {"x": team})
    lingering.update(Changes({"x/a": (A, None)}), World(), claims, (AT_V1, NOWHERE), (VIEW, VIEW))
    assert [each.namespace for each in lingering.past.pods.values()] == [team]


def test_what_a_release_without_namespaces_left_is_known() -> None:
    left = Left(Pod("x", "a", {}, ("10.0.0.1",)), Namespace("x", {NAME_LABEL: "x"}), ("10.0.0.1",), {"veth1": 7})
    remains = Remains((left,), (DENY,))
    value = json.loads(remains_line(remains))
    del value["pods"][0]["namespace"], value["namespaces"]
    assert known(read_remains(json.dumps(value))) == known(remains)


def test_what_another_boot_left_is_nothing() -> None:
    line = remains_line(Remains((), (DENY,)))
    assert read_remains(line).policies == (DENY,)
    assert read_remains(line.replace('"boot": "', '"boot": "0')) == NO_REMAINS
    assert read_remains(line.replace('"network": "', '"network": "0')) == NO_REMAINS
    assert read_remains(line[:-2]) == NO_REMAINS
    assert read_remains("[]") == read_remains("null") == read_remains("1") == NO_REMAINS

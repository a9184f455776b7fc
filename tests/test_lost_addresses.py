"""Addresses that a pod's manifest says no more while its interface is there."""

from __future__ import annotations

from dataclasses import replace

from netpold.daemon.lingering import Lingering
from netpold.host.remains import NO_REMAINS, read_remains, remains_line
from netpold.host.view import HostView, Link
from netpold.policy.changes import Changes
from netpold.policy.index import Index
from netpold.policy.model import (
    EVERYTHING,
    NAME_LABEL,
    Action,
    ClusterPolicy,
    Direction,
    Namespace,
    Operator,
    Pod,
    PodPeer,
    Policy,
    Requirement,
    Selector,
    Tier,
    TierRule,
    World,
)
from netpold.rules.compile import Compiler, CompileSettings
from netpold.rules.endpoint import Endpoint, Interface
from netpold.rules.ends import Home, Lingerer
from netpold.rules.explain import explain
from netpold.rules.walk import Packet, walk
from tests.live import Live

V4, V6 = "10.0.0.1", "fd00::1"
BOTH = Pod("x", "a", {"app": "a"}, (V4, V6))
ONLY_V6 = replace(BOTH, addresses=(V6,))
OTHER = Pod("x", "o", {"app": "o"}, ("10.0.0.9", "fd00::9"))
VIEW = HostView({"v1": Link("v1", 7, "veth"), "v2": Link("v2", 8, "veth")})
DENY = Policy("x", "deny", Selector((Requirement("app", Operator.IN, ("a",)),)), (), None)
NOBODY = TierRule(Action.DENY, (PodPeer(DENY.selector, EVERYTHING),), None)
NOT_TO_A = ClusterPolicy("not-to-a", Tier.ADMIN, 1, PodPeer(EVERYTHING, EVERYTHING), (), (NOBODY,))


class Node:
    """A world that changes, what lingers in it, and the rules; all pods but OTHER are behind `v1`."""

    def __init__(
        self, *pods: Pod, lingering: Lingering | None = None, policies: tuple[Policy | ClusterPolicy, ...] = ()
    ):
        self.live = Live(World())
        self.compiler = Compiler(Index(self.live.world), CompileSettings())
        self.lingering = lingering or Lingering(NO_REMAINS)
        self.view = HostView()
        self.places: dict[str, Endpoint] = {}
        self.policies = {each.key: each for each in policies}
        self.become(*pods)

    def become(self, *pods: Pod, view: HostView = VIEW, at: str = "v1") -> None:
        changes = self.live.become(World({pod.key: pod for pod in pods}, {}, self.policies))
        after = {
            pod.key: Endpoint(
                pod.key,
                pod.addresses,
                tuple(Interface(each) for each in ("v2" if pod.key == OTHER.key else at,) if each in view.links),
            )
            for pod in pods
            if pod.takes_part
        }
        index, both, views = self.compiler.index, (self.places, after), (self.view, view)
        self.lingering.update(changes, self.live.world, index.claims, both, views)
        self.places, self.view = after, view
        placed = self.lingering.placed(after)
        self.ruleset = self.compiler.update(changes, placed, self.lingering.past).ruleset

    def restarted(self, *pods: Pod) -> Node:
        """The node after a restart, with what is known of before."""
        remains = self.lingering.remains(self.live.world, self.places, self.policies, self.view)
        known = Lingering(read_remains(remains_line(remains)))
        return Node(*pods, lingering=known, policies=tuple(self.policies.values()))

    @property
    def lost(self) -> dict[str, tuple[str, ...]]:
        return dict(self.lingering.lost.found)

    def passes(self, source: str, destination: str) -> bool:
        packet = Packet(source, destination, "tcp", 80)
        return walk(self.ruleset, "NETPOLD-FORWARD", packet).verdict != "DROP"


def test_an_address_is_lost_until_a_pod_claims_it_again() -> None:
    node = Node(BOTH, OTHER)
    assert not node.lost and not node.lingering.warnings()
    node.become(ONLY_V6, OTHER)
    assert node.lost == {"x/a": (V4,)} and not node.lingering.past.pods
    assert f"x/a ({V4})" in node.lingering.warnings()[0]
    node.become(BOTH, OTHER)
    assert not node.lost and not node.lingering.warnings()
    node.become(ONLY_V6, OTHER)
    node.become(ONLY_V6, replace(OTHER, addresses=(*OTHER.addresses, V4)))
    assert not node.lost and not node.lingering.closed
    node.become(ONLY_V6)
    assert not node.lost


def test_what_is_lost_ends_with_the_interface_and_where_another_pod_has_it() -> None:
    for view, at in (
        (HostView({"v1": Link("v1", 9, "veth"), "v2": VIEW.links["v2"]}), "v1"),
        (HostView({"v2": VIEW.links["v2"]}), "v1"),
        (replace(VIEW, own=frozenset({V4})), "v1"),
    ):
        node = Node(BOTH, OTHER)
        node.become(ONLY_V6, OTHER)
        node.become(ONLY_V6, OTHER, view=view, at=at)
        assert not node.lost
    node = Node(BOTH)
    node.become(ONLY_V6)
    renamed = HostView({"v3": replace(VIEW.links["v1"], name="v3"), "v2": VIEW.links["v2"]})
    node.become(ONLY_V6, view=renamed, at="v3")
    assert node.lost == {"x/a": (V4,)}
    node.become(ONLY_V6, OTHER, view=replace(VIEW, links={"v2": replace(VIEW.links["v1"], name="v2")}), at="v1")
    assert not node.lost


def test_an_address_that_another_pod_claims_already_is_not_lost() -> None:
    twin = replace(OTHER, addresses=(*OTHER.addresses, V4))
    node = Node(BOTH, twin)
    node.become(ONLY_V6, twin)
    assert not node.lost
    node = Node(BOTH, twin)
    node.become(ONLY_V6, OTHER)  # both lose it at once
    assert node.lost == {"x/a": (V4,), "x/o": (V4,)}


def test_what_is_left_of_a_pod_that_goes_has_what_it_lost_before() -> None:
    node = Node(BOTH, OTHER)
    node.become(ONLY_V6, OTHER)
    node.become(OTHER)
    assert not node.lost
    assert [each.endpoint for each in node.lingering.past.pods.values()] == [
        Endpoint("x/a@v1", (V6, V4), (Interface("v1"),))
    ]
    node.become(replace(BOTH, addresses=(V4,)), OTHER)  # and with one of them it is there again
    assert node.lost == {"x/a": (V6,)} and not node.lingering.past.pods


def test_a_pod_with_other_addresses_behind_the_same_interface_has_lost_all_of_the_old_ones() -> None:
    node = Node(BOTH, OTHER)
    node.become(replace(BOTH, addresses=("10.0.0.2",)), OTHER)
    assert node.lost == {"x/a": (V4, V6)} and not node.lingering.past.pods
    node = Node(BOTH, OTHER)
    node.become(replace(BOTH, addresses=("10.0.0.2",)), OTHER, at="nowhere")
    assert not node.lost and len(node.lingering.past.pods) == 1
    node.become(replace(BOTH, addresses=("10.0.0.2",)), OTHER)
    assert node.lost == {"x/a": (V4, V6)} and not node.lingering.past.pods


def test_what_is_lost_is_known_after_a_restart() -> None:
    node = Node(BOTH, OTHER)
    assert node.restarted(ONLY_V6, OTHER).lost == {"x/a": (V4,)}  # lost while the daemon did not run
    node.become(ONLY_V6, OTHER)
    for _ in range(2):
        node = node.restarted(ONLY_V6, OTHER)
        assert node.lost == {"x/a": (V4,)}
    assert not node.restarted(BOTH, OTHER).lost
    gone = node.restarted(OTHER)
    assert not gone.lost
    assert [each.endpoint.addresses for each in gone.lingering.past.pods.values()] == [(V6, V4)]


def test_policies_hold_there_with_their_changes_and_the_pods() -> None:
    """Its own, those of tiers that deny to it, and none that grants anything to its peers."""
    far = "192.0.2.7"
    node = Node(BOTH, OTHER, policies=(DENY, NOT_TO_A))
    node.become(ONLY_V6, OTHER)
    assert not node.passes(far, V4) and not node.passes(OTHER.addresses[0], V4)
    told = explain(node.compiler.index, node.ruleset, far, V4, "TCP", 80, home=home(node))
    assert told.verdict == "deny" and told.ingress.isolating == ("x/deny",)
    assert told.ingress.reason.startswith(f"{V4} was an address of x/a, whose manifest says it no more")
    node.become(replace(ONLY_V6, labels={"app": "b"}), OTHER)
    assert node.passes(far, V4) and node.passes(OTHER.addresses[0], V4)
    node.become(ONLY_V6, OTHER)
    assert not node.passes(far, V4)
    node.policies = {NOT_TO_A.key: NOT_TO_A}
    node.become(ONLY_V6, OTHER)  # a policy that goes is gone, for the pod has a manifest
    assert node.passes(far, V4) and not node.passes(OTHER.addresses[0], V4)
    assert not node.lingering.past.policies
    accept = replace(NOBODY, action=Action.ACCEPT)
    alone = Policy("x", "alone", Selector((Requirement("app", Operator.IN, ("o",)),)), None, ())
    node.policies = {each.key: each for each in (replace(NOT_TO_A, egress=(accept,)), alone)}
    node.become(ONLY_V6, OTHER)
    assert not node.passes(OTHER.addresses[0], V4) and node.passes(OTHER.addresses[1], V6)


def home(node: Node) -> Home:
    isolation = {each: node.compiler.isolation("x/a")[each] for each in Direction}
    return Home("n1", frozenset(), node.places.keys(), {V4: Lingerer(ONLY_V6, isolation, lost=True)})


def test_rules_that_deny_find_it_by_what_its_namespace_said() -> None:
    team = Namespace("x", {NAME_LABEL: "x", "team": "a"})
    lingering = Lingering(NO_REMAINS)
    world, claims = World({"x/a": ONLY_V6}), Index(World()).claims
    places = {"x/a": Endpoint("x/a", BOTH.addresses, (Interface("v1"),))}
    after = {"x/a": replace(places["x/a"], addresses=(V6,))}
    changes = Changes({"x/a": (BOTH, ONLY_V6)})
    lingering.update(changes, world, claims, (places, after), (VIEW, VIEW), {}, {"x": team})
    assert [space for _, space in lingering.past.left()[V4]] == [team]
    before = lingering.past
    lingering.update(Changes(), World({"x/a": ONLY_V6}, {"x": team}), claims, (after, after), (VIEW, VIEW))
    assert [space for _, space in lingering.past.left()[V4]] == [team] and lingering.past is not before

"""Where pods are, as a pure function of pods and a view of the host."""

from __future__ import annotations

import time
from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netpold.host.locate import Places, locate_one, nobodys, unclaimed
from netpold.host.remains import Left
from netpold.host.view import HostView, Link, Neighbour
from netpold.policy.model import Namespace, Network, Pod
from netpold.rules.endpoint import Endpoint, Interface
from netpold.rules.unclaimed import Unclaimed
from tests.places import locate

NODE = "n1"


def pod(
    *addresses: str, name: str = "p", node: str | None = None, interfaces: tuple[str, ...] = (), **more: bool
) -> Pod:
    return Pod("d", name, {}, addresses, node, interfaces=interfaces, **more)


def links(**kinds: str | None) -> dict[str, Link]:
    """Links by name; the kind, and for the port of a bridge `kind@bridge`."""
    made = {}
    for index, (name, text) in enumerate(kinds.items(), 1):
        kind, _, master = (text or "").partition("@")
        made[name] = Link(name, index, kind or None, master or None)
    return made


def subnets(**networks: str) -> dict[Network, str]:
    return {ip_network(text): bridge for bridge, several in networks.items() for text in several.split()}


ROUTED = HostView(links(eth0=None, v1="veth"), {"10.0.0.1": "v1", "fd00::1": "v1", "10.9.0.1": "eth0"})
BRIDGED = HostView(
    links(eth0="@br0", br0="bridge", p1="veth@br0", p2="tun@br0", up="veth@br0", vx="vxlan@br0"),
    subnets=subnets(br0="10.1.0.0/16 fd01::/64"),
    neighbours={
        "10.1.0.1": Neighbour("m1", "br0"),
        "fd01::1": Neighbour("m1", "br0"),
        "10.1.0.2": Neighbour("m2", "br0"),
        "10.1.0.7": Neighbour("m7", "br0"),
        "10.1.0.8": Neighbour("m8", "br0"),
        "10.1.0.9": Neighbour("m9", "br0"),
        "10.1.0.10": Neighbour("silent", "br0"),
    },
    fdb={("br0", "m1"): "p1", ("br0", "m2"): "p2", ("br0", "m7"): "up", ("br0", "m6"): "up"}
    | {("br0", "m8"): "vx", ("br0", "m9"): "eth0"},
    own=frozenset({"10.1.255.1"}),
)
HERE, NOT_HERE = True, False


def one(view: HostView, asked: Pod) -> tuple[Interface, ...] | None:
    """The interfaces; None for a pod that is not local."""
    endpoint = locate_one(view, asked, NODE)
    return None if endpoint is None else endpoint.interfaces


@pytest.mark.parametrize(
    ("view", "address", "without_node", "with_node"),
    [
        pytest.param(ROUTED, "10.0.0.1", ("v1", False), ("v1", False), id="host route"),
        pytest.param(ROUTED, "fd00::1", ("v1", False), ("v1", False), id="host route, IPv6"),
        pytest.param(ROUTED, "10.9.0.1", None, (), id="host route to the physical network"),
        pytest.param(ROUTED, "10.0.0.2", None, (), id="nowhere to be found"),
        pytest.param(BRIDGED, "10.1.0.1", ("p1", True), ("p1", True), id="bridge port"),
        pytest.param(BRIDGED, "fd01::1", ("p1", True), ("p1", True), id="bridge port, IPv6"),
        pytest.param(BRIDGED, "10.1.0.2", ("p2", True), ("p2", True), id="bridge port of a VM"),
        pytest.param(BRIDGED, "10.1.0.7", (), (), id="port with several stations"),
        pytest.param(BRIDGED, "10.1.0.8", None, (), id="behind a vxlan port"),
        pytest.param(BRIDGED, "10.1.0.9", None, (), id="behind a physical port"),
        pytest.param(BRIDGED, "10.1.0.10", (), (), id="neighbour with unknown port"),
        pytest.param(BRIDGED, "10.1.0.11", (), (), id="on-link, never heard of"),
        pytest.param(BRIDGED, "fd01::11", (), (), id="on-link, never heard of, IPv6"),
        pytest.param(BRIDGED, "10.2.0.1", None, (), id="on no bridge"),
    ],
)
def test_place_of_an_address(
    view: HostView, address: str, without_node: tuple[str, bool] | None, with_node: tuple[str, bool]
) -> None:
    def interfaces(expected: tuple[str, bool] | tuple[()] | None) -> tuple[Interface, ...] | None:
        return expected and (Interface(*expected),)

    assert one(view, pod(address)) == interfaces(without_node)
    assert one(view, pod(address, node=NODE)) == interfaces(with_node)
    assert one(view, pod(address, node="n2")) is None
    assert one(view, pod(address, node=NODE, host_network=True)) is None
    assert one(view, pod(address, node=NODE, finished=True)) is None


@pytest.mark.parametrize(
    "kind", ["vxlan", "geneve", "wireguard", "ipip", "sit", "gre", "ip6gre", "ip6tnl", "vlan", "bond"]
)
def test_a_tunnel_is_nobodys_interface_unless_annotated(kind: str) -> None:
    view = HostView(links(t=kind), {"10.0.0.1": "t"})
    assert one(view, pod("10.0.0.1")) is None
    assert one(view, pod("10.0.0.1", node=NODE)) == ()
    assert one(view, pod("10.0.0.1", interfaces=("t",))) == (Interface("t"),)


def test_route_to_a_bridge_goes_on_with_the_neighbour() -> None:
    view = replace(BRIDGED, routes={"10.1.0.1": "br0", "10.1.0.11": "br0"}, subnets={})
    assert one(view, pod("10.1.0.1")) == (Interface("p1", bridged=True),)
    assert one(view, pod("10.1.0.11")) is None


def test_annotation_comes_first() -> None:
    view = replace(ROUTED, links=ROUTED.links | links(a="veth", br="bridge", b="veth@br"))
    assert one(view, pod("10.0.0.1", interfaces=("b", "a"))) == (Interface("b", bridged=True), Interface("a"))
    assert one(view, pod(interfaces=("a",))) == (Interface("a"),)


def test_annotated_interfaces_that_do_not_exist_are_left_out() -> None:
    view = replace(ROUTED, links=ROUTED.links | links(a="veth"))
    some, none = pod("10.0.0.1", interfaces=("a", "gone")), pod("10.0.0.1", interfaces=("gone",))
    assert one(view, some) == (Interface("a"),)
    assert one(view, none) == (Interface("v1"),)
    assert one(view, pod("10.0.0.5", interfaces=("gone",))) is None
    assert one(view, pod("10.0.0.5", interfaces=("gone",), node=NODE)) == ()
    for asked in (some, none):
        (warning,) = locate(view, [asked], NODE).warnings
        assert "d/p" in warning
        assert "gone" in warning


def test_several_addresses_and_interfaces() -> None:
    view = replace(ROUTED, links=ROUTED.links | links(v2="veth"), routes={**ROUTED.routes, "10.0.0.2": "v2"})
    asked = pod("10.0.0.2", "fd00::1", "10.0.0.1")
    assert locate_one(view, asked, NODE) == Endpoint("d/p", asked.addresses, (Interface("v2"), Interface("v1")))


@pytest.mark.parametrize("name", ["ve+", "a b", "veth:1", "a\n", "é", 'v"', "sixteen-letters-"])
def test_names_that_a_rule_can_not_hold_are_left_out_and_said(name: str) -> None:
    view = HostView({name: Link(name, 1, "veth"), "ok": Link("ok", 2, "veth")}, {"10.0.0.1": name})
    for asked in (pod("10.0.0.1"), pod("10.0.0.1", interfaces=(name,))):
        located = locate(view, [asked], NODE)
        assert located.endpoints == {"d/p": Endpoint("d/p", ("10.0.0.1",))}
        (warning,) = located.warnings
        assert repr(name) in warning
    assert one(view, pod("10.0.0.1", interfaces=(name, "ok"))) == (Interface("ok"),)


def test_the_hosts_own_address_is_no_pods() -> None:
    view = replace(BRIDGED, own=frozenset({"10.1.0.1"}))
    located = locate(view, [pod("10.1.0.1", "10.1.0.2")], NODE)
    assert located.endpoints == {"d/p": Endpoint("d/p", ("10.1.0.2",), (Interface("p2", bridged=True),), taken=True)}
    assert "hostNetwork" in located.warnings[0]
    assert one(view, pod("10.1.0.1")) is None


def test_a_shared_port_is_warned_about() -> None:
    (warning,) = locate(BRIDGED, [pod("10.1.0.7", node=NODE)], NODE).warnings
    assert "port up" in warning
    assert "netpold.io/interface" in warning


def test_a_pod_with_a_contested_address_is_enforced_by_address() -> None:
    view = replace(BRIDGED, contested={"10.1.0.1": ("p1", "p2")})
    asked = pod("fd01::1", "10.1.0.1")
    located = locate(view, [asked], NODE)
    assert located.endpoints == {"d/p": Endpoint("d/p", asked.addresses)}
    (warning,) = located.warnings
    assert "p1 and p2" in warning
    assert one(view, replace(asked, interfaces=("p1",))) == (Interface("p1", bridged=True),)
    assert one(view, pod("10.1.0.2")) == (Interface("p2", bridged=True),)


@pytest.mark.parametrize("said", ["another port", "many MAC addresses", "no more"])
def test_what_is_said_on_a_bridge_does_not_lead_a_pod_away_from_its_port(said: str) -> None:
    asked = pod("10.1.0.1", node=NODE)
    later = {
        "another port": replace(BRIDGED, contested={"10.1.0.1": ("p1", "p2")}),
        "many MAC addresses": replace(BRIDGED, fdb={**BRIDGED.fdb, ("br0", "made up"): "p1"}),
        "no more": replace(BRIDGED, neighbours={}, fdb={}),
    }[said]
    places = Places(NODE)
    places.update(BRIDGED, {"d/p": (None, asked)})
    before = places.endpoints
    assert before["d/p"].interfaces == (Interface("p1", bridged=True),)
    places.update(later, {})
    assert places.endpoints is before
    assert one(later, asked) == ()
    for master in ("br1", None):
        places.update(replace(later, links={**later.links, "p1": replace(later.links["p1"], master=master)}), {})
        assert places.endpoints["d/p"].interfaces == (Interface("p1", bridged=master is not None),)
    places.update(replace(later, links={**later.links, "p1": replace(later.links["p1"], index=99)}), {})
    assert places.endpoints["d/p"].interfaces == ()


@pytest.mark.parametrize("way", ["no route", "to the host", "to the network", "own"])
def test_a_pod_keeps_its_interface_when_its_route_goes(way: str) -> None:
    """The kernel drops the routes of a link that is set down; a VIP daemon may give the host a pod's address."""
    view = HostView(links=links(v1="veth", v2="veth", lo=None, eth0=None), routes={"10.0.0.1": "v1"})
    asked = pod("10.0.0.1", node=NODE)
    later = {
        "no route": replace(view, routes={}),
        "to the host": replace(view, routes={"10.0.0.1": "lo"}),
        "to the network": replace(view, routes={"10.0.0.1": "eth0"}),
        "own": replace(view, routes={}, own=frozenset({"10.0.0.1"})),
    }[way]
    places = Places(NODE)
    places.update(view, {"d/p": (None, asked)})
    places.update(later, {})
    kept = () if way == "own" else ("10.0.0.1",)
    assert places.endpoints["d/p"] == Endpoint("d/p", kept, (Interface("v1"),), taken=way == "own")
    places.update(replace(later, routes={"10.0.0.1": "v2"}, own=frozenset()), {})
    assert places.endpoints["d/p"].interfaces == (Interface("v2"),)
    assert places.abandoned == {"v1": "d/p"}


def test_no_pod_gets_the_port_of_another_by_what_is_said_on_a_bridge() -> None:
    thief, victim = pod("10.1.0.1", name="thief", node=NODE), pod("10.1.0.2", name="victim", node=NODE)
    claimed = replace(BRIDGED, neighbours={**BRIDGED.neighbours, "10.1.0.2": Neighbour("m1", "br0")})
    places = Places(NODE)
    places.update(claimed, {"d/thief": (None, thief)})
    places.update(claimed, {"d/victim": (None, victim)})
    assert places.endpoints["d/thief"].interfaces == (Interface("p1", bridged=True),)
    assert places.endpoints["d/victim"].interfaces == ()
    assert any("p1, the port of pod d/thief" in each for each in places.warnings)
    both = replace(claimed, contested={"10.1.0.2": ("p1", "p2")})  # now the victim speaks, too
    places.update(both, {})
    assert places.endpoints["d/victim"].interfaces == (Interface("p2", bridged=True),)
    annotated = replace(victim, interfaces=("p1",))  # a person knows better
    places.update(both, {"d/victim": (victim, annotated)})
    assert places.endpoints["d/victim"].interfaces == (Interface("p1", bridged=True),)


@pytest.mark.parametrize("way", ["bridge", "annotation", "route", "link gone"])
def test_a_pod_leaves_its_port_only_for_what_is_written_down(way: str) -> None:
    """However the bridge came to say that it is behind another one, which is nobody's: uncontested, that is."""
    asked = pod("10.1.0.1", node=NODE)
    moved = replace(BRIDGED, fdb={("br0", "m1"): "p2"})
    places = Places(NODE)
    places.update(BRIDGED, {"d/p": (None, asked)})
    if way == "annotation":
        places.update(moved, {"d/p": (asked, replace(asked, interfaces=("p2",)))})
    elif way == "route":
        moved = replace(moved, routes={"10.1.0.1": "v1"}, links={**BRIDGED.links, "v1": Link("v1", 99, "veth")})
        places.update(moved, {})
    elif way == "link gone":
        places.update(replace(moved, links={key: each for key, each in moved.links.items() if key != "p1"}), {})
    else:
        places.update(moved, {})
    expected = {"bridge": "p1", "annotation": "p2", "route": "v1", "link gone": "p2"}[way]
    assert [each.name for each in places.endpoints["d/p"].interfaces] == [expected]
    assert places.abandoned == ({"p1": "d/p"} if way in ("annotation", "route") else {})


def test_another_pod_of_the_same_name_does_not_get_the_port_of_the_first() -> None:
    old, new = pod("10.1.0.1", node=NODE), pod("10.1.0.2", node=NODE)
    places = Places(NODE)
    places.update(BRIDGED, {"d/p": (None, old)})
    places.update(replace(BRIDGED, neighbours={}), {"d/p": (old, new)})
    assert places.endpoints["d/p"].interfaces == ()
    assert places.abandoned == {}, "it may be behind this one"
    places.update(BRIDGED, {})
    assert places.endpoints["d/p"].interfaces == (Interface("p2", bridged=True),)
    assert places.abandoned == {"p1": "d/p"}
    left = Left(old, Namespace(old.namespace, {}), old.addresses, {"p1": BRIDGED.links["p1"].index})
    restarted = Places(NODE, before=(left,))
    restarted.update(replace(BRIDGED, neighbours={}), {"d/p": (None, new)})
    assert restarted.endpoints["d/p"].interfaces == ()


def test_what_a_pod_leaves_behind_is_no_other_pods_by_what_is_said_on_a_bridge() -> None:
    old, new = pod("10.1.0.1", node=NODE), pod("10.1.0.1", name="new", node=NODE)
    places = Places(NODE)
    places.update(BRIDGED, {"d/p": (None, old)})
    places.update(BRIDGED, {"d/p": (old, None), "d/new": (None, new)})
    assert places.endpoints["d/new"].interfaces == (Interface("p1", bridged=True),)  # it has got another name
    elsewhere = replace(BRIDGED, contested={"10.1.0.1": ("p1", "p2")})
    places.update(elsewhere, {})
    assert places.endpoints["d/new"].interfaces == (Interface("p2", bridged=True),)  # it is another pod
    assert places.abandoned == {"p1": "d/p"}
    places.update(replace(BRIDGED, contested={"10.1.0.1": ("p1", "p2")}), {})  # now it speaks on its own port
    assert places.endpoints["d/new"].interfaces == (Interface("p2", bridged=True),)
    places.update(BRIDGED, {"d/new": (new, None), "d/p": (None, old)})  # whose manifest was only lost
    assert places.endpoints["d/p"].interfaces == (Interface("p1", bridged=True),)


def test_a_pod_with_another_name_is_where_the_old_one_was_also_if_both_were_there_for_a_while() -> None:
    old, new = pod("10.1.0.1", node=NODE), pod("10.1.0.1", name="new", node=NODE)
    places = Places(NODE)
    places.update(BRIDGED, {"d/p": (None, old)})
    places.update(BRIDGED, {"d/new": (None, new)})
    assert places.endpoints["d/new"].interfaces == ()
    places.update(BRIDGED, {"d/p": (old, None)})
    assert places.endpoints["d/new"].interfaces == (Interface("p1", bridged=True),)


def test_of_two_that_are_first_heard_behind_one_port_only_one_is_there() -> None:
    pods = [pod("10.1.0.1", name="a", node=NODE), pod("fd01::1", name="b", node=NODE)]
    located = locate(BRIDGED, pods, NODE)
    assert [len(each.interfaces) for each in located.endpoints.values()] == [1, 0]


def test_a_route_that_moves_leaves_an_abandoned_interface_behind() -> None:
    """With a moment between, in which no route is there; a physical interface is nobody's to be abandoned."""
    asked = pod("10.0.0.1", node=NODE)
    places = Places(NODE)
    places.update(ROUTED, {"d/p": (None, asked)})
    places.update(replace(ROUTED, routes={}), {})
    assert places.abandoned == {}
    two = {**ROUTED.links, "v2": Link("v2", 9, "veth")}
    places.update(replace(ROUTED, routes={"10.0.0.1": "v2"}, links=two), {})
    assert places.abandoned == {"v1": "d/p"}
    places.update(replace(ROUTED, routes={"10.0.0.1": "v2"}, links=two), {"d/p": (asked, None)})
    assert places.abandoned == {"v1": "d/p", "v2": "d/p"}
    places.update(ROUTED, {"d/q": (None, pod("10.0.0.1", name="q", node=NODE))})
    assert places.abandoned == {}, "claimed by a route, and gone"
    places.update(ROUTED, {"d/r": (None, pod("10.0.0.9", name="r", interfaces=("eth0",)))})
    places.update(ROUTED, {"d/r": (pod("10.0.0.9", name="r", interfaces=("eth0",)), None)})
    assert places.abandoned == {}


def test_ports_are_known_from_before_a_restart() -> None:
    thief, victim = pod("10.1.0.1", name="thief", node=NODE), pod("10.1.0.2", name="victim", node=NODE)
    claimed = replace(BRIDGED, neighbours={**BRIDGED.neighbours, "10.1.0.2": Neighbour("m1", "br0")})
    pods = {"d/thief": (None, thief), "d/victim": (None, victim)}
    stole = Left(thief, Namespace(thief.namespace, {}), thief.addresses, {"p1": BRIDGED.links["p1"].index})
    places = Places(
        NODE,
        before=(
            stole,
            Left(victim, Namespace(victim.namespace, {}), victim.addresses, {"p2": BRIDGED.links["p2"].index}),
        ),
    )
    places.update(claimed, pods)
    assert places.endpoints["d/victim"].interfaces == (Interface("p2", bridged=True),)
    anew = Places(
        NODE, before=(stole, Left(victim, Namespace(victim.namespace, {}), victim.addresses, {"p2": 999}))
    )  # another link of that name
    anew.update(claimed, pods)
    assert anew.endpoints["d/victim"].interfaces == ()


def test_two_pods_on_one_interface() -> None:
    routed = replace(ROUTED, routes={"10.0.0.1": "v1", "10.0.0.2": "v1"})
    first, second = pod("10.0.0.1", name="a"), pod("10.0.0.2", name="b")
    assert locate(routed, [first, second], NODE).warnings == ()
    annotated = [replace(each, interfaces=("v1",)) for each in (first, second)]
    assert locate(routed, annotated, NODE).warnings == ()
    (warning,) = locate(replace(routed, routes={"10.0.0.1": "v1"}), annotated, NODE).warnings
    assert "v1" in warning
    assert "d/a and d/b" in warning
    (warning,) = locate(routed, [first, replace(first, name="b")], NODE).warnings
    assert "d/a and d/b" in warning


def test_only_local_pods_are_located() -> None:
    pods = [pod("10.0.0.1", name="a"), pod("10.0.0.5", name="b"), pod("fd00::1", name="c", node="n2")]
    assert locate(ROUTED, pods, NODE).endpoints.keys() == {"d/a"}


def prefixes(family: int) -> st.SearchStrategy[Network]:
    """Prefixes of different lengths that often contain each other."""
    width = 32 if family == 4 else 128
    base = 10 << 24 if family == 4 else 0xFD << 120
    return st.builds(
        lambda bits, length: ip_network((base | bits >> length << length, width - length)),
        st.integers(0, 255),
        st.integers(0, 8),
    )


@given(st.dictionaries(prefixes(4) | prefixes(6), st.sampled_from(["a", "b", "c"])), st.integers(0, 255))
def test_longest_prefix_of_the_bridges(networks: dict[Network, str], bits: int) -> None:
    view = HostView(subnets=networks)
    for address in (ip_address(10 << 24 | bits), ip_address(0xFD << 120 | bits)):
        inside = [network for network in networks if network.version == address.version and address in network]
        expected = networks[max(inside, key=lambda network: network.prefixlen)] if inside else None
        assert view.bridge(str(address)) == expected


def test_ten_thousand_pods_take_milliseconds() -> None:
    veths = {f"v{number}": "veth" for number in range(110)}
    view = HostView(links(**veths), {f"10.0.0.{number}": f"v{number}" for number in range(110)})
    addresses = [f"10.{100 + (number >> 8)}.{number & 255}.1" for number in range(9890)]
    far = [pod(address, name=f"f{address}", node=f"n{address[:6]}") for address in addresses]
    near = [pod(f"10.0.0.{number}", name=f"p{number}", node=NODE) for number in range(110)]
    best = min(timed(view, far + near) for _ in range(5))
    assert best < 0.015
    view = replace(view, subnets=subnets(br0="10.255.0.0/24", br1="fd00::/64"))
    best = min(timed(view, [replace(each, node=None) for each in far + near]) for _ in range(5))
    assert best < 0.060


def timed(view: HostView, pods: list[Pod]) -> float:
    start = time.process_time()
    located = locate(view, pods, NODE)
    end = time.process_time()
    assert len(located.endpoints) == 110
    return end - start


def test_a_pod_that_was_here_stays_local_until_its_manifest_goes() -> None:
    """Without nodeName; by its address, until its interface is there again: the next start of the daemon included."""
    one, other = pod("10.0.0.1"), pod("10.0.0.2", name="q")
    places = Places(NODE)
    places.update(ROUTED, {"d/p": (None, one), "d/q": (None, other)})
    assert places.were_here == {"d/p"}
    away = replace(ROUTED, routes={}, links={name: each for name, each in ROUTED.links.items() if name != "v1"})
    places.update(away, {})
    assert places.endpoints == {"d/p": Endpoint("d/p", ("10.0.0.1",))}
    after_a_boot = Places(NODE, places.were_here)
    after_a_boot.update(away, {"d/p": (None, one), "d/q": (None, other)})
    assert after_a_boot.endpoints == places.endpoints
    places.update(ROUTED, {})
    assert places.endpoints["d/p"].interfaces == (Interface("v1"),)
    places.update(away, {"d/p": (one, None)})
    assert (places.endpoints, places.were_here) == ({}, frozenset())
    places.update(away, {"d/p": (None, one)})
    assert places.endpoints == {}


def test_a_pod_that_its_manifest_puts_elsewhere_is_not_local_any_more() -> None:
    places = Places(NODE)
    places.update(ROUTED, {"d/p": (None, pod("10.0.0.1"))})
    places.update(ROUTED, {"d/p": (pod("10.0.0.1"), pod("10.0.0.1", node="n2"))})
    assert (places.endpoints, places.were_here) == ({}, frozenset())
    places.update(ROUTED, {"d/p": (pod("10.0.0.1", node="n2"), pod("10.0.0.1", node=NODE))})
    assert places.endpoints["d/p"].interfaces == (Interface("v1"),)
    assert places.were_here == frozenset(), "its manifest says so itself"


def test_a_pod_whose_manifest_went_while_the_daemon_was_down_is_forgotten() -> None:
    places = Places(NODE, frozenset({"d/gone", "d/p"}))
    places.update(ROUTED, {"d/p": (None, pod("10.0.0.1"))})
    places.forget_all_but({"d/p": None})
    assert places.were_here == {"d/p"}


def test_what_is_closed_by_name_and_is_nobodys() -> None:
    links = [
        Link("cali1", 1, "veth"),
        Link("cali2", 2, "veth"),
        Link("cali3", 3, "tun", "calibr"),
        Link("calibr", 4, "bridge"),
        Link("calivx", 5, "vxlan", "calibr"),
        Link("calip", 6),
        Link("cali@1", 7, "veth"),
        Link("eth0", 8),
    ]
    view = HostView({link.name: link for link in links})
    closing = nobodys(view, ("cali*",))
    assert closing == Unclaimed(
        ("cali*",), frozenset({"calibr"}), frozenset({Interface("calivx", True), Interface("calip")})
    )
    pod = Endpoint("d/p", ("10.0.0.1",), (Interface("cali2"),))
    assert unclaimed(view, closing, [pod]) == ("cali1", "cali3", "cali@1")
    exact = replace(nobodys(view, ()), interfaces=frozenset({Interface("cali1"), Interface("cali2")}))
    assert unclaimed(view, exact, [pod]) == ("cali1",)
    assert not nobodys(view, ())

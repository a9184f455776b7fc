"""The live view of the host against the real kernel, in network namespaces."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import re
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netpold.host import network
from netpold.host.netlink import NetlinkError, decode
from netpold.host.network import Network
from netpold.host.view import HostView, Neighbour
from netpold.policy.model import Pod
from netpold.rules.endpoint import Interface
from tests.lab import Lab, Node
from tests.lab.namespace import NetworkNamespace, ip
from tests.places import locate

pytestmark = pytest.mark.kernel


class Watch:
    """A `Network` in a namespace, and when it called `wake`."""

    def __init__(self, netns: NetworkNamespace, receive_buffer: int = 8 << 20) -> None:
        self.netns = netns
        self.woken = threading.Event()
        self.wakes = 0
        self.network = Network(self._wake, receive_buffer=receive_buffer)
        with netns.entered():
            self.network.start()

    def _wake(self) -> None:
        self.wakes += 1
        self.woken.set()

    def view(self) -> HostView:
        return self.network.view()

    def until(self, condition: Callable[[HostView], object], seconds: float = 15.0) -> HostView:
        """Wait, from wake to wake, for the view to be so."""
        end = time.monotonic() + seconds
        while not condition(view := self.view()):
            left = end - time.monotonic()
            assert left > 0, f"after {seconds} s still {view}"
            self.woken.wait(left)
            self.woken.clear()
        return view

    def settle(self) -> HostView:
        """Wait until nothing that matters has changed for a while."""
        while self.woken.wait(0.15):
            self.woken.clear()
        return self.view()


@contextlib.contextmanager
def watching(netns: NetworkNamespace, receive_buffer: int = 8 << 20) -> Iterator[Watch]:
    watch = Watch(netns, receive_buffer)
    try:
        yield watch
    finally:
        watch.network.close()


def fresh(netns: NetworkNamespace) -> HostView:
    """The view that a dump gives now."""
    with watching(netns) as watch:
        return watch.view()


@pytest.fixture
def node(lab: Lab) -> Node:
    return lab.node("n1")


@pytest.fixture
def watch(node: Node) -> Iterator[Watch]:
    with watching(node.netns) as made:
        yield made


def place(view: HostView, *addresses: str) -> tuple[Interface, ...] | None:
    """Interfaces of a pod with these addresses and no node; None where it is not local."""
    endpoint = locate(view, [Pod("d", "p", {}, addresses)], "n1").endpoints.get("d/p")
    return None if endpoint is None else endpoint.interfaces


def bridge(node: Node, name: str, *addresses: str) -> None:
    gateways = [f"addr add {address} dev {name} nodad" for address in addresses]
    ip(node.netns, [f"link add {name} type bridge mcast_snooping 0", *gateways, f"link set {name} up"])


def port(lab: Lab, node: Node, name: str, master: str, *addresses: str, mac: str = "") -> NetworkNamespace:
    """A namespace behind a port of a bridge; gives it."""
    inside = lab.site.namespace(name)
    hardware = f"address {mac}" if mac else ""
    ip(node.netns, [f"link add {name} type veth peer name eth0 {hardware} netns {inside.name}"])
    quiet(inside)
    ip(
        inside,
        [
            f"addr add {address} dev eth0 nodad" if ":" in address else f"addr add {address} dev eth0"
            for address in addresses
        ],
    )
    ip(inside, ["link set eth0 up"])
    ip(node.netns, [f"link set {name} master {master} up"])
    return inside


def quiet(netns: NetworkNamespace) -> None:
    """What is inside says nothing of its own accord (router solicitations, reports of IPv6 multicast groups)."""
    netns.sysctl({"ipv6/conf/eth0/router_solicitations": 0, "ipv6/conf/eth0/addr_gen_mode": 1})


def speak(netns: NetworkNamespace, mac: str = "") -> None:
    """Send one Ethernet frame out of eth0, from its own address or from that one."""
    with netns.entered(), socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sender:
        sender.bind(("eth0", 0))
        source = bytes.fromhex(mac.replace(":", "")) if mac else sender.getsockname()[4]
        sender.send(b"\xff" * 6 + source + b"\x88\xb5" + bytes(46))


# Routed pods


def test_routed_pod_of_both_families(node: Node, watch: Watch) -> None:
    pod = node.routed_pod("d", "p")
    view = watch.until(lambda view: all(address in view.routes for address in pod.addresses))
    assert place(view, *pod.addresses) == (Interface(pod.interface),)
    assert view.links[pod.interface].kind == "veth"
    node.remove(pod)
    view = watch.until(lambda view: pod.interface not in view.links)
    assert place(view, *pod.addresses) is None
    assert watch.settle() == fresh(node.netns)


def test_same_address_behind_another_veth(node: Node, watch: Watch) -> None:
    first = node.routed_pod("d", "first", interface="one")
    watch.until(lambda view: place(view, *first.addresses) == (Interface("one"),))
    node.remove(first)
    second = node.routed_pod("d", "second", first.addresses, interface="two")
    watch.until(lambda view: place(view, *second.addresses) == (Interface("two"),))
    third = node.routed_pod("d", "third", first.addresses, interface="three")
    watch.until(lambda view: place(view, *third.addresses) == (Interface("three"),))
    node.remove(second)
    assert place(watch.settle(), *third.addresses) == (Interface("three"),)
    assert watch.view() == fresh(node.netns)


def test_interface_deleted_and_made_again_with_the_same_name(node: Node, watch: Watch) -> None:
    for _ in range(3):
        pod = node.routed_pod("d", "p", ("10.72.0.50", "fd72::50"), interface="same")
        watch.until(lambda view: place(view, "10.72.0.50", "fd72::50") == (Interface("same"),))
        node.remove(pod)
        watch.until(lambda view: place(view, "10.72.0.50", "fd72::50") is None)
    assert watch.settle() == fresh(node.netns)


def test_two_pods_behind_one_routed_interface(node: Node, watch: Watch) -> None:
    pod = node.routed_pod("d", "p", ("10.72.0.50", "10.72.0.51"))
    view = watch.until(lambda view: {"10.72.0.50", "10.72.0.51"} <= view.routes.keys())
    pods = [Pod("d", str(number), {}, (f"10.72.0.5{number}",)) for number in range(2)]
    located = locate(view, pods, "n1")
    assert [endpoint.interfaces for endpoint in located.endpoints.values()] == [(Interface(pod.interface),)] * 2
    assert located.warnings == ()


def test_ipv4_routes_that_go_without_a_message(node: Node, watch: Watch) -> None:
    ip(node.netns, ["link add v1 type veth peer name v2", "link set v1 up", "link set v2 up"])
    ip(node.netns, ["addr add 10.8.0.1/32 dev v1", "addr add 10.8.0.2/32 dev v1", "route add fd07::2/128 dev v2"])
    ip(node.netns, ["route add 10.7.0.1/32 dev v2 src 10.8.0.1", "route add 10.7.0.2/32 dev v1"])
    ip(node.netns, ["route add 10.7.0.3/32 dev v2"])
    watch.until(lambda view: {"10.7.0.1", "10.7.0.2", "10.7.0.3", "fd07::2"} <= view.routes.keys())
    for line, left in [
        ("addr del 10.8.0.1/32 dev v1", {"10.7.0.2", "10.7.0.3", "fd07::2"}),
        ("addr del 10.8.0.2/32 dev v1", {"10.7.0.3", "fd07::2"}),
        ("link set v2 down", set()),
    ]:
        ip(node.netns, [line])
        watch.until(lambda view, left=left: {a for a in view.routes if a.startswith(("10.7.", "fd07"))} == left)
        assert watch.settle() == fresh(node.netns)


def test_a_replacement_that_does_not_say_of_what(node: Node, watch: Watch) -> None:
    ip(node.netns, ["link add v1 type veth peer name v2", "link set v1 up", "link set v2 up"])
    same = "fd07::1/128 metric 6"
    ip(node.netns, [f"route add {same} dev v1", f"route append {same} dev v2"])
    watch.until(lambda view: "fd07::1" in view.routes)
    watch.settle()
    ip(node.netns, [f"route replace blackhole {same}"])
    watch.settle()
    dumped = fresh(node.netns)
    watch.until(lambda view: view == dumped)


def test_which_of_several_routes_counts(node: Node, watch: Watch) -> None:
    for name in ("va", "vb", "vc"):
        ip(node.netns, [f"link add {name} type veth peer name {name}p", f"link set {name} up", f"link set {name}p up"])
    for destination in ("10.7.0.1/32", "fd07::1/128"):
        address = destination.partition("/")[0]
        steps = [
            (f"route add {destination} dev va metric 20", "va"),
            (f"route add {destination} dev vb metric 10", "vb"),
            (f"route add {destination} dev vc table 100", "vb"),
            (f"route replace {destination} dev vc metric 10", "vc"),
            (f"route replace blackhole {destination} metric 10", "va"),
            (f"route del {destination} dev va metric 20", "vc"),
            (f"route replace unreachable {destination} table 100", None),
            (f"route replace {destination} dev vb table 100", "vb"),
        ]
        for line, device in steps:
            ip(node.netns, [line])
            watch.until(lambda view, device=device, address=address: view.routes.get(address) == device)
            assert watch.view() == fresh(node.netns)


def test_routes_with_a_next_hop_lead_to_other_nodes(node: Node, watch: Watch) -> None:
    ip(
        node.netns,
        [
            "link add up0 type veth peer name up1",
            "link set up0 up",
            "link set up1 up",
            "addr add 10.8.0.1/24 dev up0",
            "route add 10.7.0.1/32 via 10.8.0.2",
            "route add 10.7.0.2/32 nexthop via 10.8.0.2 nexthop via 10.8.0.3",
            "nexthop add id 7 dev up0",
            "route add 10.7.0.3/32 nhid 7",
            "link add vx0 type vxlan id 9 dev up0 dstport 4789",
            "link set vx0 up",
            "route add 10.7.0.4/32 dev vx0",
            "route add 10.7.0.5/32 dev lo",
            "route add 10.7.0.6/32 dev up0",
        ],
    )
    view = watch.until(lambda view: "10.7.0.6" in view.routes)
    assert {address for address in view.routes if address.startswith("10.7.")} == {f"10.7.0.{n}" for n in (4, 5, 6)}
    assert [place(view, f"10.7.0.{number}") for number in range(1, 6)] == [None] * 5
    ip(node.netns, ["route replace 10.7.0.6/32 via 10.8.0.2"])
    watch.until(lambda view: "10.7.0.6" not in view.routes)
    assert watch.settle() == fresh(node.netns)


def test_own_addresses(node: Node, watch: Watch) -> None:
    watch.until(lambda view: {"127.0.0.1", "::1", *node.addresses} <= view.own)
    ip(node.netns, ["addr add 10.8.0.9/24 dev uplink0", "addr add fd08::9/64 dev uplink0 nodad"])
    watch.until(lambda view: {"10.8.0.9", "fd08::9"} <= view.own)
    ip(node.netns, ["link set uplink0 down"])
    watch.until(lambda view: "fd08::9" not in view.own)
    assert watch.settle() == fresh(node.netns)
    ip(node.netns, ["addr del 10.8.0.9/24 dev uplink0"])
    watch.until(lambda view: "10.8.0.9" not in view.own)
    ip(node.netns, ["link del uplink0"])
    watch.until(lambda view: "uplink0" not in view.links)
    assert watch.settle() == fresh(node.netns)


def test_an_interface_renamed(node: Node, watch: Watch) -> None:
    pod = node.routed_pod("d", "p", interface="before")
    watch.until(lambda view: place(view, *pod.addresses) == (Interface("before"),))
    ip(node.netns, ["link set before name after"])
    watch.until(lambda view: place(view, *pod.addresses) == (Interface("after"),))


# Bridged pods


@pytest.mark.parametrize("plugin", ["bridge", "ptp"])
def test_pods_of_cni_plugins(node: Node, watch: Watch, plugin: str) -> None:
    pods = [node.cni_pod("d", f"p{number}", plugin) for number in range(3)]
    watch.network.probe([address for pod in pods for address in pod.addresses])
    for pod in pods:
        expected = (Interface(pod.interface, bridged=plugin == "bridge"),)
        for address in pod.addresses:
            watch.until(lambda view, address=address, expected=expected: place(view, address) == expected)
    again = pods.pop(0)
    node.remove(again)
    watch.until(lambda view: again.interface not in view.links)
    back = node.cni_pod("d", "p0", plugin, again.addresses)
    assert back.addresses == again.addresses
    assert back.interface != again.interface
    expected = (Interface(back.interface, bridged=plugin == "bridge"),)
    for address in back.addresses:
        watch.until(lambda view, address=address: place(view, address) == expected, seconds=12)


def test_a_silent_pod_is_found_by_asking(lab: Lab, node: Node, watch: Watch) -> None:
    bridge(node, "br0", "10.1.0.1/24", "fd01::1/64")
    port(lab, node, "p1", "br0", "10.1.0.2/24", "fd01::2/64")
    view = watch.until(lambda view: view.subnets == {ip_network("10.1.0.0/24"): "br0", ip_network("fd01::/64"): "br0"})
    assert place(view, "10.1.0.2") == ()
    assert place(view, "fd01::2") == ()
    watch.network.probe(["10.1.0.2", "fd01::2", "10.1.0.99", "192.0.2.1"])
    for address in ("10.1.0.2", "fd01::2"):
        watch.until(lambda view, address=address: place(view, address) == (Interface("p1", bridged=True),))


def test_neighbours_written_down_are_not_asked_for(lab: Lab, node: Node, watch: Watch) -> None:
    bridge(node, "br0", "10.1.0.1/24")
    port(lab, node, "p1", "br0", "10.1.0.2/24")
    ip(node.netns, ["neigh add 10.1.0.2 lladdr 02:00:00:00:00:07 dev br0"])
    watch.until(lambda view: view.neighbours.get("10.1.0.2") == Neighbour("02:00:00:00:00:07", "br0", fixed=True))
    watch.network.probe(["10.1.0.2"])
    time.sleep(0.3)
    assert "02:00:00:00:00:07 PERMANENT" in node.run(["ip", "neigh", "show", "dev", "br0"])


def test_a_pod_that_comes_up_late_is_found_without_being_asked_for_again(lab: Lab, node: Node, watch: Watch) -> None:
    bridge(node, "br0", "10.1.0.1/24")
    watch.network.probe(["10.1.0.2"])
    time.sleep(0.5)
    port(lab, node, "p1", "br0", "10.1.0.2/24")
    watch.until(lambda view: place(view, "10.1.0.2") == (Interface("p1", bridged=True),), network.PROBE_INTERVAL + 5)


def test_no_more_questions_than_promised(lab: Lab, node: Node, watch: Watch) -> None:
    bridge(node, "br0", "10.1.0.1/16")
    inside = port(lab, node, "p1", "br0", "10.1.0.2/16")
    watch.until(lambda view: view.bridge("10.1.0.9") == "br0")
    with inside.entered():
        listener = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0806))
    with listener:
        addresses = [f"10.1.1.{number}" for number in range(200)]
        for _ in range(20):
            watch.network.probe(addresses)
        time.sleep(0.5)
        listener.setblocking(False)
        asked = set()
        with contextlib.suppress(BlockingIOError):
            while True:
                asked.add(listener.recv(2048)[38:42])
    assert 1 <= len(asked) <= network.PROBES + 1, "one more is the pod itself"


def two_bridges(lab: Lab, node: Node) -> NetworkNamespace:
    """Bridges br0 and br1, and a pod 10.1.0.2 on port p1 of br0 that has been heard of."""
    bridge(node, "br0", "10.1.0.1/24", "fd01::1/64")
    bridge(node, "br1")
    inside = port(lab, node, "p1", "br0", "10.1.0.2/24", "fd01::2/64")
    inside_run(inside, "ping", "-c1", "-w8", "10.1.0.1")
    return inside


def inside_run(netns: NetworkNamespace, *command: str) -> None:
    with netns.entered():
        subprocess.run(command, check=True, capture_output=True, timeout=10)


def test_a_port_that_leaves_its_bridge_still_exists(lab: Lab, node: Node, watch: Watch) -> None:
    inside = two_bridges(lab, node)
    watch.until(lambda view: place(view, "10.1.0.2") == (Interface("p1", bridged=True),))
    ip(node.netns, ["link set p1 nomaster"])
    view = watch.until(lambda view: view.links["p1"].master is None)
    assert place(view, "10.1.0.2") == ()
    ip(node.netns, ["link set p1 master br1"])
    view = watch.until(lambda view: view.links["p1"].master == "br1")
    assert place(view, "10.1.0.2") == ()
    speak(inside)
    watch.settle()
    assert place(watch.view(), "10.1.0.2") == (), "its neighbour is known on the other bridge only"
    ip(node.netns, ["link set p1 master br0"])
    watch.network.probe(["10.1.0.2"])
    watch.until(lambda view: place(view, "10.1.0.2") == (Interface("p1", bridged=True),))
    ip(node.netns, ["link del br0"])
    view = watch.until(lambda view: "br0" not in view.links)
    assert view.links["p1"].master is None
    assert not view.subnets
    assert not view.neighbours
    assert not view.fdb
    assert watch.settle() == fresh(node.netns)


def test_an_address_that_moves_to_another_port(lab: Lab, node: Node, watch: Watch) -> None:
    first = two_bridges(lab, node)
    watch.until(lambda view: place(view, "10.1.0.2") == (Interface("p1", bridged=True),))
    ip(first, ["addr flush dev eth0"])
    second = port(lab, node, "p2", "br0", "10.1.0.2/24")
    time.sleep(1.1)  # the kernel believes nobody else for a second (net.ipv4.neigh.*.locktime)
    inside_run(second, "ping", "-c1", "-w8", "10.1.0.1")
    view = watch.until(lambda view: view.contested)
    assert view.contested == {"10.1.0.2": ("p1", "p2")}
    assert place(view, "10.1.0.2") == (), "nobody knows whether that was a move or a forgery"
    ip(node.netns, ["link del p1"])
    watch.until(lambda view: place(view, "10.1.0.2") == (Interface("p2", bridged=True),))


def test_a_forged_arp_packet_moves_nobody(lab: Lab, node: Node, watch: Watch) -> None:
    two_bridges(lab, node)
    watch.until(lambda view: place(view, "10.1.0.2") == (Interface("p1", bridged=True),))
    forger = port(lab, node, "p2", "br0", "10.1.0.66/24")
    time.sleep(1.1)
    with forger.entered(), socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sender:
        sender.bind(("eth0", 0))
        mac = sender.getsockname()[4]
        asks = struct.pack("!HHBBH", 1, 0x800, 6, 4, 1) + mac + socket.inet_aton("10.1.0.2") + bytes(6)
        sender.send(b"\xff" * 6 + mac + b"\x08\x06" + asks + socket.inet_aton("10.1.0.1"))
    view = watch.until(lambda view: view.contested == {"10.1.0.2": ("p1", "p2")})
    assert view.neighbours["10.1.0.2"].mac == mac.hex(":"), "the kernel believes it"
    (warning,) = locate(view, [Pod("d", "p", {}, ("10.1.0.2",))], "n1").warnings
    assert "p1 and p2" in warning
    ip(node.netns, ["link del p2"])
    watch.until(lambda view: place(view, "10.1.0.2") == (Interface("p1", bridged=True),))


def test_a_mac_address_on_two_ports(lab: Lab, node: Node, watch: Watch) -> None:
    two_bridges(lab, node)
    view = watch.until(lambda view: place(view, "10.1.0.2") == (Interface("p1", bridged=True),))
    thief = port(lab, node, "p2", "br0")
    speak(thief, view.neighbours["10.1.0.2"].mac)
    view = watch.until(lambda view: view.contested)
    assert view.contested["10.1.0.2"] == ("p1", "p2")
    assert place(view, "10.1.0.2") == ()
    read_again(watch)
    assert place(watch.settle(), "10.1.0.2") == (), "forgotten with the next full dump"
    ip(node.netns, ["link set p2 nomaster"])
    watch.until(lambda view: place(view, "10.1.0.2") != () or not view.contested)
    watch.network.probe(["10.1.0.2"])
    watch.until(lambda view: place(view, "10.1.0.2") == (Interface("p1", bridged=True),))


def test_a_mac_address_that_moves_to_another_port(lab: Lab, node: Node, watch: Watch) -> None:
    first = two_bridges(lab, node)
    view = watch.until(lambda view: place(view, "10.1.0.2") == (Interface("p1", bridged=True),))
    mac = view.neighbours["10.1.0.2"].mac
    second = port(lab, node, "p2", "br0")
    ip(node.netns, ["link del p1"])
    watch.until(lambda view: "p1" not in view.links)
    speak(second, mac)
    watch.until(lambda view: place(view, "10.1.0.2") == (Interface("p2", bridged=True),))
    del first


def read_again(watch: Watch) -> None:
    """Have it make a full dump."""
    watch.network._next_resync = 0.0
    watch.network.probe([])
    end = time.monotonic() + 3
    while not watch.network._next_resync:
        assert time.monotonic() < end
        time.sleep(0.01)


def test_what_was_learned_is_kept_when_the_kernel_forgets(lab: Lab, node: Node, watch: Watch) -> None:
    inside = two_bridges(lab, node)
    p1 = (Interface("p1", bridged=True),)
    watch.until(lambda view: place(view, "10.1.0.2") == p1)
    ip(node.netns, ["link set p1 type bridge_slave fdb_flush"])
    ip(node.netns, ["neigh flush dev br0"])
    assert place(watch.settle(), "10.1.0.2") == p1
    assert place(fresh(node.netns), "10.1.0.2") == (), "the kernel does know it still"
    read_again(watch)
    assert place(watch.settle(), "10.1.0.2") == p1, "lost with the next full dump"
    speak(inside, "02:00:00:00:00:99")
    watch.until(lambda view: view.uplinks == {"p1"}, seconds=3)


def test_an_entry_that_ages_out(lab: Lab, node: Node, watch: Watch) -> None:
    bridge(node, "br0", "10.1.0.1/24")
    ip(node.netns, ["link set br0 type bridge ageing_time 100"])
    inside = port(lab, node, "p1", "br0", "10.1.0.2/24")
    inside_run(inside, "ping", "-c1", "-w8", "10.1.0.1")
    watch.until(lambda view: place(view, "10.1.0.2"))
    end = time.monotonic() + 15
    while place(fresh(node.netns), "10.1.0.2"):
        assert time.monotonic() < end, "the kernel does not age it"
        time.sleep(0.5)
    assert place(watch.settle(), "10.1.0.2") == (Interface("p1", bridged=True),)


def test_a_port_with_several_stations_is_an_uplink_unless_it_is_a_namespaces_own(
    lab: Lab, node: Node, watch: Watch
) -> None:
    inside = two_bridges(lab, node)
    watch.until(lambda view: place(view, "10.1.0.2") == (Interface("p1", bridged=True),))
    speak(inside, "02:00:00:00:00:99")
    view = watch.until(lambda view: view.uplinks == {"p1"})
    assert place(view, "10.1.0.2") == (Interface("p1", bridged=True),)
    here = {**view.links, "p1": replace(view.links["p1"], away=False)}
    assert place(replace(view, links=here), "10.1.0.2") == ()
    mac = view.neighbours["10.1.0.2"].mac
    node.run(["bridge", "fdb", "del", "02:00:00:00:00:99", "dev", "p1", "master"])
    watch.until(lambda view: not view.uplinks)
    assert watch.view().neighbours["10.1.0.2"] == Neighbour(mac, "br0")


def test_stations_behind_a_vxlan_port_are_on_other_nodes(lab: Lab, node: Node, watch: Watch) -> None:
    bridge(node, "br0", "10.1.0.1/24")
    ip(node.netns, ["link add vx0 type vxlan id 9 dev uplink0 dstport 4789", "link set vx0 master br0 up"])
    node.run(["bridge", "fdb", "add", "02:00:00:00:00:07", "dev", "vx0", "master", "static"])
    node.run(["bridge", "fdb", "append", "02:00:00:00:00:08", "dev", "vx0", "dst", "10.99.0.7", "self"])
    ip(node.netns, ["neigh add 10.1.0.7 lladdr 02:00:00:00:00:07 dev br0"])
    view = watch.until(lambda view: "10.1.0.7" in view.neighbours)
    assert place(view, "10.1.0.7") is None
    assert place(view, "10.1.0.8") == ()
    assert set(view.fdb) == {("br0", "02:00:00:00:00:07")}


# The thread


def test_every_event_wakes(lab: Lab, node: Node, watch: Watch) -> None:
    pod = node.routed_pod("d", "p", interface="v0")
    bridge(node, "br0", "10.1.0.1/24")
    port(lab, node, "p1", "br0", mac="02:00:00:00:00:01")
    watch.settle()
    with rtnetlink(node.netns) as send:
        for number in range(30):
            watch.woken.clear()
            send(route_request(f"10.7.1.{number}", watch.view().links["v0"].index))
            assert watch.woken.wait(3)
            assert watch.view().routes[f"10.7.1.{number}"] == "v0"
    del pod


@contextlib.contextmanager
def rtnetlink(netns: NetworkNamespace) -> Iterator[Callable[[bytes], object]]:
    with netns.entered():
        sender = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
    with sender:
        yield sender.send


def route_request(address: str, device: int) -> bytes:
    """RTM_NEWROUTE, create: a host route."""
    body = struct.pack("=BBBBBBBBI", socket.AF_INET, 32, 0, 0, 254, 4, 253, 1, 0)
    body += struct.pack("=HH4s", 8, 1, socket.inet_aton(address)) + struct.pack("=HHI", 8, 4, device)
    return struct.pack("=IHHII", 16 + len(body), 24, 0x401, 1, 0) + body


def test_an_overrun_is_made_good(node: Node, caplog: pytest.LogCaptureFixture) -> None:
    with watching(node.netns, receive_buffer=1) as watch:
        lines = [f"link add d{number} type bridge" for number in range(200)]
        lines += [f"link set d{number} up" for number in range(200)]
        ip(node.netns, [*lines, *(f"route add 10.7.0.{number}/32 dev d{number}" for number in range(200))])
        watch.until(lambda view: sum(address.startswith("10.7.0.") for address in view.routes) == 200, seconds=10)
        assert "buffer" in caplog.text
        ip(node.netns, ["link del d7"])
        watch.until(lambda view: "10.7.0.7" not in view.routes)
        assert watch.settle() == fresh(node.netns)


def test_a_socket_that_breaks_is_made_again(node: Node, watch: Watch, caplog: pytest.LogCaptureFixture) -> None:
    sockets = watch.network._sockets
    assert sockets is not None
    with socket.socket() as useless:
        for each in sockets:
            os.dup2(useless.fileno(), each.fileno())
        ip(node.netns, ["link add v1 type veth peer name v2"])
        watch.until(lambda view: "v1" in view.links, seconds=3 * network.TICK)
    assert "read again" in caplog.text


def test_a_dead_thread_is_replaced(node: Node, watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    died = threading.Event()
    monkeypatch.setattr(threading, "excepthook", lambda arguments: died.set())
    monkeypatch.setattr(watch.network, "_publish", lambda: 1 / 0)
    watch.woken.clear()
    ip(node.netns, ["link add v1 type veth peer name v2"])
    assert died.wait(3)
    assert watch.woken.wait(3)
    with pytest.raises(NetlinkError, match="again and again"):
        watch.view()
    monkeypatch.undo()
    time.sleep(network.REPLACE_AGAIN_S)
    with node.netns.entered():
        assert "v1" in watch.view().links
    ip(node.netns, ["link del v1"])
    watch.until(lambda view: "v1" not in view.links)
    assert watch.network.warning


def test_bridge_nf_call_is_looked_at(node: Node, watch: Watch) -> None:
    assert watch.view().bridge_nf_call == {4, 6}
    node.netns.sysctl({"bridge/bridge-nf-call-iptables": 0})
    watch.until(lambda view: view.bridge_nf_call == {6}, seconds=2 * network.TICK)


def test_nothing_is_left_after_close(node: Node) -> None:
    before = len(list(Path("/proc/self/fd").iterdir())), threading.active_count()
    for _ in range(3):
        fresh(node.netns)
    assert (len(list(Path("/proc/self/fd").iterdir())), threading.active_count()) == before


def test_churn_gives_what_a_dump_gives(node: Node, watch: Watch) -> None:
    """Random changes, some of them impossible: when all is quiet, the view is that of a fresh dump."""
    choose = random.Random(7)
    names = [f"v{number}" for number in range(6)]
    hosts = [*(f"10.7.0.{number}/32" for number in range(4)), "fd07::1/128", "fd07::2/128"]
    destinations = [*hosts, "10.7.0.0/24", "fd07::/64"]

    def some(text: str) -> str:
        """Fill in: {a|b} is one of these."""
        return re.sub("{(.*?)}", lambda found: choose.choice(found[1].split("|")), text)

    device, other, host, destination = ("{" + "|".join(all_) + "}" for all_ in (names, names, hosts, destinations))
    operations = [
        f"link add {device} type veth peer name {other}",
        f"link add {device} type {{bridge|vxlan id 5 dstport 4789}}",
        f"link del {device}",
        *[f"link set {device} {{up|up|up|down}}"] * 4,
        f"link set {device} master {other}",
        f"link set {device} nomaster",
        f"link set {device} name {other}",
        *[f"addr {{add|add|del}} {host} dev {device}"] * 2,
        f"addr {{add|del}} 10.8.{{1|2|3}}.1/24 dev {device}",
        f"addr {{add|del}} fd08:{{1|2|3}}::1/64 dev {device} nodad",
        *[
            f"route {{add|add|append|replace|replace|del}} {destination} dev {device} metric {{5|6}}"
            " table {main|main|100}"
        ]
        * 8,
        f"route replace 10.7.0.{{0|1|2|3}}/32 dev {device} src 10.8.{{1|2|3}}.1",
        f"route replace blackhole {destination} metric {{5|6}}",
        "route flush table {100|100|main}",
    ]
    seen = set()
    for _ in range(40):
        ip(node.netns, [some(choose.choice(operations)) for _ in range(25)], must=False)
        watch.settle()
        dumped = fresh(node.netns)
        watch.until(lambda view, dumped=dumped: view == dumped)
        seen.add(len(dumped.routes))
    assert len(seen) > 3, "hardly anything happened"


@given(st.sampled_from([16, 17, 20, 21, 24, 25, 28, 29, 2, 4]), st.integers(0, 65535), st.binary(max_size=120))
def test_messages_that_can_not_be_read(kind: int, flags: int, body: bytes) -> None:
    with contextlib.suppress(NetlinkError):
        decode(kind, flags, memoryview(body))


def test_broken_attributes_of_a_real_message() -> None:
    whole = route_request("10.0.0.1", 7)[16:]
    assert decode(24, 0, memoryview(whole)).device == 7  # type: ignore[union-attr]
    for length, byte in itertools.product(range(len(whole)), (0, 1, 255)):
        with contextlib.suppress(NetlinkError):
            decode(24, 0, memoryview(whole[:length] + bytes([byte]) + whole[length + 1 :]))
        with contextlib.suppress(NetlinkError):
            decode(24, 0, memoryview(whole[:length]))

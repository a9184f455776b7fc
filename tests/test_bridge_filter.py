"""Which answers have to say that tagged packets pass a bridge unfiltered: those about two ports of one bridge."""

from __future__ import annotations

from dataclasses import replace

import pytest

from netpold.ctl.client import warn
from netpold.daemon.bridge_filter import ALL_SEEN, BridgeFilter
from netpold.host.view import HostView, Link, Neighbour
from netpold.rules.endpoint import Endpoint, Interface
from netpold.rules.ends import End

_PORTS = {"veth1": "br0", "veth2": "br0", "veth3": "br1", "eth0": "br0", "veth4": None}
VIEW = HostView(
    links={name: Link(name, number, "veth", master) for number, (name, master) in enumerate(_PORTS.items())},
    neighbours={"10.0.0.9": Neighbour("02:00:00:00:00:09", "br0")},
    fdb={("br0", "02:00:00:00:00:09"): "eth0"},
    bridge_nf_call=frozenset({4, 6}),
    bridge_nf_misses=frozenset({"vlan", "pppoe"}),
)


def pod(name: str, *interfaces: str) -> Endpoint:
    places = tuple(Interface(each, _PORTS[each] is not None) for each in interfaces)
    return Endpoint(f"x/{name}", (ADDRESSES[name],), places)


ADDRESSES = {name: f"10.0.0.{number}" for number, name in enumerate("abcdrnu", 1)} | {"station": "10.0.0.9"}
PODS = {
    each.pod: each
    for each in (
        pod("a", "veth1"),
        pod("b", "veth2"),
        pod("c", "veth3"),  # another bridge
        pod("r", "veth4"),  # routed
        pod("n"),  # nowhere yet
    )
}


def ends(*names: str) -> list[End]:
    return [End(name, None, (ADDRESSES[name],)) for name in names]


@pytest.mark.parametrize(
    ("names", "is_told"),
    [
        ("ab", True),
        ("aa", False),
        ("ac", False),  # routed from bridge to bridge
        ("ar", False),
        ("rr", False),
        ("an", False),
        ("au", False),  # somewhere else
        ("acr", False),
        ("acrb", True),
        (("a", "station"), True),  # behind a port that is no pod's
        (("r", "station"), False),
    ],
)
def test_tagged_packets_are_told_of_two_ports_of_one_bridge(names: tuple[str, ...], is_told: bool) -> None:
    both = ["pppoe", "vlan"]
    assert BridgeFilter.of(VIEW).tagged_between(ends(*names), PODS) == (both if is_told else [])
    seen = BridgeFilter.of(replace(VIEW, bridge_nf_misses=frozenset()))
    assert seen.tagged_between(ends(*names), PODS) == []


def test_of_all_pods() -> None:
    of = BridgeFilter.of(VIEW).tagged_of
    assert of(PODS) == ["pppoe", "vlan"]
    assert of({name: each for name, each in PODS.items() if name != "x/b"}) == [], "one port on each bridge"
    assert ALL_SEEN.tagged_of(PODS) == []


def test_a_family_that_is_off_is_told_with_every_answer_and_status_tells_the_whole() -> None:
    found = BridgeFilter.of(replace(VIEW, bridge_nf_call=frozenset({4})))
    (off,) = found.unfiltered()
    assert off.startswith("IPv6 packets between ports of a bridge are not filtered")
    pppoe, vlan = found.warnings()[1:]
    assert found.warnings()[0] == off and "PPPoE headers" in pppoe and "VLAN tags" in vlan
    assert BridgeFilter.of(VIEW).unfiltered() == []


def test_what_a_person_is_told_is_one_short_line(capsys: pytest.CaptureFixture[str]) -> None:
    warn({"instead": None, "unfiltered": [], "unfiltered_tagged": []})
    assert capsys.readouterr().err == ""
    warn({"instead": None, "unfiltered": [], "unfiltered_tagged": ["pppoe", "vlan"]})
    (line,) = capsys.readouterr().err.splitlines()
    assert "PPPoE and VLAN-tagged packets" in line and "netpoldctl status" in line and len(line) < 100
    warn({"instead": None, "unfiltered": ["IPv4 is off"], "unfiltered_tagged": ["vlan"]})
    assert [each.partition(" packets")[0] for each in capsys.readouterr().err.splitlines()] == [
        "netpoldctl: whatever is said here, IPv4 is off",
        "netpoldctl: VLAN-tagged",
    ]

"""The tables behind a view of the host, message by message: what test_network.py can't make every kernel do."""

from __future__ import annotations

import pytest

from netpold.host import stations
from netpold.host.netlink import AddressMessage, FdbMessage, LinkMessage, Message, NeighbourMessage, RouteMessage
from netpold.host.tables import Tables
from netpold.host.view import Neighbour

ETH0, VETH, BRIDGE, P1, P2 = 2, 3, 4, 5, 6
LINKS = (
    LinkMessage(False, ETH0, "eth0", None, 0, True),
    LinkMessage(False, VETH, "v1", "veth", 0, True),
    LinkMessage(False, BRIDGE, "br0", "bridge", 0, True),
    LinkMessage(False, P1, "p1", "veth", BRIDGE, True),
    LinkMessage(False, P2, "p2", "veth", BRIDGE, True),
)


def tables(*messages: Message) -> Tables:
    made = Tables()
    for message in LINKS + messages:
        made.apply(message)
    return made


def route(destination: str, device: int, source: str | None = None, length: int = 32) -> RouteMessage:
    return RouteMessage(False, False, False, destination, length, 254, 0, 0, source, device)


def neighbour(address: str, mac: str | None) -> NeighbourMessage:
    return NeighbourMessage(mac is None, BRIDGE, address, mac)


def entry(mac: str, port: int, gone: bool = False) -> FdbMessage:
    return FdbMessage(gone, BRIDGE, mac, port)


def test_ipv4_routes_go_with_their_source_address() -> None:
    """Linux says so itself from 6.6 on."""
    mine = [AddressMessage(False, ETH0, address, 24) for address in ("10.0.0.1", "10.0.0.2")]
    made = tables(*mine, route("10.1.0.1", VETH, "10.0.0.1"), route("10.1.0.2", VETH, "10.0.0.2"))
    assert made.apply(mine[0]._replace(gone=True))
    assert made.view().routes == {"10.1.0.2": "v1"}


def test_a_source_address_on_two_interfaces_goes_with_the_last() -> None:
    mine = [AddressMessage(False, device, "10.0.0.1", 24) for device in (ETH0, BRIDGE)]
    made = tables(*mine, route("10.1.0.1", VETH, "10.0.0.1"))
    made.apply(mine[0]._replace(gone=True))
    assert made.view().routes == {"10.1.0.1": "v1"}
    made.apply(mine[1]._replace(gone=True))
    assert made.view().routes == {}


def test_a_subnet_is_no_host_address() -> None:
    local = RouteMessage(False, False, True, "10.1.0.0", 32, 255, 0, 0, None, ETH0)
    subnet = route("10.1.0.0", BRIDGE, length=24)
    made = tables(local, subnet)
    made.apply(subnet._replace(gone=True))
    assert made.view().own == {"10.1.0.0"}
    assert made.view().subnets == {}


def test_a_neighbour_that_does_not_answer_is_kept_only_where_its_port_is_known() -> None:
    made = tables(neighbour("10.1.0.1", "m1"), neighbour("10.1.0.2", "m2"), entry("m1", P1))
    for address in ("10.1.0.1", "10.1.0.2"):
        made.apply(neighbour(address, None))
    assert made.view().neighbours == {"10.1.0.1": Neighbour("m1", "br0")}


def test_what_wakes() -> None:
    made = tables(neighbour("10.1.0.1", "m1"))
    assert made.apply(entry("m1", P1)), "its port is known now"
    assert not made.apply(entry("m1", P1))
    assert not made.apply(neighbour("10.1.0.1", "m1"))
    assert made.apply(entry("m2", P1)), "an uplink now"
    assert not made.apply(entry("m3", P1))
    assert not made.apply(entry("m3", P1, gone=True))
    assert made.apply(entry("m2", P1, gone=True)), "no uplink any more"
    assert not made.apply(entry("m9", P2)), "nobody has asked for it"
    assert made.apply(neighbour("10.1.0.9", "m9"))
    assert not made.apply(entry("m1", P1, gone=True)), "it is kept"
    assert made.apply(entry("m1", P2))
    assert not made.apply(LINKS[0]._replace(up=False))


def test_a_fresh_dump_keeps_an_uplink_an_uplink() -> None:
    old = tables(neighbour("10.1.0.1", "m1"), entry("m1", P1), entry("m2", P1))
    new = tables()
    new.inherit(old)
    assert new.view() == old.view()
    assert new.view().uplinks == {"p1"}
    new = tables(LINKS[3]._replace(master=0))
    new.inherit(old)
    assert new.view().fdb == {}
    assert new.view().neighbours == {}


def test_a_fresh_dump_keeps_a_contest() -> None:
    old = tables(neighbour("10.1.0.1", "m1"), entry("m1", P1), entry("m2", P2), neighbour("10.1.0.1", "m2"))
    assert old.view().contested == {"10.1.0.1": ("p1", "p2")}
    new = tables(neighbour("10.1.0.1", "m1"), entry("m1", P1))
    new.inherit(old)
    assert new.view().contested == old.view().contested
    assert new.view().neighbours["10.1.0.1"].mac == "m1", "the latest is what the dump says"
    new.apply(LINKS[4]._replace(gone=True))
    assert new.view().contested == {}
    assert new.view().port("10.1.0.1") == "p1"


def test_made_up_addresses_do_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stations, "KEPT", 100)
    made = tables(entry("m1", P1), *(neighbour(f"fd00::{number:x}", "m1") for number in range(1000)))
    assert len(made.view().neighbours) == 100
    assert "fd00::3e7" in made.view().neighbours

"""Regions, port ranges and hashes: each against the plain way to say the same."""

from __future__ import annotations

import string
from ipaddress import ip_address, ip_network

from hypothesis import given
from hypothesis import strategies as st

from netpold.policy.model import IPBlock
from netpold.rules.peers import merged
from netpold.rules.regions import entries, region
from netpold.rules.ruleset import (
    InSet,
    IPSet,
    Rule,
    Ruleset,
    short_hash,
)
from netpold.rules.walk import Packet, walk

# Regions -------------------------------------------------------------------------------------------------------------


@st.composite
def networks(draw: st.DrawFn, within: str = "10.0.0.0/8", shortest: int = 8):
    outer = ip_network(within)
    length = draw(st.integers(shortest, 32))
    offset = draw(st.sampled_from([0, 1, 2, 3, 255, 256, 65535, 2**23, 2**24 - 1]))
    return ip_network((int(outer.network_address) + offset, length), strict=False)


@st.composite
def blocks(draw: st.DrawFn) -> IPBlock:
    cidr = draw(networks())
    inner = [each for each in draw(st.lists(networks(), max_size=4)) if each != cidr and each.subnet_of(cidr)]
    return IPBlock(cidr, tuple(inner))


def member_of(members: frozenset[str], address: str) -> bool:
    ipset = IPSet("NP4-test", 4, "hash:net", "test", members)
    rules = (Rule((InSet("NP4-test", "src"),), "DROP"),)
    ruleset = Ruleset({4: {"A": rules}, 6: {}}, {"NP4-test": ipset}, {})
    return walk(ruleset, "A", Packet(address, "192.0.2.1", "tcp", 80)).verdict == "DROP"


@given(st.lists(blocks(), max_size=5))
def test_a_region_holds_what_any_block_holds(union: list[IPBlock]) -> None:
    members = entries(region(union, 4))
    borders = {edge for block in union for net in (block.cidr, *block.excepts) for edge in (net[0], net[-1])}
    for edge in borders:
        for number in (int(edge) - 1, int(edge), int(edge) + 1):
            address = ip_address(number)
            expected = any(
                address in block.cidr and not any(address in each for each in block.excepts) for block in union
            )
            assert member_of(members, str(address)) == expected


def test_overlapping_blocks_with_excepts_do_not_cut_into_each_other() -> None:
    union = [
        IPBlock(ip_network("10.0.0.0/8")),
        IPBlock(ip_network("10.1.0.0/16"), (ip_network("10.1.2.0/24"),)),
    ]
    assert entries(region(union, 4)) == {"10.0.0.0/8"}


def test_the_whole_address_space_becomes_two_halves() -> None:
    whole = IPBlock(ip_network("0.0.0.0/0"), (ip_network("10.0.0.0/8"),))
    assert entries(region([whole], 4)) == {"0.0.0.0/1", "128.0.0.0/1", "10.0.0.0/8 nomatch"}
    half = IPBlock(ip_network("::/0"), (ip_network("8000::/1"),))
    assert entries(region([half], 6)) == {"::/1", "8000::/1 nomatch"}


def test_blocks_of_one_family_say_nothing_about_the_other() -> None:
    assert region([IPBlock(ip_network("10.0.0.0/8"))], 6) == {}


# Ports ---------------------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(1, 40), st.integers(0, 5)).map(lambda pair: (pair[0], sum(pair))), max_size=12))
def test_merged_ranges_hold_the_same_ports(ranges: list[tuple[int, int]]) -> None:
    def ports(of: list[tuple[int, int]]) -> list[int]:
        return [port for low, high in of for port in range(low, high + 1)]

    assert ports(merged(ranges)) == sorted(set(ports(ranges)))


# Names ---------------------------------------------------------------------------------------------------------------


@given(st.text(alphabet=string.printable))
def test_hashes_fit_into_names(text: str) -> None:
    assert len(short_hash(text)) == 12
    assert set(short_hash(text)) <= set(string.ascii_lowercase + string.digits)

"""Regions, port ranges and dispatch trees: each against the plain way to say the same."""

from __future__ import annotations

import string
from ipaddress import ip_address, ip_network

from hypothesis import given
from hypothesis import strategies as st

from netpold.policy.model import IPBlock
from netpold.rules import dispatch
from netpold.rules.peers import merged
from netpold.rules.regions import entries, region
from netpold.rules.ruleset import (
    CHAIN_NAME_LIMIT,
    Goto,
    InSet,
    Interface,
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


# Dispatch ------------------------------------------------------------------------------------------------------------

NAMES = st.text(alphabet="abv01", min_size=1, max_size=15)


def tree_of(names: set[str]) -> Ruleset:
    leaves = {name: (Rule((), Goto(f"leaf-{name}")),) for name in names}
    rules, chains = dispatch.names("NETPOLD-FROM-", leaves, lambda name, prefix: Interface("src", name, prefix))
    ends = {f"leaf-{name}": (Rule((), "DROP", name),) for name in names}
    return Ruleset({4: {"root": tuple(rules), **chains, **ends}, 6: {}}, {}, {})


def end_of(ruleset: Ruleset, interface: str) -> str:
    found = walk(ruleset, "root", Packet("192.0.2.1", "192.0.2.2", "tcp", 80, in_interface=interface))
    return found.rule.comment if found.verdict == "DROP" and found.rule else ""


@given(st.sets(NAMES, max_size=40), st.sets(NAMES, max_size=5))
def test_every_interface_comes_to_its_own_leaf_and_others_to_none(names: set[str], others: set[str]) -> None:
    ruleset = tree_of(names)
    assert all(len(chain) <= CHAIN_NAME_LIMIT for chain in ruleset.chains[4] if not chain.startswith("leaf"))
    for name in names:
        assert end_of(ruleset, name) == name
    for name in others - names:
        assert end_of(ruleset, name) == ""


def test_a_name_that_misses_inside_the_tree_is_sent_on() -> None:
    leaves = {name: (Rule((), "RETURN"),) for name in ("cali1", "cali2", "cali3", "cali4", "cali5", "eth0")}
    rules, chains = dispatch.names("T-", leaves, lambda name, prefix: Interface("src", name, prefix), "missed")
    chains |= {"root": (*rules, Rule((), Goto("missed"))), "missed": (Rule((), "DROP", "sent on"),)}
    ruleset = Ruleset({4: chains, 6: {}}, {}, {})
    assert [end_of(ruleset, name) for name in ("cali3", "eth0", "cali9", "eth1", "lo")] == ["", "", *["sent on"] * 3]


def evaluated(ruleset: Ruleset, chain: str, packet: Packet) -> int:
    """How many rules a packet is compared with: those before and with each that it follows."""
    count = 0
    for name, rule in walk(ruleset, chain, packet).passed:
        count += ruleset.chains[4][name].index(rule) + 1
    return count


def test_a_tree_of_500_interfaces_takes_few_comparisons() -> None:
    names = {f"cali{short_hash(str(number))[:11]}" for number in range(500)}
    ruleset = tree_of(names)
    costs = [
        evaluated(ruleset, "root", Packet("192.0.2.1", "192.0.2.2", "tcp", 80, in_interface=name)) for name in names
    ]
    assert max(costs) <= 75  # at most a whole alphabet of 32 at each of two levels
    assert sum(costs) / len(costs) <= 40


@given(st.sets(st.integers(0, 2**16), min_size=1, max_size=60), st.integers(0, 2**16))
def test_every_address_comes_to_its_own_leaf(numbers: set[int], other: int) -> None:
    base = int(ip_address("10.72.0.0"))
    addresses = {str(ip_address(base + number)) for number in numbers}
    leaves = {address: (Rule((), "DROP", address),) for address in addresses}
    rules, chains = dispatch.addresses("NETPOLD-TO@", leaves, "dst")
    ruleset = Ruleset({4: {"root": tuple(rules), **chains}, 6: {}}, {}, {})
    for address in [*addresses, str(ip_address(base + other))]:
        found = walk(ruleset, "root", Packet("192.0.2.1", address, "tcp", 80))
        assert (found.rule.comment if found.rule else "") == (address if address in addresses else "")
    assert all(isinstance(rule.target, Goto) or rule.target == "DROP" for rule in rules)


def test_addresses_take_one_comparison_a_bit() -> None:
    base = int(ip_address("10.72.0.0"))
    addresses = [str(ip_address(base + number)) for number in range(512)]
    rules, chains = dispatch.addresses("NETPOLD-TO@", {each: (Rule((), "DROP"),) for each in addresses}, "dst")
    ruleset = Ruleset({4: {"root": tuple(rules), **chains}, 6: {}}, {}, {})
    for address in addresses:
        assert evaluated(ruleset, "root", Packet("192.0.2.1", address, "tcp", 80)) <= 16


@given(st.text(alphabet=string.printable))
def test_hashes_fit_into_names(text: str) -> None:
    assert len(short_hash(text)) == 12
    assert set(short_hash(text)) <= set(string.ascii_lowercase + string.digits)

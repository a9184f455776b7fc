"""Dispatch trees: each name and address comes to its own leaf, in few steps, and no tree is too deep for nf_tables."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv4Address, ip_address
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netpold.host.kernel import ipset
from netpold.host.kernel.apply import apply
from netpold.host.kernel.nft import Nft
from netpold.policy.index import Index
from netpold.policy.model import EVERYTHING, Pod, Policy, World
from netpold.rules import dispatch, endpoint
from netpold.rules.compile import compile_ruleset
from netpold.rules.endpoint import Endpoint
from netpold.rules.plan import Installed, plan
from netpold.rules.ruleset import (
    CHAIN_NAME_LIMIT,
    FAMILIES,
    Address,
    Goto,
    Interface,
    Jump,
    Rule,
    Ruleset,
    short_hash,
)
from netpold.rules.settings import CompileSettings
from netpold.rules.walk import Packet, walk
from tests.lab.namespace import NetworkNamespace, owner, sweep

NAMES = st.text(alphabet="abv01", min_size=1, max_size=15)


def begins(name: str) -> Interface:
    return Interface("src", name, prefix=True)


def tree_of(names: set[str]) -> Ruleset:
    leaves = {name: (Rule((Interface("src", name),), Goto(f"leaf-{name}")),) for name in names}
    rules, chains = dispatch.names("NETPOLD-FROM-", leaves, begins)
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
    names = ("cali1", "cali2", "cali3", "cali4", "cali5", "eth0")
    leaves = {name: (Rule((Interface("src", name),), "RETURN"),) for name in names}
    rules, chains = dispatch.names("T-", leaves, begins, "missed")
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
    leaves = {address: (Rule((Address("dst", address),), "DROP", address),) for address in addresses}
    rules, chains = dispatch.addresses("NETPOLD-TO@", leaves, "dst")
    ruleset = Ruleset({4: {"root": tuple(rules), **chains}, 6: {}}, {}, {})
    for address in [*addresses, str(ip_address(base + other))]:
        found = walk(ruleset, "root", Packet("192.0.2.1", address, "tcp", 80))
        assert (found.rule.comment if found.rule else "") == (address if address in addresses else "")
    assert all(isinstance(rule.target, Goto) or rule.target == "DROP" for rule in rules)


def test_a_tree_of_512_addresses_takes_few_comparisons() -> None:
    base = int(ip_address("10.72.0.0"))
    addresses = [str(ip_address(base + number)) for number in range(512)]
    leaves = {address: (Rule((Address("dst", address),), "DROP"),) for address in addresses}
    rules, chains = dispatch.addresses("NETPOLD-TO@", leaves, "dst")
    ruleset = Ruleset({4: {"root": tuple(rules), **chains}, 6: {}}, {}, {})
    for address in addresses:
        assert evaluated(ruleset, "root", Packet("192.0.2.1", address, "tcp", 80)) <= 26


def depth(chains: Mapping[str, tuple[Rule, ...]], start: str) -> int:
    """How many chains lead to each other, the one at the start included."""
    following = {rule.target.chain for rule in chains[start] if isinstance(rule.target, Goto | Jump)}
    return 1 + max((depth(chains, chain) for chain in following), default=0)


@given(st.sets(NAMES, max_size=120), st.sets(st.integers(1, 2**32 - 2) | st.integers(0, 31).map(lambda bit: 2**bit)))
def test_no_tree_is_deeper_than_it_says(names: set[str], numbers: set[int]) -> None:
    assert depth(tree_of(names).chains[4], "root") <= 2 + dispatch.LEVELS  # the root before, the leaf's chain behind
    leaves = {str(IPv4Address(number)): (Rule((), "DROP"),) for number in numbers}
    rules, chains = dispatch.addresses("T@", leaves, "dst")
    assert depth({"root": tuple(rules), **chains}, "root") <= 1 + dispatch.LEVELS


DEEPEST = 16  # NFT_JUMP_STACK_SIZE: with the built-in chain


def crowded(names: str, host: Literal["allow", "policy"]) -> Ruleset:
    """A node with 500 isolated pods of both families, some on a bridge, and some known by address alone."""
    pods = [
        Pod("x", f"p{number}", {}, (f"10.72.{number >> 8}.{number & 255}", f"fd72::{number:x}"))
        for number in range(500)
    ]
    policy = Policy("x", "deny", EVERYTHING, (), ())
    places = (
        () if number % 10 == 0 else (endpoint.Interface(names.format(number * 7919), number % 10 == 1),)
        for number in range(500)
    )
    endpoints = {pod.key: Endpoint(pod.key, pod.addresses, place) for pod, place in zip(pods, places, strict=True)}
    index = Index(World({pod.key: pod for pod in pods}, {}, {policy.key: policy}))
    return compile_ruleset(index, endpoints, CompileSettings(accept=True, host_access=host, host_to_pods=host))


@pytest.mark.parametrize("host", ["allow", "policy"])
@pytest.mark.parametrize("names", ["cali{:011x}", "veth{}", "{:x}"])
def test_a_ruleset_is_never_deeper_than_nf_tables_allows(names: str, host: Literal["allow", "policy"]) -> None:
    ruleset = crowded(names, host)
    for family in FAMILIES:
        for own in ruleset.hooks.values():
            assert 1 + depth(ruleset.chains[family], own) <= DEEPEST


@pytest.mark.kernel
def test_nf_tables_takes_500_isolated_pods() -> None:
    sweep()
    namespace, backend = NetworkNamespace(f"{owner()}crowd"), Nft()
    ruleset = crowded("cali{:011x}", "policy")
    try:
        with namespace.entered():
            names = apply(plan(Installed(), ruleset), backend).names
            assert ipset.names() == frozenset(names.values())
            assert all(backend.chains(family) == ruleset.chains[family].keys() for family in FAMILIES)
    finally:
        backend.close()
        namespace.remove()

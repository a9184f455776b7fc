"""What changes between two worlds: as many packets as can be asked, in both, by the compiled rules."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netpold.policy.index import Index
from netpold.policy.model import (
    EVERYTHING,
    Family,
    IPBlock,
    Namespace,
    Operator,
    Pod,
    Policy,
    PolicyRule,
    Requirement,
    Selector,
    World,
)
from netpold.rules.difference import Change, Party, difference
from netpold.rules.judged import Judged
from netpold.rules.offline import offline_ruleset
from netpold.rules.pieces import ends
from netpold.rules.ruleset import FAMILIES, Ruleset
from netpold.rules.walk import Packet, walk
from tests.strategies import EVERYTHING_GOES, OUTSIDE, PORT_NUMBERS, worlds

PORTS = PORT_NUMBERS
PROTOCOLS = ("tcp", "udp", "sctp")


def is_allowed(ruleset: Ruleset, packet: Packet) -> bool:
    chain = ruleset.hooks.get("FORWARD", "")
    return walk(ruleset, chain, packet).verdict != "DROP"


def packets(source: str, destination: str) -> list[Packet]:
    icmp = ("icmp", 8) if "." in source else ("ipv6-icmp", 128)
    return [
        *(Packet(source, destination, protocol, port) for protocol in PROTOCOLS for port in PORTS),
        Packet(source, destination, icmp[0], icmp_type=icmp[1]),
    ]


def says(change: Change, packet: Packet) -> tuple[bool, bool]:
    """Whether the packet opens, and whether it closes."""
    protocol = "other" if packet.port is None else packet.protocol.upper()
    opens, closes = (
        any(
            span.protocol == protocol and (packet.port is None or span.first <= packet.port <= span.last)
            for span in spans
        )
        for spans in (change.opens, change.closes)
    )
    return opens, closes


def first(world: World, key: str, family: Family) -> str:
    pod = world.pods.get(key)
    found = (each for each in pod.addresses if (":" in each) == (family == 6)) if pod and pod.takes_part else iter(())
    return next(found, "")


def own(world: World, key: str, family: Family) -> str:
    """The same, also of one on the host's network, unless that is the address of another pod."""
    pod = world.pods[key]
    if not pod.host_network:
        return first(world, key, family)
    address = first(replace(world, pods={key: replace(pod, host_network=False)}), key, family)
    return "" if any(each.takes_part and address in each.addresses for each in world.pods.values()) else address


def compared(old: World, new: World) -> list[str]:
    """The pods of both worlds, but for those that are on the host's network in both."""
    return sorted(key for key in old.pods.keys() & new.pods.keys()
                  if not (old.pods[key].host_network and new.pods[key].host_network))  # fmt: skip


def holds(party: Party, pod: str, address: str) -> bool:
    return pod in party.pods if pod else any(_inside(block, address) for block in party.outside)


def _inside(block: IPBlock, address: str) -> bool:
    where = ip_address(address)
    return where in block.cidr and not any(where in each for each in block.excepts)


def assert_right(old: World, new: World) -> int:
    """Compare with what the two rulesets do with packets; returns how many of these are judged otherwise now."""
    changes = difference(Index(old), Index(new))
    rulesets = offline_ruleset(Index(old)), offline_ruleset(Index(new))
    count = 0
    for family in FAMILIES:
        pods = {key: (was, now) for key in compared(old, new)
                if (was := own(old, key, family)) and (now := own(new, key, family))}  # fmt: skip
        taken = {each.addresses for world in (old, new) for each in world.pods.values()}
        free = [each for each in OUTSIDE if (":" in each) == (family == 6) and not any(each in some for some in taken)]
        ends = [*pods.items(), *(("", (each, each)) for each in free)]
        for source, (was_from, now_from) in ends:
            for destination, (was_to, now_to) in ends:
                if source == destination:
                    continue
                here = [
                    change
                    for change in changes
                    if family in change.families
                    and holds(change.source, source, now_from)
                    and holds(change.destination, destination, now_to)
                ]
                for before, after in zip(packets(was_from, was_to), packets(now_from, now_to), strict=True):
                    verdicts = is_allowed(rulesets[0], before), is_allowed(rulesets[1], after)
                    told = [says(change, after) for change in here]
                    assert sum(map(any, told)) <= 1, "told twice"
                    expected = (verdicts == (False, True), verdicts == (True, False))
                    got = tuple(map(any, zip(*told, strict=True))) if told else (False, False)
                    assert got == expected, f"{source or was_from} -> {destination or was_to}: {before}"
                    count += any(expected)
    return count


def moved(old: World, new: World) -> World:
    """The new world with pods of the old one's names, so that there is something to compare."""
    return replace(new, pods={**new.pods, **{key: pod for key, pod in old.pods.items() if key not in new.pods}})


@settings(max_examples=40, deadline=None)
@given(old=worlds(EVERYTHING_GOES), new=worlds(EVERYTHING_GOES))
def test_any_two_worlds(old: World, new: World) -> None:
    assert_right(old, moved(old, new))


@settings(max_examples=40, deadline=None)
@given(world=worlds(EVERYTHING_GOES), data=st.data())
def test_a_pod_goes_to_the_hosts_network(world: World, data: st.DataObject) -> None:
    if world.pods:
        key = data.draw(st.sampled_from(sorted(world.pods)))
        addresses = data.draw(st.sampled_from((world.pods[key].addresses, OUTSIDE[:1], ())))
        other = replace(world.pods[key], host_network=not world.pods[key].host_network, addresses=addresses)
        assert_right(world, replace(world, pods={**world.pods, key: other}))


def test_a_pod_on_the_hosts_network_is_open() -> None:
    db, web = Pod("x", "db", {}, ("10.73.0.2",)), Pod("x", "web", {}, ("10.73.0.3",))
    closed = Policy("x", "closed", Selector(()), (), None)
    old = World({each.key: each for each in (db, web)}, {}, {closed.key: closed})
    for address in ("10.73.0.2", "10.74.0.1"):
        new = replace(old, pods={**old.pods, db.key: replace(db, host_network=True, addresses=(address,))})
        assert assert_right(old, new) > 0
        assert {each.destination.pods for each in difference(Index(old), Index(new)) if each.opens} == {
            frozenset({db.key})
        }
        assert assert_right(new, old) > 0
    new = replace(old, pods={**old.pods, db.key: replace(db, host_network=True, addresses=web.addresses)})
    changes = difference(Index(old), Index(new))
    assert not any(db.key in each.source.pods | each.destination.pods for each in changes), "it is web's address"


def test_an_address_is_a_pods_own_only_where_audited_claimants_have_the_other_one_too() -> None:
    pods = {"y/p0": Pod("y", "p0", {}, ("10.73.0.2",)), "x/p2": Pod("x", "p2", {}, ("10.72.0.2", "10.73.0.2"))}
    closed = Policy("x", "closed", EVERYTHING, (), None)
    audited = Policy("y", "audited", EVERYTHING, (), None, mode="audit")
    old = World(pods, {}, {each.key: each for each in (closed, audited)})
    assert assert_right(old, replace(old, policies={closed.key: closed})) > 0


@settings(max_examples=20, deadline=None)
@given(old=worlds(EVERYTHING_GOES), new=worlds(EVERYTHING_GOES))
def test_ends_are_looked_up_as_they_are_where_there_are_many(old: World, new: World) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("netpold.rules.difference._MANY", 1)
        assert_right(old, moved(old, new))


@settings(max_examples=40, deadline=None)
@given(world=worlds(EVERYTHING_GOES), data=st.data())
def test_a_policy_less(world: World, data: st.DataObject) -> None:
    if world.policies:
        out = data.draw(st.sampled_from(sorted(world.policies)))
        assert_right(world, replace(world, policies={key: each for key, each in world.policies.items() if key != out}))


@settings(max_examples=25, deadline=None)
@given(old=worlds(EVERYTHING_GOES), new=worlds(EVERYTHING_GOES))
def test_any_policies_of_the_same_pods(old: World, new: World) -> None:
    assert_right(old, replace(old, policies=new.policies))


def test_what_no_changed_policy_judges_is_one_value_in_both_worlds() -> None:
    pods = {f"a/{name}": Pod("a", name, {"app": name}, (f"10.0.0.{number}",)) for number, name in enumerate("xy", 1)}
    x, y = (
        Policy("a", name, Selector((Requirement("app", Operator.IN, (name,)),)), (PolicyRule(None, None),), None)
        for name in "xy"
    )
    before = Judged(Index(World(pods, {}, {x.key: x, y.key: y})), "enforce")
    after = Judged(Index(World(pods, {}, {x.key: x, y.key: replace(y, ingress=())})), "enforce", before)
    same = {each.pod: each.judges[2] is each.judges[3] for each in ends(before, after, 4)}
    assert same == {"a/x": True, "a/y": False}
    assert [each.pod for each in ends(before, after, 4, {"a/y"})] == ["a/y"]


@settings(max_examples=20, deadline=None)
@given(world=worlds(EVERYTHING_GOES))
def test_nothing_changes_between_a_world_and_itself(world: World) -> None:
    empty = replace(world, namespaces={**world.namespaces, "nobodys": Namespace("nobodys", {})})  # else none is judged
    assert difference(Index(world), Index(world)) == difference(Index(world), Index(empty)) == []

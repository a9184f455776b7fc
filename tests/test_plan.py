"""Plans lead to the ruleset that is wanted, from anywhere; on the way every packet sees the old or the new."""

from __future__ import annotations

import random
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from netpold.host.locate import addresses
from netpold.policy.index import Index
from netpold.policy.model import EVERYTHING, Pod, PodPeer, Policy, PolicyPort, PolicyRule, World
from netpold.rules import walk
from netpold.rules.compile import Compiler
from netpold.rules.endpoint import Endpoint
from netpold.rules.offline import offline_ruleset
from netpold.rules.plan import (
    ChangeSet,
    CreateSet,
    DestroySets,
    Installed,
    RemoveChains,
    ReplaceChains,
    leftovers,
    plan,
)
from netpold.rules.ruleset import FAMILIES, Ruleset
from netpold.rules.settings import CompileSettings
from tests.live import Live
from tests.memory import MemoryKernel
from tests.reference import Packet
from tests.strategies import EVERYTHING_GOES, histories, sample_packets

PROTOCOLS = {"TCP": "tcp", "UDP": "udp", "SCTP": "sctp"}


def verdict(ruleset: Ruleset, packet: Packet) -> str:
    protocol = PROTOCOLS.get(packet.protocol) or ("ipv6-icmp" if ":" in packet.source else "icmp")
    found = walk.walk(ruleset, "NETPOLD-FORWARD", walk.Packet(packet.source, packet.destination, protocol, packet.port))
    return found.verdict


def rulesets(history: list[World]) -> list[Ruleset]:
    return [offline_ruleset(Index(world)) for world in history]


def same(kernel: MemoryKernel, desired: Ruleset, names: dict[str, str]) -> None:
    assert kernel.sets.keys() == set(names.values())
    for name, ipset in desired.sets.items():
        assert kernel.sets[names[name]].members == ipset.members
    for family in FAMILIES:
        assert kernel.chains[family].keys() == desired.chains[family].keys()
        assert kernel.hooks[family] == desired.hooks


@given(histories(EVERYTHING_GOES))
@settings(max_examples=40, deadline=None)
def test_every_step_shows_a_packet_the_old_or_the_new_ruleset(history: list[World]) -> None:
    kernel, installed, old = MemoryKernel(), Installed(), None
    for world, desired in zip(history, rulesets(history), strict=True):
        packets = sample_packets(world, 30)
        before = {packet: verdict(old, packet) if old else "RETURN" for packet in packets}
        after = {packet: verdict(desired, packet) for packet in packets}
        steps = plan(installed, desired)
        for _ in kernel.carry_out(steps):
            now = kernel.ruleset()
            # a family is switched at once, and a packet has one family
            wrong = [packet for packet in packets if verdict(now, packet) not in (before[packet], after[packet])]
            assert not wrong
        assert {packet: verdict(kernel.ruleset(), packet) for packet in packets} == after
        for _ in kernel.carry_out(leftovers(steps.result)):
            assert {packet: verdict(kernel.ruleset(), packet) for packet in packets} == after
        same(kernel, desired, dict(steps.names))
        installed, old = leftovers(steps.result).result, desired
        assert plan(installed, desired).steps == ()


@given(histories(EVERYTHING_GOES), st.integers(0, 30))
@settings(max_examples=40, deadline=None)
def test_a_plan_cut_off_anywhere_is_cleaned_up_by_the_next(history: list[World], cut: int) -> None:
    kernel, installed = MemoryKernel(), Installed()
    for desired in rulesets(history):
        for number, _ in enumerate(kernel.carry_out(plan(installed, desired))):
            if number >= cut:
                break
        # what is there is known by name alone, as after a SIGKILL
        strays = Installed(
            stray_chains={family: frozenset(kernel.chains[family]) for family in FAMILIES},
            stray_sets=frozenset(kernel.sets),
        )
        steps = plan(strays, desired)
        for _ in (*kernel.carry_out(steps), *kernel.carry_out(leftovers(steps.result))):
            pass
        same(kernel, desired, dict(steps.names))
        installed = leftovers(steps.result).result


def test_a_jump_that_is_not_wanted_any_more_goes_though_only_names_are_known() -> None:
    """Another setting, or another release, and the daemon was not there in between."""
    index, kernel = Index(World({}, {}, {})), MemoryKernel()
    before = offline_ruleset(index, settings=CompileSettings(host_to_pods="policy"))
    for _ in kernel.carry_out(plan(Installed(), before)):
        pass
    strays = Installed(
        stray_chains={family: frozenset(kernel.chains[family]) for family in FAMILIES},
        stray_sets=frozenset(kernel.sets),
    )
    desired = offline_ruleset(index)
    steps = plan(strays, desired)
    for _ in (*kernel.carry_out(steps), *kernel.carry_out(leftovers(steps.result))):
        pass
    same(kernel, desired, dict(steps.names))


@given(histories(EVERYTHING_GOES), st.sampled_from((0, 3)), st.sets(st.sampled_from("0123456789"), max_size=4))
@settings(max_examples=80, deadline=None)
def test_what_the_compiler_says_of_sets_leads_to_the_same(history: list[World], every: int, here: set[str]) -> None:
    """The daemon's way: one compiler, whose sets change in place, and left-overs that stay for a while."""
    live = Live(World())
    compiler = Compiler(Index(live.world), CompileSettings())
    kernel, installed, before = MemoryKernel(), Installed(), {}
    for number, world in enumerate(history):
        packets = sample_packets(world, 30)
        before = {packet: verdict(kernel.ruleset(), packet) for packet in packets}
        local = {
            key: Endpoint(key, pod.addresses)
            for key, pod in world.pods.items()
            if pod.takes_part and (not here or pod.name[-1] in here)
        }
        compiled = compiler.update(live.become(world), local)
        after = {packet: verdict(compiled.ruleset, packet) for packet in packets}
        steps = plan(installed, compiled.ruleset, compiled.changed, addresses(local.values()))
        for _ in kernel.carry_out(steps):
            now = kernel.ruleset()
            assert not [packet for packet in packets if verdict(now, packet) not in (before[packet], after[packet])]
        assert {packet: verdict(kernel.ruleset(), packet) for packet in packets} == after
        installed = steps.result
        if every and number % every == 0:
            for _ in kernel.carry_out(leftovers(installed)):
                pass
            installed = leftovers(installed).result
    for _ in kernel.carry_out(leftovers(installed)):
        pass
    same(kernel, compiled.ruleset, dict(installed.names))


@given(histories(EVERYTHING_GOES, steps=1), st.randoms(use_true_random=False))
@settings(max_examples=40, deadline=None)
def test_a_larger_set_means_to_packets_what_it_says(history: list[World], chance: random.Random) -> None:
    """That makes changes in place safe, so it is tried: one member less, and no packet gains by it."""
    desired = offline_ruleset(Index(history[-1]))
    packets = sample_packets(history[-1], 60)
    whole = {packet: verdict(desired, packet) for packet in packets}
    for name, ipset in desired.sets.items():
        if ipset.larger is None or not ipset.members:
            continue
        less = frozenset(ipset.members) - {chance.choice(sorted(ipset.members))}
        smaller = replace(desired, sets={**desired.sets, name: replace(ipset, members=less)})
        for packet, was in whole.items():
            if verdict(smaller, packet) != was:
                assert ipset.larger != "counts"
                assert (was == "DROP") == (ipset.larger == "forbids")


def world(pods: int, *rules: PolicyRule) -> World:
    people = [Pod("x", f"p{number}", {"app": "a"}, (f"10.72.0.{number + 1}",)) for number in range(pods)]
    policy = Policy("x", "policy", EVERYTHING, rules, None)
    return World({pod.key: pod for pod in people}, {}, {policy.key: policy})


FROM_ALL = PolicyRule((PodPeer(EVERYTHING),), (PolicyPort("TCP", 80),))


def offline(of: World, *local: str) -> Ruleset:
    return offline_ruleset(Index(of), local or ("x/p0",))


def kinds(old: Ruleset, new: Ruleset) -> list[type]:
    steps = plan(plan(Installed(), old).result, new)
    return [type(step) for step in (*steps.steps, *leftovers(steps.result).steps)]


def test_a_set_that_only_grows_or_only_shrinks_changes_in_place() -> None:
    few, many = offline(world(3, FROM_ALL)), offline(world(5, FROM_ALL))
    assert kinds(few, many) == [ChangeSet]
    assert kinds(many, few) == [ChangeSet]


def test_a_set_that_grows_and_shrinks_is_built_beside_and_switched_in_one_commit() -> None:
    old = world(3, FROM_ALL)
    moved = Pod("x", "p2", {"app": "a"}, ("10.72.0.99",))
    new = World({**old.pods, "x/p2": moved}, {}, old.policies)
    assert kinds(offline(old), offline(new)) == [CreateSet, ReplaceChains, DestroySets]


def test_a_changed_rule_is_one_commit_and_leaves_sets_alone() -> None:
    other = PolicyRule((PodPeer(EVERYTHING),), (PolicyPort("TCP", 81),))
    found = kinds(offline(world(3, FROM_ALL)), offline(world(3, other)))
    assert found == [ReplaceChains, RemoveChains]  # these pods have IPv4 addresses alone


def test_only_chains_that_changed_are_committed() -> None:
    old = offline(world(3, FROM_ALL), "x/p0", "x/p1")
    steps = plan(plan(Installed(), old).result, offline(world(3, FROM_ALL), "x/p0", "x/p1", "x/p2")).steps
    replaced = {chain for step in steps if isinstance(step, ReplaceChains) for chain in step.chains}
    assert not any(chain.startswith("NP-RULES-") for chain in replaced)


def test_each_step_says_why_it_is_safe() -> None:
    found = plan(Installed(stray_sets=frozenset({"NP4-old"})), offline(world(3, FROM_ALL)))
    steps = (*found.steps, *leftovers(found.result).steps)
    assert {type(step) for step in steps} == {CreateSet, ReplaceChains, DestroySets}
    assert all(step.why for step in steps)

"""Audit mode: what audited policies would drop is let through, and told; nothing else changes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netpold.policy.assemble import Assembly
from netpold.policy.changes import Changes
from netpold.policy.index import Index
from netpold.policy.manifest import parse
from netpold.policy.model import ClusterPolicy, Mode, Namespace, Pod, Policy, World
from netpold.rules import walk
from netpold.rules.audit import PREFIX, Audited, is_audited, lets_through
from netpold.rules.compile import Compiler, compile_ruleset
from netpold.rules.endpoint import Endpoint
from netpold.rules.ruleset import Log, Ruleset
from netpold.rules.settings import CompileSettings
from tests.live import Live
from tests.reference import Packet
from tests.strategies import EVERYTHING_GOES, histories, sample_packets, worlds
from tests.test_semantics import PLACES, Node, Place, between_contested_addresses

ENFORCE = CompileSettings()


def compiled(world: World, mode: CompileSettings = ENFORCE) -> Ruleset:
    endpoints = {key: Endpoint(key, pod.addresses) for key, pod in world.pods.items() if pod.takes_part}
    return compile_ruleset(Index(world), endpoints, mode)


def way(ruleset: Ruleset, packet: Packet) -> walk.Walk:
    return walk.walk(
        ruleset,
        "NETPOLD-FORWARD",
        walk.Packet(packet.source, packet.destination, packet.protocol.lower(), packet.port),
    )


def drops(ruleset: Ruleset, packet: Packet) -> bool:
    return way(ruleset, packet).verdict == "DROP"


def reports(ruleset: Ruleset, packet: Packet) -> bool:
    passed = way(ruleset, packet).passed
    told = any(isinstance(rule.target, Log) and rule.target.prefix.startswith(PREFIX) for _, rule in passed)
    assert told == any(lets_through(rule) for _, rule in passed)
    return told


def with_mode(world: World, keys: Iterable[str], mode: Mode | None) -> World:
    chosen = set(keys)
    policies = {key: replace(each, mode=mode) if key in chosen else each for key, each in world.policies.items()}
    return replace(world, policies=policies)


@given(worlds(EVERYTHING_GOES), st.data())
@settings(max_examples=40, deadline=None)
def test_an_audited_policy_takes_nothing_away(world: World, data: st.DataObject) -> None:
    """What is dropped with policies in audit mode is dropped with them enforced, and without them; what is told is
    what would be dropped more."""
    chosen = data.draw(st.sets(st.sampled_from(sorted(world.policies)), min_size=1))
    right = {key for key in chosen if not world.policies[key].quarantined}
    world = replace(world, namespaces={name: replace(each, mode=None) for name, each in world.namespaces.items()})
    world = with_mode(world, world.policies, None)
    audited, enforced = compiled(with_mode(world, chosen, "audit")), compiled(world)
    absent = compiled(replace(world, policies={key: each for key, each in world.policies.items() if key not in right}))
    for packet in sample_packets(world, 40, data.draw(st.integers(0, 1000))):
        if between_contested_addresses(world, packet):
            continue
        dropped = drops(audited, packet)
        assert not dropped or (drops(enforced, packet) and drops(absent, packet))
        assert not reports(enforced, packet)
        if not dropped:
            assert reports(audited, packet) == drops(enforced, packet)


@given(worlds(EVERYTHING_GOES), st.data())
@settings(max_examples=40, deadline=None)
def test_nor_does_the_check_of_source_addresses(world: World, data: st.DataObject) -> None:
    """Wherever pods are, and whatever they send with: a policy in audit mode drops nothing that passes without it."""
    world = replace(world, namespaces={name: replace(each, mode=None) for name, each in world.namespaces.items()})
    world = with_mode(world, world.policies, None)
    right = {key for key, each in world.policies.items() if not each.quarantined}
    chosen = data.draw(st.sets(st.sampled_from(sorted(world.policies)), min_size=1)) & right
    places: dict[str, Place] = {key: data.draw(st.sampled_from(PLACES)) for key in sorted(world.pods)}
    left = {key: each for key, each in world.policies.items() if key not in chosen}
    audited = Node.of(with_mode(world, chosen, "audit"), places)
    absent = Node.of(replace(world, policies=left), places)
    somebody = st.none() | st.sampled_from([world.pods[key] for key in sorted(world.pods)])
    for packet in sample_packets(world, 40, data.draw(st.integers(0, 1000))):
        way = data.draw(somebody), data.draw(somebody)
        assert audited.passes(packet, *way) or not absent.passes(packet, *way)


@given(worlds(EVERYTHING_GOES), st.data())
@settings(max_examples=15, deadline=None)
def test_who_says_it_does_not_matter(world: World, data: st.DataObject) -> None:
    """The policy's own word, its namespace's, the settings': the same rules.  Policies of the cluster have none."""
    plain = with_mode(
        replace(world, namespaces={name: replace(each, mode=None) for name, each in world.namespaces.items()}),
        world.policies,
        None,
    )
    by_policy = compiled(with_mode(plain, plain.policies, "audit"))
    assert compiled(plain, CompileSettings(mode="audit")) == by_policy
    namespaced = {key: each for key, each in plain.policies.items() if isinstance(each, Policy)}
    names = {each.namespace for each in namespaced.values()}
    spaces = {**plain.namespaces, **{name: replace(plain.namespace(name), mode="audit") for name in names}}
    others = plain.policies.keys() - namespaced.keys()
    by_namespace = compiled(with_mode(replace(plain, namespaces=spaces), others, "audit"), ENFORCE)
    assert by_namespace.chains == by_policy.chains
    loud = with_mode(replace(plain, namespaces=spaces), plain.policies, "enforce")
    assert compiled(loud, CompileSettings(mode="audit")).chains == compiled(plain).chains


@given(histories(EVERYTHING_GOES, steps=6), st.sampled_from(("enforce", "audit")))
@settings(max_examples=40, deadline=None)
def test_the_list_follows(history: list[World], default: Mode) -> None:
    live = Live(World())
    audited = Audited(live.world, default)
    for world in history:
        audited.update(live.become(world))
        assert audited.namespaces == {name for name, each in world.namespaces.items() if each.mode == "audit"}
        assert audited.keys == {key for key, each in world.policies.items() if is_audited(each, world, default)}


def test_who_is_isolated_in_name_only_does_not_count() -> None:
    policy = parsed_policy("audit")
    pods = {f"x/{name}": Pod("x", name, {}, (f"10.0.0.{number}",)) for number, name in enumerate("ab", 1)}
    places = {key: Endpoint(key, pod.addresses) for key, pod in pods.items()}
    for mode, count in (("audit", 0), ("enforce", 2)):
        world = World(pods, {}, {policy.key: replace(policy, ingress=(), mode=mode)})  # type: ignore[arg-type]
        compiler = Compiler(Index(world), ENFORCE)
        compiler.update(Changes(), places)
        assert compiler.isolated() == count


BASELINE = """
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: closed}
spec:
  {tier: Baseline, priority: 1, subject: {namespaces: {}}, ingress: [{action: Deny, from: [{namespaces: {}}]}]}
"""


def test_whom_only_a_tier_judges_is_not_isolated() -> None:
    (closed,) = parse(BASELINE.encode(), "t.yaml").objects
    assert isinstance(closed, ClusterPolicy)
    pods = {f"{name}/p": Pod(name, "p", {}, (f"10.0.0.{number}",)) for number, name in enumerate("xyz", 1)}
    one = parsed_policy("enforce")  # in x
    compiler = Compiler(Index(World(pods, {}, {one.key: one, closed.key: closed})), ENFORCE)
    compiler.update(Changes(), {key: Endpoint(key, pod.addresses) for key, pod in pods.items()})
    assert (compiler.isolated(), compiler.in_tiers()) == (1, 3)


def test_a_quarantined_policy_is_enforced() -> None:
    policy = Policy("x", "p", parsed_policy("audit").selector, (), None, quarantined=True, mode="audit")
    assert not is_audited(policy, World(), "audit")


# Manifests ------------------------------------------------------------------------------------------------------------

POLICY = """apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: p
  namespace: x
  annotations:
    netpold.io/mode: {mode}
spec: {{podSelector: {{}}, ingress: [{{}}]}}
"""
NAMESPACE = "apiVersion: v1\nkind: Namespace\nmetadata: {{name: x, annotations: {{netpold.io/mode: {mode}}}}}\n"


def parsed_policy(mode: str) -> Policy:
    (found,) = parse(POLICY.format(mode=mode).encode(), "p.yaml").objects
    assert isinstance(found, Policy)
    return found


@pytest.mark.parametrize("mode", ["audit", "enforce"])
def test_modes(mode: str) -> None:
    assert parsed_policy(mode).mode == mode
    (found,) = parse(NAMESPACE.format(mode=mode).encode(), "n.yaml").objects
    assert isinstance(found, Namespace) and found.mode == mode


@pytest.mark.parametrize(
    ("mode", "cure"), [("Audit", "`audit`"), ("audti", "`audit`"), ('""', "`enforce` or"), ("off", None)]
)
@pytest.mark.parametrize("text", [POLICY, NAMESPACE], ids=["policy", "namespace"])
def test_another_value_is_an_error(mode: str, cure: str | None, text: str) -> None:
    says = parse(text.format(mode=mode).encode(), "a.yaml")
    (finding,) = says.findings
    assert finding.severity == "error" and says.objects[0].quarantined
    assert finding.path == "metadata.annotations[netpold.io/mode]" or "netpold.io/mode" in finding.path
    if cure:
        assert finding.code == "mode" and cure in finding.cure


def test_a_typo_leaves_the_last_good_version_in_force() -> None:
    assembly = Assembly()
    assembly.update({"p.yaml": parse(POLICY.format(mode="enforce").encode(), "p.yaml")})
    changes = assembly.update({"p.yaml": parse(POLICY.format(mode="adit").encode(), "p.yaml")})
    assert changes == Changes() and assembly.world.policies["x/p"].mode == "enforce"
    anew = Assembly()
    anew.update({"p.yaml": parse(POLICY.format(mode="adit").encode(), "p.yaml")})
    assert not is_audited(anew.world.policies["x/p"], anew.world, "audit")

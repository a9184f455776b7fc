"""Whatever changes, in whatever order and batches: the incremental path gives what compiling from scratch gives."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from hypothesis import event, given, settings
from hypothesis import strategies as st

from netpold.policy.assemble import Assembly
from netpold.policy.changes import Changes
from netpold.policy.index import Index
from netpold.policy.manifest import Parsed
from netpold.policy.model import (
    EVERYTHING,
    NAME_LABEL,
    Action,
    ClusterPolicy,
    ContainerPort,
    Direction,
    Finding,
    Namespace,
    Operator,
    Pod,
    PodPeer,
    Policy,
    PolicyPort,
    Position,
    Requirement,
    Selector,
    Tier,
    TierRule,
    World,
)
from netpold.rules.compile import Compiler, CompileSettings, compile_ruleset
from netpold.rules.endpoint import Endpoint, Interface
from netpold.rules.ruleset import FAMILIES, Ruleset
from netpold.rules.walk import Packet as Walked
from netpold.rules.walk import walk
from tests.live import Kept, Live
from tests.naive_assemble import assemble
from tests.reference import Packet, allowed
from tests.strategies import EVERYTHING_GOES, Shape, changed, histories, worlds

MANY = Shape(pods=12, policies=8, quarantine=True, tiers=4)
MODES = st.builds(
    CompileSettings,
    anti_spoofing=st.booleans(),
    accept=st.booleans(),
    host_access=st.sampled_from(("allow", "policy")),
    host_to_pods=st.sampled_from(("allow", "policy")),
    mode=st.sampled_from(("enforce", "enforce", "audit")),
)


@st.composite
def endpoints(draw: st.DrawFn, world: World) -> Mapping[str, Endpoint]:
    """Where some pods of a world are: by address, on an interface of their own or a shared one, or a bridge's port."""
    found = {}
    for key, pod in sorted(world.pods.items()):
        place = draw(st.sampled_from(("remote", "address", "routed", "shared", "bridged")))
        name = f"v{pod.namespace}{pod.name}"
        at = {"routed": (Interface(name),), "shared": (Interface("shared0"),), "bridged": (Interface(name, True),)}
        if place != "remote" and pod.takes_part:
            found[key] = Endpoint(key, pod.addresses, at.get(place, ()))
    return found


def same(got: Ruleset, wanted: Ruleset) -> None:
    assert got.hooks == wanted.hooks
    for family in FAMILIES:
        assert got.chains[family] == wanted.chains[family]
        uses = {chain: sets for chain, sets in wanted.uses[family].items() if sets}
        assert {chain: sets for chain, sets in got.uses[family].items() if sets} == uses
    assert got.sets == wanted.sets


def members(ruleset: Ruleset) -> dict[str, frozenset[str]]:
    return {name: frozenset(ipset.members) for name, ipset in ruleset.sets.items()}


@given(st.data(), histories(MANY, steps=6), MODES)
@settings(max_examples=250, deadline=None)
def test_rulesets(data: st.DataObject, history: list[World], mode: CompileSettings) -> None:
    live = Live(history[0])
    compiler = Compiler(Index(live.world), mode)
    places: Mapping[str, Endpoint] = {}
    before: dict[str, frozenset[str]] = {}
    for world in history:
        changes = live.become(world)
        moved = data.draw(st.booleans()) or not places
        # pods that are gone are nowhere; of the others, where they are may stay as it is
        stays = {
            key: Endpoint(key, world.pods[key].addresses, each.interfaces)
            for key, each in places.items()
            if key in world.pods and world.pods[key].takes_part
        }
        places = data.draw(endpoints(world)) if moved else stays
        got = compiler.update(changes, places)
        wanted = compile_ruleset(Index(world), places, mode)
        same(got.ruleset, wanted)
        now = members(wanted)
        expected = {name: now[name] for name in now.keys() & before.keys() if now[name] != before[name]}
        assert {name: now[name] for name in got.changed if name in now and name in before} == expected
        for name, change in got.changed.items():
            if name in now and name in before:
                assert (change.added, change.removed) == (now[name] - before[name], before[name] - now[name])
        before = now
    event(f"{len(before)} sets")


def test_the_last_policy_of_the_cluster_and_its_namespaces_labels_go_at_once() -> None:
    pod = Pod("x", "p", {}, ("10.0.0.1",))
    by_label = PodPeer(EVERYTHING, Selector((Requirement("team", Operator.IN, ("a",)),)))
    deny = TierRule(Action.DENY, (PodPeer(EVERYTHING, EVERYTHING),), None)
    guard = ClusterPolicy("guard", Tier.ADMIN, 1, by_label, (deny,), ())
    spaces = [Namespace("x", {NAME_LABEL: "x", "team": team}) for team in "ab"]
    old = World({pod.key: pod}, {"x": spaces[0]}, {guard.key: guard})
    new = World({pod.key: pod}, {"x": spaces[1]})
    here = {pod.key: Endpoint(pod.key, pod.addresses)}
    live = Live(old)
    compiler = Compiler(Index(live.world), CompileSettings())
    assert compiler.update(live.become(old), here).ruleset.sets
    same(compiler.update(live.become(new), here).ruleset, compile_ruleset(Index(new), here, CompileSettings()))


def test_any_port_of_a_pod_whose_manifest_breaks_may_have_the_name_that_is_denied() -> None:
    a, far = (
        Pod("x", "a", {}, ("10.0.0.1",)),
        Pod("x", "b", {}, ("10.0.0.2",), ports=(ContainerPort("db", "TCP", 5432),)),
    )
    named = (PolicyPort("TCP", "db"), PolicyPort("TCP", 80))
    deny = TierRule(Action.DENY, (PodPeer(EVERYTHING, EVERYTHING),), named)
    guard = ClusterPolicy("guard", Tier.ADMIN, 1, PodPeer(EVERYTHING, EVERYTHING), (), (deny,))
    live = Live(World({a.key: a, far.key: far}, {}, {guard.key: guard}))
    places = {a.key: Endpoint(a.key, a.addresses)}
    compiler = Compiler(Index(live.world), CompileSettings())
    compiler.update(Changes(), places)
    for broken, closed in ((False, {5432, 80}), (True, {1, 80, 5432, 9999}), (False, {5432, 80})):
        pods = {a.key: a, far.key: replace(far, ports=(), quarantined=True) if broken else far}
        world = World(pods, {}, {guard.key: guard})
        got = compiler.update(live.become(world), places).ruleset
        same(got, compile_ruleset(Index(world), places, CompileSettings()))
        for port in (1, 80, 5432, 9999):
            packet = Packet("10.0.0.1", "10.0.0.2", "TCP", port)
            way = walk(got, "NETPOLD-FORWARD", Walked("10.0.0.1", "10.0.0.2", "tcp", port))
            assert (way.verdict != "DROP") == allowed(world, packet) == (port not in closed)


@given(histories(MANY, steps=6))
@settings(max_examples=150, deadline=None)
def test_who_matches_whom(history: list[World]) -> None:
    live = Live(World())
    index = Index(live.world)
    for world in history:
        index.update(live.become(world))
        fresh = Index(world)
        for key, pod in world.pods.items():
            for direction in Direction:
                assert index.isolation(pod, direction) == fresh.isolation(pod, direction)
            for address in pod.addresses:
                assert index.claims.of(address) == fresh.claims.of(address), key
        assert set(index.claims.findings(world.pods)) == set(fresh.claims.findings(world.pods))


# Files ----------------------------------------------------------------------------------------------------------------

FILES = ("a.yaml", "b.yaml", "c.yaml")


def placed(each: Pod | Namespace | Policy, file: str, line: int) -> Pod | Namespace | Policy:
    return replace(each, position=Position(file, line))


@st.composite
def contents(draw: st.DrawFn, world: World) -> dict[str, Parsed | None]:
    """What files say: the objects of a world dealt out to them, some twice, some quarantined; files may break off."""
    everything = [*world.pods.values(), *world.namespaces.values(), *world.policies.values()]
    dealt: dict[str, list[Pod | Namespace | Policy]] = {file: [] for file in FILES}
    for each in everything:
        for file in draw(st.sampled_from((*((file,) for file in FILES), FILES[:2], FILES[1:], ()))):
            twin = replace(each, quarantined=True) if draw(st.integers(0, 5)) == 5 else each
            dealt[file].append(placed(twin, file, len(dealt[file]) + 1))
    found: dict[str, Parsed | None] = {}
    for file, objects in dealt.items():
        match draw(st.sampled_from(("whole", "whole", "whole", "broken", "gone", "same"))):
            case "gone":
                found[file] = None
            case "same":
                continue
            case state:
                finding = Finding(Position(file, 1), "broken", "", "a fault", "a cure")
                noted = (finding,) if state == "broken" else ()
                found[file] = Parsed(tuple(objects), noted, {"Service": len(objects)}, truncated=state == "broken")
    return found


@st.composite
def edits(draw: st.DrawFn) -> list[dict[str, Parsed | None]]:
    world = draw(worlds(EVERYTHING_GOES))
    history = [draw(contents(world))]
    for _ in range(draw(st.integers(1, 5))):
        world = draw(changed(world, EVERYTHING_GOES))
        history.append(draw(contents(world)))
    return history


def shown(world: World) -> dict[str, str]:
    """With positions, which do not count when objects are compared."""
    kinds = {"pod": world.pods, "namespace": world.namespaces, "policy": world.policies}
    return {f"{kind} {key}": repr(each) for kind, objects in kinds.items() for key, each in objects.items()}


@given(edits(), st.data())
@settings(max_examples=400, deadline=None)
def test_worlds_out_of_files(history: list[dict[str, Parsed | None]], data: st.DataObject) -> None:
    """Whether the daemon was restarted before a change or not."""
    assembly, before = Assembly(), World()
    files: dict[str, Parsed] = {}
    live = Live(World())
    kept: Mapping[str, frozenset[str]] = {}
    for edit in history:
        anew: Collection[str] = edit.keys()
        files = {file: says for file, says in {**files, **edit}.items() if says is not None}
        if data.draw(st.integers(0, 2)) == 0:
            assembly, live, edit = Assembly(Kept(before)), Live(World()), files
            anew, kept = (), {}
        changes = assembly.update(edit)
        wanted = assemble(files, before, anew, kept)
        kept = wanted.kept_pods
        assert shown(assembly.world) == shown(wanted.world)
        assert assembly.rejected == wanted.rejected
        claims = Index(wanted.world).claims.findings(wanted.world.pods)
        assert sorted(map(str, (*assembly.findings(), *claims))) == sorted(map(str, wanted.findings))
        assert assembly.passed_over["Service"] == sum(each.passed_over.get("Service", 0) for each in files.values())
        assert shown_changes(changes) == shown_changes(live.become(assembly.world))
        before = wanted.world


def shown_changes(changes: Changes) -> list[str]:
    return sorted(
        f"{key} {before!r} {after!r}"
        for kind in (changes.pods, changes.namespaces, changes.policies)
        for key, (before, after) in kind.items()
    )

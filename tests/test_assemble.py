"""One world out of many files: last good versions, conflicts, broken files, claimed addresses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netpold.policy.assemble import Assembly
from netpold.policy.index import Index
from netpold.policy.manifest import Object, Parsed, parse
from netpold.policy.model import (
    EVERYTHING,
    NAME_LABEL,
    Action,
    AnyPolicy,
    ClusterPolicy,
    Finding,
    Namespace,
    Pod,
    Policy,
    PolicyRule,
    World,
    policy_title,
)
from tests.live import Kept

ALL = PolicyRule(None, None)


def policy(name: str = "p", rest: str = "ingress: [{}]", selector: str = "{}") -> str:
    return (
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n"
        f"metadata: {{name: {name}, namespace: shop}}\nspec: {{podSelector: {selector}, {rest}}}\n"
    )


def pod(name: str, address: str = "", rest: str = "", labels: str = "{}", namespace: str = "shop") -> str:
    return (
        f"apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: {namespace}, labels: {labels}}}\n"
        f"spec: {{{rest}}}\nstatus: {{podIP: '{address}'}}\n"
    )


def namespace(name: str, labels: str = "{}") -> str:
    return f"apiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}, labels: {labels}}}\n"


def tiered(name: str = "p", action: str = "Accept", priority: int = 1) -> str:
    return (
        "apiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\n"
        f"metadata: {{name: {name}}}\nspec: {{tier: Admin, priority: {priority}, subject: {{namespaces: {{}}}}, "
        f"egress: [{{action: {action}, to: [{{nodes: {{}}}}]}}]}}\n"
    )


def node(address: str, labels: str = "{}") -> str:
    return (
        f"apiVersion: v1\nkind: Node\nmetadata: {{name: node, labels: {labels}}}\n"
        f"status: {{addresses: [{{type: InternalIP, address: {address}}}]}}\n"
    )


def together(*texts: str) -> str:
    return "---\n".join(texts)


@dataclass(frozen=True)
class Assembled:
    """What an Assembly holds, to compare."""

    world: World
    findings: tuple[Finding, ...]
    rejected: frozenset[str]


def of(before: World | None = None, **files: str) -> Assembled:
    """What files `a`, `b` and so on say, when the world was `before`; the order in which they come never matters."""
    parsed = {f"{name}.yaml": parse(text.encode(), f"{name}.yaml") for name, text in files.items()}
    results = [_assembled(before or World(), dict(order)) for order in permutations(parsed.items())]
    assert all(result == results[0] for result in results)
    return results[0]


def _assembled(before: World, files: dict[str, Parsed]) -> Assembled:
    assembly = Assembly()
    earlier: dict[str, list[Object]] = {}
    for kind in (before.pods, before.namespaces, before.policies, before.nodes):
        for each in kind.values():
            assert each.position is not None
            earlier.setdefault(each.position.file, []).append(each)
    assembly.update({file: Parsed(tuple(each), (), {}, truncated=False) for file, each in earlier.items()})
    assembly.update({**dict.fromkeys(earlier), **files})
    now = assembly.world
    world = World(dict(now.pods), dict(now.namespaces), dict(now.policies), dict(now.nodes))
    findings = [*assembly.findings(), *Index(world).claims.findings(world.pods)]
    findings.sort(key=lambda finding: (finding.position, finding.code, finding.path, finding.fault))
    return Assembled(world, tuple(findings), assembly.rejected)


def codes(assembled: Assembled) -> list[tuple[str, str]]:
    return [(finding.code, finding.severity) for finding in assembled.findings]


def test_nothing():
    assert of() == Assembled(World(), (), frozenset())


def test_objects_of_several_files():
    got = of(a=together(policy(), namespace("shop", "{t: x}")), b=pod("web", "10.0.0.1"))
    assert got.world == World(
        {"shop/web": Pod("shop", "web", {}, ("10.0.0.1",))},
        {"shop": Namespace("shop", {"t": "x", NAME_LABEL: "shop"})},
        {"shop/p": Policy("shop", "p", EVERYTHING, (ALL,), None)},
    )
    assert got.findings == () and got.rejected == frozenset()


def test_what_no_file_says_any_more_is_gone():
    before = of(a=together(policy(), policy("q")), b=pod("web")).world
    got = of(before, a=policy())
    assert set(got.world.policies) == {"shop/p"} and not got.world.pods and not got.rejected


def test_the_findings_of_the_files_are_in_it_in_order():
    got = of(b=policy(rest="ingress: {}"), a=policy("q", rest="ingress: [{from: }]"))
    assert [finding.position.file for finding in got.findings] == ["a.yaml", "b.yaml"]


def test_a_rejected_object_keeps_its_last_good_version():
    good = of(a=together(policy(), pod("web", "10.0.0.1", labels="{a: b}"), namespace("shop", "{t: x}"))).world
    bad = together(
        policy(rest="ingress: {}"), pod("web", "10.0.0.1", labels="{a: 1}"), namespace("shop", "{t: x, u: 1}")
    )
    got = of(good, a=bad)
    assert got.world == good and len(got.findings) == 3
    assert got.rejected == {"NetworkPolicy shop/p", "Pod shop/web", "Namespace shop"}
    assert got.world.policies["shop/p"].position == good.policies["shop/p"].position
    again = of(got.world, a=bad)
    assert again.world == good, "for as long as it is bad"
    mended = of(again.world, a=policy(rest="egress: [{}]"))
    assert mended.world.policies["shop/p"].egress == (ALL,) and not mended.rejected


def test_a_rejected_pod_that_is_elsewhere_is_closed_there() -> None:
    """Its last good version says nothing of the new address, which would be nobody's."""
    good = of(a=pod("web", "10.0.0.1", labels="{a: b}")).world
    got = of(good, a=pod("web", "10.0.0.2", labels="{a: 1}")).world.pods["shop/web"]
    assert got.quarantined and got.addresses == ("10.0.0.2",)
    assert of(good, a=pod("web", "10.0.0.1", labels="{a: 1}")).world == good
    assert of(good, a=pod("web", "", labels="{a: 1}")).world == good, "it says nothing of a place"


def test_a_rejected_object_never_known_as_good_is_closed():
    bad = together(policy(rest="ingress: {}"), pod("web", labels="{a: 1}"), namespace("shop", "{a: 1}"))
    got = of(a=bad)
    assert all(
        found.quarantined
        for kind in (got.world.pods, got.world.namespaces, got.world.policies)
        for found in kind.values()
    )
    assert of(got.world, a=bad).world == got.world, "a closed version is not a good one"
    other = of(got.world, a=policy(rest="egress: {}, ingress: {}"))
    assert other.world.policies["shop/p"].egress == (), "what it isolates follows the manifest"


def test_the_same_object_twice_is_a_warning():
    got = of(a=policy(), b=together(policy(), pod("web")), c=pod("web"))
    assert codes(got) == [("duplicate-object", "warning")] * 2 and not got.rejected
    assert got.world.policies == {"shop/p": Policy("shop", "p", EVERYTHING, (ALL,), None)}
    assert str(got.world.policies["shop/p"].position) == "a.yaml:1"
    assert [str(finding.position) for finding in got.findings] == ["b.yaml:1", "c.yaml:1"]
    assert "a.yaml:1" in got.findings[0].fault and "b.yaml:6" in got.findings[1].fault


def test_two_versions_of_a_policy_are_an_error_that_names_both():
    got = of(a=policy(rest="ingress: [{}]"), b=policy(rest="egress: [{}], policyTypes: [Egress]"))
    assert codes(got) == [("conflicting-objects", "error")] and got.rejected == {"NetworkPolicy shop/p"}
    assert "a.yaml:1" in got.findings[0].fault and str(got.findings[0].position) == "b.yaml:1"
    assert got.world.policies["shop/p"] == Policy("shop", "p", EVERYTHING, (), (), quarantined=True)


def test_the_selector_of_two_versions():
    same = of(
        a=policy(selector="{matchLabels: {a: b}}"), b=policy(selector="{matchLabels: {a: b}}", rest="ingress: []")
    )
    assert (
        same.world.policies["shop/p"].selector
        == parse(policy(selector="{matchLabels: {a: b}}").encode(), "").objects[0].selector
    )
    other = of(a=policy(selector="{matchLabels: {a: b}}"), b=policy(selector="{matchLabels: {a: c}}"))
    found = other.world.policies["shop/p"]
    assert (found.selector, found.ingress, found.egress) == (EVERYTHING, (), None)


def test_of_two_versions_neither_is_in_force_but_the_last_good_one():
    good = of(a=policy()).world
    assert of(good, a=policy(), b=policy(rest="ingress: []")).world == good
    assert of(good, a=policy(rest="ingress: []"), b=policy(rest="ingress: {}")).world == good


def test_a_good_and_a_bad_version():
    got = of(a=policy(), b=policy(rest="ingress: {}"))
    assert {code for code, _ in codes(got)} == {"conflicting-objects", "map-for-list"}
    assert got.world.policies["shop/p"].quarantined


def test_two_bad_versions_are_not_said_to_be_the_same():
    """Their closed versions are, from which all is left out that could tell them apart."""
    rest = "ingress: [{from: [{podSelecto: {matchLabels: {x: %s}}}]}]"
    got = of(a=policy(rest=rest % "a"), b=policy(rest=rest % "b"))
    (finding,) = (each for each in got.findings if each.code == "duplicate-object")
    assert finding.fault == "NetworkPolicy shop/p is here and in a.yaml:1, with errors in both"
    assert "keep the one that is meant" in finding.cure and got.rejected == {"NetworkPolicy shop/p"}


def test_two_versions_of_a_pod_are_closed_wherever_they_say():
    got = of(
        a=pod("web", "10.0.0.1", "nodeName: n1", "{a: b, c: d}"),
        b=pod("web", "10.0.0.2", "nodeName: n2", "{a: b, c: e}"),
    )
    assert got.world.pods["shop/web"] == Pod(
        "shop", "web", {"a": "b"}, ("10.0.0.1", "10.0.0.2"), None, quarantined=True
    )
    got = of(a=pod("web", "10.0.0.1", "hostNetwork: true"), b=pod("web", "10.0.0.2"))
    found = got.world.pods["shop/web"]
    assert not found.host_network and found.addresses == ("10.0.0.2",), "the node is never closed"


def test_two_versions_of_a_namespace():
    got = of(a=namespace("shop", "{a: b}"), b=namespace("shop", "{a: c}"))
    assert got.world.namespaces["shop"] == Namespace("shop", {NAME_LABEL: "shop"}, quarantined=True)


def test_objects_of_one_name_in_two_namespaces_or_of_two_kinds_are_not_the_same():
    got = of(a=pod("p", "10.0.0.1"), b=pod("p", "10.0.0.2", namespace="b"), c=policy())
    assert codes(got) == [] and set(got.world.pods) == {"shop/p", "b/p"}


def test_a_broken_file_keeps_what_it_held():
    good = of(a=together(policy("p"), policy("q"), pod("web"), namespace("shop")), b=policy("r")).world
    got = of(good, a=together(policy("p", rest="ingress: []"), "kind: {"), b="")
    assert set(got.world.policies) == {"shop/p", "shop/q", "shop/r"} and got.world.policies["shop/p"].ingress == ()
    assert set(got.world.pods) == {"shop/web"} and set(got.world.namespaces) == {"shop"}
    assert got.rejected == {"NetworkPolicy shop/q", "NetworkPolicy shop/r", "Pod shop/web", "Namespace shop"}


def test_what_a_broken_file_held_and_another_file_holds_now_is_the_others():
    good = of(a=together(policy("p"), policy("q"))).world
    got = of(good, a="kind: {", b=policy("q", rest="ingress: []"))
    assert got.world.policies["shop/q"].ingress == () and "shop/p" in got.world.policies
    assert got.rejected == {"NetworkPolicy shop/p"}


class TestMovedAndBroken:
    """A policy of a.yaml is moved to b.yaml, which can't be read: neither may open what it closes."""

    BROKEN = "kind: {"
    BAD = policy(rest="ingress: {}")

    @pytest.mark.parametrize(
        "steps",
        [
            [{"a": None, "b": BROKEN}],
            [{"b": BROKEN}, {"a": None}],
            [{"a": BROKEN}, {"a": None, "b": BROKEN}],
            [{"a": BROKEN}, {"b": BROKEN}, {"a": None}],
            [{"a": None, "b": BAD}, {"b": BROKEN}],
            [{"b": policy()}, {"b": BROKEN}, {"a": None}],
            [{"b": policy(rest="ingress: []")}, {"a": None, "b": BROKEN}],
            [{"b": policy("q")}, {"b": BROKEN}, {"a": None}],
        ],
    )
    @pytest.mark.parametrize("restart", [False, True])
    def test_it_stays_until_all_can_be_read(self, steps: list[dict[str, str | None]], restart: bool) -> None:
        assembly = Assembly()
        now: dict[str, str | None] = {"a": policy()}
        assembly.update(files(now))
        good = assembly.world.policies["shop/p"]
        for step in steps:
            now |= step
            if restart:
                assembly = Assembly(Kept(assembly.world))
                step = now
            assembly.update(files(step))
            assert assembly.world.policies["shop/p"] == good
        assert "NetworkPolicy shop/p" in assembly.rejected and "NetworkPolicy shop/p" in assembly.last_good
        (finding,) = (each for each in assembly.findings() if each.code == "may-be-here")
        assert finding.position.file == "b.yaml" and "a.yaml:1" in finding.fault
        assembly.update(files({"b": policy("other")}))
        assert set(assembly.world.policies) == {"shop/other"} and not assembly.findings()

    def test_any_of_several_may_hold_it(self) -> None:
        assembly = Assembly()
        for step in ({"a": policy()}, {"b": self.BROKEN, "c": self.BROKEN}, {"a": None}, {"b": ""}):
            assembly.update(files(step))
            assert set(assembly.world.policies) == {"shop/p"}
        (finding,) = (each for each in assembly.findings() if each.code == "may-be-here")
        assert finding.position.file == "c.yaml"
        assembly.update(files({"c": None}))
        assert not assembly.world.policies and not assembly.rejected

    def test_pods_go_unless_the_file_broke_in_the_same_change(self) -> None:
        assembly = Assembly()
        assembly.update(files({"a": pod("x", "10.0.0.1"), "c": pod("y", "10.0.0.2"), "d": pod("z", "10.0.0.3")}))
        assembly.update(files({"a": None, "b": self.BROKEN}))
        assembly.update(files({"c": None}))
        assembly.update(files({"d": self.BROKEN}))
        assert set(assembly.world.pods) == {"shop/x", "shop/z"}
        assembly.update(files({"b": None}))
        assert set(assembly.world.pods) == {"shop/z"}


def files(texts: Mapping[str, str | None]) -> dict[str, Parsed | None]:
    return {
        f"{name}.yaml": None if text is None else parse(text.encode(), f"{name}.yaml") for name, text in texts.items()
    }


def test_a_policy_that_lost_its_name_stays_and_isolates():
    good = of(a=policy()).world
    got = of(good, a=policy().replace("name: p", "name: P"))
    unnamed = next(found for key, found in got.world.policies.items() if "unnamed" in key)
    assert got.world.policies["shop/p"] == good.policies["shop/p"] and unnamed.quarantined
    moved = of(good, a=policy().replace("namespace: shop", "namespace: Shop"))
    assert moved.world == good


def test_an_address_that_two_live_pods_claim():
    got = of(a=pod("x", "10.0.0.1"), b=pod("w", "10.0.0.1"))
    assert codes(got) == [("address-claimed-twice", "error")] and not got.rejected
    fault = got.findings[0].fault
    assert all(words in fault for words in ("10.0.0.1", "shop/x (a.yaml:1)", "shop/w (b.yaml:1)"))
    assert len(got.world.pods) == 2
    many = of(a=together(*(pod(f"x{i}", "10.0.0.1") for i in range(6))))
    assert len(many.findings) == 1 and "3 more" in many.findings[0].fault


def test_addresses_that_may_be_there_twice():
    got = of(
        a=pod("x", "10.0.0.1"), b=pod("w", "10.0.0.1", "hostNetwork: true"), c=pod("z", "10.0.0.1", "hostNetwork: true")
    )
    assert codes(got) == []
    finished = pod("w", "10.0.0.1").replace("status: {", "status: {phase: Failed, ")
    assert codes(of(a=pod("x", "10.0.0.1"), b=finished)) == []
    assert codes(of(a=pod("x", "10.0.0.1").replace("podIP", "podIPs: [{ip: 10.0.0.1}], podIP"))) == []


DOCUMENTS = st.sampled_from(
    [
        policy(), policy(rest="ingress: []"), policy(rest="ingress: {}"), policy("q"), policy("q", "egress: [{}]"),
        pod("x", "10.0.0.1"), pod("x", "10.0.0.2"), pod("x", "10.0.0.1", labels="{a: 1}"), pod("w", "10.0.0.1"),
        namespace("shop"), namespace("shop", "{a: b}"), namespace("shop", "{a: 1}"), "kind: {\n", "",
        tiered(), tiered(action="Allow"), tiered("q"), tiered("q", "Deny"), tiered("q", "Deny", priority=2),
        node("10.0.0.1"), node("10.0.0.2"), node("10.0.0.1", "{a: 1}"), node("10.0.0.2", "{a: b}"),
    ]
)  # fmt: skip
FILES = st.dictionaries(st.sampled_from("abc"), st.lists(DOCUMENTS, max_size=3).map("---\n".join), max_size=3)


@settings(max_examples=150, deadline=None)
@given(FILES, FILES, st.randoms(use_true_random=False))
def test_never_half_a_policy_and_never_a_lost_one(first: dict[str, str], second: dict[str, str], random):
    before = of(**first)
    parsed = {f"{name}.yaml": parse(text.encode(), f"{name}.yaml") for name, text in second.items()}
    good = World(
        *(
            {key: each for key, each in kind.items() if not each.quarantined}
            for kind in (before.world.pods, before.world.namespaces, before.world.policies, before.world.nodes)
        )
    )
    got = _assembled(good, parsed)
    shuffled = list(parsed.items())
    random.shuffle(shuffled)
    assert _assembled(good, dict(shuffled)) == got
    written: dict[str, list[AnyPolicy]] = {}
    for says in parsed.values():
        for each in says.objects:
            if isinstance(each, Policy | ClusterPolicy):
                written.setdefault(each.key, []).append(each)
    for key, found in got.world.policies.items():
        versions = written.get(key, [])
        if found.quarantined and isinstance(found, ClusterPolicy):
            assert {rule.action for rule in (*found.ingress, *found.egress)} <= {Action.DENY}
            assert policy_title(key) in got.rejected
        elif found.quarantined:
            assert found.ingress in ((), None) and found.egress in ((), None)
            assert policy_title(key) in got.rejected
        elif versions and all(version == found for version in versions):
            assert policy_title(key) not in got.rejected
        else:
            assert found == good.policies[key], "a policy in force is one that is written, or the last good one"
    assert set(written) <= set(got.world.policies)
    broken = {file for file, says in parsed.items() if says.truncated}
    kept = {key for key, each in good.policies.items() if each.position.file in broken}
    assert kept <= set(got.world.policies)

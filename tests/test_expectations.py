"""Unit tests of policies: their files, and what becomes of them; held against the compiled rules, packet by packet."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network
from itertools import permutations
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netpold.policy.index import Index
from netpold.policy.model import EVERYTHING, Node, Position, Requirement, Selector, World
from netpold.policy.model import Operator as Op
from netpold.rules.ends import end, hook
from netpold.rules.expectations import Expectation, Group, Selected, parse
from netpold.rules.explain import verdict as explained
from netpold.rules.offline import offline_ruleset
from netpold.rules.reach import Reach, Wrong
from netpold.rules.ruleset import FAMILIES
from netpold.rules.services import Span
from netpold.rules.settings import CompileSettings
from tests.strategies import EVERYTHING_GOES, KEYS, NAMESPACES, NODES, OUTSIDE, VALUES, worlds
from tests.test_difference import first, packets

# Files ----------------------------------------------------------------------------------------------------------------


def ends_of(text: str) -> Group:
    tests, findings = parse(f"tests: [{{deny: {{from: {text}, to: a/b}}}}]\n".encode(), "t.yaml")
    assert not findings
    return tests[0].source


DB = Selector((Requirement("app", Op.IN, ("db",)),))
MONITORING = Selector((Requirement("purpose", Op.EXISTS),))


@pytest.mark.parametrize(
    ("text", "group"),
    [
        ("shop/api", Group((Selected("shop", EVERYTHING, EVERYTHING, "api"),))),
        ("shop/*", Group((Selected("shop", EVERYTHING, EVERYTHING),))),
        ("every pod", Group((Selected("", EVERYTHING, EVERYTHING),))),
        ('"*"', Group((Selected("", EVERYTHING, EVERYTHING),))),
        ("10.0.0.1", Group((ip_network("10.0.0.1/32"),))),
        ("2001:db8::/32", Group((ip_network("2001:db8::/32"),))),
        ("anywhere", Group((ip_network("0.0.0.0/0"), ip_network("::/0")))),
        ("{namespace: shop, labels: {app: db}}", Group((Selected("shop", EVERYTHING, DB),))),
        ("{podSelector: {matchLabels: {app: db}}}", Group((Selected("", EVERYTHING, DB),))),
        (
            "{namespaceSelector: {matchExpressions: [{key: purpose, operator: Exists}]}}",
            Group((Selected("", MONITORING, EVERYTHING),)),
        ),
        ("[a/b, 10.0.0.1]", Group((Selected("a", EVERYTHING, EVERYTHING, "b"), ip_network("10.0.0.1/32")))),
        (
            "{any: a/*, except: [a/b]}",
            Group((Selected("a", EVERYTHING, EVERYTHING),), (Selected("a", EVERYTHING, EVERYTHING, "b"),)),
        ),
    ],
)
def test_ends(text: str, group: Group) -> None:
    assert ends_of(text) == group


@pytest.mark.parametrize(
    ("text", "spans"),
    [
        ("[80/TCP]", (Span("TCP", 80, 80),)),
        ("80/tcp", (Span("TCP", 80, 80),)),
        ("[8000-8999/UDP, ICMP]", (Span("UDP", 8000, 8999), Span("other", 0, 0))),
        ("[SCTP]", (Span("SCTP", 1, 65535),)),
    ],
)
def test_ports(text: str, spans: tuple[Span, ...]) -> None:
    tests, findings = parse(f"tests: [{{allow: {{from: a/b, to: a/c, ports: {text}}}}}]\n".encode(), "t.yaml")
    assert not findings
    assert tests[0].services == spans


def test_a_test_has_its_name_and_its_place() -> None:
    text = "tests:\n- name: closed\n  deny: {from: a/b, to: a/c}\n- deny: {from: [a/b, a/d], to: a/c}\n"
    tests, findings = parse(text.encode(), "t.yaml")
    assert not findings
    assert [(each.name, str(each.position)) for each in tests] == [
        ("closed", "t.yaml:2"),
        ("deny a/b, a/d -> a/c", "t.yaml:4"),
    ]


@pytest.mark.parametrize(
    ("end", "words"),
    [
        ("10.0.0.0/8", "10.0.0.0/8"),
        ("{any: [every pod, 10.0.0.1], except: a/*}", "every pod, 10.0.0.1 except a/*"),
        ("{namespace: shop}", "shop/*"),
        ("{namespace: shop, labels: {app: db}}", "pods app=db of shop"),
        ("{labels: {tier: x, app: db}}", "pods app=db,tier=x of all namespaces"),
        ("{namespaceSelector: {matchLabels: {}}}", "every pod"),
        ("{namespaceSelector: {matchLabels: {team: a}}}", "all pods of namespaces team=a"),
        (
            "[{podSelector: {matchExpressions: [{key: app, operator: NotIn, values: [db, web]}]}}, a/b]",
            "pods app notin (db,web) of all namespaces, a/b",
        ),
    ],
)
def test_one_without_a_name_is_called_by_its_ends(end: str, words: str) -> None:
    (test,), findings = parse(f"tests: [{{deny: {{from: {end}, to: a/b}}}}]".encode(), "t.yaml")
    assert not findings and test.name == f"deny {words} -> a/b"


@pytest.mark.parametrize(
    ("text", "code", "line", "cure"),
    [
        ("tets: []", "unknown-field", 1, "write `tests`"),
        ("tests:\n- alow: {from: a/b, to: a/c}", "unknown-field", 2, "write `allow`"),
        ("tests:\n- name: x", "test-verdict", 2, "write `allow:` or `deny:`"),
        ("tests:\n- {allow: {from: a/b, to: a/c}, deny: {from: a/b, to: a/c}}", "test-verdict", 2, "`allow:`"),
        ("tests:\n- allow: {from: a/b}", "missing-field", 2, "write `namespace/pod`"),
        ("tests:\n- allow: {from: a/b, to: }", "missing-field", 2, "write `namespace/pod`"),
        ("tests:\n- allow:\n    from: web\n    to: a/c", "test-end", 3, "write `namespace/pod`"),
        ("tests:\n- allow:\n    from: 10.0.0.1/8\n    to: a/c", "test-end", 3, "write `10.0.0.0/8`"),
        ("tests:\n- allow:\n    from: []\n    to: a/c", "test-end", 3, "write `namespace/pod`"),
        ("tests:\n- allow:\n    from: {}\n    to: a/c", "test-end", 3, "write `namespace/pod`"),
        ("tests:\n- allow:\n    from: {labels: {a: b}, podSelector: {}}\n    to: a/c", "test-end", 3, "keep one"),
        ("tests:\n- allow:\n    from: {label: {a: b}}\n    to: a/c", "unknown-field", 3, "write `labels`"),
        ("tests:\n- allow:\n    from: {except: a/b}\n    to: a/c", "missing-field", 3, "without those in `except`"),
        ("tests:\n- allow: {from: a/b, to: a/c, ports: [80]}", "test-port", 2, "write 80/TCP or 80/UDP"),
        ("tests:\n- allow: {from: a/b, to: a/c, ports: [80/TPC]}", "test-port", 2, "write 80/TCP"),
        ("tests:\n- allow: {from: a/b, to: a/c, ports: [90-80/TCP]}", "test-port", 2, "ports are 1 to 65535"),
        ("tests:\n- allow: {from: a/b, to: a/c, ports: []}", "test-port", 2, "take `ports` out for all"),
        ("tests:\n- allow: {from: a/b, to: a/c, port: 80/TCP}", "unknown-field", 2, "write `ports: [...]`"),
        ("tests: 5", "wrong-type", 1, "write `- ` before each test"),
        ("- allow: {}", "wrong-type", 1, "write `tests:`"),
    ],
)
def test_what_is_wrong_is_told_with_its_line_and_cure(text: str, code: str, line: int, cure: str) -> None:
    _, findings = parse(text.encode(), "t.yaml")
    told = [(each.code, each.position.line, each.severity) for each in findings]
    assert (code, line, "error") in told
    assert any(cure in each.cure for each in findings if each.code == code)


@settings(max_examples=60, deadline=None)
@given(data=st.binary(max_size=200))
def test_any_bytes(data: bytes) -> None:
    parse(data, "t.yaml")


# What becomes of them -------------------------------------------------------------------------------------------------

_selectors = st.one_of(
    st.just(EVERYTHING),
    st.builds(
        lambda key, value: Selector((Requirement(key, Op.IN, (value,)),)),
        st.sampled_from(KEYS),
        st.sampled_from(VALUES),
    ),
)
_NETWORKS = [ip_network(each) for each in ("10.72.0.0/24", "10.0.0.0/8", "fd72::/16", "0.0.0.0/0", "::/0")]
_ends = st.one_of(
    st.builds(lambda name, pods: Selected(name, EVERYTHING, pods), st.sampled_from(("", *NAMESPACES)), _selectors),
    st.sampled_from([*_NETWORKS, *map(ip_network, (*OUTSIDE, *NODES, *NODES))]),
)
_ANYBODY = (Selected("", EVERYTHING, EVERYTHING), *_NETWORKS[-2:])
_groups = st.builds(
    lambda ends, excepts: Group(tuple(ends), tuple(excepts)),
    st.one_of(st.just(_ANYBODY), st.lists(_ends, min_size=1, max_size=2)),
    st.lists(_ends, max_size=2),
)
_SERVICES = (None, (Span("TCP", 80, 80),), (Span("TCP", 1, 80), Span("UDP", 81, 8080)), (Span("other", 0, 0),))


def _is_meant(world: World, group: Group, key: str, address: str) -> bool:
    def among(end: object) -> bool:
        if not isinstance(end, Selected):
            return ip_address(address) in end  # type: ignore[operator]
        pod = world.pods.get(key)
        if pod is None or (end.namespace and pod.namespace != end.namespace):
            return False
        if pod.quarantined:
            return end.pods == EVERYTHING
        return all(pod.labels.get(each.key) in each.values for each in end.pods.requirements)

    return any(map(among, group.ends)) and not any(map(among, group.excepts))


def _tells(wrong: Wrong, source: tuple[str, str], destination: tuple[str, str]) -> bool:
    sides = ((wrong.sources, wrong.from_outside, *source), (wrong.destinations, wrong.to_outside, *destination))
    return all(
        key in pods if key else any(_in(block, address) for block in blocks) for pods, blocks, key, address in sides
    )


def _in(block: object, address: str) -> bool:
    where = ip_address(address)
    return where in block.cidr and not any(where in each for each in block.excepts)  # type: ignore[attr-defined]


def _names(group: Group, address: str) -> bool:
    return ip_network(address) in group.ends


def _names(group: Group, address: str) -> bool:
    return ip_network(address) in group.ends


_ways: st.SearchStrategy[Literal["allow", "policy"]] = st.sampled_from(("allow", "allow", "policy"))
_hosts = st.builds(CompileSettings, host_access=_ways, host_to_pods=_ways)
_verdicts: st.SearchStrategy[Literal["allow", "deny"]] = st.sampled_from(("allow", "deny"))
_all_nodes = Group(tuple(map(ip_network, (*NODES, "192.0.2.1"))))
_all_pods = Group((Selected("", EVERYTHING, EVERYTHING),))


@settings(max_examples=80, deadline=None)
@given(worlds(EVERYTHING_GOES), _groups, _groups, _verdicts, st.sampled_from(_SERVICES), _hosts, st.data())
def test_as_the_rules_judge(
    world: World,
    source: Group,
    destination: Group,
    verdict: Literal["allow", "deny"],
    services: tuple[Span, ...] | None,
    host: CompileSettings,
    data: st.DataObject,
) -> None:
    nodes = st.sampled_from((None, "n1", "n2"))
    pods = {key: replace(pod, node=data.draw(nodes)) for key, pod in world.pods.items()}
    test = Expectation("t", verdict, source, destination, services, Position("t", 1))
    assert_right(Index(replace(world, pods=pods)), host, test)


@settings(max_examples=80, deadline=None)
@given(worlds(EVERYTHING_GOES), _verdicts, st.sampled_from(_SERVICES), _hosts)
def test_a_node_and_its_own_pods(
    world: World, verdict: Literal["allow", "deny"], services: tuple[Span, ...] | None, host: CompileSettings
) -> None:
    pods = {key: replace(pod, node="n1") for key, pod in world.pods.items()}
    index = Index(replace(world, pods=pods, nodes={**world.nodes, "n1": Node("n1", {"app": "a"}, NODES)}))
    for both in ((_all_pods, _all_nodes), (_all_nodes, _all_pods)):
        assert_right(index, host, Expectation("t", verdict, *both, services, Position("t", 1)))


def assert_right(index: Index, host: CompileSettings, test: Expectation) -> None:
    """Each pair, on its way: what is between a node and its own pods is told where the node's address is named."""
    world, services = index.world, test.services
    outcome = Reach(index, host, [test]).judge(test)
    ruleset = offline_ruleset(index, settings=host)
    taken = {address for pod in world.pods.values() if pod.takes_part for address in pod.addresses}
    tested = False
    for family in FAMILIES:
        here = [(key, address) for key in world.pods if (address := first(world, key, family))]
        here += [("", each) for each in (*OUTSIDE, *NODES) if (":" in each) == (family == 6) and each not in taken]
        for one, other in permutations(here, 2):
            if not (one[0] or other[0]):
                continue
            if not _is_meant(world, test.source, *one) or not _is_meant(world, test.destination, *other):
                continue
            ends = end(index, one[0] or one[1]), end(index, other[0] or other[1])
            way = hook(*ends)
            free = (way == "INPUT" and host.host_access == "allow") or (
                way == "OUTPUT" and host.host_to_pods == "allow"
            )
            told = [each for each in outcome.wrong if family in each.families and _tells(each, one, other)]
            if free and not _names(test.source, one[1]) and not _names(test.destination, other[1]):
                # it is left out, but a block in which no rule tells it from its neighbours may be told as a whole
                blocks = [(block, one[1]) for each in told for block in each.from_outside]
                blocks += [(block, other[1]) for each in told for block in each.to_outside]
                assert all(block.cidr.num_addresses > 1 for block, address in blocks if _in(block, address))
                continue
            tested = True
            assert all(bool(each.node) == free for each in told)
            for packet in packets(one[1], other[1]):
                protocol = "other" if packet.port is None else packet.protocol.upper()
                asked = services is None or any(_holds(span, protocol, packet.port) for span in services)
                is_wrong = asked and (explained(ruleset, packet, *ends) == "allow") == (test.verdict == "deny")
                said = any(_holds(span, protocol, packet.port) for each in told for span in each.services)
                assert said == is_wrong, f"{one} -> {other}: {packet}"
                assert not (is_wrong and outcome.passed)
    assert not (tested and outcome.fault)


def _holds(span: Span, protocol: str, port: int | None) -> bool:
    return span.protocol == protocol and (port is None or span.first <= port <= span.last)

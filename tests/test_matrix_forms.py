"""A matrix in its forms: each says what the matrix says, and what comes from manifests is no markup in any."""

from __future__ import annotations

import csv
import io
import json
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from importlib.resources import files

import pytest
from hypothesis import given, settings

from netpold.ctl.failure import Failure
from netpold.ctl.graph import MOST_ENDS, Graph, Node, graph
from netpold.ctl.matrix_dot import dot
from netpold.ctl.matrix_svg import COLOURS, svg
from netpold.ctl.matrix_text import as_csv, markdown, text
from netpold.ctl.reach import End, Reach
from netpold.policy.index import Index
from netpold.policy.model import World
from netpold.rules import asked
from netpold.rules.answers import matrix_json
from netpold.rules.ends import asked_end
from netpold.rules.matrix import matrix
from netpold.rules.offline import offline_ruleset
from tests.objects import to_world
from tests.strategies import EVERYTHING_GOES, OUTSIDE, worlds
from tests.test_matrix_page import a_pod, shop

PORTS = [("TCP", 80), ("UDP", 80), ("ICMP", None)]


def reach_of(world: World, others: tuple[str, ...] = ()) -> Reach:
    index = Index(world)
    found = matrix(index, offline_ruleset(index), asked.pods(world), others, PORTS)
    return Reach.of(json.loads(json.dumps(matrix_json(found))))


@settings(max_examples=30, deadline=None)
@given(world=worlds(EVERYTHING_GOES))
def test_cells_and_csv_are_the_rows(world: World) -> None:
    index = Index(world)
    found = matrix(index, offline_ruleset(index), asked.pods(world), OUTSIDE[:1], PORTS)
    reach = Reach.of(json.loads(json.dumps(matrix_json(found))))
    rows = [
        (row.source, row.destination, row.protocol, row.port, row.verdict, {f"IPv{f}": v for f, v in row.families})
        for row in found.rows()
    ]
    cells = [cell for source in range(len(reach.ends)) for cell in reach.cells(source)]
    assert [tuple(cell.values())[:6] for cell in cells] == rows
    read = list(csv.DictReader(io.StringIO("\n".join(as_csv(reach)))))
    assert [(row["source"], row["destination"], row["protocol"], row["port"], row["verdict"]) for row in read] == [
        (*row[:3], "" if row[3] is None else str(row[3]), row[4]) for row in rows
    ]
    for port in range(len(PORTS)):
        own = [each[5].values() for each in rows if each[0] != each[1] and each[2:4] == PORTS[port]]
        passed, partly = ["allow" in each for each in own], [len(set(each)) > 1 for each in own]
        assert reach.count(port)[:3] == (sum(passed), len(own), sum(partly))
    assert [cell["audit"] for cell in cells] == [row.audit for row in found.rows()]


@settings(max_examples=50, deadline=None)
@given(world=worlds(EVERYTHING_GOES))
def test_a_graph_says_what_the_matrix_says(world: World) -> None:
    reach = reach_of(world, OUTSIDE[:1])
    made = graph(reach)
    number = {each.name: at for at, each in enumerate(reach.ends)}
    ends = [
        [number[f"{node.cluster}/{name}" if node.cluster else name] for name in node.members] for node in made.nodes
    ]
    told: set[tuple[int, int, int]] = set()
    clusters = made.clusters()
    for destination, open_on in made.open_on.items():
        told |= {(s, d, way) for group in ends for s in group for d in ends[destination] for way in open_on if s != d}
    for edge in made.edges:
        sources = clusters[edge.source] if isinstance(edge.source, str) else [edge.source]
        pairs = ((s, d) for source in sources for s in ends[source] for d in ends[edge.destination] if s != d)
        told |= {(s, d, way) for s, d in pairs for way in edge.ways}
    expected = {
        (s, d, port, str(cell).removeprefix("allow").removeprefix(", "))
        for port in range(len(PORTS))
        for s, d in reach.pairs()
        if (cell := reach.cell(port, s, d)) and cell.passing
    }
    assert {(s, d, *made.ways[way]) for s, d, way in told} == expected
    assert sorted(each for group in ends for each in group) == list(range(len(reach.ends)))


def test_replicas_are_one_node() -> None:
    objects = shop()
    for name in ("web1", "web2"):
        pod = json.loads(json.dumps(objects[1]).replace('"web"', f'"{name}"'))
        pod["metadata"]["labels"]["app"] = "web"
        pod["status"]["podIPs"] = [{"ip": f"10.72.9.{name[-1]}"}]
        objects.append(pod)
    made = graph(reach_of(to_world(objects)))
    assert [(node.cluster, node.members) for node in made.nodes] == [
        ("ops", ("admin",)),
        ("other", ("web",)),
        ("shop", ("db",)),
        ("shop", ("web", "web1", "web2")),
    ]
    assert made.nodes[3].title == "web*"
    assert Node("x", ("a", "b", "c")).title == "a, b, c"
    assert Node("x", ("web1", "web2"), ("web3", "db")).title == "web1, web2", "web* is another, too"
    long = "front-of-the-whole-old-shop"
    assert Node("x", (long, "db", "six")).title == f"{long} and 2 more"
    pictured = "".join(svg(made))
    assert "web* (3)" in pictured and "<title>web, web1, web2</title>" in pictured
    assert 'label="web*\\n3 pods\\nfrom everybody: all 3 ports"' in "\n".join(dot(made))


def test_two_short_names_are_both_told() -> None:
    ends = [End(f"x/{name}", f"x/{name}", "x", {}, ("IPv4",)) for name in ("db", "six", "web")]
    made = graph(Reach(ends, [("TCP", 80)], [0, 3], {"IPv4": [[0, 0, 1]]}, {"IPv4": [[0, 0, 0]]}))
    assert ">db, six</text>" in "".join(svg(made))
    assert 'label="db, six"' in "\n".join(dot(made))


def test_a_line_has_a_colour_that_the_legend_explains() -> None:
    """None but what is audited has the colour that the page has for that."""
    template = files("netpold.ctl").joinpath("matrix.html").read_text(encoding="utf-8")
    of_verdicts = set(re.findall(r"--(?:audit|mixed|deny-word): (#\w+)", template))
    assert len(of_verdicts) == 6 and not of_verdicts & set(COLOURS)
    objects = [a_pod("one", "a", 1), a_pod("one", "b", 2), a_pod("two", "c", 3)]
    made = graph(reach_of(to_world([*shop(), *objects])))
    pictured = "\n".join(svg(made))
    assert "a line has the colour of the namespace it comes from" in pictured and "dashed: " not in pictured
    marks = re.findall(r'<rect x="\d+" y="\d+" width="10" height="10" rx="2" fill="(#\w+)"/>', pictured)
    assert marks == list(COLOURS[: len(made.clusters())])
    assert set(re.findall(r' stroke="(#\w+)"', pictured)) <= set(marks)


def hostile() -> Graph:
    name = 'a"]; b -> c [label="</svg><script>&\\\n\x1b[2J'
    return graph(
        Reach(
            [End(f"x/{name}", f"x/{name}", "x", {}, ("IPv4",)), End("y/b", "y/b", "y", {}, ("IPv4",))],
            [("TCP", 80)],
            [3, 2],
            {"IPv4": [[0, 1]]},
            {"IPv4": [[1, 1]]},
        )
    )


@settings(max_examples=20, deadline=None)
@given(world=worlds(EVERYTHING_GOES))
def test_pictures_are_well_formed(world: World) -> None:
    made = graph(reach_of(world))
    root = ET.fromstring("\n".join(svg(made)))
    links = list(root.iter("{http://www.w3.org/2000/svg}path"))
    assert len(links) == len(made.edges)
    assert is_dot("\n".join(dot(made)))


def test_what_manifests_say_is_no_markup() -> None:
    made = hostile()
    root = ET.fromstring("\n".join(svg(made)))
    assert {each.tag.rpartition("}")[2] for each in root.iter()} <= {
        "svg",
        "title",
        "style",
        "text",
        "rect",
        "g",
        "path",
    }
    drawn = "\n".join(dot(made))
    assert is_dot(drawn) and "\x1b" not in drawn
    assert len(re.findall(r"^  n\d+ -> n\d+ ", drawn, re.MULTILINE)) == len(made.edges)


def is_dot(drawn: str) -> bool:
    """Whether each line is one that a graph has, with quoted text being text."""
    plain = re.sub(r'"(?:[^"\\\n]|\\.)*"', "S", drawn)
    attribute = r"[a-z]+=[\w.]+"
    lines = (
        r"digraph netpold \{",
        rf"  (graph|node|edge) \[{attribute}(, {attribute})*\]",
        r"  label=S; labelloc=t; labeljust=l",
        r"  subgraph S \{",
        r"    label=S; style=S; color=S",
        r" +n\d+ \[label=S\]",
        r"  n\d+ -> n\d+ \[label=S(, style=dashed, color=S)?(, ltail=S)?\]",
        r" *\}",
    )
    known = all(re.fullmatch("|".join(lines), each) for each in plain.split("\n"))
    return known and plain.count("{") == plain.count("}")


def test_too_many_for_a_graph() -> None:
    ends = [End(f"x/{number}", f"x/{number}", "x", {}, ("IPv4",)) for number in range(MOST_ENDS + 1)]
    with pytest.raises(Failure, match="can't be read") as failure:
        graph(Reach(ends, [("TCP", 80)], [0], {"IPv4": [[0] * len(ends)]}, {"IPv4": [[0] * len(ends)]}))
    assert "html" in failure.value.hint


def test_markdown() -> None:
    lines = list(markdown(reach_of(to_world(shop()))))
    assert lines[:6] == [
        "### 80/TCP",
        "",
        "10 of 12 pairs pass.",
        "",
        "| from \\ to | ops/admin | other/web | shop/db | shop/web |",
        "|---|:-:|:-:|:-:|:-:|",
    ]
    assert "| **other/web** | ✅ | ✅ | ❌ | ✅ |" in lines


def test_text_with_dots_is_a_line_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    reach = reach_of(to_world(shop()))
    lines = list(text(reach))
    assert lines[:8] == [
        "80/TCP  10 of 12 pairs pass",
        "             1234",
        "ops/admin 1  ####",
        "",
        "other/web 2  ##.#",
        "",
        "shop/db   3  ####",
        "shop/web  4  ##.#",
    ] or lines[2].endswith("●●●●")


def test_many_grids_are_summed_up_first(monkeypatch: pytest.MonkeyPatch) -> None:
    reach = reach_of(to_world(shop()))
    assert next(iter(text(reach))) == "80/TCP  10 of 12 pairs pass"
    monkeypatch.setattr("netpold.ctl.matrix_text.MOST_IN_WORDS", 3)
    assert list(text(reach))[:5] == [
        "80/TCP  10 of 12 pairs pass",
        "80/UDP  10 of 12 pairs pass",
        "ICMP    10 of 12 pairs pass",
        "",
        "80/TCP  10 of 12 pairs pass",
    ]


def test_the_ports_that_are_named() -> None:
    world = to_world(shop())
    assert asked.ports(world, asked.pods(world)) == ([("TCP", 80), ("TCP", 6379)], [])
    assert asked.ports(World(), []) == ([("TCP", 80)], [])
    assert asked.pods(world, ["shop"], ["*/web"]) == ["shop/web"]
    assert asked.pods(world, node="n1") == []


def test_ports_that_are_left_out_are_told() -> None:
    objects = shop()
    rules = [{"ports": [{"port": number} for number in range(8000, 8020)]}, {"ports": [{"port": 8015}]}]
    objects[-1]["spec"]["ingress"] += rules * 2
    world = to_world(objects)
    most, others = asked.ports(world, asked.pods(world))
    assert most[0] == ("TCP", 80) and len(most) == asked.MOST_PORTS
    assert len(most) + len(others) == 22 and others == sorted(others)
    reach = replace(reach_of(world), left_out=others)
    said = "Left out: 10 ports that manifests name, too: 8010/TCP, "
    assert said in list(text(reach))[-1] and said in list(markdown(reach))[-1]


@pytest.mark.parametrize(
    ("chosen", "fault"),
    [
        (([], [], "n9"), "no manifest names the node n9"),
        (([], ["shop/pending"], None), "shop/pending has no address yet"),
        ((["host"], [], None), "host/agent is on the host's network: policies do not select it"),
        ((["shpo"], [], None), "no pod is in the namespace shpo"),
        ((["shop", "shpo", "x"], [], None), "no pod is in the namespace shpo or x"),
        ((["shop"], ["shop/x*"], None), "no pod is called shop/x*"),
        (([], ["shop/*", "shop/x*"], None), "no pod is called shop/x*"),
        ((["shop"], ["ops/*"], None), "no pod is all of what is asked for"),
    ],
)
def test_why_there_is_nobody_to_ask_about(chosen: tuple[list[str], list[str], str | None], fault: str) -> None:
    objects = shop()
    pending, agent = a_pod("shop", "pending", 7), a_pod("host", "agent", 8)
    del pending["status"]["podIPs"]
    agent["spec"]["hostNetwork"] = True
    world = to_world([*objects, pending, agent])
    found = asked.fault(world, asked.pods(world, *chosen), *chosen)
    assert found and fault in found[0] and found[1]


def test_there_is_somebody_to_ask_about() -> None:
    world = to_world(shop())
    named = ["shop"], ["shop/*", "*/web"], None
    assert asked.fault(world, asked.pods(world, *named), *named) is asked.fault(World(), [], [], [], None) is None


def test_what_is_asked_about_twice_is_one_end() -> None:
    index = Index(to_world(shop()))
    names = ("shop/web", "192.0.2.1", "2001:db8::1", "shop/web", "192.0.2.1", "2001:DB8::0:1")
    assert [each.name for each in asked.once(asked_end(index, name) for name in names)] == [*names[:3]]


# What passes in one family only, and what passes because policies are audited -----------------------------------------

KINDS = {  # rows of IPv4 and IPv6 with the other as bit 1, and which of them are audited
    "allow": (2, 2, 0, 0),
    "deny": (0, 0, 0, 0),
    "IPv4 only": (2, 0, 0, 0),
    "IPv6 only": (0, 2, 0, 0),
    "audited": (2, 2, 2, 2),
    "allow, audited in IPv6": (2, 2, 0, 2),
    "IPv6 only, audited": (0, 2, 0, 2),
}


def of_kind(kind: str) -> Reach:
    """Of x/a, x/b and x/c, where a reaches b in that way, and nobody else reaches anybody."""
    ends = [End(f"x/{name}", f"x/{name}", "x", {}, ("IPv4", "IPv6")) for name in "abc"]
    four, six, audited_four, audited_six = KINDS[kind]
    return Reach(
        ends,
        [("TCP", 80)],
        [0, 2],
        {"IPv4": [[four // 2, 0, 0]], "IPv6": [[six // 2, 0, 0]]},
        {"IPv4": [[audited_four // 2, 0, 0]], "IPv6": [[audited_six // 2, 0, 0]]},
    )


@pytest.mark.parametrize("kind", KINDS)
def test_each_form_tells_families_and_audit_apart(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    reach = of_kind(kind)
    passes, partly, audited = kind != "deny", "only" in kind, "audited" in kind
    assert str(reach.cell(0, 0, 1)) == kind
    assert reach.count(0) == (passes, 6, partly, audited)
    lines = list(text(reach))
    assert lines[0].startswith(f"80/TCP  {int(passes)} of 6 pairs pass")
    assert ("1 of them in one address family only" in lines[0]) is partly
    assert ("1 of them because policies are audited only" in lines[0]) is audited
    assert kind in lines[2]
    assert any("NOT ENFORCED" in line for line in lines) is audited
    monkeypatch.setattr("netpold.ctl.matrix_text.MOST_IN_WORDS", 0)
    dots = list(text(reach))
    assert dots[2][-2] in ("◐/" if partly else "○o" if audited else "●#" if passes else "·.")
    assert ("in one family only" in dots[5], "audited only" in dots[5]) == (partly, audited and not partly)
    whom = {"allow": "x/b", "deny": "nobody"}.get(kind, f"x/b ({kind})")
    monkeypatch.setattr("netpold.ctl.matrix_text.MOST_IN_MARKDOWN", 0)
    assert f"| **x/a** | reaches {whom} |" in list(markdown(reach))
    of_all = {"allow": "all", "deny": "nobody"}.get(kind, f"all; of them {whom}")
    assert f"| **x/a** | reaches {of_all} |" in list(markdown(replace(reach, ends=reach.ends[:2])))
    drawn, pictured = "\n".join(dot(graph(reach))), "\n".join(svg(graph(reach)))
    named = "80/TCP" if kind == "allow" else f"80/TCP ({kind.removeprefix('allow, ')})"
    assert (f'label="{named}"' in drawn) is (f">{named}</text>" in pictured) is passes
    assert ("style=dashed" in drawn) is ('class="link audited"' in pictured) is audited
    assert ("dashed: passes, audited" in drawn) is ("dashed: passes, audited" in pictured) is audited
    rows = csv.DictReader(io.StringIO("\n".join(as_csv(reach))))
    row = next(row for row in rows if (row["source"], row["destination"]) == ("x/a", "x/b"))
    assert [row["IPv4"], row["IPv6"]] == ["allow" if bits else "deny" for bits in KINDS[kind][:2]]
    assert row["audited"].split() == [
        f"IPv{family}" for family, bits in zip((4, 6), KINDS[kind][2:], strict=True) if bits
    ]


def test_pictures_say_what_was_asked_about() -> None:
    made = graph(reach_of(to_world(shop())))
    assert "asked about 80/TCP, 80/UDP, ICMP" in "\n".join(dot(made))
    assert ">asked about 80/TCP, 80/UDP, ICMP</text>" in "\n".join(svg(made))
    reach = of_kind("allow")
    for some, named in ((2, "80/TCP, 81/TCP"), (3, "all 3 ports")):
        asked_about = [("TCP", 80 + number) for number in range(some)]
        tables = ({family: each[family] * some for family in each} for each in (reach.reach, reach.audited))
        made = graph(Reach(reach.ends, asked_about, reach.rows, *tables))
        assert [made.named(edge.ways) for edge in made.edges] == [named]


def test_without_pods_there_are_no_pairs() -> None:
    assert list(text(reach_of(World()))) == [
        "There is no pod that has an address and that policies can select: there are no pairs."
    ]

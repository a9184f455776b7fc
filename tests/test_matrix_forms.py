"""A matrix in its forms: each says what the matrix says, and what comes from manifests is no markup in any."""

from __future__ import annotations

import csv
import io
import json
import re
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given, settings

from netpold.ctl.failure import Failure
from netpold.ctl.graph import MOST_ENDS, Graph, Node, graph
from netpold.ctl.matrix_dot import dot
from netpold.ctl.matrix_svg import svg
from netpold.ctl.matrix_text import as_csv, markdown, text
from netpold.ctl.reach import End, Reach
from netpold.policy.index import Index
from netpold.policy.model import World
from netpold.rules import asked
from netpold.rules.answers import matrix_json
from netpold.rules.matrix import matrix
from netpold.rules.offline import offline_ruleset
from tests.objects import to_world
from tests.strategies import EVERYTHING_GOES, OUTSIDE, worlds
from tests.test_matrix_page import shop

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
        passed, every = reach.count(port)
        own = [each for each in rows if each[0] != each[1] and each[2:4] == PORTS[port]]
        assert (passed, every) == (sum(each[4] == "allow" for each in own), len(own))


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
        told |= {(s, d, p) for group in ends for s in group for d in ends[destination] for p in open_on if s != d}
    for edge in made.edges:
        sources = clusters[edge.source] if isinstance(edge.source, str) else [edge.source]
        pairs = ((s, d) for source in sources for s in ends[source] for d in ends[edge.destination] if s != d)
        told |= {(s, d, port) for s, d in pairs for port in edge.ports}
    expected = {
        (s, d, port) for port in range(len(PORTS)) for s, d in reach.pairs() if reach.verdict(port, s, d) == "allow"
    }
    assert told == expected
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
    assert Node("x", ("a", "b", "c")).title == "a and 2 more"
    pictured = "".join(svg(made))
    assert "web* (3)" in pictured and "<title>web, web1, web2</title>" in pictured
    assert 'label="web*\\n3 pods\\nfrom everybody: all ports"' in "\n".join(dot(made))


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
        r"  subgraph S \{",
        r"    label=S; style=S; color=S",
        r" +n\d+ \[label=S\]",
        r"  n\d+ -> n\d+ \[label=S(, ltail=S)?\]",
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


def test_the_ports_that_are_named() -> None:
    world = to_world(shop())
    assert asked.ports(world, asked.pods(world)) == [("TCP", 80), ("TCP", 6379)]
    assert asked.ports(World(), []) == [("TCP", 80)]
    assert asked.pods(world, ["shop"], ["*/web"]) == ["shop/web"]
    assert asked.pods(world, node="n1") == []

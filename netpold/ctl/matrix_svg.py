"""A matrix as a picture (SVG): sources on the left, destinations on the right, both in their namespaces.

Each destination has a line for each set of ports that somebody reaches it on; links end there, so that no port has to
be written on a link.  A link that begins at the name of a namespace stands for all of its pods.  It has the colour that
the namespace is marked with, which is none that the page (matrix.html) has for a verdict; one that passes because
policies are audited only has the page's colour for that.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from html import escape
from textwrap import wrap

from netpold.ctl.graph import Edge, Graph
from netpold.printable import printable

LINE, PAD, GAP, HEAD = 22, 10, 18, 26
LETTER = 7.2  # width of one, at most, at 12 pixels
MARK = 10  # side of the square with a namespace's colour
COLOURS = ("#2f6db5", "#00805d", "#a8487f", "#4d6b1f", "#a33b4a", "#0f7f8c", "#4a4fb0", "#5d6872")
MIDDLE = 320

_STYLE = """
svg { background: #fff; font: 12px system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
text { fill: #1d2329; } .soft { fill: #5d6872; }
.space { font-weight: 600; } .title { font-size: 15px; font-weight: 600; }
.box { fill: #f6f7f8; stroke: #e4e7ea; } .link { fill: none; stroke-width: 1.6; stroke-opacity: .5; }
.audited { stroke-dasharray: 6 4; stroke: #d98600; }
.link:hover { stroke-width: 4; stroke-opacity: 1; }
@media (prefers-color-scheme: dark) { svg { background: #14171a; } text { fill: #e6e9ec; } .soft { fill: #a3adb6; }
.box { fill: #1b1f24; stroke: #2a3037; } .link { stroke-opacity: .75; } .audited { stroke: #f2b03d; } }
"""


# A line of a node: the key of the place where links begin or end (None: nowhere), and what is said there.
Line = tuple[object, str]


@dataclass(frozen=True, slots=True)
class _Column:
    """What was drawn, and where: by the key of a line or the name of a namespace, the height."""

    parts: list[str]
    places: dict[object, float]
    bottom: float


def svg(graph: Graph) -> Iterator[str]:
    nodes = range(len(graph.nodes))
    going: dict[int, list[Line]] = {number: [(number, "")] for number in nodes}
    coming = {number: _sockets(graph, number) for number in nodes}
    names = max((len(_name(graph, number)) for number in nodes), default=0)
    said = max((len(text) for lines in coming.values() for _, text in lines), default=0)
    margin = 2 * PAD + 16
    left_width = max([names, *map(len, graph.clusters())]) * LETTER + margin
    right_width = max(left_width, (names + said) * LETTER + margin + GAP)
    right = GAP + left_width + MIDDLE
    colours = {name: COLOURS[number % len(COLOURS)] for number, name in enumerate(graph.clusters())}
    sources = _column(graph, going, GAP, left_width, 0, colours)
    destinations = _column(graph, coming, right, right_width, names * LETTER + margin, {})
    letters = int((right + right_width - GAP) / LETTER)
    about = [line for text in (graph.about, *_legend(graph)) for line in wrap(text, letters)]
    bottom = max(sources.bottom, destinations.bottom) + LINE
    width, height = right + right_width + GAP, bottom + LINE * len(about)
    size = f'width="{width:.0f}" height="{height:.0f}" viewBox="0 0 {width:.0f} {height:.0f}"'
    yield f'<svg xmlns="http://www.w3.org/2000/svg" {size}>'
    yield f"<title>Who reaches whom</title><style>{_STYLE}</style>"
    yield _text(GAP, 26, "from", "title") + _text(right, 26, "to", "title")
    yield from (*sources.parts, *destinations.parts)
    yield from (_text(GAP, bottom + LINE * number, line, "soft") for number, line in enumerate(about))
    for edge in graph.edges:
        cluster = edge.source if isinstance(edge.source, str) else graph.nodes[edge.source].cluster
        begin, end = sources.places[edge.source], destinations.places[edge.destination, edge.ways]
        yield _link(graph, edge, (GAP + left_width, begin), (right, end), colours[cluster])
    yield "</svg>"


def _legend(graph: Graph) -> Iterator[str]:
    yield "a line has the colour of the namespace it comes from"
    if graph.has_audited:
        yield "dashed: passes, audited: would be denied"


def _sockets(graph: Graph, number: int) -> list[Line]:
    """The lines of a destination: the sets of ports that links end at."""
    lines: list[Line] = []
    if graph.open_on[number]:
        lines.append((None, f"{graph.named(graph.open_on[number])} from everybody"))
    sets = sorted({edge.ways for edge in graph.edges if edge.destination == number})
    lines += [((number, each), graph.named(each)) for each in sets]
    return lines or [(None, "nobody")]


def _column(
    graph: Graph,
    lines: Mapping[int, list[Line]],
    left: float,
    width: float,
    indent: float,
    colours: Mapping[str, str],
) -> _Column:
    """A box for each namespace with its nodes; what is said of a node stands `indent` behind the left border.
    `colours`: by namespace, those that are marked with one."""
    parts: list[str] = []
    places: dict[object, float] = {}
    y = 44.0
    for cluster, numbers in graph.clusters().items():
        count = sum(len(lines[number]) for number in numbers)
        parts.append(_box(left, y, width, HEAD + LINE * count + PAD))
        if cluster in colours:
            parts.append(_mark(left + width - PAD - MARK, y + 9, colours[cluster]))
        parts.append(_text(left + PAD, y + 18, cluster or "addresses", "space"))
        places[cluster] = y + 14
        y += HEAD
        for number in numbers:
            parts.append(_node(graph, number, left + PAD + 8, y + 15))
            for key, text in lines[number]:
                if text:
                    parts.append(_text(left + indent, y + 15, text, "soft"))
                places[key] = y + LINE / 2
                y += LINE
        y += PAD + GAP
    return _Column(parts, places, y - GAP)


def _name(graph: Graph, number: int) -> str:
    node = graph.nodes[number]
    return printable(node.title if node.names_all else f"{node.title} ({len(node.members)})")


def _node(graph: Graph, number: int, x: float, y: float) -> str:
    node = graph.nodes[number]
    members = escape(printable(", ".join(node.members)))
    return f"<g><title>{members}</title>{_text(x, y, _name(graph, number))}</g>"


def _box(x: float, y: float, width: float, height: float) -> str:
    return f'<rect class="box" x="{x:.0f}" y="{y:.0f}" width="{width:.0f}" height="{height:.0f}" rx="8"/>'


def _mark(x: float, y: float, colour: str) -> str:
    return f'<rect x="{x:.0f}" y="{y:.0f}" width="{MARK}" height="{MARK}" rx="2" fill="{colour}"/>'


def _text(x: float, y: float, text: str, kind: str = "") -> str:
    of_class = f' class="{kind}"' if kind else ""
    return f'<text{of_class} x="{x:.0f}" y="{y:.0f}">{escape(printable(text))}</text>'


def _link(graph: Graph, edge: Edge, begin: tuple[float, float], end: tuple[float, float], colour: str) -> str:
    half = (end[0] - begin[0]) / 2
    points = (*begin, begin[0] + half, begin[1], end[0] - half, *end[1:], *end)
    source = edge.source if isinstance(edge.source, str) else graph.nodes[edge.source].title
    words = f"{source} → {graph.nodes[edge.destination].title}: {graph.named(edge.ways)}"
    path = "M{:.0f},{:.0f} C{:.0f},{:.0f} {:.0f},{:.0f} {:.0f},{:.0f}".format(*points)
    kind = "link audited" if graph.is_audited(edge.ways) else "link"
    return f'<path class="{kind}" d="{path}" stroke="{colour}"><title>{escape(printable(words))}</title></path>'

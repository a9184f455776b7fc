"""A matrix for Graphviz: `netpoldctl matrix -o dot | dot -Tsvg`.  Namespaces are clusters."""

from __future__ import annotations

from collections.abc import Iterator

from netpold.ctl.graph import Edge, Graph
from netpold.printable import printable

_PASSES, _AUDITED = "#1f6f9f", "#d98600"  # as in the page
_COLOURS = ("#d6e8f2", "#f6dcdf", "#d3ece3", "#f3e0ea", "#dfe3f6", "#e9edf0", "#d3ecee", "#e4edd0")  # of namespaces


def dot(graph: Graph) -> Iterator[str]:
    yield "digraph netpold {"
    yield "  graph [compound=true, rankdir=LR, ranksep=1.2, nodesep=0.25, fontname=Helvetica, fontsize=12]"
    legend = "\ndashed: passes, audited: would be denied" if graph.has_audited else ""
    yield f"  label={_quoted(f'Who reaches whom: {graph.about}{legend}')}; labelloc=t; labeljust=l"
    box = 'shape=box, style="rounded,filled", fillcolor=white, color="#556666"'
    yield f"  node [{box}, fontname=Helvetica, fontsize=11]"
    yield f'  edge [color="{_PASSES}", fontcolor="#5d6872", fontname=Helvetica, fontsize=9, arrowsize=0.7]'
    for place, (cluster, numbers) in enumerate(graph.clusters().items()):
        if cluster:
            colour = _COLOURS[place % len(_COLOURS)]
            yield f"  subgraph {_quoted(f'cluster_{cluster}')} {{"
            yield f'    label={_quoted(cluster)}; style="rounded,filled"; color="{colour}"'
        for number in numbers:
            yield f"    n{number} [label={_quoted(_label(graph, number))}]"
        if cluster:
            yield "  }"
    for edge in graph.edges:
        label = f"label={_quoted(graph.named(edge.ways))}"
        if graph.is_audited(edge.ways):
            label += f', style=dashed, color="{_AUDITED}"'
        for source, more in _tails(graph, edge):
            yield f"  n{source} -> n{edge.destination} [{label}{more}]"
    yield "}"


def _tails(graph: Graph, edge: Edge) -> Iterator[tuple[int, str]]:
    """Where an edge begins, with its attributes.  One from a whole cluster is cut off at its border; Graphviz can't
    do that where it ends inside of the same."""
    if isinstance(edge.source, int):
        yield edge.source, ""
        return
    members = graph.clusters()[edge.source]
    if edge.destination not in members:
        yield members[0], f", ltail={_quoted(f'cluster_{edge.source}')}"
        return
    for each in members:
        if each != edge.destination or len(graph.nodes[each].members) > 1:
            yield each, ""


def _label(graph: Graph, number: int) -> str:
    node = graph.nodes[number]
    lines = [node.title]
    if not node.names_all:
        lines.append(f"{len(node.members)} pods")
    if graph.open_on[number]:
        lines.append(f"from everybody: {graph.named(graph.open_on[number])}")
    return "\n".join(lines)


def _quoted(text: str) -> str:
    lines = (printable(line).replace("\\", "\\\\").replace('"', '\\"') for line in text.split("\n"))
    return '"' + "\\n".join(lines) + '"'

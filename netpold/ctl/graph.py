"""A matrix as a graph that can be read: pods that are alike are one node, and what all may do is no edge.

A port on which pairs pass is one way, a port on which they pass with a proviso, as `80/TCP (IPv6 only)` or
`80/TCP (audited)`, is another one.

Alike are pods of one namespace that reach the same and are reached by the same, so that a Deployment's replicas become
one node.  Whom everybody reaches on some ports is told at the node; where all of a namespace reach it, the edge begins
at the namespace.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile

from netpold.ctl import ports
from netpold.ctl.failure import Exit, Failure
from netpold.ctl.reach import Reach

MOST_ENDS = 300
MOST_NAMED = 2  # ports, before all of them are told in one word
MOST_LETTERS = 32  # of the names of ends that are alike, before only the first is told

Way = tuple[int, str]
Ways = tuple[int, ...]  # by number


@dataclass(frozen=True, slots=True)
class Node:
    """Ends that are alike.  `cluster`: their namespace, '' for addresses; `members`: their names without it; `beside`:
    the names of the others there."""

    cluster: str
    members: tuple[str, ...]
    beside: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """`web`, `web-*` for several that alone begin so, `db, six` where these are short, or `api and 2 more`."""
        if len(self.members) == 1:
            return self.members[0]
        pairs = zip(min(self.members), max(self.members), strict=False)
        common = "".join(one for one, other in takewhile(lambda pair: pair[0] == pair[1], pairs))
        if len(common) > 1 and not any(each.startswith(common) for each in self.beside):
            return f"{common}*"
        named = ", ".join(self.members)
        return named if len(named) <= MOST_LETTERS else f"{self.members[0]} and {len(self.members) - 1} more"

    @property
    def names_all(self) -> bool:
        """Whether the title says how many they are."""
        return self.title == ", ".join(self.members)


@dataclass(frozen=True, slots=True)
class Edge:
    """`source`: the number of a node, or the name of a namespace, all of whose pods are meant."""

    source: int | str
    destination: int
    ways: Ways


@dataclass(frozen=True, slots=True)
class Graph:
    """`open_on`: by node, the ways by which everybody reaches it (none where there is nobody else); edges are about
    others.  `ports`: the names of those that were asked about; `ways`: number of the port, and the proviso or ''."""

    nodes: Sequence[Node]
    edges: Sequence[Edge]
    open_on: Mapping[int, Ways]
    ports: Sequence[str]
    ways: Sequence[Way]

    def clusters(self) -> dict[str, list[int]]:
        """The numbers of the nodes in each namespace."""
        found: dict[str, list[int]] = {}
        for number, node in enumerate(self.nodes):
            found.setdefault(node.cluster, []).append(number)
        return found

    def named(self, numbers: Ways) -> str:
        """`80/TCP, 53/UDP (IPv6 only)`; `all 5 ports` for every one that was asked about."""
        by_proviso: dict[str, list[str]] = {}
        for port, proviso in (self.ways[number] for number in numbers):
            by_proviso.setdefault(proviso, []).append(self.ports[port])
        told = []
        for proviso, names in by_proviso.items():
            some = [f"all {len(names)} ports"] if len(names) == len(self.ports) > MOST_NAMED else names
            told += [f"{each} ({proviso})" if proviso else each for each in some]
        return ", ".join(told)

    def is_audited(self, numbers: Ways) -> bool:
        """Whether all of that passes, in some family, because policies are audited only."""
        return all("audited" in self.ways[number][1] for number in numbers)

    @property
    def has_audited(self) -> bool:
        """Whether there is such an edge."""
        return any(self.is_audited(edge.ways) for edge in self.edges)

    @property
    def about(self) -> str:
        """What was asked about."""
        return f"asked about {', '.join(self.ports)}"


def graph(reach: Reach) -> Graph:
    """The graph.  Raises Failure where there would be too much to see."""
    if len(reach.ends) > MOST_ENDS:
        hint = "choose fewer with --namespace or --pods, or see them all with -o html"
        raise Failure(f"a graph of {len(reach.ends)} ends can't be read", hint, Exit.USAGE)
    passes = _Passes(reach)
    groups = _alike(reach, passes)
    nodes = list(_nodes(reach, groups))
    reached = {
        (source, destination): tuple(
            way for way in range(len(passes.ways)) if passes.between(way, groups[source], groups[destination])
        )
        for source in range(len(groups))
        for destination in range(len(groups))
    }
    edges: list[Edge] = []
    open_on: dict[int, Ways] = {}
    for destination in range(len(nodes)):
        open_on[destination], found = _into(nodes, reached, destination)
        edges += found
    return Graph(nodes, edges, open_on, [ports.show(port) for port in reach.ports], passes.ways)


def _nodes(reach: Reach, groups: Sequence[Sequence[int]]) -> Iterator[Node]:
    here: dict[str, list[int]] = {}
    for number, each in enumerate(reach.ends):
        here.setdefault(each.namespace, []).append(number)
    for group in groups:
        namespace = reach.ends[group[0]].namespace
        beside = (_short(reach, each) for each in here[namespace] if each not in group)
        yield Node(namespace, tuple(_short(reach, each) for each in group), tuple(beside))


class _Passes:
    """The rows and columns of a matrix as bits: by way, what each end reaches, and what reaches it."""

    def __init__(self, reach: Reach) -> None:
        numbers = range(len(reach.ends))
        found: dict[Way, list[int]] = {}
        for port in range(len(reach.ports)):
            for source in numbers:
                for destination in numbers:
                    cell = reach.cell(port, source, destination)
                    if cell and cell.passing:
                        proviso = str(cell).removeprefix("allow").removeprefix(", ")
                        rows = found.setdefault((port, proviso), [0] * len(reach.ends))
                        rows[source] |= 1 << destination
        self.ways = sorted(found)
        self.out = [found[way] for way in self.ways]
        self.into = [
            [sum((rows[source] >> each & 1) << source for source in numbers) for each in numbers] for rows in self.out
        ]

    def between(self, way: int, sources: Sequence[int], destinations: Sequence[int]) -> bool:
        """Whether some of the sources reach some others among the destinations; of groups that are alike: all do."""
        wanted = sum(1 << each for each in destinations)
        return any(self.out[way][each] & wanted & ~(1 << each) for each in sources)


def _alike(reach: Reach, passes: _Passes) -> list[list[int]]:
    """Ends in groups: coarse ones, split until all of a group have the same to do with each group.

    First by how many of each group an end has to do with, which tells apart what is different and leaves together what
    is alike; then, where it is neither all nor none, by which.
    """
    classes = [each.namespace if each.pod else each.name for each in reach.ends]
    classes = _split(_split(classes, passes, int.bit_count), passes, lambda some: some)
    groups: dict[str, list[int]] = {}
    for number, name in enumerate(classes):
        groups.setdefault(name, []).append(number)
    return list(groups.values())


def _split(classes: list[str], passes: _Passes, sign: Callable[[int], int]) -> list[str]:
    """Split classes until nothing more is split."""
    while True:
        masks: dict[str, int] = {}
        for number, name in enumerate(classes):
            masks[name] = masks.get(name, 0) | 1 << number
        split: dict[object, str] = {}
        renamed = []
        for number, name in enumerate(classes):
            about = name, tuple(_towards(number, rows, masks, sign) for rows in (*passes.out, *passes.into))
            renamed.append(split.setdefault(about, f"{name} {len(split)}"))
        if len(split) == len(masks):
            return classes
        classes = renamed


def _towards(number: int, rows: Sequence[int], masks: Mapping[str, int], sign: Callable[[int], int]) -> tuple[int, ...]:
    """What an end has to do with each class: with none of it (0), with all (-1), or with some of it, but for itself."""
    row, others = rows[number], ~(1 << number)
    found = []
    for mask in masks.values():
        some = row & mask & others
        found.append(-1 if some and some == mask & others else sign(some))
    return tuple(found)


def _into(
    nodes: Sequence[Node], reached: Mapping[tuple[int, int], Ways], destination: int
) -> tuple[Ways, Iterator[Edge]]:
    """By which ways everybody reaches a node (where it is several, they themselves, too), and the edges for others."""
    several = len(nodes[destination].members) > 1
    others = [number for number in range(len(nodes)) if number != destination or several]
    here = {source: reached[source, destination] for source in others}
    every = set.intersection(*(set(found) for found in here.values())) if others else set()
    return tuple(sorted(every)), _edges(nodes, here, destination, every)


def _edges(nodes: Sequence[Node], here: Mapping[int, Ways], destination: int, every: set[int]) -> Iterator[Edge]:
    clusters: dict[str, list[int]] = {}
    for source in here:
        clusters.setdefault(nodes[source].cluster, []).append(source)
    for name, members in clusters.items():
        of_all = set.intersection(*(set(here[source]) for source in members)) - every
        if of_all and len(members) > 1 and name:
            yield Edge(name, destination, tuple(sorted(of_all)))
        else:
            of_all = set()
        for source in members:
            own = tuple(way for way in here[source] if way not in every and way not in of_all)
            if own:
                yield Edge(source, destination, own)


def _short(reach: Reach, number: int) -> str:
    each = reach.ends[number]
    return each.name.removeprefix(f"{each.namespace}/")

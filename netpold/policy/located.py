"""Findings about objects in a world, each at the field that its path names.

What only several objects together show is found in the model, in which objects and rules have a place, and their fields
and the numbers of a List's entries none: they would cost memory for each policy and pod, in the daemon too, where
nobody asks.  So who wants to know reads the file once more, and here the path is walked in the tree that it gives.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from netpold.policy.chunks import LIMITS, split
from netpold.policy.codes import LINT
from netpold.policy.model import Finding, Position
from netpold.policy.reader import read_chunk
from netpold.policy.tree import Map, Node, Place, Seq

# What is found in a world; all else is found in a tree, and has its place and its whole path from there.
_IN_A_WORLD = LINT.keys() | {"duplicate-object", "conflicting-objects", "equal-priority", "address-claimed-twice"}
_STEP = re.compile(r"\.?([A-Za-z]+)|\[(\d+)\]")

_About = dict[tuple[int, int], list[Finding]]  # by line and column of the objects that they are about


def located(findings: Iterable[Finding], content: Callable[[str], bytes | None]) -> Iterator[Finding]:
    """The findings, in no order.  Those that were found in a world are at their fields, or as near above them as
    anything is written, and their paths are whole: in a List they begin with `items[N]`.

    `content`: the bytes of a file as they were read, None where they can't be had: what is about it stays as it is.
    """
    by_file: dict[str, _About] = defaultdict(lambda: defaultdict(list))
    for finding in findings:
        if finding.code in _IN_A_WORLD:
            where = finding.position
            by_file[where.file][where.line, where.column].append(finding)
        else:
            yield finding
    for file, about in by_file.items():
        data = content(file)
        if data is not None:
            yield from _in_file(about, data)
        for left in about.values():
            yield from left


def _in_file(about: _About, data: bytes) -> Iterator[Finding]:
    """Those that are about objects in this file; they are taken out of `about`."""
    chunks = list(split(data))
    if not chunks:
        return
    begins = [line for _, _, line in chunks]
    by_chunk: dict[int, _About] = defaultdict(dict)
    for line, column in list(about):
        number = bisect_right(begins, line - 1) - 1  # the first begins in line 0
        by_chunk[number][line, column] = about.pop((line, column))
    for number, here in by_chunk.items():
        start, end, line = chunks[number]
        yield from _in_chunk(here, data[start:end], line)
        about.update(here)


def _in_chunk(about: _About, chunk: bytes, line: int) -> Iterator[Finding]:
    """Likewise, in a chunk that begins in this line (from 0); it is read no further than to the last of the objects."""
    for document in read_chunk(chunk, 0, line, LIMITS):
        if isinstance(document.root, Map):
            at = document.root.start_mark
            prefix = "" if document.item is None else f"items[{document.item}]"
            for finding in about.pop((line + at.line + 1, at.column + 1), ()):
                place = _place(document.root, finding.path)
                where = Position(finding.position.file, line + place.line + 1, place.column + 1)
                path = ".".join(part for part in (prefix, finding.path) if part)
                yield replace(finding, position=where, path=path)
        if not about:
            break


def _place(root: Map, path: str) -> Place:
    """Where what stands at a path is written: a field where its name is."""
    node: Node = root
    place = root.start_mark
    for name, number in _STEP.findall(path):
        if name and isinstance(node, Map) and name in node:
            place, node = node.scalars[name].start_mark, node[name]
        elif number and isinstance(node, Seq) and int(number) < len(node):
            node = node[int(number)]
            place = node.start_mark
        else:
            break
    return place

"""A file of manifests cut into chunks, one for each document, before anything is parsed.

YAML lets no line that begins with `---` be anything else than the begin of a document, whatever it stands in, so
cutting there needs no parser (kubectl does the same): a broken document never takes the next one with it, and one whose
bytes did not change need not be parsed again.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from netpold.policy.faults import Fault
from netpold.policy.tree import Place


@dataclass(frozen=True, slots=True)
class Limits:
    """What a file may cost: `file` and `scalar` in bytes, `nodes`, `depth` and `faults` those of a document."""

    file: int = 64 << 20
    documents: int = 50_000
    scalar: int = 1 << 20
    nodes: int = 100_000
    depth: int = 32
    faults: int = 50


LIMITS = Limits()

_BOUNDARY = re.compile(rb"\n(?=---(?:[ \t\r\n]|\Z))")
_BOM = b"\xef\xbb\xbf"


def split(data: bytes) -> Iterator[tuple[int, int, int]]:
    """The chunks of a file: first byte, byte after the last, line of the first byte (from 0)."""
    start, line = (len(_BOM), 0) if data.startswith(_BOM) else (0, 0)
    for boundary in _BOUNDARY.finditer(data, start):
        end = boundary.end()
        yield start, end, line
        line += data.count(b"\n", start, end)
        start = end
    if start < len(data):
        yield start, len(data), line


def refuse_file(data: bytes, limits: Limits) -> Fault | None:
    """Why a file is not read at all: its size, or because it is no UTF-8 from the first bytes on."""
    if len(data) > limits.file:
        fault = f"the file has {len(data)} bytes, the limit is {limits.file}"
        return Fault(Place(), "file-too-large", fault, "split it into several files")
    if data[:2] in (b"\xff\xfe", b"\xfe\xff") or (b"\0" in data[:4] and data[:4].strip(b"\0")):
        return Fault(Place(), "not-utf8", "the file looks like UTF-16 or UTF-32, not UTF-8", "save it as UTF-8")
    return None

"""A file as its chunks, so that of a changed file only the chunks are parsed whose bytes changed.

What a chunk says depends on its bytes and on the file and the line where it stands, and on nothing else in the file.
So a chunk is known by the digest of its bytes, and what it said is used again; when it only moved, its positions are
shifted.  A chunk with errors is parsed again when it moved: texts about errors may name lines.

A file that is not read chunk by chunk (no UTF-8, too many documents) is one unit, known by another kind of digest.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import NamedTuple, TypeVar

from netpold.policy import manifest
from netpold.policy.chunks import Limits, refuse_file, split
from netpold.policy.findings import MOST_IN_FILE, Findings
from netpold.policy.manifest import MOST_KINDS, NOTHING, OTHER_KINDS, Object, Parsed
from netpold.policy.model import ClusterPolicy, Policy, PolicyRule, Position, TierRule

_Rule = TypeVar("_Rule", PolicyRule, TierRule)

# What a chunk says: mostly one object, with nothing to remark.
Part = Object | Parsed


class Unit(NamedTuple):
    """What is parsed at once: a chunk that begins in that line (from 0) of a file, or a `whole` file."""

    data: bytes
    line: int
    whole: bool


# For each unit of a file, in order, packed: digest and line.  _UNENDED is added to the last line number where the file
# does not end as whole files do.
Outline = bytes
_OUTLINE = struct.Struct("<16sI")
_UNENDED = 1 << 31
ENDED = _OUTLINE.pack(bytes(16), 0)  # of a file of which nothing is known but that it ended as whole files do


@dataclass(slots=True)
class Content:
    """What a file says, and of what it is made up.

    `parts`: what each unit of the outline says; None: each says one object, the one in `parsed`.
    """

    outline: Outline
    parsed: Parsed
    parts: tuple[Part, ...] | None

    @property
    def said(self) -> tuple[Part, ...]:
        """What each unit says."""
        return self.parsed.objects if self.parts is None else self.parts


def units(data: bytes, limits: Limits) -> list[Unit]:
    """The units of a file; none where it is blank."""
    if not data.strip(b" \r\n"):
        return []
    if refuse_file(data, limits) is None:
        chunks: list[Unit] = []
        for start, end, line in split(data):
            if len(chunks) == limits.documents:
                break
            chunks.append(Unit(data[start:end], line, False))
        else:
            return chunks
    return [Unit(data, 0, True)]


def outline(units: Sequence[Unit]) -> Outline:
    if units and units[0].whole:
        found = _OUTLINE.pack(blake2b(units[0].data, digest_size=16, person=b"whole").digest(), 0)
    else:
        found = b"".join([_OUTLINE.pack(blake2b(data, digest_size=16).digest(), line) for data, line, _ in units])
    if units and not _is_ended(units):
        digest, line = _OUTLINE.unpack(found[-_OUTLINE.size :])
        found = found[: -_OUTLINE.size] + _OUTLINE.pack(digest, line | _UNENDED)
    return found


def _is_ended(units: Sequence[Unit]) -> bool:
    """Whether there is a newline at the end.  Of JSON no part is valid, and many programs write it without."""
    return units[-1].data.endswith(b"\n") or (len(units) == 1 and units[0].data.startswith((b"{", b"[")))


def is_ended(outline: Outline) -> bool:
    """Whether a file with that outline ends as whole files do; one that is blank does not."""
    return bool(outline) and not _OUTLINE.unpack(outline[-_OUTLINE.size :])[1] & _UNENDED


def parse_unit(unit: Unit, file: str, limits: Limits) -> Part:
    """What a unit of a file says.  Raises nothing."""
    if unit.whole:
        return _part(manifest.parse(unit.data, file, limits))
    return _part(manifest.parse_chunk(unit.data, file, unit.line, limits))


def _part(parsed: Parsed) -> Part:
    if len(parsed.objects) == 1 and not parsed.findings and not parsed.passed_over and not parsed.truncated:
        return parsed.objects[0]
    return parsed


def reused(new: Outline, before: Content) -> list[Part | None]:
    """For each unit of the new outline what it says as far as the content before tells; None: it has to be parsed."""
    entries = _entries(before.outline)
    at: dict[bytes, int] = {}  # where a digest was, looked up only for what is not where it was
    found: list[Part | None] = []
    for number, entry in enumerate(_entries(new)):
        if number < len(entries) and entries[number] == entry:
            found.append(before.said[number])
            continue
        at = at or {digest: there for there, (digest, _) in enumerate(entries)}
        there = at.get(entry[0])
        found.append(None if there is None else _shifted(before.said[there], entry[1] - entries[there][1]))
    return found


def _entries(outline: Outline) -> list[tuple[bytes, int]]:
    entries = list(_OUTLINE.iter_unpack(outline))
    if entries:
        digest, line = entries[-1]
        entries[-1] = digest, line & ~_UNENDED
    return entries


def content(outline: Outline, parts: Sequence[Part]) -> Content:
    """The content of a file with that outline whose units say that."""
    if len(parts) == 1 and isinstance(parts[0], Parsed):
        return Content(outline, parts[0], tuple(parts))
    whole = all(not isinstance(part, Parsed) for part in parts)
    if whole:
        objects: tuple[Object, ...] = tuple(parts)  # type: ignore[arg-type]
        return Content(outline, Parsed(objects, (), NOTHING, False), None)
    return Content(outline, _combined(parts), tuple(parts))


def _combined(parts: Sequence[Part]) -> Parsed:
    objects: list[Object] = []
    findings = Findings(MOST_IN_FILE)
    passed_over: dict[str, int] = {}
    truncated = False
    for part in parts:
        if isinstance(part, Parsed):
            objects += part.objects
            findings.add(part.findings)
            for kind, count in part.passed_over.items():
                if kind not in passed_over and len(passed_over) >= MOST_KINDS:
                    kind = OTHER_KINDS
                passed_over[kind] = passed_over.get(kind, 0) + count
            truncated = truncated or part.truncated
        else:
            objects.append(part)
    return Parsed(tuple(objects), tuple(findings.told("this file")), passed_over or NOTHING, truncated)


def _shifted(part: Part, lines: int) -> Part | None:
    """What a chunk says that now stands so many lines further down; None where that can't be told without parsing."""
    if not lines:
        return part
    if not isinstance(part, Parsed):
        return _object_shifted(part, lines)
    if part.truncated or any(finding.severity == "error" for finding in part.findings):
        return None
    return Parsed(
        tuple([_object_shifted(each, lines) for each in part.objects]),
        tuple([replace(each, position=_moved(each.position, lines)) for each in part.findings]),
        part.passed_over,
        part.truncated,
    )


def _object_shifted(found: Object, lines: int) -> Object:
    position = found.position and _moved(found.position, lines)
    if isinstance(found, Policy):
        ingress, egress = (rules and _rules_shifted(rules, lines) for rules in (found.ingress, found.egress))
        return replace(found, position=position, ingress=ingress, egress=egress)
    if isinstance(found, ClusterPolicy):
        into, out = _rules_shifted(found.ingress, lines), _rules_shifted(found.egress, lines)
        return replace(found, position=position, ingress=into, egress=out)
    return replace(found, position=position)


def _rules_shifted(rules: tuple[_Rule, ...], lines: int) -> tuple[_Rule, ...]:
    return tuple([replace(rule, position=rule.position and _moved(rule.position, lines)) for rule in rules])


def _moved(position: Position, lines: int) -> Position:
    return Position(position.file, position.line + lines, position.column)

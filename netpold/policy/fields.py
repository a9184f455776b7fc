"""The fields of one object: typed access, and a list of what is wrong.

A check asks for a field as the type that it wants and gets None where nothing is written or where it is wrong; what is
wrong is noted and never raised, so that all of an object's faults are reported at once.  `failed` says whether any of
them rejects the object.  Field paths are worked out from the place only when there is something to report.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Literal

from netpold.policy.faults import TEMPLATE_CURE, Fault
from netpold.policy.model import Finding, Position
from netpold.policy.tree import (
    Map,
    Node,
    Place,
    Scalar,
    Seq,
    Type,
    Unread,
    int_of,
    is_merge_key,
    is_null,
    is_text,
    is_true,
    path_of,
    shown,
    type_of,
)


def words(text: str) -> frozenset[str]:
    """The words of a text: names of fields."""
    return frozenset(text.split())


# As far as a path goes to what the reader refused.  Anything may stand where netpold does not read: a password that
# begins with `{`, and should be quoted, is a key to YAML.
_READ = words(
    "apiVersion kind metadata items name namespace labels annotations spec status "
    "nodeName hostNetwork containers initContainers restartPolicy ports containerPort env args command "
    "phase podIP podIPs ip addresses type address "
    "podSelector namespaceSelector matchLabels matchExpressions key operator values policyTypes ingress egress from to "
    "ipBlock cidr except protocol port endPort "
    "subject tier priority namespaces pods action nodes networks domainNames protocols tcp udp sctp destinationPort "
    "number range start end destinationNamedPort portNumber portRange namedPort "
    "tests allow deny any"
)
_NO_HINTS: Mapping[str, str] = {}
_NUMBER = re.compile("0|[1-9][0-9]{0,9}")
MOST_FINDINGS = 50  # errors of one object, and as many warnings: with more, it is no manifest with mistakes in it

Severity = Literal["error", "warning"]


class Fields:
    """What is read of one object; `line` is the first line of its chunk (from 0), `prefix` its place in a List."""

    __slots__ = ("_file", "_findings", "_left_out", "_line", "_prefix", "failed", "ours", "placed", "root", "subject")

    def __init__(self, file: str, line: int, root: Node | None, prefix: str = "") -> None:
        self._file, self._line, self.root, self._prefix = file, line, root, prefix
        self._findings: list[tuple[Position, str, str, str, str, Severity]] = []
        self.subject = ""
        self.failed = False
        self.ours = True  # whether it is of a kind that netpold reads
        self.placed = True  # whether it can be told which object this is
        self._left_out: dict[Severity, int] = {}

    def position(self, node: Node | Place | None) -> Position:
        """Where a node stands in the file."""
        place = Place() if node is None else node if isinstance(node, Place) else node.start_mark
        return Position(self._file, self._line + place.line + 1, place.column + 1)

    def error(self, node: Node | Place, code: str, fault: str, cure: str, child: str = "") -> None:
        """Note something that rejects the object; `child` is a field below the node that is missing."""
        self.failed = True
        self._note(node, code, fault, cure, child, "error")

    def warn(self, node: Node | Place, code: str, fault: str, cure: str, child: str = "") -> None:
        """Note something that is in force as the fault says."""
        self._note(node, code, fault, cure, child, "warning")

    def refused(self, faults: Iterable[Fault]) -> None:
        """Note what the reader refused."""
        for fault in faults:
            self.error(fault.place, fault.code, fault.fault, fault.cure)

    def findings(self) -> list[Finding]:
        """All that was noted, in order of place."""
        if not self._findings:
            return []
        noted = [
            Finding(position, code, path, fault, cure, self.subject, severity)
            for position, code, path, fault, cure, severity in self._findings
        ]
        noted.sort(key=lambda finding: finding.position)
        last = noted[-1].position
        for severity, count in self._left_out.items():
            fault = f"{count} more {severity}s in this object"
            noted.append(Finding(last, "too-many-faults", "", fault, "mend these first", self.subject, severity))
        return noted

    def _note(self, node: Node | Place, code: str, fault: str, cure: str, child: str, severity: Severity) -> None:
        if len(self._findings) >= MOST_FINDINGS and self._count(severity) >= MOST_FINDINGS:
            self._leave_out(severity, 1)
            return
        if isinstance(node, Scalar) and "{{" in node.value:
            cure = TEMPLATE_CURE
        path = path_of(self.root, node, _READ if isinstance(node, Place) else None)
        path = ".".join(part for part in (self._prefix, path, child) if part)
        self._findings.append((self.position(node), code, path, fault, cure, severity))

    def _count(self, severity: Severity) -> int:
        return [each[-1] for each in self._findings].count(severity)

    def _leave_out(self, severity: Severity, count: int) -> None:
        self._left_out[severity] = self._left_out.get(severity, 0) + count

    # What a field is to be; None where it is absent, or is something else.

    def map(self, node: object, cure: str = "write `name: value` lines below it") -> Map | None:
        """A map; null is as if nothing were written."""
        if isinstance(node, Map):
            return node
        self._not("a map", node, cure)
        return None

    def seq(self, node: object, cure: str = "write a list: each entry begins with `- `") -> Seq | None:
        """A list; null is as if nothing were written."""
        if isinstance(node, Seq):
            return node
        self._not("a list", node, cure)
        return None

    def text(self, node: object) -> str | None:
        """Text; null is as if nothing were written."""
        if isinstance(node, Scalar):
            if is_text(node):
                return node.value
            return None if is_null(node) else self.unquoted(node)
        self._not("text", node, "write one value")
        return None

    def flag(self, node: object) -> bool | None:
        """True or false; null is as if nothing were written."""
        if isinstance(node, Scalar) and type_of(node) in (Type.BOOL, Type.LETTER):
            return is_true(node)
        self._not("true or false", node, "write `true` or `false`, without quotes")
        return None

    def number(self, node: object) -> int | None:
        """A whole number; null is as if nothing were written."""
        if isinstance(node, Scalar) and node.implicit[0] and _NUMBER.fullmatch(node.value):
            return int(node.value)
        if not isinstance(node, Scalar) or type_of(node) is not Type.INT:
            self._not("a number", node, "write a whole number, without quotes")
            return None
        number = int_of(node.value)
        if node.value != str(number):
            fault = f"`{shown(node.value)}` means {number}"
            self.warn(node, "number-notation", fault, f"write {number}, so that nobody reads it otherwise")
        return number

    def missing(self, node: Map, name: str, cure: str) -> None:
        """Note that a field is missing, unless it is only wrong, or could not be read, which has been noted."""
        self.failed = True
        value = node.get(name)
        absent = value is None or is_null(value) or (isinstance(value, Scalar) and not value.value)
        if absent and node.whole:
            self.error(node, "missing-field", f"`{name}` is missing", cure, name)

    def required(self, node: object, cure: str) -> bool:
        """Whether something is written; null is an error here."""
        if isinstance(node, Scalar) and is_null(node):
            self.error(node, "nothing-written", "nothing is written here", cure)
            return False
        return True

    def unquoted(self, node: Scalar) -> str | None:
        """Note a scalar that should be quoted; gives its text where nothing else can be meant by it (`y`, `n`)."""
        kind, cure = type_of(node), f'quote it: "{shown(node.value)}"'
        fault = f"`{shown(node.value)}` is {kind.value}"
        if kind is Type.LETTER:
            self.warn(node, "unquoted-letter", f"{fault} readers of YAML, it is taken as text", cure)
            return node.value
        self.error(node, "not-text", f"{fault} to YAML, and text is wanted", cure)
        return None

    def _not(self, wanted: str, node: object, cure: str) -> None:
        if isinstance(node, Unread) or (isinstance(node, Map | Seq) and not node.whole):
            self.failed = True  # the reader has said why
            return
        if node is None or is_null(node):
            return
        assert isinstance(node, Map | Seq | Scalar)
        if isinstance(node, Scalar):
            what = f'the text "{shown(node.value)}"' if is_text(node) else f"`{shown(node.value)}`"
        else:
            what = "a map" if isinstance(node, Map) else "a list"
        self.error(node, "wrong-type", f"{wanted} is wanted, here is {what}", cure)

    # Fields that there are not.

    def known(
        self, node: Map, fields: Collection[str], hints: Mapping[str, str] = _NO_HINTS, otherwise: str = ""
    ) -> bool:
        """Note the fields that are not among `fields`; whether there are none.  `hints`: the cure for some of them;
        `otherwise`: for all that look like none of `fields`."""
        if node.keys() <= fields:  # type: ignore[operator]
            return True
        for key in self._first_unknown(node, fields):
            meant = nearest(key, fields)
            cure = hints.get(key) or (f"write `{meant}`" if meant else otherwise or _names(fields))
            self.error(node.scalars[key], "unknown-field", f"there is no field `{shown(key)}` here", cure)
        return False

    def mostly_known(self, node: Map, fields: Collection[str], read: Collection[str]) -> None:
        """The same where newer versions of Kubernetes may have fields that netpold has no use for: those are warnings,
        unless they look like one of `read`, which netpold reads."""
        if node.keys() <= fields:  # type: ignore[operator]
            return
        for key in self._first_unknown(node, fields):
            meant = nearest(key, read)
            fault = f"there is no field `{shown(key)}` here"
            if meant:
                self.error(node.scalars[key], "unknown-field", fault, f"write `{meant}`")
            else:
                self.warn(node.scalars[key], "unknown-field", f"{fault}; it is passed over", "take it out if it is one")

    def _first_unknown(self, node: Map, fields: Collection[str]) -> list[str]:
        """The unknown fields, no more of them than can be told."""
        unknown = [key for key in node if key not in fields and not is_merge_key(node.scalars[key])]
        if len(unknown) > MOST_FINDINGS:
            self.failed = True
            self._leave_out("error", len(unknown) - MOST_FINDINGS)
        return unknown[:MOST_FINDINGS]


def _names(fields: Collection[str]) -> str:
    return f"fields here are {', '.join(sorted(fields))}"


def nearest(word: str, words: Collection[str]) -> str | None:
    """The one of `words` that `word` is likely a misspelling of: other case or separators, or two edits at most."""
    plain = _bare(word)
    best: tuple[int, str] | None = None
    for candidate in sorted(words):
        most = 2 if len(candidate) > 4 else 1
        bare = _bare(candidate)
        distance = 0 if plain == bare else _edits(plain, bare, most)
        if distance <= most and (best is None or distance < best[0]):
            best = distance, candidate
    return best[1] if best else None


def _bare(word: str) -> str:
    return word.lower().replace("_", "").replace("-", "")


def _edits(a: str, b: str, most: int) -> int:
    """How many letters to change, add, drop or swap to make `b` of `a`; anything above `most` if it is more."""
    if abs(len(a) - len(b)) > most:
        return most + 1
    before: list[int] = []
    row = list(range(len(b) + 1))
    for i, letter in enumerate(a, 1):
        before, above, row = row, before, [i]
        for j, other in enumerate(b, 1):
            cost = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (letter != other))
            if i > 1 and j > 1 and letter == b[j - 2] and a[i - 2] == other:
                cost = min(cost, above[j - 2] + 1)
            row.append(cost)
    return row[-1]
